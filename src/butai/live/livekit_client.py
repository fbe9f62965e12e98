"""A client of LiveKit's server API for single requests with a time limit; its failures become Butai's errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
from livekit import api

from butai.live.projects import Projects
from butai.live.tokens import STAY_SECONDS

LIVEKIT_ERRORS = (TimeoutError, aiohttp.ClientError, api.TwirpError, OSError)
"""What a block of `livekit_client` may raise when LiveKit refuses, fails or does not answer in time."""


@asynccontextmanager
async def livekit_client(projects: Projects, project: str, seconds: float) -> AsyncGenerator[api.LiveKitAPI]:
    """A client of a project's API, for a block that may take `seconds`. Requests are not repeated.

    Raises `LiveKitNotConfigured` for an unknown project; the block raises `LIVEKIT_ERRORS`.
    """
    found = projects.get(project)
    async with asyncio.timeout(seconds):
        async with api.LiveKitAPI(found.http_url, found.key.api_key, found.key.api_secret, failover=False) as client:
            yield client


async def open_room(projects: Projects, project: str, room_id: str, seconds: float) -> None:
    """Creates a room of ours at LiveKit, or sets the time-outs of one that exists. Raises as a block of
    `livekit_client`."""
    wanted = api.CreateRoomRequest(
        name=room_id, empty_timeout=STAY_SECONDS, departure_timeout=STAY_SECONDS, sync_streams=True
    )
    async with livekit_client(projects, project, seconds) as livekit:
        await livekit.room.create_room(wanted)
