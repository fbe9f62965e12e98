"""Operators' actions on jobs (retry, cancel), and the record of why each job failed.

A job that failed for good stays in procrastinate's own table; the reason is in `job_failures`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

import structlog
from sqlalchemy import func, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.audit import Origin
from butai.database import Database
from butai.errors import ButaiError, Conflict, DatabaseUnavailable, NotFound
from butai.jobs.models import JobFailure

if TYPE_CHECKING:
    # The API loads this module, and needs no job library.
    from procrastinate import App, JobContext

log = structlog.get_logger(__name__)

MOST_DEATHS = 5
"""Attempts of a job whose workers died; after so many, the job itself may be the cause."""


async def note_failure(database: Database, job_id: int, code: str, line: str) -> None:
    """Stores the newest reason of a job: a code, and one line without secrets."""
    statement = insert(JobFailure).values(job_id=job_id, code=code, text=line[:300])
    values = {"at": func.now(), "code": statement.excluded.code, "text": statement.excluded.text}
    async with database.transaction() as session:
        await session.execute(statement.on_conflict_do_update(index_elements=["job_id"], set_=values))


def explain_failures(app: App) -> None:
    """Makes each task of the app record why it failed. Call it when all tasks are registered."""
    for task in app.tasks.values():
        task.func = _explained(task.func)


def _explained(act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(act)
    async def explained(*args: Any, **kwargs: Any) -> Any:
        try:
            return await act(*args, **kwargs)
        except Exception as error:
            job = getattr(args[0], "job", None) if args else None
            if job is not None and job.id is not None:
                await _write_failure(args[0], job.id, error)
            raise

    return explained


async def _write_failure(context: JobContext, job_id: int, error: Exception) -> None:
    # An exception of a library may quote an address or a key: only its class is stored.
    code = error.code if isinstance(error, ButaiError) else type(error).__name__
    line = error.detail if isinstance(error, ButaiError) else "see the worker's log"
    database: Database = context.additional_context["library"].database
    try:
        await note_failure(database, job_id, code, line)
    except DatabaseUnavailable:
        log.warning("job.failure_not_written", job_id=job_id, code=code)


async def retry(database: Database, origin: Origin, job_id: int) -> None:
    """Puts a failed job back into the queue. Raises `NotFound`, `Conflict`."""
    async with database.transaction() as session:
        await _retry(session, origin, job_id)


async def _retry(session: AsyncSession, origin: Origin, job_id: int) -> None:
    await _expect(session, job_id, "failed")
    waits = "SELECT 1 FROM procrastinate_jobs w WHERE w.status = 'todo' AND w.queueing_lock = j.queueing_lock"
    if await session.scalar(text(f"SELECT EXISTS ({waits}) FROM procrastinate_jobs j WHERE id = :id"), {"id": job_id}):
        raise Conflict("An equal job is waiting already")
    await session.execute(text("SELECT procrastinate_retry_job_v2(:id, now(), NULL, NULL, NULL)"), {"id": job_id})
    audit.record(session, origin, "jobs.retry", f"job:{job_id}")


async def cancel(database: Database, origin: Origin, job_id: int) -> None:
    """Removes a waiting job from the queue. Raises `NotFound`, `Conflict`."""
    async with database.transaction() as session:
        await _expect(session, job_id, "todo")
        await session.execute(text("SELECT procrastinate_cancel_job_v1(:id, false, false)"), {"id": job_id})
        audit.record(session, origin, "jobs.cancel", f"job:{job_id}")


async def _expect(session: AsyncSession, job_id: int, status: str) -> None:
    found = await session.scalar(
        text("SELECT status::text FROM procrastinate_jobs WHERE id = :id FOR UPDATE"), {"id": job_id}
    )
    if found is None:
        raise NotFound("There is no such job")
    if found != status:
        raise Conflict(f"The job is {found}, not {status}")


async def retry_all(database: Database, origin: Origin) -> tuple[int, int]:
    """Puts all jobs that failed for good back into the queue, in one transaction. Returns their number, and the number
    of those aborted because an equal job is waiting already, as for every task that runs each minute."""
    retried = aborted = 0
    async with database.transaction() as session:
        failed = await session.scalars(text("SELECT id FROM procrastinate_jobs WHERE status = 'failed' ORDER BY id"))
        for job_id in failed.all():
            try:
                await _retry(session, origin, job_id)
                retried += 1
            except Conflict:
                await session.execute(
                    text("UPDATE procrastinate_jobs SET status = 'aborted' WHERE id = :id"), {"id": job_id}
                )
                audit.record(session, origin, "jobs.put_away", f"job:{job_id}")
                aborted += 1
    return retried, aborted


async def forget(database: Database, days: float) -> None:
    """Deletes jobs that ended `days` ago or earlier, and reasons of deleted jobs."""
    async with database.transaction() as session:
        await _forget(session, days)


async def _forget(session: AsyncSession, days: float) -> None:
    await session.execute(
        text(
            """
            DELETE FROM procrastinate_jobs j
            WHERE status IN ('failed', 'cancelled', 'aborted', 'succeeded')
              AND NOT EXISTS (SELECT 1 FROM procrastinate_events e
                              WHERE e.job_id = j.id AND e.at > now() - :days * interval '1 day')
            """
        ),
        {"days": days},
    )
    await session.execute(text(_FORGET_FAILURES))


async def forget_files(session: AsyncSession, asset_ids: Sequence[str], object_keys: Sequence[str]) -> None:
    """Deletes jobs that are not running and that are about one of these files, with the reasons of their failures.
    A job about several files stays: it passes over one that is gone."""
    await session.execute(text(_OF_FILES), {"ids": list(asset_ids), "keys": list(object_keys)})
    await session.execute(text(_FORGET_FAILURES))


async def forget_user(session: AsyncSession, user_id: str, room_ids: Sequence[str]) -> None:
    """Deletes jobs that are not running and that are a user's: by an argument, by their turn (`assets.hash_object:USER`),
    or by one of the user's rooms; with the reasons of their failures."""
    values = {"user": user_id, "rooms": list(room_ids)}
    await session.execute(text(f"DELETE FROM procrastinate_jobs WHERE status <> 'doing' AND ({_OF_USER})"), values)
    await session.execute(text(_FORGET_FAILURES))


async def running_of_user(session: AsyncSession, user_id: str, room_ids: Sequence[str]) -> int:
    """The number of running jobs of a user, as `forget_user` finds them."""
    found = text(f"SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing' AND ({_OF_USER})")
    return (await session.execute(found, {"user": user_id, "rooms": list(room_ids)})).scalar_one()


_FORGET_FAILURES = (
    "DELETE FROM job_failures f WHERE NOT EXISTS (SELECT 1 FROM procrastinate_jobs j WHERE j.id = f.job_id)"
)

_OF_FILES = """
    DELETE FROM procrastinate_jobs
    WHERE status <> 'doing'
      AND (args ->> 'asset_id' = ANY(:ids) OR args ->> 'object_key' = ANY(:keys) OR args -> 'object_keys' ?| :keys)
"""

# By argument: the names of users, rooms and files may be equal, and a number (a message's) may look like a user's id. A turn
# is TASK:USER, and no task's name has a colon, while a user's id may.
_OF_USER = r"""
    args -> 'user_id' = to_jsonb(CAST(:user AS text))
    OR args -> 'requested_by' = to_jsonb('user\:' || CAST(:user AS text))
    OR args ->> 'room_id' = ANY(:rooms)
    OR strpos(lock, '\:') > 0 AND substr(lock, strpos(lock, '\:') + 1) = :user
"""
