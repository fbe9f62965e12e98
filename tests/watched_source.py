"""The relay's side of a room at a real LiveKit: a `HostSource` that runs, what it says, and what it shows."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
from livekit import api
from numpy.typing import NDArray

from butai.embedded.livekit import EmbeddedLiveKit, LiveKit
from butai.relay.messages import ConfigureLine, Preset, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.picture import WAITING, Screen
from butai.relay.source import HostSource
from tests.relay_stage import luma, until
from tests.studio_host import HostProcess, read_stamp

PRESET = Preset(640, 360, 30, 1000)


def token(livekit: LiveKit, room: str, identity: str, *, relay: bool = False) -> str:
    """A host's token, or a relay's: hidden, may only subscribe."""
    grants = api.VideoGrants(room_join=True, room=room)
    if relay:
        grants = api.VideoGrants(
            room_join=True, room=room, hidden=True, recorder=True, can_publish=False, can_publish_data=False
        )
    return api.AccessToken(livekit.api_key, livekit.api_secret).with_identity(identity).with_grants(grants).to_jwt()


class Watched:
    """A `HostSource` that runs, what it says, and what is on the screen."""

    def __init__(self, livekit: LiveKit, room: str, grace: float, **more: Any) -> None:
        self.livekit, self.room = livekit, room
        self.said: list[SourceLine] = []
        self.screen, self.mixer = Screen(PRESET.width, PRESET.height), Mixer(48000)
        given = {"token": token(livekit, room, "relay", relay=True), "livekit_url": livekit.url, **more}
        configure = ConfigureLine("b1", host_identity="host", preset=PRESET, grace=grace, **given)  # pyright: ignore[reportArgumentType]
        self.source = HostSource(configure, self.screen, self.mixer, self.said.append)
        self.running = asyncio.create_task(self.source.run())
        self.hosts: list[HostProcess] = []

    async def host(self, *arguments: str, identity: str = "host") -> HostProcess:
        arguments = ("--width=640", "--height=360", "--kbps=800", *arguments)
        host = await HostProcess.start(self.livekit.url, token(self.livekit, self.room, identity), *arguments)
        self.hosts.append(host)
        return host

    async def live(self, *arguments: str) -> HostProcess:
        """A host whose pictures arrive."""
        host = await self.host(*arguments)
        await self.phase("live")
        await self.moves()
        return host

    async def phase(self, phase: str, within: float = 10.0) -> SourceLine:
        """Waits for it; what was said before counts too, but only if it still holds."""
        async with asyncio.timeout(within):
            while self.source.line.phase != phase:
                await asyncio.sleep(0.02)
        return self.source.line

    def picture(self) -> NDArray[np.uint8]:
        return luma(self.screen.look())

    def stamp(self) -> int:
        """The milliseconds in the picture."""
        return read_stamp(self.picture())[0]

    def last_stamp(self) -> int:
        """That of the newest picture, when none come any more: those that wait are shown first."""
        for _ in range(WAITING):
            self.picture()
        return self.stamp()

    async def moves(self, within: float = 10.0) -> None:
        """Waits for pictures that are at most half a second old."""
        await until(lambda: abs(self.stamp() - (int(time.time() * 1000) & 0xFFFFFFFF)) < 500, within)

    def loudness(self) -> float:
        """Of what was in the mixer, 0 to 1."""
        taken = self.mixer.take(4800)
        return float(np.abs(taken).max()) / 32768

    async def close(self) -> None:
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.source.close()
        for host in self.hosts:
            await host.kill()


@contextlib.asynccontextmanager
async def watching(
    server: EmbeddedLiveKit, request: pytest.FixtureRequest, grace: float = 60.0, **more: Any
) -> AsyncGenerator[Watched]:
    name = f"room-{request.node.name}"
    watched = Watched(server.livekit, name, grace, **more)
    try:
        yield watched
    finally:
        await watched.close()


@contextlib.asynccontextmanager
async def rooms(livekit: LiveKit) -> AsyncGenerator[api.LiveKitAPI]:
    url = livekit.url.replace("ws", "http", 1)
    async with api.LiveKitAPI(url, livekit.api_key, livekit.api_secret) as client:
        yield client
