"""What all engines of one controller at LiveKit work with: rows, gateways, settings, and work that outlives an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp

from butai.config import LiveSettings
from butai.database import Database
from butai.live.egress.livekit.gateway import Gateway, open_http
from butai.live.egress.livekit.ledger import Ledger
from butai.live.egress.livekit.poller import Pace
from butai.live.projects import Projects

STARTS_AT_ONCE = 32
"""StartEgress at the same time."""

LEAVE_PATIENCE = 5.0
"""Seconds for requests under way when the controller stops: an answer that nobody waits for would be in doubt."""

OpenKey = Callable[[bytes], str]


class Means:
    """Made by `livekit.LiveKitEgress`. Opens its connections when first needed."""

    def __init__(
        self, settings: LiveSettings, projects: Projects, database: Database, open_key: OpenKey, pace: Pace
    ) -> None:
        """`open_key`: a sealed stream key's text; any exception means that it cannot be opened."""
        self.settings, self.projects, self.open_key, self.pace = settings, projects, open_key, pace
        self.ledger = Ledger(database)
        self.starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._http: aiohttp.ClientSession | None = None
        self._gateways: dict[str, Gateway] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    def gateway(self, project: str) -> Gateway:
        """To LiveKit."""
        if self._http is None:
            self._http = open_http()
        if project not in self._gateways:
            self._gateways[project] = Gateway(self.projects, project, self._http, self.pace.patience)
        return self._gateways[project]

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Work that is finished also when its engine has been left."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Waits a while for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LEAVE_PATIENCE)
        await self.abandon()
        if self._http is not None:
            await self._http.close()

    async def abandon(self) -> None:
        """Ends what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
