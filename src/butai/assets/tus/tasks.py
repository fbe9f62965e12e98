"""Background jobs of resumable uploads."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from procrastinate import App, JobContext

from butai.assets.library import Library
from butai.assets.tus import transitions
from butai.assets.tus.digests import Digests
from butai.assets.tus.service import Resumables, finish_left
from butai.assets.tus.task_names import FINISH
from butai.errors import NotFound, QuotaExceeded, TakenDown, Unavailable, UploadInterrupted, UploadRefused
from butai.jobs.retries import AtEndOfTurn

log = structlog.get_logger(__name__)

KEPT = timedelta(days=1)
"""Time after its expiry for which the row of an upload still answers that it is over."""

_AGAIN = AtEndOfTurn(max_attempts=10, exponential_wait=3, retry_exceptions={Unavailable})


async def finish_upload(context: JobContext, upload_id: str) -> None:
    """Finishes a complete upload whose process died before it was ready."""
    library: Library = context.additional_context["library"]
    try:
        await finish_left(Resumables(library.uploads, Digests()), UUID(upload_id))
    except (UploadRefused, UploadInterrupted, QuotaExceeded, TakenDown, NotFound) as error:
        log.info("upload.not_finished", upload_id=upload_id, error_code=error.code)


async def forget_uploads(context: JobContext, timestamp: int) -> None:
    """Deletes the rows of uploads that are over. Their records are the asset and its events."""
    library: Library = context.additional_context["library"]
    async with library.database.transaction() as session:
        await transitions.forget(session, datetime.now(UTC) - KEPT)


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    app.task(name=FINISH, pass_context=True, retry=_AGAIN)(finish_upload)
    forget = app.task(name="assets.forget_uploads", pass_context=True, queueing_lock="assets.forget_uploads")(
        forget_uploads
    )
    app.periodic(cron="23 * * * *")(forget)
