"""One answer for all who ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

_Answer = TypeVar("_Answer")


class SharedAnswer(Generic[_Answer]):
    """What `find` returns, for all who ask while it runs and for `seconds` afterwards; so `find` never runs twice at
    once. An exception of it is raised for all who wait, and is not kept. `clock`: seconds."""

    def __init__(
        self,
        find: Callable[[], Coroutine[Any, Any, _Answer]],
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._find, self._seconds, self._clock = find, seconds, clock
        self._task: asyncio.Task[_Answer] | None = None
        self._good_until = float("-inf")

    async def get(self) -> _Answer:
        """The answer. Raises as `find` does."""
        if self._task is None or (self._task.done() and self._clock() >= self._good_until):
            self._task = asyncio.create_task(self._run())
        # Shielded: one client that disconnects must not cancel it for the others.
        return await asyncio.shield(self._task)

    async def close(self) -> None:
        """Cancels what runs."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> _Answer:
        answer = await self._find()
        self._good_until = self._clock() + self._seconds
        return answer
