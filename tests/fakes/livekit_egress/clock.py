"""The stand-in's own time: every delay is divided by `speed`; moments in messages stay real ones."""

from __future__ import annotations

import asyncio
import random
import string
import time
from collections.abc import Callable, Coroutine
from typing import Any

_LETTERS = string.ascii_letters + string.digits


class Clock:
    """Sleeps and timers of one stand-in. `close` cancels whatever still waits."""

    def __init__(self, speed: float = 1.0) -> None:
        self.speed = speed
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[Any]] = set()

    def now(self) -> float:
        """Seconds of the stand-in's time since it was made."""
        return (time.monotonic() - self._began) * self.speed

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds) / self.speed)

    def later(self, seconds: float, call: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(max(0.0, seconds) / self.speed, call, *args)

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (problem := task.exception()) is not None:
            task.get_loop().call_exception_handler(
                {"message": "the LiveKit stand-in failed", "exception": problem, "task": task}
            )

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def ns() -> int:
    """The moment now as LiveKit writes it: nanoseconds since 1970."""
    return time.time_ns()


def new_id(prefix: str) -> str:
    """An id like LiveKit's: a prefix and 12 letters or digits."""
    return f"{prefix}_{''.join(random.choices(_LETTERS, k=12))}"
