"""How fast the store is asked."""

from __future__ import annotations

import asyncio

BURST = 0.1
"""Seconds for which requests that could have gone out are made up for. A whole second's worth would be felt by others."""


class RateLimit:
    """A token bucket: one token for each request. `rate`: requests in a second, 0 for no limit; `BURST` seconds' worth may
    go out at once.

    Each takes the next place in time and sleeps until then: were they all to wait for the next token, all would wake for
    each of them.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._next = 0.0

    async def take(self) -> None:
        """Returns when a request may go out."""
        if self._rate <= 0:
            return
        now = asyncio.get_running_loop().time()
        self._next = max(self._next, now - BURST) + 1 / self._rate
        if self._next > now:
            await asyncio.sleep(self._next - now)
