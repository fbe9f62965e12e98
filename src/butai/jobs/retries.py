"""How jobs of a turn are tried again."""

from __future__ import annotations

from procrastinate import RetryDecision, RetryStrategy
from procrastinate.jobs import Job

from butai.jobs.queue import MOST_TURNS


class AtEndOfTurn(RetryStrategy):
    """Puts a job that is tried again behind the others of its turn, which would wait for it otherwise, also while it waits."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """The moment of the next try, or None."""
        found = super().get_retry_decision(exception=exception, job=job)
        return found and RetryDecision(retry_at=found.retry_at, priority=-MOST_TURNS - 1)
