"""The states of runs and findings against a real Postgres: what comes late changes nothing that is over."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import select

from butai.assets.patrol import finding_writer, progress
from butai.assets.patrol.finding_states import FindingKind, FindingState, FindingTrigger, IllegalFindingMove
from butai.assets.patrol.models import Finding
from butai.assets.patrol.states import IllegalRunMove, RunState, RunTrigger
from butai.database import Database

EXAMPLES = hypothesis_settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(kind=st.sampled_from(FindingKind), triggers=st.lists(st.sampled_from(FindingTrigger), max_size=6))
async def test_findings_walk_their_table(database: Database, kind: FindingKind, triggers: list[FindingTrigger]) -> None:
    key = uuid.uuid4().hex
    expected: list[FindingState] = []
    for trigger in (FindingTrigger.SEEN, *triggers):
        if trigger is FindingTrigger.SEEN:
            async with database.transaction() as session:
                new = await finding_writer.open_finding(session, kind, key, None, None, {})
            assert new is (not expected or expected[-1] is not FindingState.OPEN)
            if new:
                expected.append(FindingState.OPEN)
            continue
        try:
            async with database.transaction() as session:
                await finding_writer.resolve_findings(session, (kind,), [key], trigger)
        except IllegalFindingMove:
            continue
        if expected[-1] is FindingState.OPEN:
            expected[-1] = FindingState(trigger)
    async with database.transaction() as session:
        rows = (await session.scalars(select(Finding).where(Finding.object_key == key).order_by(Finding.id))).all()
    assert [finding_writer.state_of(row) for row in rows] == expected
    for row in rows:
        assert (row.resolved_at is None) == (row.resolution is None) == (row.resolved_by is None)


async def test_a_run_that_another_process_ended_takes_nothing_more(database: Database) -> None:
    async with database.transaction() as session:
        run = await progress.begin_or_resume(session, "scheduled", None, dry_run=False)
    async with database.transaction() as session:
        other = await progress.begin_or_resume(session, "scheduled", None, dry_run=False)
        assert other.id == run.id
        await progress.save(session, other, RunTrigger.FINISHED)
    run.checked = 7
    with pytest.raises(IllegalRunMove):
        async with database.transaction() as session:
            await progress.save(session, run)
    async with database.transaction() as session:
        row = await session.get_one(progress.PatrolRun, run.id)
    assert (row.state, row.checked, row.ended_at is not None) == (RunState.FINISHED, 0, True)
