"""Puts background jobs into the queue.

A job is written in the caller's transaction, through procrastinate's own SQL function: it exists exactly if the change
does, and the API loads no job library.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, LiteralString

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW(:queue, :task, :priority, :lock, :queueing_lock, CAST(:args AS jsonb), CAST(:at AS timestamptz))
    ]::procrastinate_job_to_defer_v1[])
    """
)


def enqueue_sql(task: LiteralString, args: LiteralString, priority: LiteralString = "0") -> LiteralString:
    """A SQL expression that enqueues a job, for a statement that does more. `args`: an expression of type jsonb."""
    return (
        f"procrastinate_defer_jobs_v1(ARRAY[ROW('default', '{task}', {priority}, NULL, NULL, {args}, NULL)"
        "::procrastinate_job_to_defer_v1])"
    )


async def enqueue(
    session: AsyncSession,
    task: str,
    args: dict[str, Any],
    *,
    queue: str = "default",
    at: datetime | None = None,
    lock: str | None = None,
    priority: int = 0,
) -> None:
    """Enqueues a job for `task` (its full name, such as `assets.remove_objects`) in the session's transaction.

    `at`: the earliest start. `lock`: jobs of one lock run one after another.
    """
    await session.execute(
        _DEFER,
        {
            "queue": queue,
            "task": task,
            "priority": priority,
            "lock": lock,
            "queueing_lock": None,
            "args": json.dumps(args),
            "at": at,
        },
    )
