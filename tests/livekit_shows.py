"""Broadcasts on LiveKit Egress for tests: rows as the services write them, the stand-in, and controllers in this process."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncGenerator
from typing import Any
from uuid import UUID

from pydantic import SecretStr

from butai.config import DatabaseSettings, LiveKitSettings
from butai.controller import Controller
from butai.database import Database
from butai.live.egress.livekit.livekit import LiveKitEgress
from butai.live.egress.livekit.poller import Pace
from butai.live.projects import Projects
from tests.fakes.livekit_egress import StandIn
from tests.shows import KEY, Shows, shows

SECRET = "secretsecretsecretsecretsecretsecret"


class LiveKitShows(Shows):
    """With one LiveKit, whose clock runs `speed` times as fast as ours; the engine's pace with it."""

    standin: StandIn
    speed: float
    livekit: LiveKitSettings | None = None
    """Where there is no one stand-in."""

    async def begin(
        self,
        *urls: str,
        preset: str = "720p30",
        platform: str = "custom",
        keys: dict[str, str] | None = None,
        project: str = "default",
        grace: float = 60,
    ) -> UUID:
        """A broadcast with an output for each URL, which are asked for in this order; `keys` by URL, where it is not `KEY`.
        `grace`: seconds of LiveKit's."""
        broadcast_id = uuid.uuid4()
        room_id = f"room-{broadcast_id}"
        async with await self.connect() as connection, connection.transaction():
            await connection.execute(
                "INSERT INTO rooms (room_id, owner_user_id, host_identity, livekit_project) VALUES (%s, 'u1', 'host', %s)",
                (room_id, project),
            )
            await connection.execute(
                "INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress, "
                "livekit_project) VALUES (%s, %s, 'host', 'on_air', %s, %s, 'end', 'livekit', %s)",
                (broadcast_id, room_id, preset, grace / self.speed, project),
            )
            for output_id, url in zip(sorted(uuid.uuid4() for _ in urls), urls, strict=True):
                key = (keys or {}).get(url, KEY)
                await connection.execute(
                    "INSERT INTO outputs (id, broadcast_id, platform, ingest_url, sealed_key, key_fingerprint, state) "
                    "VALUES (%s, %s, %s, %s, %s, 'f', 'pending')",
                    (output_id, broadcast_id, platform, url, key.encode()),
                )
        return broadcast_id

    @contextlib.asynccontextmanager
    async def controller(self, name: str = "c1", **more: Any) -> AsyncGenerator[Controller]:
        """One in this process."""
        async with self.engines(name, **more) as (controller, _):
            yield controller

    @contextlib.asynccontextmanager
    async def engines(self, name: str = "c1", **more: Any) -> AsyncGenerator[tuple[Controller, LiveKitEgress]]:
        async with Database(DatabaseSettings(url=SecretStr(self.url), connect_timeout=2)) as database:
            live = self.live.model_copy(update=more)
            livekit = self.livekit or LiveKitSettings(
                url=self.standin.url, api_key="devkey", api_secret=SecretStr(SECRET)
            )
            pace = Pace().faster(self.speed)
            egress = LiveKitEgress(live, Projects(livekit, live), database, bytes.decode, controller=name, pace=pace)
            controller = Controller(live, database, [egress], name)
            task = asyncio.create_task(controller.run())
            try:
                yield controller, egress
            finally:
                controller.stop()
                await task
                await egress.close()


@contextlib.asynccontextmanager
async def livekit_shows(
    url: str, *, speed: float = 10.0, webhooks: tuple[str, ...] = (), **live: Any
) -> AsyncGenerator[LiveKitShows]:
    """With a stand-in that lives as long as the block."""
    async with StandIn(key="devkey", secret=SECRET, webhooks=webhooks, speed=speed) as standin:
        with shows(url, LiveKitShows, **live) as made:
            assert isinstance(made, LiveKitShows)
            made.standin, made.speed = standin, speed
            yield made
