"""Background jobs of the patrol."""

from __future__ import annotations

from uuid import UUID

import structlog
from procrastinate import App, JobContext, RetryStrategy

from butai.assets.library import Library
from butai.assets.patrol.lock import PatrolBusy
from butai.assets.patrol.queries import is_due
from butai.assets.patrol.run import Patrol
from butai.assets.patrol.task_names import PATROL, PATROL_NOW
from butai.assets.reading.usage import RECHECK
from butai.config import Settings
from butai.errors import Unavailable

log = structlog.get_logger(__name__)

_RETRY = RetryStrategy(max_attempts=8, exponential_wait=2, retry_exceptions={Unavailable})


def _patrol(context: JobContext) -> Patrol:
    library: Library = context.additional_context["library"]
    settings: Settings = context.additional_context["settings"]
    return Patrol(library.database, library.store, settings.patrol)


async def patrol(context: JobContext, timestamp: int) -> None:
    """Begins a patrol run when one is due, or resumes one whose process died; runs every minute."""
    library: Library = context.additional_context["library"]
    settings: Settings = context.additional_context["settings"]
    if await is_due(library.database, settings.patrol):
        try:
            await _patrol(context).run("scheduled")
        except PatrolBusy:
            log.info("patrol.busy")
        except Unavailable as error:
            # The next minute resumes it; a long time without a finished run has an alert of its own.
            log.warning("patrol.broken_off", reason=error.code)


async def patrol_now(context: JobContext, *, dry_run: bool, requested_by: str | None = None) -> None:
    """Checks every file, because an operator requested it. Does nothing while another run is in progress."""
    try:
        await _patrol(context).run("asked", dry_run=dry_run, everything=True, requested_by=requested_by)
    except PatrolBusy:
        log.info("patrol.busy")


async def recheck(context: JobContext, asset_ids: list[str]) -> None:
    """Checks a few assets now."""
    await _patrol(context).recheck([UUID(one) for one in asset_ids])


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    due = app.task(name=PATROL, pass_context=True, queueing_lock=PATROL)(patrol)
    app.periodic(cron="* * * * *")(due)
    app.task(name=PATROL_NOW, pass_context=True, retry=_RETRY)(patrol_now)
    app.task(name=RECHECK, pass_context=True, retry=_RETRY)(recheck)
