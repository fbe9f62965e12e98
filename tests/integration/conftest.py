"""Settings of a service with which one can go live, as far as HTTP goes; a library for the patrol; where alerts arrive."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest
from aiohttp import web
from pydantic import SecretStr

from butai.assets.storage.client import Store
from butai.config import LiveKitSettings, LiveSettings, Settings
from butai.database import Database
from tests.embedded_servers import livekit_server, livekit_settings
from tests.fakes.livekit_egress import StandIn
from tests.live_api import SECRET
from tests.patrols import Hooks, Studio


@pytest.fixture
async def live_settings(settings: Settings) -> AsyncIterator[Settings]:
    """At its address is a LiveKit without rooms, which a new room of a chosen name is looked up at."""
    async with StandIn(key="devkey", secret=SECRET) as standin:
        yield at_livekit(settings, standin.url)


def at_livekit(settings: Settings, url: str) -> Settings:
    livekit = LiveKitSettings(url=url, api_key="devkey", api_secret=SecretStr(SECRET))
    live = LiveSettings(secret_key=SecretStr("ab" * 32), allow_private_ingest=True)
    return replace(settings, livekit=livekit, live=live)


@pytest.fixture(scope="module")
def livekit() -> Iterator[LiveKitSettings]:
    """A LiveKit server, which the tests of a module share."""
    with livekit_server() as server:
        yield livekit_settings(server)


@pytest.fixture
async def studio(settings: Settings, database: Database) -> AsyncIterator[Studio]:
    """A library of no files yet."""
    async with Store(settings.store) as store:
        yield Studio(settings, database, store)


@pytest.fixture
async def hooks() -> AsyncIterator[Hooks]:
    """The endpoint, on a free port of loopback."""
    found = Hooks()
    application = web.Application()
    application.router.add_post("/{name}", found.take)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()
