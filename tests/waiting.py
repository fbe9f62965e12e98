"""Waits for conditions that no event announces."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable


async def until(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    """Waits until a condition holds. Raises `AssertionError`, which says `what` was waited for, after `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not in {seconds:g} s: {what}") from None


def holds_within(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition holds within a time, which this thread spends waiting."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    seconds: float,
    why: Callable[[], str] = str,
    *,
    every: float = 0.05,
) -> float:
    """Waits for something that the service does not tell; how long that took. `every`: seconds between two looks."""
    began = time.monotonic()
    while True:
        met = condition()
        if await met if isinstance(met, Awaitable) else met:
            return time.monotonic() - began
        assert time.monotonic() - began < seconds, why() or f"not within {seconds} s"
        await asyncio.sleep(every)


@contextlib.asynccontextmanager
async def rising(count: Callable[[], int], *, pause: float = 4.0) -> AsyncGenerator[None]:
    """Asserts that a count of bytes keeps rising during the block: never the same for `pause` seconds of looking."""
    longest, seen = 0.0, list[tuple[float, int]]()

    async def watch() -> None:
        nonlocal longest
        last, still, looked = count(), 0.0, time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            value = await asyncio.to_thread(count)
            since, looked = time.monotonic() - looked, time.monotonic()
            if value > last:
                last, still = value, 0.0
            elif since < 1:
                still += since
            # A look that is late says nothing: once a whole machine stood still for 9 s, this process with it.
            longest = max(longest, still)
            seen.append((since, value))

    begin = count()
    task = asyncio.create_task(watch())
    try:
        yield
        await eventually(lambda: count() > begin, pause)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    looks = ", ".join(f"{value} after {since:.1f} s" for since, value in seen)
    assert longest < pause, f"no byte came for {longest:.1f} s: {looks}"
