"""Answers of 429 to clients that do not wait: a refusal costs nearly what an answer does, so it takes its time.

A client that asks again at once, as `Retry-After` forbids, would have as many refusals as the process can make. From an
address that was refused within `REMEMBERED` seconds, the next refusals are answered after `PAUSE`. The connections of an
address are limited, and so are those that wait here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from cachetools import TTLCache
from fastapi import Request, Response

from butai.errors import RateLimited
from butai.web.dependencies import client_address
from butai.web.problems import answer_error

PAUSE = 1.0
"""Seconds: the least that `Retry-After` says."""

REMEMBERED = 2 * PAUSE
"""Seconds for which a refused address is remembered: longer than the pause, at whose end the client asks again."""

MOST = 1 << 14
"""Addresses that are remembered."""


class Refusals:
    """The addresses that were refused lately. `clock`: seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._told: TTLCache[str, None] = TTLCache(MOST, REMEMBERED, clock)

    def pause(self, address: str) -> float:
        """Notes a refusal. Returns the seconds until it is to be answered."""
        again = address in self._told
        self._told[address] = None
        return PAUSE if again else 0.0


async def answer_refused(request: Request, error: Exception) -> Response:
    """The answer to `RateLimited`, after its pause."""
    assert isinstance(error, RateLimited)
    refusals: Refusals = request.state.refusals
    await asyncio.sleep(refusals.pause(client_address(request)))
    return answer_error(request, error)
