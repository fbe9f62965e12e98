"""Prints the answers of `butai jobs`: list, retry, cancel."""

from __future__ import annotations

from butai.audit import Origin, actors
from butai.database import Database
from butai.jobs import queries, service

_CLI = Origin(actors.COMMAND_LINE)


async def show(database: Database, status: str | None, task: str | None, limit: int) -> None:
    """Prints jobs, newest first, one line each."""
    for job in await queries.listed(database, limit, status=status, task=task):
        reason = f"  {job.error_code}: {job.error_detail}" if job.error_code else ""
        when = f"{job.changed_at:%Y-%m-%d %H:%M:%S}" if job.changed_at else "-"
        print(f"{job.id}  {job.status}  {job.task}  {when}  attempts {job.attempts}{reason}")


async def retry(database: Database, job_id: int | None) -> None:
    """Puts one failed job, or all of them, back into the queue."""
    aborted = 0
    if job_id is not None:
        await service.retry(database, _CLI, job_id)
        retried = 1
    else:
        retried, aborted = await service.retry_all(database, _CLI)
    rest = f" {aborted} removed: equal jobs are waiting already." if aborted else ""
    print(f"{retried} put back into the queue.{rest}")


async def cancel(database: Database, job_id: int) -> None:
    """Removes one waiting job from the queue."""
    await service.cancel(database, _CLI, job_id)
    print("Cancelled.")
