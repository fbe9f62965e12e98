"""Lists background jobs, each with its last failure."""

from __future__ import annotations

from psycopg.rows import class_row

from butai.database import Connection, Database
from butai.jobs.schemas import JobOut

_JOBS = """
    SELECT j.id, j.task_name AS task, j.status::text AS status, j.attempts, j.scheduled_at AS scheduled_at, j.args,
           (SELECT max(e.at) FROM procrastinate_events e WHERE e.job_id = j.id) AS changed_at,
           f.code AS error_code, f.text AS error_detail
    FROM procrastinate_jobs j LEFT JOIN job_failures f ON f.job_id = j.id
    WHERE (%(status)s::text IS NULL OR j.status::text = %(status)s) AND (%(task)s::text IS NULL OR j.task_name = %(task)s)
      AND (%(before)s::bigint IS NULL OR j.id < %(before)s)
    ORDER BY j.id DESC LIMIT %(limit)s
"""


async def listed(
    database: Database, limit: int, *, status: str | None = None, task: str | None = None, before: int | None = None
) -> list[JobOut]:
    """Up to `limit` jobs below the id `before`, newest first. A job's arguments are ids, never secrets."""

    async def ask(connection: Connection) -> list[JobOut]:
        cursor = connection.cursor(row_factory=class_row(JobOut))
        await cursor.execute(_JOBS, {"status": status, "task": task, "before": before, "limit": limit})
        return await cursor.fetchall()

    return await database.query(ask)
