"""The pace of small requests: taken as they come, but not in any number.

A PATCH of a few bytes costs a dozen statements of Postgres, as one of megabytes does. Uploads are never refused for the
size of their pieces; a user who sends many small ones is told to wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from time import monotonic

from butai.errors import RateLimited
from butai.limits.token_bucket import Buckets

SMALL = 64 * 1024
"""A request with fewer bytes is a small one, unless it completes its upload."""

BURST = 100
"""Small requests that a user may send at once."""

RATE = 5.0
"""Small requests a second in the long run. A client that sends 64 KiB or more at a time never meets it."""

MOST = 10_000
"""Users that are remembered: those who sent last."""


class RequestPace:
    """A token bucket for each user, within this process."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._buckets = Buckets(RATE, BURST, MOST, clock)

    def check(self, user_id: str) -> None:
        """Raises `RateLimited` while a user's tokens are used up."""
        wait = self._buckets.untaken(user_id)
        if wait > 0:
            raise RateLimited(
                f"Many requests of less than {SMALL} bytes: wait, or send more bytes at a time", math.ceil(wait)
            )

    def count(self, user_id: str, size: int) -> None:
        """Counts one request of `size` bytes that did not complete its upload."""
        if size < SMALL:
            self._buckets.spend(user_id)
