"""What the tests of going live share: two platforms, and the whole service, once for each module."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from butai.config import Settings
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.conftest import serving
from tests.e2e.browsers import SOFTWARE, WITH_3D, WITHOUT_3D, chromium
from tests.e2e.consoles import Console
from tests.e2e.fronts import Front, fronted
from tests.e2e.show import SMALL, Show
from tests.e2e.stage import Stage
from tests.platforms import Authority, Platform


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def console_browser() -> AsyncIterator[Browser]:
    """One for all tests of a module: it takes as long to start as any of them."""
    async with chromium(*WITH_3D, SOFTWARE) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def flat_browser() -> AsyncIterator[Browser]:
    """A browser without WebGL. Drawing by the processor takes most of a page's time: 5 s in place of 11 for a file that
    is renamed, so tests that look at no picture use this one."""
    async with chromium(*WITHOUT_3D) as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def console(console_browser: Browser, settings: Settings) -> AsyncIterator[Console]:
    """A service, and a browser with nothing open."""
    async with _console(console_browser, settings, COARSE) as opened:
        yield opened


@pytest_asyncio.fixture(loop_scope="module")
async def flat_console(flat_browser: Browser, settings: Settings) -> AsyncIterator[Console]:
    """A service, and a browser without WebGL that has nothing open."""
    async with _console(flat_browser, settings) as opened:
        yield opened


@contextlib.asynccontextmanager
async def _console(browser: Browser, settings: Settings, scale: float = 1.0) -> AsyncGenerator[Console]:
    async with serving(settings) as api:
        yield Console(api, browser, scale)
        for context in browser.contexts:
            await context.close()


COARSE = 0.5
"""The scale of pages with WebGL: the same layout, and a quarter of the pixels for the processor to draw."""

expect.set_options(timeout=15_000)

GRACE = 14.0
"""Seconds of `BUTAI_SOURCE_GRACE`: longer than a host's absence of ten seconds or a restart of LiveKit, and not a
minute."""


@pytest.fixture(scope="package")
def authority() -> Iterator[Authority]:
    """Whom the service's processes trust."""
    folder = Path(tempfile.mkdtemp(prefix="butai-authority-"))
    yield Authority(folder)
    shutil.rmtree(folder)


@pytest.fixture(scope="package")
def _stage(seaweed: EmbeddedSeaweed, authority: Authority) -> Iterator[Stage]:
    more = {
        "BUTAI_SOURCE_GRACE": str(GRACE),
        # Its ten seconds between two tries are a default, and only waiting here.
        "BUTAI_YOUTUBE_RETRY": '{"least_wait": 3.0}',
        "BUTAI_OPERATORS": '["root"]',
        "SSL_CERT_FILE": str(authority.file),
    }
    with Stage(seaweed, **more) as running:
        yield running


@pytest.fixture(scope="module")
def stage(_stage: Stage) -> Stage:
    """The running service: one for all modules that need no settings of their own, whole at the start of each."""
    _stage.mend()
    return _stage


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
    """A show that has been started, its two platforms, and their keys. Outputs are labelled `youtube` and `twitch`."""

    show: Show
    youtube: Platform
    twitch: Platform
    youtube_key: str
    twitch_key: str

    async def add(self, label: str, url: str, key: str) -> float:
        """Adds a Twitch output to the running show, and waits until the status tells of it. From then on the label
        means this one. Returns when it was asked for, in seconds since 1970."""
        show = self.show
        wanted = await show.destination("twitch", url, key, label)
        known = {output["id"] for output in show.now.outputs.values()}
        asked = time.time()
        await show.call("POST", f"/api/live/broadcasts/{show.session}/outputs", {"destination_ids": [wanted]})
        await show.until(lambda: label in show.now.outputs and show.now.outputs[label]["id"] not in known, 10)
        return asked

    async def add_twitch(self, url: str = "", *, refused: bool = False, live: bool = False) -> float:
        """Adds the output `twitch` under a new key: to the platform, which may refuse the key, or to `url`. With `live`
        waits until it is on air. Returns when it was asked for."""
        self.twitch_key = new_key("tw")
        if refused:
            self.twitch.refuse.add(self.twitch_key)
        asked = await self.add("twitch", url or self.twitch.url, self.twitch_key)
        if live:
            await self.show.until_live("twitch")
        return asked

    async def youtube_alone(self) -> None:
        """Takes all other outputs off the show, in whatever state they are."""
        show = self.show
        others = [output for label, output in show.now.outputs.items() if label != "youtube"]
        for output in others:
            if output["state"] not in ("ended", "stopping"):
                await show.call("POST", f"/api/live/outputs/{output['id']}/stop")
        labels = [output["label"] for output in others]
        await show.until(lambda: all(show.state(label) == "ended" for label in labels), 20)

    def youtube_bytes(self) -> int:
        """Bytes that arrived at YouTube since its publish began."""
        return self.youtube.bytes_in(self.youtube_key)

    def twitch_bytes(self) -> int:
        """Bytes that arrived at Twitch since its publish began."""
        return self.twitch.bytes_in(self.twitch_key)


def new_key(prefix: str) -> str:
    """A stream key that no other output has."""
    return f"{prefix}{uuid.uuid4().hex[:16]}"


Start = Callable[..., contextlib.AbstractAsyncContextManager[OnAir]]


@pytest.fixture
def on_air(stage: Stage, youtube: Platform, twitch: Platform) -> Start:
    """`async with on_air() as it`: both are live. With `twitch_url` only YouTube is waited for, or no platform with
    `wait=()`."""

    @contextlib.asynccontextmanager
    async def begin(
        *,
        twitch_url: str = "",
        prepare: Callable[[OnAir], None] | None = None,
        wait: tuple[str, ...] | None = None,
        host: tuple[str, ...] = SMALL,
    ) -> AsyncGenerator[OnAir]:
        async with Show(stage, host=host) as show:
            it = OnAir(show, youtube, twitch, new_key("yt"), new_key("tw"))
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


class SharedShow:
    """A show on YouTube that the tests of a module break one after the other; another one begins when it is not
    well."""

    def __init__(self, stage: Stage, youtube: Platform, twitch: Platform) -> None:
        self._stage, self._platforms = stage, (youtube, twitch)
        self._opened = contextlib.AsyncExitStack()
        self._on_air: OnAir | None = None

    async def well(self) -> OnAir:
        """The show, once host and YouTube are live and Twitch is off it."""
        self._stage.mend()
        if self._on_air is not None:
            try:
                await self._mend(self._on_air)
            except (AssertionError, aiohttp.ClientError, TimeoutError) as error:
                print(f"another show begins, since the last one is not well: {error}")
                self._on_air = None
        return self._on_air or await self.anew()

    async def _mend(self, on_air: OnAir) -> None:
        show = on_air.show
        assert show.host is not None
        assert show.now.status not in ("stopping", "ended", "error"), f"it is {show.now.status}"
        if show.host.process.returncode is not None:
            await show.host_on()
        looks = len(show.seen)
        await show.until(lambda: len(show.seen) > looks + 1, 15)
        await on_air.youtube_alone()
        await show.until(lambda: show.now.status == show.state("youtube") == show.now.source == "live", 30)

    async def anew(self, *, both: bool = False, **more: Any) -> OnAir:
        """Another show, live on YouTube or on both, though its host's first picture may not have come yet. `more`: of
        the request that starts it."""
        await self.end()
        show = await self._opened.enter_async_context(Show(self._stage))
        self._on_air = it = OnAir(show, *self._platforms, new_key("yt"), new_key("tw"))
        labels = {"youtube": (it.youtube.url, it.youtube_key)}
        if both:
            labels["twitch"] = (it.twitch.url, it.twitch_key)
        destinations = [await show.destination(label, *place) for label, place in labels.items()]
        await show.host_on()
        await show.start(*destinations, **more)
        await show.until_live(*labels)
        return it

    async def end(self) -> None:
        """Ends the show, if there is one."""
        self._on_air = None
        await self._opened.aclose()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_show(stage: Stage, _youtube: Platform, _twitch: Platform) -> AsyncIterator[SharedShow]:
    """What `on_youtube` and `on_both` come from, for modules whose loop is the module's."""
    shared = SharedShow(stage, _youtube, _twitch)
    try:
        yield shared
    finally:
        await shared.end()


@pytest_asyncio.fixture(loop_scope="module")
async def on_youtube(shared_show: SharedShow, youtube: Platform, twitch: Platform) -> OnAir:
    """The module's show, live on YouTube alone; both platforms are well."""
    return await shared_show.well()


@pytest_asyncio.fixture(loop_scope="module")
async def on_both(on_youtube: OnAir) -> OnAir:
    """The module's show, live on YouTube and, under a new key, on Twitch."""
    await on_youtube.add_twitch(live=True)
    return on_youtube


@pytest.fixture
async def front(settings: Settings, tmp_path: Path) -> AsyncIterator[Front]:
    async with fronted(settings, tmp_path) as found:
        yield found
