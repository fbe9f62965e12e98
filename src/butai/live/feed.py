"""Wakes event streams when a room has new events: one Postgres LISTEN connection for all streams of a process.

A notification is a hint: each stream reads the events from Postgres, starting after the last one it has. So no event is
lost while the connection is down, and a slow client costs one flag and no queue.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Self

import msgspec

from butai.database import Database

CHANNEL = "butai_live"


class Watcher:
    """One event stream's subscription to a room."""

    def __init__(self) -> None:
        self._flag = asyncio.Event()

    def wake(self) -> None:
        """Makes `wait` return: there may be new events."""
        self._flag.set()

    async def wait(self, seconds: float) -> bool:
        """True when there may be new events; False after `seconds` without a notification."""
        try:
            async with asyncio.timeout(seconds):
                await self._flag.wait()
        except TimeoutError:
            return False
        self._flag.clear()
        return True


class Feed:
    """All subscriptions of one process. An async context manager; it connects with the first subscription."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._watchers: dict[str, set[Watcher]] = {}
        self._task: asyncio.Task[None] | None = None
        self.ending = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def end(self) -> None:
        """Sets `ending` and wakes all subscriptions, so that their streams close before the process exits."""
        self.ending = True
        self._wake_all()

    @property
    def watchers(self) -> int:
        """The number of subscriptions."""
        return sum(map(len, self._watchers.values()))

    @contextlib.contextmanager
    def watching(self, room_id: str) -> Generator[Watcher]:
        """Subscribes to a room until the block ends."""
        watcher = Watcher()
        self._watchers.setdefault(room_id, set()).add(watcher)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._database.listen([CHANNEL], self._dispatch, self._wake_all))
        try:
            yield watcher
        finally:
            left = self._watchers[room_id]
            left.discard(watcher)
            if not left:
                del self._watchers[room_id]

    def _wake_all(self) -> None:
        for watchers in self._watchers.values():
            for watcher in watchers:
                watcher.wake()

    def _dispatch(self, _channel: str, payload: str) -> None:
        try:
            room_id = msgspec.json.decode(payload)["room_id"]
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        for watcher in self._watchers.get(room_id, ()):
            watcher.wake()
