"""News of broadcasts, from Postgres to whoever watches through this process: one LISTEN for all of them.

A notification is a hint: watchers read the events themselves, from the last one they have. So nothing is lost while the
connection is away, and a slow watcher costs nothing but its own memory for a flag.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import psycopg
import structlog

log = structlog.get_logger(__name__)

CHANNEL = "butai_live"
_AGAIN_AFTER = 1.0
_KEEP_ALIVE: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""Seconds, seconds, and how often: a network that swallows packets is known after 11 s."""


class Watcher:
    """One who watches. `wait` returns when there may be news."""

    def __init__(self) -> None:
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There may be news."""
        self._news.set()

    async def wait(self, seconds: float) -> bool:
        """Whether there may be news; False after so many seconds without."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        self._news.clear()
        return True


class Feed:
    """Of one process. An async context manager; it connects when the first watcher comes."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._watchers: dict[str, set[Watcher]] = {}
        self._task: asyncio.Task[None] | None = None
        self.ending = False

    async def __aenter__(self) -> Feed:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def end(self) -> None:
        """The process stops: those who watch are let go."""
        self.ending = True
        self._wake_all()

    @property
    def watchers(self) -> int:
        """How many watch."""
        return sum(map(len, self._watchers.values()))

    @contextlib.contextmanager
    def watching(self, room_id: str) -> Iterator[Watcher]:
        """News of a room until the block ends."""
        watcher = Watcher()
        self._watchers.setdefault(room_id, set()).add(watcher)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
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

    async def _listen(self) -> None:
        while True:
            try:
                connection: psycopg.AsyncConnection[Any]
                async with await psycopg.AsyncConnection.connect(
                    self._url, autocommit=True, connect_timeout=5, **_KEEP_ALIVE
                ) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")  # pyright: ignore[reportArgumentType, reportCallIssue]
                    # What happened while nobody listened.
                    self._wake_all()
                    async for notice in connection.notifies():
                        self._tell(notice.payload)
            except (psycopg.Error, OSError) as error:
                log.warning("feed.broken", reason=type(error).__name__)
            await asyncio.sleep(_AGAIN_AFTER)

    def _tell(self, payload: str) -> None:
        try:
            room_id = msgspec.json.decode(payload)["room_id"]
        except (msgspec.DecodeError, KeyError, TypeError):
            return
        for watcher in self._watchers.get(room_id, ()):
            watcher.wake()
