"""What the tables hold after a plan's writes is what the fold says, for any plan from any state that can be reached."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, get_args

import pytest
from hypothesis.stateful import run_state_machine_as_test
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncSession

from butai.config import DatabaseSettings
from butai.database import Database
from butai.live.models import Broadcast, Output, Room
from butai.live.reconcile import transitions
from butai.live.reconcile.commands import ForgetRetry, Move, Write
from butai.live.reconcile.fold import RowsChanged, after
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.reconcile.transitions import Lease
from butai.live.states import OutputState, OutputTrigger
from tests.examples import examples
from tests.unit.test_live_plan_machine import BroadcastMachine

OF_EACH = 6
"""Plans that are written of each sequence of kinds of writes."""

Plan = tuple[BroadcastRow, tuple[Write, ...]]


def kinds(writes: Sequence[Write]) -> tuple[object, ...]:
    return tuple(one.event if isinstance(one, Move) else type(one) for one in writes)


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    """Rows and writes as they occur in the machine's walks."""
    found: dict[tuple[object, ...], list[Plan]] = {}

    class Recorded(BroadcastMachine):
        def applied(self, before: BroadcastRow, writes: Sequence[Write], changed: BroadcastRow) -> None:
            same = found.setdefault(kinds(writes), [])
            if writes and len(same) < OF_EACH:
                same.append((as_stored(before), tuple(writes)))

    run_state_machine_as_test(Recorded, settings=examples(ci=25, deep=300, stateful_step_count=50, deadline=None))
    # Whatever the walks met: a stall, and a room that is not there.
    directed = Recorded()
    directed.begin(count=2)
    directed.the_engine_comes_up()
    directed.all_goes_well(stable=False)
    for report in list(directed._running()):
        directed._say(report.output_id, report.attempt, "stalled")
        directed.now += 0.5
    directed.all_reports_arrive()
    directed.the_host_comes_and_goes(phase="failed", unreachable=False)
    directed.teardown()
    # And a retry by hand while no engine comes up.
    directed = Recorded()
    directed.begin(count=1)
    directed.the_engine_comes_up()
    directed.all_goes_well(stable=False)
    directed.the_engine_dies()
    directed.the_engine_does_not_come_up()
    directed._want(directed.row.outputs[0], retry_asked_at=directed.now)
    directed.step()
    directed.teardown()
    return [plan for same in found.values() for plan in same]


async def insert(session: AsyncSession, row: BroadcastRow, lease: Lease) -> None:
    """The rows, held by a lease."""
    session.add(Room(room_id=row.room_id, owner_user_id="u1", host_identity=row.host_identity))
    await session.flush()
    held = {"lease_holder": lease.holder, "lease_epoch": lease.epoch, "egress": "relay"}
    session.add(Broadcast(**columns(row), **held))
    await session.flush()
    for output in row.outputs:
        session.add(Output(**columns(output), broadcast_id=row.id, key_fingerprint="f"))
    await session.flush()
    session.expire_all()


NO_COLUMNS = ("outputs", "saved_ingest_url")


def columns(row: BroadcastRow | OutputRow) -> dict[str, Any]:
    values = {one.name: getattr(row, one.name) for one in fields(row) if one.name not in NO_COLUMNS}
    return {name: moment(value) if name in TIMES else value for name, value in values.items()}


def moment(value: float | None) -> datetime | None:
    return None if value is None else datetime.fromtimestamp(value, UTC)


TIMES = {
    column.name
    for model in (Broadcast, Output)
    for column in model.__table__.columns
    if column.type.python_type is datetime
}


def as_stored(row: BroadcastRow) -> BroadcastRow:
    """Postgres keeps microseconds, and outputs are read by their ids."""

    def stored(one: Any) -> Any:
        times = {name: getattr(one, name) for name in TIMES if hasattr(one, name)}
        return replace(one, **{name: at and datetime.fromtimestamp(at, UTC).timestamp() for name, at in times.items()})

    return replace(stored(row), outputs=tuple(stored(one) for one in sorted(row.outputs, key=lambda one: one.id)))


async def test_any_plan_leaves_the_rows_that_its_fold_says(plans: list[Plan], database_url: str) -> None:
    seen = {kind for _, writes in plans for kind in kinds(writes)}
    # A plan creates no outputs: the host does, by a service.
    created = {OutputTrigger.CREATED, OutputTrigger.CREATED_WITHOUT_DESTINATION}
    assert seen >= {*OutputTrigger, *get_args(Write)} - {Move} - created
    async with Database(DatabaseSettings(url=SecretStr(database_url))) as database:
        for before, writes in plans:
            lease = Lease(before.id, "c1", 3)
            async with database.transaction() as session:
                await insert(session, before, lease)
                written = await transitions.write(session, lease, writes)
                session.expire_all()
                stored = await transitions.read(session, lease)
                await session.rollback()
            folded = functools.reduce(after, writes, before)
            assert written == stored == as_stored(folded), writes


async def test_what_the_plan_did_not_see_is_not_written(plans: list[Plan]) -> None:
    """Another attempt or state, an output that is not there, a broadcast that is over."""
    for before, writes in plans:
        for write in writes[:1]:
            with pytest.raises(RowsChanged):
                after(replace(before, ended_at=1.0), write)
            if not isinstance(write, Move | ForgetRetry):
                continue
            with pytest.raises(RowsChanged):
                after(replace(before, outputs=()), write)
            if isinstance(write, Move):
                with pytest.raises(RowsChanged):
                    after(before, replace(write, attempt=write.attempt + 1))
                with pytest.raises(RowsChanged):
                    after(before, replace(write, before=OutputState.ENDED))
