"""A run's progress: its counts and its checkpoint, kept in its row, so that the next run resumes one whose process
died.

The only writer of `patrol_runs`; states change by `move` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.patrol.models import PatrolRun
from butai.assets.patrol.states import RUN_TABLE, RunState, RunTrigger
from butai.assets.patrol.verdicts import Verdict
from butai.errors import Code

LIBRARY_RUNS = ("scheduled", "asked")
"""Kinds of run that go through the library. `asked`: an operator requested it."""

_COUNTS = ("checked", "found", "suspected", "lost", "recovered", "mismatched", "undecided")
_COLUMNS = (*_COUNTS, "due", "checkpoint", "hides_absence", "stop_code", "detail")


@dataclass(slots=True)
class RunProgress:
    """The progress of a run. Counts are assets; `due` is the number to check, `checkpoint` the last asset of the
    last batch, `stop_code` and `detail` say why it stopped early."""

    id: int
    kind: str
    dry_run: bool
    state: RunState = RunState.RUNNING
    stop_code: str | None = None
    detail: str | None = None
    due: int = 0
    checked: int = 0
    found: int = 0
    suspected: int = 0
    lost: int = 0
    recovered: int = 0
    mismatched: int = 0
    undecided: int = 0
    checkpoint: UUID | None = None
    hides_absence: bool | None = None

    def add(self, counts: Counter[Verdict]) -> None:
        """Adds a batch's counts."""
        self.checked += counts.total()
        self.found += counts[Verdict.FOUND]
        self.suspected += counts[Verdict.SUSPECT]
        self.lost += counts[Verdict.LOST] + counts[Verdict.STILL_MISSING]
        self.recovered += counts[Verdict.RECOVERED]
        self.mismatched += counts[Verdict.MISMATCH]
        self.undecided += counts[Verdict.UNDECIDED]

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of its row that change during the run, except its state."""
        return {name: getattr(self, name) for name in _COLUMNS}


def move(row: PatrolRun, trigger: RunTrigger) -> None:
    """Moves a new row, or a locked one, by the table. Raises `IllegalRunMove`, having changed nothing."""
    before = None if row.state is None else RunState(row.state)
    row.state = RUN_TABLE.after(before, trigger)
    row.heartbeat_at = func.now()
    if row.state != RunState.RUNNING:
        row.ended_at = func.now()


async def begin_or_resume(session: AsyncSession, kind: str, requested_by: str | None, *, dry_run: bool) -> RunProgress:
    """The oldest unfinished run, to be resumed, or a new one. A dry run neither resumes another run nor is resumed;
    further unfinished runs are closed as `interrupted`. Only for the holder of the patrol's lock: no other run is in
    progress then."""
    unfinished = (
        await session.scalars(
            select(PatrolRun)
            .where(PatrolRun.state == RunState.RUNNING, PatrolRun.kind.in_(LIBRARY_RUNS))
            .order_by(PatrolRun.id)
            .with_for_update()
        )
    ).all()
    resumed: PatrolRun | None = None
    for row in unfinished:
        if row.dry_run or resumed is not None:
            move(row, RunTrigger.INTERRUPTED)
            row.stop_code = Code.INTERRUPTED
        elif not dry_run:
            resumed = row
    if resumed is None:
        row = PatrolRun(kind=kind, dry_run=dry_run, requested_by=requested_by)
        move(row, RunTrigger.BEGAN)
        session.add(row)
        await session.flush()
        return RunProgress(row.id, kind, dry_run=dry_run)
    move(resumed, RunTrigger.RESUMED)
    return RunProgress(
        resumed.id,
        resumed.kind,
        dry_run=False,
        due=resumed.due,
        checkpoint=resumed.checkpoint,
        **{name: getattr(resumed, name) for name in _COUNTS},
    )


async def save(session: AsyncSession, run: RunProgress, trigger: RunTrigger = RunTrigger.ADVANCED) -> None:
    """Moves the run's row and writes its counts and checkpoint. Raises `IllegalRunMove` when the run is over: another
    process took the patrol's lock and resumed it."""
    row = await session.get_one(PatrolRun, run.id, with_for_update=True, populate_existing=True)
    move(row, trigger)
    run.state = RunState(row.state)
    for name, value in run.columns.items():
        setattr(row, name, value)


async def record_comparison(session: AsyncSession, **columns: Any) -> None:
    """Writes the row of a comparison with a listing, after its end."""
    row = PatrolRun(kind="reconcile", dry_run=False, **columns)
    move(row, RunTrigger.COMPARED)
    session.add(row)


async def rename(session: AsyncSession, names: Sequence[str], pseudonym: str) -> None:
    """Replaces the names of an erased operator."""
    await session.execute(update(PatrolRun).where(PatrolRun.requested_by.in_(names)).values(requested_by=pseudonym))
