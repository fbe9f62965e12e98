"""Settings of a service with which one can go live, as far as HTTP goes; a library for the patrol; where alerts arrive; objects
to import; what `butai doctor` looks at."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr

from butai.assets.storage.client import Store
from butai.config import LiveKitSettings, LiveSettings, Settings
from butai.database import Database
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.doctor_reports import Serve
from tests.embedded_servers import livekit_server, livekit_settings
from tests.fakes.livekit_egress import StandIn
from tests.fakes.store_proxy import StoreProxy
from tests.imports import Fill, put
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


@pytest.fixture
def fill(seaweed: EmbeddedSeaweed, settings: Settings) -> Fill:
    """Puts objects behind the test's prefix."""
    return partial(put, seaweed, settings.store.prefix)


@pytest.fixture
def bare(settings: Settings, seaweed: EmbeddedSeaweed) -> Settings:
    """Settings of a service that talks to the store itself: doctor asks whether it may list, which the suite's proxy
    forbids."""
    return replace(settings, store=settings.store.model_copy(update={"endpoint": seaweed.store.endpoint}))


@pytest.fixture(scope="module")
def _own_proxy(seaweed: EmbeddedSeaweed) -> Iterator[StoreProxy]:
    with StoreProxy(seaweed.store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def faulty(_own_proxy: StoreProxy) -> Iterator[StoreProxy]:
    """A proxy through which listing may pass."""
    _own_proxy.heal()
    _own_proxy.seen.clear()
    yield _own_proxy
    _own_proxy.heal()


@pytest.fixture
def web_server() -> Serve:
    """A server of the test's own making on loopback."""

    @contextlib.asynccontextmanager
    async def serve(answer: Callable[[web.Request], Any]) -> AsyncGenerator[str]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return answer(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    return serve
