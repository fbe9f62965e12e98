"""The pace of small requests."""

from __future__ import annotations

import pytest

from butai.assets.tus import pace
from butai.assets.tus.pace import RequestPace
from butai.errors import RateLimited
from tests.clock import Clock


def sent(paced: RequestPace, user: str, size: int = 1, most: int = 10_000) -> int:
    """Sends until it is told to wait; returns the requests that were taken."""
    for number in range(most):
        try:
            paced.check(user)
        except RateLimited:
            return number
        paced.count(user, size)
    return most


def test_a_burst_is_taken_and_then_the_rate() -> None:
    clock = Clock()
    paced = RequestPace(clock)
    assert sent(paced, "alice") == pace.BURST
    assert sent(paced, "bob") == pace.BURST, "each user has a bucket"
    with pytest.raises(RateLimited) as refused:
        paced.check("alice")
    assert refused.value.retry_after == 1
    clock.now += refused.value.retry_after
    assert sent(paced, "alice") == pace.RATE
    clock.now += 10 * pace.BURST / pace.RATE
    assert sent(paced, "alice") == pace.BURST


def test_requests_of_ordinary_size_are_not_counted() -> None:
    assert sent(RequestPace(Clock()), "alice", pace.SMALL) == 10_000
