"""Leases on broadcasts, in Postgres and by its clock.

A lease is renewed after a third of its duration; a controller that stops renewing loses its broadcasts to the next one
that looks for free ones. The epoch rises with each new holder. Rows (`transitions`) and relays refuse a lower epoch, so
a controller that was suspended and lost its lease without noticing can do no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import LiteralString
from uuid import UUID

from psycopg.types.json import Jsonb

from butai.database import Connection, Database
from butai.live.reconcile.capacity import Capacity
from butai.live.reconcile.controllers import RUNNING
from butai.live.reconcile.timing import Timing
from butai.live.reconcile.transitions import Lease

BATCH = 50
"""Broadcasts taken in one statement, so that several controllers share those of a dead one."""


def free(seconds: LiteralString) -> LiteralString:
    """A condition: broadcasts `b` that no controller holds. `seconds`: the placeholder for a lease's duration.

    A lease that ends later than any could is from before Postgres's clock was set back, or of a controller with a longer
    duration, which runs."""
    return (
        "b.ended_at IS NULL AND (b.lease_until IS NULL OR b.lease_until < now() "
        "OR b.lease_until > now() + 2 * make_interval(secs => "
        + seconds
        + ") AND NOT EXISTS (SELECT 1 FROM controllers AS c WHERE c.id = b.lease_holder AND "
        + RUNNING
        + "))"
    )


NEWCOMER: LiteralString = """b.engine_host IS NULL AND b.wanted = 'on_air'
    AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.broadcast_id = b.id AND o.wanted = 'on')"""
"""Broadcasts `b` that want an engine and never had one: they need a controller with room (`admission`). All others are
taken whatever a controller has already, since they are on air, or only have to be ended."""

_ACQUIRE: LiteralString = f"""
    UPDATE broadcasts AS b
    SET lease_holder = %(holder)s, lease_until = now() + make_interval(secs => %(seconds)s), lease_epoch = b.lease_epoch + 1
    FROM (SELECT b.id FROM broadcasts AS b
          WHERE {free("%(seconds)s")} AND egress = ANY(%(egress)s) AND NOT ({NEWCOMER}) AND b.id <> ALL(%(held)s::uuid[])
          ORDER BY b.created_at LIMIT %(batch)s FOR NO KEY UPDATE SKIP LOCKED) AS free
    WHERE b.id = free.id
    RETURNING b.id, b.lease_epoch, b.egress
"""

# Also an expired lease, as long as no other controller took it, which would have raised the epoch.
_RENEW = """
    UPDATE broadcasts AS b
    SET lease_until = now() + make_interval(secs => %(seconds)s),
        engine_seen_at = CASE WHEN held.engine THEN now() ELSE b.engine_seen_at END
    FROM (SELECT * FROM unnest(%(ids)s::uuid[], %(epochs)s::bigint[], %(engines)s::boolean[])
                   AS h (id, epoch, engine) ORDER BY id) AS held
    WHERE b.id = held.id AND b.lease_holder = %(holder)s AND b.lease_epoch = held.epoch AND b.ended_at IS NULL
    RETURNING b.id
"""

_RELEASE = """
    WITH given AS (
        UPDATE broadcasts AS b SET lease_holder = NULL, lease_until = NULL
        FROM unnest(%(ids)s::uuid[], %(epochs)s::bigint[]) AS held (id, epoch)
        WHERE b.id = held.id AND b.lease_holder = %(holder)s AND b.lease_epoch = held.epoch
        RETURNING b.id)
    SELECT pg_notify('butai_wanted', id::text) FROM given
"""

_HEARTBEAT = """
    INSERT INTO controllers (id, host, broadcasts, capacity, costs, admits)
    VALUES (%(id)s, %(host)s, %(broadcasts)s, %(capacity)s, %(costs)s, %(admits)s)
    ON CONFLICT (id) DO UPDATE SET seen_at = now(), broadcasts = excluded.broadcasts, capacity = excluded.capacity,
                                   costs = excluded.costs, admits = excluded.admits
    RETURNING extract(epoch FROM clock_timestamp())::float8,
              EXISTS (SELECT 1 FROM controllers
                      WHERE host <> %(host)s AND seen_at > now() - make_interval(secs => %(silent)s))
"""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`database_time`: seconds since 1970 by Postgres's clock. `alone`: no controller of another host is running."""

    database_time: float
    alone: bool


class Leases:
    """The leases of one controller, of `seconds` each. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self, database: Database, holder: str, host: str, seconds: float, egresses: Sequence[str], timing: Timing
    ) -> None:
        self._database, self.holder, self._host, self._timing = database, holder, host, timing
        self._seconds, self._egresses = seconds, list(egresses)

    async def acquire(self, held: Sequence[UUID]) -> list[tuple[Lease, str]]:
        """Takes free broadcasts that are no newcomers, at most `BATCH`, each with the name of its egress.

        Not those in `held`: a lease of ours that expired while Postgres was away is renewed, which keeps unwritten
        reports."""
        parameters = {
            "holder": self.holder,
            "seconds": self._seconds,
            "egress": self._egresses,
            "batch": BATCH,
            "held": list(held),
        }

        async def act(connection: Connection) -> list[tuple[Lease, str]]:
            rows = await (await connection.execute(_ACQUIRE, parameters)).fetchall()
            return [(Lease(broadcast_id, self.holder, epoch), egress) for broadcast_id, epoch, egress in rows]

        return await self._database.execute(act)

    async def database_time(self) -> float:
        """Seconds since 1970 by Postgres's clock."""

        async def act(connection: Connection) -> float:
            row = await (await connection.execute("SELECT extract(epoch FROM clock_timestamp())::float8")).fetchone()
            assert row is not None
            return row[0]

        return await self._database.query(act)

    async def renew(self, held: Sequence[tuple[Lease, bool]]) -> set[UUID]:
        """Renews leases; the flag says whether the broadcast's engine is connected. Returns the ids that are still
        held."""
        if not held:
            return set()
        parameters = {
            **self._parameters([lease for lease, _ in held]),
            "seconds": self._seconds,
            "engines": [engine for _, engine in held],
        }

        async def act(connection: Connection) -> set[UUID]:
            return {row[0] for row in await (await connection.execute(_RENEW, parameters)).fetchall()}

        return await self._database.execute(act)

    async def release(self, held: Sequence[Lease]) -> None:
        """Gives leases back, and wakes the other controllers."""
        if held:
            columns = self._parameters(held)

            async def act(connection: Connection) -> None:
                await connection.execute(_RELEASE, columns)

            await self._database.execute(act)

    async def heartbeat(self, broadcasts: int, capacity: Capacity) -> Heartbeat:
        """Records that this controller is alive, and its capacity. Returns Postgres's time, and whether other hosts have
        controllers."""
        parameters = {
            "id": self.holder,
            "host": self._host,
            "broadcasts": broadcasts,
            "capacity": round(capacity.cores, 3),
            "costs": Jsonb(capacity.costs),
            "admits": capacity.admits,
            "silent": self._timing.controller_gone_after,
        }

        async def act(connection: Connection) -> Heartbeat:
            row = await (await connection.execute(_HEARTBEAT, parameters)).fetchone()
            assert row is not None
            return Heartbeat(row[0], not row[1])

        return await self._database.execute(act)

    async def deregister(self) -> None:
        """Deletes this controller's row, and old rows of controllers that were killed."""

        async def act(connection: Connection) -> None:
            await connection.execute(
                "DELETE FROM controllers WHERE id = %s OR seen_at < now() - make_interval(secs => %s)",
                (self.holder, self._timing.controller_forgotten_after),
            )

        await self._database.execute(act)

    def _parameters(self, held: Sequence[Lease]) -> dict[str, object]:
        return {
            "holder": self.holder,
            "ids": [lease.broadcast_id for lease in held],
            "epochs": [lease.epoch for lease in held],
        }
