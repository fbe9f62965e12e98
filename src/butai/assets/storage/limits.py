"""A limit on the rate of requests to the store."""

from __future__ import annotations

import asyncio

BURST = 0.1
"""Seconds of unused rate that may be caught up on. A whole second's requests at once would slow other users of the
store."""


class RateLimit:
    """A token bucket: one token for each request. `rate`: requests in a second, 0 for no limit; bursts of `burst`
    seconds.

    Each caller takes the next slot in time and sleeps until then: if all waited for the next token, each token would
    wake all of them.
    """

    def __init__(self, rate: float, burst: float = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._next = 0.0

    async def take(self) -> None:
        """Waits until a request may be sent."""
        if self._rate <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - self._burst) + 1 / self._rate
        if self._next > now:
            await asyncio.sleep(self._next - now)
