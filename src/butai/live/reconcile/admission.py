"""Admission: takes newcomers, which never had an engine, as far as this host has room, and tells the others to wait.

A claim is the lease itself, so a crash leaves nothing behind that would have to be counted down: what is used is the sum
over the broadcasts that controllers of this host hold, or whose engine runs here. Controllers of one host take turns, by
an advisory lock. Broadcasts that had an engine are not asked (`leases`): what is on air stays on air.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import actors
from butai.database import Connection, Database
from butai.errors import Code
from butai.live.reconcile import transitions
from butai.live.reconcile.capacity import Admitted, Capacity, Machine, Newcomer
from butai.live.reconcile.controllers import RUNNING, used_cores
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.leases import BATCH, NEWCOMER, free
from butai.live.reconcile.transitions import Lease
from butai.live.reconcile.waiting import wait_for_capacity

TOLD_AT_ONCE = 10
"""Broadcasts that are told to wait in one search."""

_FREE = free(":seconds")

CLOCK_SET = 1800.0
"""Seconds beyond the limit after which a broadcast cannot have waited: searches come each second."""

_ANY = f"SELECT EXISTS (SELECT 1 FROM broadcasts AS b WHERE {free('%(seconds)s')} AND egress = ANY(%(egress)s) AND {NEWCOMER})"

_TURN = text("SELECT pg_advisory_xact_lock(hashtextextended('butai admission ' || :host, 0))")

_USED = text(f"""
    SELECT {used_cores("CAST(:costs AS jsonb)")} FROM broadcasts AS b
    WHERE b.ended_at IS NULL
      AND (b.id = ANY(:held) OR b.engine_host = :host
           OR (b.lease_until >= now()
               AND (b.lease_holder = :holder
                    OR b.lease_holder IN (SELECT id FROM controllers WHERE host = :host))))
""")

_PEERS = text(f"""
    SELECT c.costs, c.admits FROM controllers AS c
    WHERE c.host = :host AND c.id <> :holder AND c.capacity IS NOT NULL AND {RUNNING}
""")

_ENGINE_RUNS = text("""
    SELECT EXISTS (SELECT 1 FROM broadcasts AS b
                   WHERE b.ended_at IS NULL AND b.engine_host = :host AND b.engine_ref IS NOT NULL)
""")

# All of them, since any number may wait that do not fit before one that does; not locked, so that another controller
# sees those that are not taken here. With the preset that the host chose: one that was taken before may have a lower one.
_NEWCOMERS = text(f"""
    SELECT b.id, b.egress, coalesce(b.chosen_preset, b.preset) AS preset FROM broadcasts AS b
    WHERE {_FREE} AND b.egress = ANY(:egress) AND {NEWCOMER} AND b.id <> ALL(:held)
    ORDER BY b.created_at, b.id
""")

_TAKE = text(f"""
    UPDATE broadcasts AS b
    SET lease_holder = :holder, lease_until = now() + make_interval(secs => :seconds), lease_epoch = b.lease_epoch + 1,
        waiting_since = NULL, preset = :preset, chosen_preset = nullif(free.chosen, :preset)
    FROM (SELECT b.id, b.preset, coalesce(b.chosen_preset, b.preset) AS chosen FROM broadcasts AS b
          WHERE b.id = :id AND {_FREE} AND {NEWCOMER} FOR NO KEY UPDATE SKIP LOCKED) AS free
    WHERE b.id = free.id
    RETURNING b.lease_epoch, free.preset <> :preset AND free.chosen <> :preset AS lowered
""")

_LOWERED = text("""
    INSERT INTO live_events (room_id, broadcast_id, event, code, actor, detail)
    SELECT room_id, id, 'broadcast.preset_lowered', :code, :actor, CAST(:detail AS jsonb) FROM broadcasts WHERE id = :id
""")

_WAITING = text(f"""
    SELECT b.id FROM broadcasts AS b
    WHERE {_FREE} AND b.id = ANY(:left) AND {NEWCOMER} AND b.created_at < now() - make_interval(secs => :patience)
      AND EXISTS (SELECT 1 FROM outputs AS o WHERE o.broadcast_id = b.id AND o.wanted = 'on'
                    AND (o.state = 'pending' OR (o.state = 'starting' AND o.next_attempt_at <= now())))
    ORDER BY b.created_at, b.id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
""")

# A lease for the length of one transaction: an earlier holder is refused from here on.
_MARK = text("""
    UPDATE broadcasts
    SET lease_holder = :holder, lease_until = now(), lease_epoch = lease_epoch + 1,
        waiting_since = coalesce(waiting_since, now())
    WHERE id = :id
    RETURNING lease_epoch, extract(epoch FROM waiting_since)::float8, extract(epoch FROM now())::float8
""")

_WAITS_AGAIN = text("UPDATE broadcasts SET waiting_since = now() WHERE id = :id")

_UNMARK = text("UPDATE broadcasts SET lease_holder = NULL, lease_until = NULL WHERE id = :id")


class Admission:
    """The newcomers of one controller. Every method raises `DatabaseUnavailable`."""

    def __init__(
        self,
        database: Database,
        holder: str,
        host: str,
        seconds: float,
        capacity: Capacity,
        *,
        policy: Policy,
        egresses: Sequence[str],
    ) -> None:
        """`seconds`: the duration of a lease. `policy`: for the outputs of broadcasts that wait."""
        self._database, self._capacity, self._policy = database, capacity, policy
        self._holder, self._host, self._seconds, self._egresses = holder, host, seconds, list(egresses)
        self._left: list[UUID] = []
        self._measuring_until: float | None = None

    async def admit(self, held: Sequence[UUID]) -> list[tuple[Lease, str]]:
        """Takes newcomers that fit, at most `BATCH`, each with the name of its egress; in the order of their starts."""
        self._left = []
        if self._measuring_until is None:
            self._measuring_until = await self._first_look()
        if not await self._any():
            return []
        async with self._database.transaction() as session:
            await session.execute(_TURN, {"host": self._host})
            known: dict[str, Any] = {
                "held": list(held),
                "host": self._host,
                "holder": self._holder,
                "egress": self._egresses,
                "seconds": self._seconds,
            }
            peers = [Machine(0.0, *row) for row in (await session.execute(_PEERS, known)).all()]
            resumed = time.monotonic() < self._measuring_until
            machine = self._capacity.machine(peers, resumed=resumed)
            used = float(await session.scalar(_USED, known | {"costs": json.dumps(machine.costs)}) or 0.0)
            rows = (await session.execute(_NEWCOMERS, known)).all()
            left, taken = [Newcomer(*row) for row in rows], list[tuple[Lease, str]]()
            # Again as long as one was not free: the next one may have its place.
            while admitted := machine.admit(left, used)[: BATCH - len(taken)]:
                for one in admitted:
                    lease = await self._take(session, one)
                    if lease is not None:
                        taken.append((lease, one.newcomer.egress))
                        used += machine.cost(one.newcomer.egress, one.preset)
                tried = {one.newcomer.id for one in admitted}
                left = [one for one in left if one.id not in tried]
        if not (resumed and not self._capacity.measured):
            # What was not taken on account of costs that are still to be measured has not to wait for long.
            fitting = {one.newcomer.id for one in machine.admit(left, used)}
            self._left = [one.id for one in left if one.id not in fitting]
        return taken

    async def tell_waiting(self) -> None:
        """Tells newcomers that did not fit here and that no other controller has taken meanwhile that they wait, and ends
        those that waited too long: a few each time, so that the next search is not late."""
        for _ in range(TOLD_AT_ONCE):
            if not self._left or not await self._tell_one():
                return

    async def _first_look(self) -> float:
        """Until when costs are still to be measured: engines that run here were started by an earlier controller."""
        async with self._database.transaction() as session:
            resumes = await session.scalar(_ENGINE_RUNS, {"host": self._host})
        return time.monotonic() + self._policy.timing.capacity_measured if resumes else 0.0

    async def _any(self) -> bool:
        async def act(connection: Connection) -> bool:
            row = await (
                await connection.execute(_ANY, {"egress": self._egresses, "seconds": self._seconds})
            ).fetchone()
            return bool(row and row[0])

        return await self._database.query(act)

    async def _take(self, session: AsyncSession, admitted: Admitted) -> Lease | None:
        """None for one that is not free any more, or that another transaction has locked."""
        one, preset = admitted.newcomer, admitted.preset
        values: dict[str, Any] = {"id": one.id, "holder": self._holder, "seconds": self._seconds, "preset": preset}
        row = (await session.execute(_TAKE, values)).one_or_none()
        if row is None:
            return None
        epoch, lowered = row
        if lowered:
            detail = json.dumps({"chosen": one.preset, "preset": preset})
            more = {"id": one.id, "code": Code.PRESET_LOWERED, "actor": actors.CONTROLLER, "detail": detail}
            await session.execute(_LOWERED, more)
        return Lease(one.id, self._holder, epoch)

    async def _tell_one(self) -> bool:
        patience = self._policy.timing.capacity_patience
        async with self._database.transaction() as session:
            broadcast_id = await session.scalar(
                _WAITING, {"left": self._left, "patience": patience, "seconds": self._seconds}
            )
            if broadcast_id is None:
                return False
            marked = await session.execute(_MARK, {"id": broadcast_id, "holder": self._holder})
            epoch, since, now = marked.one()
            if not 0 <= now - since < self._policy.timing.capacity_limit + CLOCK_SET:
                # Postgres's clock was set, or no controller ran: it waits from now on.
                since = now
                await session.execute(_WAITS_AGAIN, {"id": broadcast_id})
            lease = Lease(broadcast_id, self._holder, epoch)
            row = await transitions.read(session, lease)
            await transitions.write(session, lease, wait_for_capacity(row, since, now, self._policy))
            await session.execute(_UNMARK, {"id": broadcast_id})
            return True
