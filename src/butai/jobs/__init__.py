"""Background jobs: the queue, and the views and actions of operators. Only this folder contains procrastinate's SQL."""

from butai.jobs.queue import enqueue

__all__ = ["enqueue"]
