"""Background tasks of operators' acts."""

from __future__ import annotations

from procrastinate import App, JobContext, RetryStrategy

from butai.config import Settings
from butai.database import Database
from butai.errors import Unavailable
from butai.live.projects import Projects
from butai.operations import suspension

_PERSISTENT = RetryStrategy(max_attempts=12, exponential_wait=2, retry_exceptions={Unavailable})
"""For about an hour."""


async def apply_suspension(context: JobContext, user_id: str) -> None:
    """Brings rooms and files to what a user's suspension, or its end, says. Idempotent."""
    settings: Settings = context.additional_context["settings"]
    database: Database = context.additional_context["library"].database
    await suspension.apply(database, Projects(settings.livekit, settings.live), settings.live, user_id)


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    app.task(name=suspension.APPLY, pass_context=True, retry=_PERSISTENT)(apply_suspension)
