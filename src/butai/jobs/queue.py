"""Puts background jobs into the queue.

A job is written in the caller's transaction, through procrastinate's own SQL function: it exists exactly if the change
does, and the API loads no job library.

Each queue has workers of its own (`QUEUES`), so that what users cause never holds up what the service does by itself.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Final, LiteralString

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

CARE: Final = "care"
"""Removals, sweeps, the patrol, alerts: the service's own work."""

USERS: Final = "default"
"""Work for a user's file that takes a moment: reading its head, its hash, the end of its upload."""

DECODE: Final = "decode"
"""Decoding of whole files, seconds to a minute each."""

QUEUES: Final = {CARE: 5, USERS: 6, DECODE: 2}
"""The queues, and how many jobs of each one worker runs at a time."""

_OF_USERS: Final[dict[str, LiteralString]] = {
    "assets.inspect": USERS,
    "assets.inspect_backlog": USERS,
    "assets.hash_object": USERS,
    "assets.finish_upload": USERS,
    "assets.decode": DECODE,
}

MOST_TURNS = 1000
"""Waiting jobs of one user that are counted; further ones share the last turn."""

_DEFER = text(
    """
    SELECT procrastinate_defer_jobs_v1(ARRAY[
        ROW(:queue, :task,
            :priority - (SELECT count(*)::integer FROM (SELECT 1 FROM procrastinate_jobs WHERE lock = :lock AND status = 'todo'
                                             LIMIT :most) AS waiting),
            :lock, :queueing_lock, CAST(:args AS jsonb), CAST(:at AS timestamptz))
    ]::procrastinate_job_to_defer_v1[])
    """
)


def queue_of(task: str) -> LiteralString:
    """The queue of a task: `CARE`, unless it is listed as work for users."""
    return _OF_USERS.get(task, CARE)


def enqueue_sql(task: LiteralString, args: LiteralString, priority: LiteralString = "0") -> LiteralString:
    """A SQL expression that enqueues a job, for a statement that does more. `args`: an expression of type jsonb."""
    return (
        f"procrastinate_defer_jobs_v1(ARRAY[ROW('{queue_of(task)}', '{task}', {priority}, NULL, NULL, {args}, NULL)"
        "::procrastinate_job_to_defer_v1])"
    )


async def enqueue(
    session: AsyncSession,
    task: str,
    args: dict[str, Any],
    *,
    at: datetime | None = None,
    turn: str | None = None,
    priority: int = 0,
) -> None:
    """Enqueues a job for `task` (its full name, such as `assets.remove_objects`) in the session's transaction.

    `at`: the earliest start. `turn`: whose job it is. Jobs of one turn run one after another, and each steps back behind
    one job of every other turn for each that waits already: a hundred files of one user delay another's first by one.
    `priority`: a queue's higher ones are run first.
    """
    await session.execute(
        _DEFER,
        {
            "queue": queue_of(task),
            "task": task,
            "priority": priority,
            "lock": turn,
            "most": MOST_TURNS,
            "queueing_lock": None,
            "args": json.dumps(args),
            "at": at,
        },
    )
