"""Figures about jobs and workers as SQL, for statements that ask for more than these. Without the job library itself."""

from __future__ import annotations

from typing import LiteralString

WORKERS: LiteralString = """
    (SELECT (count(*) + %(queues)s - 1) / %(queues)s FROM procrastinate_workers
     WHERE last_heartbeat > now() - make_interval(secs => %(worker)s)) AS workers,
    (SELECT extract(epoch FROM now() - max(last_heartbeat))::float8 FROM procrastinate_workers) AS worker_seconds
"""
"""Columns: how many workers were seen within `worker` seconds, and the seconds since the last sign of any. Each has a row
for each of its `queues`."""

JOBS: LiteralString = """
    (SELECT count(*) FROM procrastinate_jobs
     WHERE status = 'todo' AND coalesce(scheduled_at, now()) <= now()) AS jobs_waiting,
    (SELECT count(*) FROM procrastinate_jobs WHERE status = 'doing') AS jobs_running,
    (SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed') AS jobs_failed
"""
"""Columns: jobs that are due, that run, and that failed for good."""

BY_TASK: LiteralString = """
    SELECT status::text, task_name, count(*),
           coalesce(extract(epoch FROM now() - min(CASE WHEN status = 'todo' AND coalesce(scheduled_at, now()) <= now()
               THEN coalesce(scheduled_at,
                             (SELECT min(at) FROM procrastinate_events e WHERE e.job_id = j.id)) END)), 0)::float8
    FROM procrastinate_jobs j WHERE status IN ('todo', 'doing', 'failed') GROUP BY 1, 2
"""
"""A statement: status, task, the number of jobs, and how many seconds the oldest of them that is due has waited."""

FAILED: LiteralString = """
    SELECT task_name, count(*) FROM procrastinate_jobs WHERE status = 'failed' GROUP BY task_name ORDER BY task_name
"""
"""A statement: each task with failed jobs, and their number."""
