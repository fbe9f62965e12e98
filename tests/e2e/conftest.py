"""What the tests of going live share: two platforms, and the whole service, once for each module."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from butai.config import Settings
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.conftest import serving
from tests.e2e.browsers import WITH_3D, chromium
from tests.e2e.consoles import Console
from tests.e2e.stage import Show, Stage
from tests.platforms import Authority, Platform


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def console_browser() -> AsyncIterator[Browser]:
    """One for all tests of a module: it takes as long to start as any of them."""
    async with chromium(*WITH_3D) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def console(console_browser: Browser, settings: Settings) -> AsyncIterator[Console]:
    """A service, and a browser with nothing open."""
    async with serving(settings) as api:
        yield Console(api, console_browser)
        for context in console_browser.contexts:
            await context.close()


expect.set_options(timeout=15_000)

GRACE = 14.0
"""Seconds of `BUTAI_SOURCE_GRACE` here: more than a host who is gone for ten, and not a minute of waiting."""


@pytest.fixture(scope="module")
def soon() -> float:
    """Five seconds; more on a machine that is too busy even to load the API in a fair part of that (1.3 s when it is not)."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import butai.cli.__main__, butai.api"], check=True)
    return max(5.0, 3 * (time.monotonic() - began))


@pytest.fixture(scope="module")
def authority() -> Iterator[Authority]:
    """Whom the service's processes trust."""
    folder = Path(tempfile.mkdtemp(prefix="butai-authority-"))
    yield Authority(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def stage(seaweed: EmbeddedSeaweed, authority: Authority) -> Iterator[Stage]:
    """The running service."""
    with Stage(seaweed, BUTAI_SOURCE_GRACE=str(GRACE), SSL_CERT_FILE=str(authority.file)) as running:
        yield running


@pytest.fixture(scope="module")
def _youtube() -> Iterator[Platform]:
    with Platform("yt") as platform:
        yield platform


@pytest.fixture(scope="module")
def _twitch() -> Iterator[Platform]:
    with Platform("tw") as platform:
        yield platform


@pytest.fixture
def youtube(_youtube: Platform) -> Platform:
    """Well at the start of each test."""
    return _well(_youtube)


@pytest.fixture
def twitch(_twitch: Platform) -> Platform:
    """Well at the start of each test."""
    return _well(_twitch)


def _well(platform: Platform) -> Platform:
    platform.refuse.clear()
    if platform.alive:
        platform.resume()
    else:
        platform.start()
    return platform


@dataclass
class OnAir:
    """A show that has been started on both platforms, and their keys."""

    show: Show
    youtube: Platform
    twitch: Platform
    youtube_key: str
    twitch_key: str

    def youtube_bytes(self) -> int:
        """That arrived there since its publish began."""
        return self.youtube.bytes_in(self.youtube_key)

    def twitch_bytes(self) -> int:
        """That arrived there since its publish began."""
        return self.twitch.bytes_in(self.twitch_key)


Start = Callable[..., contextlib.AbstractAsyncContextManager[OnAir]]


@pytest.fixture
def on_air(stage: Stage, youtube: Platform, twitch: Platform) -> Start:
    """`async with on_air() as it`: both are live. With `twitch_url` only YouTube is waited for, or nobody with `wait=()`."""

    @contextlib.asynccontextmanager
    async def begin(
        *,
        twitch_url: str = "",
        prepare: Callable[[OnAir], None] | None = None,
        wait: tuple[str, ...] | None = None,
        host: tuple[str, ...] = ("--width=640", "--height=360", "--kbps=800"),
    ) -> AsyncIterator[OnAir]:
        async with Show(stage, host=host) as show:
            it = OnAir(show, youtube, twitch, f"yt{uuid.uuid4().hex[:16]}", f"tw{uuid.uuid4().hex[:16]}")
            if prepare is not None:
                prepare(it)
            first = await show.destination("youtube", youtube.url, it.youtube_key)
            second = await show.destination("twitch", twitch_url or twitch.url, it.twitch_key)
            await show.host_on()
            await show.start(first, second)
            await show.until_live(
                *(wait if wait is not None else ("youtube",) if twitch_url else ("youtube", "twitch"))
            )
            yield it

    return begin
