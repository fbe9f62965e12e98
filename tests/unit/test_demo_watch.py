"""The demonstration's look at the service: it ends when it is told to, whatever happens at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from butai.demo.live import Watch
from butai.demo.screen import Screen
from butai.demo.service import DemoFailed, Service


class Silent(Service):
    """A service that says nothing of itself."""

    async def call(self, method: str, path: str, body: object = None, **_: Any) -> Any:
        raise DemoFailed("nothing was started yet")

    async def hints(self, room_id: str) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield


async def test_a_hint_at_the_very_end_does_not_keep_it_looking() -> None:
    watch = Watch(Silent("http://nowhere.invalid", Path("nowhere")), "room", Screen())
    async with asyncio.timeout(60):
        async with watch.running():
            for _ in range(5):
                await asyncio.sleep(0)
            # The wait is over, and the waiting task has not run yet: that is when the end comes.
            watch._look.set()
            await asyncio.sleep(0)
