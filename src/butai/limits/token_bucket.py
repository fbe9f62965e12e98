"""A token bucket: requests at a rate, with bursts; and one for each name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cachetools import LRUCache

BURST = 0.1
"""Seconds of unused rate that may be caught up on. A whole second's requests at once would slow other users of the
store."""


class TokenBucket:
    """One token for each request. `rate`: requests in a second, 0 for no limit; bursts of `burst` seconds.

    It holds one moment, of which the next token is due: `take` takes the next slot in time and sleeps until then (if all
    waited for the next token, each token would wake all of them), `try_take` takes a token that is there.
    """

    __slots__ = ("_burst", "_next", "_rate")

    def __init__(self, rate: float, burst: float = BURST) -> None:
        self._rate, self._burst = rate, burst
        self._next = float("-inf")

    async def take(self) -> None:
        """Waits until a request may be sent."""
        if self._rate <= 0:
            return
        now = asyncio.get_running_loop().time()
        self.spend(now)
        if self._next > now:
            await asyncio.sleep(self._next - now)

    def try_take(self, now: float) -> float:
        """Takes a token and returns 0, or returns the seconds until there is one. `now`: seconds of any clock."""
        if self._rate <= 0:
            return 0
        due = max(self._next, now - self._burst) + 1 / self._rate
        # A nanosecond, since the sums of floats are a little off.
        if due > now + 1e-9:
            return due - now
        self._next = due
        return 0

    def spend(self, now: float) -> None:
        """Takes a token that may not be there yet: for what is known only when it is done. The next ones are later then."""
        if self._rate > 0:
            self._next = max(self._next, now - self._burst) + 1 / self._rate

    def give_back(self) -> None:
        """Puts the token back that was taken last: for what is only counted when it fails."""
        if self._rate > 0:
            self._next -= 1 / self._rate

    def untaken(self, now: float) -> float:
        """The seconds until there is a token, of which none is taken; 0: there is one."""
        if self._rate <= 0:
            return 0
        return max(0.0, max(self._next, now - self._burst) + 1 / self._rate - now - 1e-9)


class Buckets:
    """A bucket of `burst` tokens for each name, to which `rate` are added in a second; `rate` 0: no limit.

    In this process's memory. At most `most` are kept: the one that was used longest ago is forgotten, and is full again.
    `clock`: seconds.
    """

    def __init__(self, rate: float, burst: int, most: int, clock: Callable[[], float]) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._buckets: LRUCache[str, TokenBucket] = LRUCache(most)

    def try_take(self, name: str) -> float:
        """Takes a token of `name` and returns 0, or returns the seconds until there is one."""
        return self._bucket(name).try_take(self._clock())

    def spend(self, name: str) -> None:
        """Takes a token of `name` that may not be there yet."""
        self._bucket(name).spend(self._clock())

    def untaken(self, name: str) -> float:
        """The seconds until `name` has a token, of which none is taken; 0: there is one."""
        return self._bucket(name).untaken(self._clock())

    def _bucket(self, name: str) -> TokenBucket:
        found = self._buckets.get(name)
        if found is None:
            seconds = self._burst / self._rate if self._rate > 0 else 0
            found = self._buckets[name] = TokenBucket(self._rate, seconds)
        return found
