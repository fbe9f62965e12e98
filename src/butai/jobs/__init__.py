"""Background jobs: the queue, and the views and actions of operators. Only this folder contains procrastinate's SQL."""

from butai.jobs.queue import enqueue, enqueue_sql

__all__ = ["enqueue", "enqueue_sql"]
