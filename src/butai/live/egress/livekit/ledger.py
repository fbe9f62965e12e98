"""The rows about LiveKit's egresses: what was asked for, what LiveKit last said, and how each project fares.

They are where all controllers meet: the one that holds a broadcast asks for its egresses (`livekit`), the one that looks
after the project writes what became of them (`poller`). A row is written before its request goes out and there is one for
each attempt, so no two controllers ever ask for the same one. Every method raises `DatabaseUnavailable`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg.types.json import Jsonb
from uuid_utils.compat import uuid7

from butai.database import Connection, Database
from butai.live.egress.livekit.evidence import Seen, from_json

PROJECT_LEASE = 6.0
"""Seconds after which another controller looks after a project whose own no longer speaks: three looks."""

_COLUMNS = """e.id, e.project, e.room_id, e.broadcast_id, e.output_id, e.attempt, e.backup,
              (SELECT host_identity FROM broadcasts WHERE id = e.broadcast_id) AS host_identity,
              e.asked_at, e.egress_id, e.seen, e.stop_asked_at, e.over_at"""

# Fenced: only the holder of the broadcast's lease may ask, and only for what goes on.
_ASK = f"""
    WITH held AS (
        SELECT id FROM broadcasts WHERE id = %(broadcast_id)s AND lease_epoch = %(epoch)s AND ended_at IS NULL
    ), made AS (
        INSERT INTO livekit_egresses AS e (id, project, room_id, broadcast_id, output_id, attempt, backup)
        SELECT %(id)s, %(project)s, %(room_id)s, held.id, o.id, %(attempt)s, o.ingest_url <> %(door)s
        FROM held, outputs AS o WHERE o.id = %(output_id)s
        ON CONFLICT (output_id, attempt) DO NOTHING
        RETURNING {_COLUMNS}
    )
    SELECT * FROM made
    UNION ALL
    SELECT {_COLUMNS} FROM livekit_egresses AS e, held
    WHERE e.output_id = %(output_id)s AND e.attempt = %(attempt)s AND NOT EXISTS (SELECT 1 FROM made)
"""

_OF_BROADCASTS = f"""
    SELECT {_COLUMNS} FROM livekit_egresses AS e WHERE e.broadcast_id = ANY(%s::uuid[])
    ORDER BY e.broadcast_id, e.output_id, e.attempt
"""

_OPEN = f"SELECT {_COLUMNS} FROM livekit_egresses AS e WHERE e.project = %s AND e.over_at IS NULL ORDER BY e.asked_at"

# What is over stays so, and an older word never takes the place of a newer one.
_NOTE = """
    UPDATE livekit_egresses AS e
    SET egress_id = coalesce(n.egress_id, e.egress_id), seen = n.seen, seen_at = clock_timestamp(),
        over_at = CASE WHEN n.over THEN clock_timestamp() END
    FROM unnest(%s::uuid[], %s::text[], %s::jsonb[], %s::boolean[]) AS n (id, egress_id, seen, over)
    WHERE e.id = n.id AND e.over_at IS NULL
      AND coalesce((e.seen ->> 'updated_at')::float8, 0) <= coalesce((n.seen ->> 'updated_at')::float8, 0)
    RETURNING e.id
"""

_ASK_STOP = f"""
    UPDATE livekit_egresses AS e SET stop_asked_at = coalesce(e.stop_asked_at, clock_timestamp())
    WHERE e.broadcast_id = %(broadcast_id)s AND e.over_at IS NULL
      AND (%(output_id)s::uuid IS NULL OR e.output_id = %(output_id)s)
    RETURNING {_COLUMNS}
"""

# A controller may die between the end of a broadcast and the word that its egresses are to end.
_END_LEFT_OVERS = """
    UPDATE livekit_egresses AS e SET stop_asked_at = clock_timestamp()
    FROM broadcasts AS b
    WHERE e.project = %s AND e.over_at IS NULL AND e.stop_asked_at IS NULL
      AND b.id = e.broadcast_id AND b.ended_at IS NOT NULL
    RETURNING e.id
"""

_ADDRESSES = """
    SELECT b.room_id, o.id, o.ingest_url, o.backup_ingest_url, o.sealed_key
    FROM outputs AS o JOIN broadcasts AS b ON b.id = o.broadcast_id
    WHERE b.room_id = ANY(%s) AND b.livekit_project = %s AND b.egress = 'livekit'
      AND b.created_at > now() - interval '2 days'
"""

_LEASE = """
    INSERT INTO livekit_projects AS p (name, lease_holder, lease_until)
    VALUES (%(name)s, %(holder)s, now() + make_interval(secs => %(seconds)s))
    ON CONFLICT (name) DO UPDATE SET lease_holder = excluded.lease_holder, lease_until = excluded.lease_until
    WHERE p.lease_holder = %(holder)s OR p.lease_until IS NULL OR p.lease_until < now()
    RETURNING error_code
"""

_POLLED = """
    UPDATE livekit_projects SET polled_at = CASE WHEN %(code)s::text IS NULL THEN now() ELSE polled_at END,
        failing_since = CASE WHEN %(code)s::text IS NOT NULL THEN coalesce(failing_since, now()) END,
        error_code = %(code)s
    WHERE name = %(name)s
"""

# Whoever finds the time come is the one that tries; until it has tried, the others wait. While LiveKit does not answer the
# poller, nobody tries.
_MAY_START = """
    WITH asked AS (
        INSERT INTO livekit_projects (name) VALUES (%(name)s) ON CONFLICT (name) DO NOTHING
    ), tries AS (
        UPDATE livekit_projects SET worker_next_at = clock_timestamp() + make_interval(secs => %(patience)s)
        WHERE name = %(name)s AND worker_next_at <= clock_timestamp() RETURNING 1
    )
    SELECT greatest(
        CASE WHEN failing_since IS NOT NULL AND lease_until > now()
             THEN clock_timestamp() + make_interval(secs => %(patience)s) END,
        CASE WHEN worker_next_at > clock_timestamp() AND NOT EXISTS (SELECT 1 FROM tries) THEN worker_next_at END)
    FROM livekit_projects WHERE name = %(name)s
"""

_WORKER_MISSING = """
    INSERT INTO livekit_projects AS p (name, worker_failures, worker_next_at)
    VALUES (%(name)s, 1, clock_timestamp() + make_interval(secs => %(base)s))
    ON CONFLICT (name) DO UPDATE SET worker_failures = p.worker_failures + 1,
        worker_next_at = clock_timestamp() +
            make_interval(secs => least(%(cap)s, %(base)s * 2 ^ least(p.worker_failures, 10)) * (0.5 + random() / 2))
    RETURNING worker_next_at
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One row. Times are seconds since 1970."""

    id: UUID
    project: str
    room_id: str
    broadcast_id: UUID
    output_id: UUID
    attempt: int
    backup: bool
    host_identity: str
    asked_at: float
    egress_id: str | None
    seen: Seen
    stop_asked_at: float | None
    over_at: float | None


@dataclass(frozen=True, slots=True)
class Note:
    """What is newly known of a row."""

    id: UUID
    egress_id: str | None
    seen: Seen
    over: bool


@dataclass(frozen=True, slots=True)
class Address:
    """Where an output of a room goes, or went; for telling our own egresses from those of others."""

    room_id: str
    output_id: UUID
    doors: tuple[str, ...]
    sealed_key: bytes


class Ledger:
    """Of one process."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def ask(
        self, broadcast_id: UUID, epoch: int, output_id: UUID, attempt: int, *, project: str, room_id: str, door: str
    ) -> tuple[Attempt, bool] | None:
        """The row of an attempt that is about to be asked for, and whether it was made now: else another has asked, and
        what became of it must be found out. None when the lease is another's. `door`: the address without the key."""
        row_id = uuid7()
        asked = {
            "id": row_id,
            "broadcast_id": broadcast_id,
            "epoch": epoch,
            "output_id": output_id,
            "attempt": attempt,
            "project": project,
            "room_id": room_id,
            "door": door,
        }
        found = await self._attempts(_ASK, asked)
        return (found[0], found[0].id == row_id) if found else None

    async def of_broadcasts(self, broadcasts: Collection[UUID]) -> list[Attempt]:
        """All rows of these, each output's in the order of its attempts."""
        return await self._attempts(_OF_BROADCASTS, (list(broadcasts),))

    async def open_of(self, project: str) -> list[Attempt]:
        """Those of a project that are not over, oldest first."""
        return await self._attempts(_OPEN, (project,))

    async def any_open(self) -> bool:
        """Whether there is any row that is not over."""
        return bool(await self._one("SELECT 1 FROM livekit_egresses WHERE over_at IS NULL LIMIT 1", ()))

    async def note(self, notes: Sequence[Note]) -> set[UUID]:
        """Writes what is newly known; which rows took it."""
        if not notes:
            return set()
        columns = (
            [note.id for note in notes],
            [note.egress_id for note in notes],
            [Jsonb(note.seen.as_json()) for note in notes],
            [note.over for note in notes],
        )

        async def act(connection: Connection) -> set[UUID]:
            return {row[0] for row in await (await connection.execute(_NOTE, columns)).fetchall()}

        return await self._database.execute(act)

    async def ask_stop(self, broadcast_id: UUID, output_id: UUID | None = None) -> list[Attempt]:
        """From now on nothing of this output, or of the whole broadcast, is wanted. The rows that are not over."""
        return await self._attempts(_ASK_STOP, {"broadcast_id": broadcast_id, "output_id": output_id})

    async def addresses(self, project: str, rooms: Collection[str]) -> list[Address]:
        """Of all outputs of these rooms in the last two days."""

        async def act(connection: Connection) -> list[Address]:
            rows = await (await connection.execute(_ADDRESSES, (list(rooms), project))).fetchall()
            return [
                Address(room_id, output_id, tuple(door for door in (first, second) if door), key)
                for room_id, output_id, first, second, key in rows
            ]

        return await self._database.query(act)

    async def end_left_overs(self, project: str) -> None:
        """Nothing is wanted any more of broadcasts that have ended."""
        await self._one(_END_LEFT_OVERS, (project,))

    async def known(self, egress_ids: Collection[str]) -> set[str]:
        """Those that any row speaks of, over or not."""

        async def act(connection: Connection) -> set[str]:
            asked = "SELECT DISTINCT egress_id FROM livekit_egresses WHERE egress_id = ANY(%s)"
            return {row[0] for row in await (await connection.execute(asked, (list(egress_ids),))).fetchall()}

        return await self._database.query(act)

    # Projects

    async def lease_project(self, name: str, holder: str) -> tuple[bool, str | None]:
        """Whether this controller looks after the project now, and what was wrong with it when it was last looked at."""
        row = await self._one(_LEASE, {"name": name, "holder": holder, "seconds": PROJECT_LEASE})
        return (False, None) if row is None else (True, row[0])

    async def leave_project(self, name: str, holder: str) -> None:
        """Gives it back."""
        await self._one(
            "UPDATE livekit_projects SET lease_until = NULL WHERE name = %s AND lease_holder = %s RETURNING 1",
            (name, holder),
        )

    async def polled(self, name: str, code: str | None) -> None:
        """LiveKit was asked, and answered or (`code`) did not."""
        await self._one(_POLLED + " RETURNING 1", {"name": name, "code": code})

    async def may_start(self, name: str, patience: float) -> float | None:
        """None: an egress may be started now. Else not before that moment (seconds since 1970). Of many that ask when the
        time has come, one may try; the others wait for `patience` seconds."""
        row = await self._one(_MAY_START, {"name": name, "patience": patience})
        return None if row is None or row[0] is None else row[0].timestamp()

    async def worker_missing(self, name: str, base: float, cap: float) -> float:
        """No worker was there: when to try again (seconds since 1970)."""
        row = await self._one(_WORKER_MISSING, {"name": name, "base": base, "cap": cap})
        assert row is not None
        return row[0].timestamp()

    async def worker_there(self, name: str) -> None:
        """An egress was started."""
        await self._one(
            """UPDATE livekit_projects SET worker_failures = 0, worker_next_at = NULL
               WHERE name = %s AND (worker_failures > 0 OR worker_next_at IS NOT NULL) RETURNING 1""",
            (name,),
        )

    async def polled_at(self, name: str) -> float | None:
        """When LiveKit last answered (seconds since 1970)."""
        row = await self._one("SELECT polled_at FROM livekit_projects WHERE name = %s", (name,))
        return None if row is None or row[0] is None else row[0].timestamp()

    async def _one(self, statement: Any, values: Any) -> tuple[Any, ...] | None:
        async def act(connection: Connection) -> tuple[Any, ...] | None:
            return await (await connection.execute(statement, values)).fetchone()

        return await self._database.execute(act)

    async def _attempts(self, statement: Any, values: Any) -> list[Attempt]:
        async def act(connection: Connection) -> list[Attempt]:
            return [_attempt(row) for row in await (await connection.execute(statement, values)).fetchall()]

        return await self._database.execute(act)


def _attempt(row: tuple[Any, ...]) -> Attempt:
    *plain, asked_at, egress_id, seen, stop_asked_at, over_at = row
    facts = from_json(seen)
    return Attempt(*plain, asked_at.timestamp(), egress_id, facts, _seconds(stop_asked_at), _seconds(over_at))  # pyright: ignore[reportCallIssue]


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
