"""Background jobs: how they come to be, and what operators see and do of them. The one place that names procrastinate's SQL."""

from butai.jobs.queue import enqueue

__all__ = ["enqueue"]
