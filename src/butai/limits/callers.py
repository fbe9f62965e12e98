"""The rates at which one caller, or one address, may ask: a token bucket for each, in classes.

The buckets are in this process's memory: several API processes allow as many times the rate, and a restart forgets. Their
number is bounded; beyond it the one that was used longest ago is forgotten, and is full again.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from enum import StrEnum

import structlog
from cachetools import LRUCache, TTLCache

from butai.config import RateSettings
from butai.errors import RateLimited
from butai.limits.token_bucket import TokenBucket

log = structlog.get_logger(__name__)

BUCKETS = 1 << 16
"""Buckets kept in memory, about 0.3 kB each."""

PROVED_KEYS = 4096
PROVED_SECONDS = 3600.0
"""API keys that were accepted within an hour are not refused for the guesses of others at their address."""


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


def class_of(method: str, path: str) -> RateClass | None:
    """The class of a known caller's request; None: it only reads, which has no limit."""
    if path.startswith("/api/live/events"):
        return RateClass.STREAM
    if method in _SAFE:
        return None
    if not path.startswith("/api/live/") or path.endswith("/tokens"):
        return RateClass.WRITE
    return RateClass.TEST if path.endswith("/test") else RateClass.BEGIN


class CallerRates:
    """The buckets of one process, and its open event streams. `clock`: seconds."""

    def __init__(self, settings: RateSettings, most_streams: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_streams = most_streams
        self._streams: dict[str, int] = {}
        self._rates = {kind: getattr(settings, kind) for kind in RateClass}
        self._clock = clock
        self._buckets: LRUCache[tuple[RateClass, str], TokenBucket] = LRUCache(BUCKETS)
        self._proved: TTLCache[bytes, None] = TTLCache(PROVED_KEYS, PROVED_SECONDS, clock)

    def charge(self, kind: RateClass, who: str) -> None:
        """Takes a token of `who`, a caller or an address. Raises `RateLimited` when none is left."""
        self._refuse(kind, who, self._bucket(kind, who).try_take(self._clock()))

    def check_guesses(self, address: str, key: bytes) -> None:
        """Raises `RateLimited` when too many API keys from this address were none, and `key` is not known to be one."""
        if hashlib.sha256(key).digest() not in self._proved:
            self._refuse(RateClass.GUESS, address, self._bucket(RateClass.GUESS, address).untaken(self._clock()))

    def note_key(self, address: str, key: bytes, *, good: bool) -> None:
        """Notes that an API key was accepted, or not."""
        if good:
            self._proved[hashlib.sha256(key).digest()] = None
        else:
            self._bucket(RateClass.GUESS, address).try_take(self._clock())

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

    def _bucket(self, kind: RateClass, who: str) -> TokenBucket:
        found = self._buckets.get((kind, who))
        if found is None:
            rate = self._rates[kind]
            seconds = rate.burst / rate.per_second if rate.per_second > 0 else 0
            found = self._buckets[kind, who] = TokenBucket(rate.per_second, seconds)
        return found

    def _refuse(self, kind: RateClass, who: str, wait: float) -> None:
        if wait > 0:
            seconds = math.ceil(wait)
            log.info("rate.refused", kind=kind, who=who, seconds=seconds)
            raise RateLimited(f"Too many requests of the class {kind}; the next one may come in {seconds} s", seconds)
