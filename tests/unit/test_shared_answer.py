"""One answer for all who ask at the same time."""

from __future__ import annotations

import asyncio

import pytest

from butai.operations.shared_answer import SharedAnswer


async def test_it_is_found_once_kept_for_a_time_and_found_again() -> None:
    now, found = 5.0, 0
    go_on = asyncio.Event()

    async def find() -> int:
        nonlocal found
        found += 1
        await go_on.wait()
        return found

    shared = SharedAnswer(find, 0.5, lambda: now)
    asking = [asyncio.create_task(shared.get()) for _ in range(60)]
    await asyncio.sleep(0)
    asking[0].cancel()
    now += 60
    asking.append(asyncio.create_task(shared.get()))
    await asyncio.sleep(0)
    go_on.set()
    assert await asyncio.gather(*asking[1:]) == [1] * 60
    now += 0.4
    assert await shared.get() == 1
    now += 0.2
    assert await shared.get() == 2


async def test_a_failure_is_raised_and_not_kept() -> None:
    failures = [OSError("no"), None]

    async def find() -> str:
        failure = failures.pop(0)
        if failure is not None:
            raise failure
        return "yes"

    shared = SharedAnswer(find, 3600)
    with pytest.raises(OSError, match="no"):
        await shared.get()
    assert await shared.get() == "yes"
    await shared.close()
