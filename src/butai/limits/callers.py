"""The rates at which one caller, or one address, may ask: a token bucket for each, in classes.

The buckets are in this process's memory: several API processes allow as many times the rate, and a restart forgets.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from enum import StrEnum
from weakref import WeakValueDictionary

import structlog
from cachetools import TTLCache

from butai.config import Rate, RateSettings
from butai.errors import RateLimited, Unauthenticated
from butai.limits.token_bucket import Buckets

log = structlog.get_logger(__name__)

BUCKETS = 1 << 14
"""Buckets kept in memory for each class, about 0.3 kB each."""

PROVED_KEYS = 4096
PROVED_SECONDS = 3600.0
"""API keys that were accepted within an hour do not wait for the guesses of others at their address."""


class RateClass(StrEnum):
    """A class of requests, named as its setting is."""

    WRITE = "write"
    BEGIN = "begin"
    TEST = "test"
    STREAM = "stream"
    ANONYMOUS = "anonymous"
    INVITATION = "invitation"
    GUESS = "guess"
    PROBE = "probe"


_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_TEST = re.compile(r"/api/live/destinations/[^/]+/test")
_TOKENS = re.compile(r"/api/live/rooms/[^/]+/tokens")


def class_of(method: str, path: str) -> RateClass | None:
    """The class of a known caller's request; None: it only reads, which has no limit."""
    if path.startswith("/api/live/events"):
        return RateClass.STREAM
    if method in _SAFE:
        return None
    if not path.startswith("/api/live/") or _TOKENS.fullmatch(path):
        return RateClass.WRITE
    return RateClass.TEST if _TEST.fullmatch(path) else RateClass.BEGIN


class CallerRates:
    """The buckets of one process, and its open event streams. `clock`: seconds."""

    def __init__(self, settings: RateSettings, most_streams: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_streams = most_streams
        self._streams: dict[str, int] = {}
        self._buckets = {kind: _buckets(getattr(settings, kind), clock) for kind in RateClass}
        self._proved: TTLCache[bytes, None] = TTLCache(PROVED_KEYS, PROVED_SECONDS, clock)
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def charge(self, kind: RateClass, who: str) -> None:
        """Takes a token of `who`, a caller or an address. Raises `RateLimited` when none is left."""
        wait = self._buckets[kind].try_take(who)
        if wait > 0:
            seconds = math.ceil(wait)
            log.info("rate.refused", kind=kind, who=who, seconds=seconds)
            raise RateLimited(f"Too many requests of the class {kind}; the next one may come in {seconds} s", seconds)

    @asynccontextmanager
    async def checking(self, address: str, key: bytes) -> AsyncGenerator[None]:
        """Counts the API keys from an address that are none: those for which the block raises `Unauthenticated`. Raises
        `RateLimited` in its place when there were too many.

        A good key is never refused for them. From an address that has guessed too often, keys that were not accepted
        within an hour are checked one after the other.
        """
        digest = hashlib.sha256(key).digest()
        waits = digest not in self._proved and self._buckets[RateClass.GUESS].untaken(address) > 0
        try:
            async with self._turn(address) if waits else nullcontext():
                yield
        except Unauthenticated:
            self._proved.pop(digest, None)
            self.charge(RateClass.GUESS, address)
            raise
        self._proved[digest] = None

    def _turn(self, address: str) -> asyncio.Lock:
        return self._turns.setdefault(address, asyncio.Lock())

    @contextmanager
    def stream(self, who: str) -> Generator[None]:
        """Counts an open event stream of `who` while the block runs. Raises `RateLimited` beyond `most_streams`."""
        open_now = self._streams.get(who, 0)
        if open_now >= self._most_streams:
            raise RateLimited(f"{open_now} event streams are open already; close one", 10)
        self._streams[who] = open_now + 1
        try:
            yield
        finally:
            self._streams[who] -= 1
            if not self._streams[who]:
                del self._streams[who]


def _buckets(rate: Rate, clock: Callable[[], float]) -> Buckets:
    return Buckets(rate.per_second, rate.burst, BUCKETS, clock)
