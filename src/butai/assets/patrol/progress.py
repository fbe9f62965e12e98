"""A run's progress: its counts and its checkpoint, kept in its row, so that the next run resumes one whose process died."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.patrol.models import PatrolRun
from butai.assets.patrol.verdicts import Verdict
from butai.errors import Code

LIBRARY_RUNS = ("scheduled", "asked")
"""Kinds of run that go through the library. `asked`: an operator requested it."""

_COUNTS = ("checked", "found", "suspected", "lost", "recovered", "mismatched", "undecided")


@dataclass(slots=True)
class RunProgress:
    """How far a run has come. Counts are assets; `due` is how many it set out to check, `checkpoint` the last asset of the
    last batch, `stop_code` and `detail` say why it stopped early."""

    id: int
    kind: str
    dry_run: bool
    state: str = "running"
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
        """The columns of its row that change as it goes."""
        return {
            name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("id", "kind", "dry_run")
        }


async def begin_or_resume(session: AsyncSession, kind: str, dry_run: bool, requested_by: str | None) -> RunProgress:
    """The oldest unfinished run, to be resumed, or a new one. A dry run resumes none, and none resumes a dry run; further
    unfinished runs are closed as `interrupted`. For the holder of the patrol's lock only: nothing else is running then."""
    unfinished = (
        await session.scalars(
            select(PatrolRun)
            .where(PatrolRun.state == "running", PatrolRun.kind.in_(LIBRARY_RUNS))
            .order_by(PatrolRun.id)
        )
    ).all()
    resumed: PatrolRun | None = None
    for row in unfinished:
        if row.dry_run or resumed is not None:
            row.state, row.stop_code, row.ended_at = "stopped", Code.INTERRUPTED, func.now()
        elif not dry_run:
            resumed = row
    if resumed is None:
        row = PatrolRun(kind=kind, dry_run=dry_run, state="running", requested_by=requested_by)
        session.add(row)
        await session.flush()
        return RunProgress(row.id, kind, dry_run)
    return RunProgress(
        resumed.id,
        resumed.kind,
        False,
        due=resumed.due,
        checkpoint=resumed.checkpoint,
        **{name: getattr(resumed, name) for name in _COUNTS},
    )


async def save(session: AsyncSession, run: RunProgress) -> None:
    """Writes the progress into the run's row, with a heartbeat, and with its end once it is no longer running."""
    ended = {} if run.state == "running" else {"ended_at": func.now()}
    await session.execute(
        update(PatrolRun).where(PatrolRun.id == run.id).values(heartbeat_at=func.now(), **run.columns, **ended)
    )
