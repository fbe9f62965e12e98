"""`butai jobs` as a person meets it. Called by `butai.cli` alone."""

from __future__ import annotations

from butai.audit import Origin
from butai.database import Database
from butai.jobs import queries, service

_CLI = Origin("cli")


async def show(database: Database, status: str | None, task: str | None, limit: int) -> None:
    """Prints jobs, newest first, one line each."""
    for job in await queries.listed(database, limit, status=status, task=task):
        reason = f"  {job.error_code}: {job.error_detail}" if job.error_code else ""
        when = f"{job.changed_at:%Y-%m-%d %H:%M:%S}" if job.changed_at else "-"
        print(f"{job.id}  {job.status}  {job.task}  {when}  attempts {job.attempts}{reason}")


async def retry(database: Database, job_id: int | None) -> None:
    """Puts one failed job, or all of them, back into the queue."""
    put_away = 0
    async with database.transaction() as session:
        if job_id is not None:
            await service.retry(session, _CLI, job_id)
            retried = 1
        else:
            retried, put_away = await service.retry_all(session, _CLI)
    told = f" {put_away} put away: others that do the same wait already." if put_away else ""
    print(f"{retried} put back into the queue.{told}")


async def cancel(database: Database, job_id: int) -> None:
    """Takes one waiting job out of the queue."""
    async with database.transaction() as session:
        await service.cancel(session, _CLI, job_id)
    print("Cancelled.")
