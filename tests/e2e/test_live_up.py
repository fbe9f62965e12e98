"""Going live with `butai up`: what it started ends with it, in whatever way, and on the next start the show goes on."""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from tests.e2e.stage import Show, eventually, relays_in
from tests.e2e.test_up import Up, living, sign_in
from tests.platforms import Platform
from tests.processes import free_port


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    yield path
    shutil.rmtree(path)


class OneMachine:
    """A `butai up` as a show sees it."""

    def __init__(self, up: Up) -> None:
        self.up = up

    @property
    def url(self) -> str:
        return self.up.url

    def cookie(self, user: str) -> dict[str, str]:
        return sign_in(self.url, user)

    def tail(self, role: str) -> str:
        return (self.up.data_dir / "logs" / f"{role}.log").read_text(errors="replace")[-3000:]

    def relays(self) -> list[psutil.Process]:
        return relays_in(self.up.data_dir / "relays")


@asynccontextmanager
async def on_air(up: Up, platform: Platform) -> AsyncIterator[tuple[Show, OneMachine, str]]:
    machine = OneMachine(up)
    async with Show(machine) as show:
        key = f"key{uuid.uuid4().hex[:12]}"
        twitch = await show.destination("twitch", platform.url, key)
        await show.host_on()
        await show.start(twitch)
        await show.until_live("twitch")
        yield show, machine, key


async def test_ctrl_c_while_on_air_says_goodbye_to_the_platform_and_leaves_no_relay(folder: Path) -> None:
    with Platform("tw") as platform, Up(folder / "data") as up:
        async with on_air(up.ready(), platform) as (show, machine, key):
            family = up.family()
            assert machine.relays()
            up.process.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(up.ended) == 0
            assert not machine.relays()
            assert not living(family)
            await eventually(lambda: bool(platform.published(key, "publish_done")), 5)
            show.session = ""


async def test_one_second_after_it_is_killed_no_relay_lives_and_after_the_next_start_the_show_goes_on(
    folder: Path, soon: float
) -> None:
    port = str(free_port())
    with Platform("tw") as platform, Up(folder / "data", "--port", port) as first:
        async with on_air(first.ready(), platform) as (show, machine, key):
            family = first.family()
            (relay,) = machine.relays()
            first.process.kill()
            first.process.wait()
            gone = await eventually(lambda: not living([*family, relay]), 10, lambda: str(living([*family, relay])))
            # One second on a machine that has time for it (`soon` is five there).
            assert gone < soon / 5
            assert show.host is not None
            await show.host.kill()
            # The relay needs no host to go on publishing.
            published = len(platform.published(key))
            with Up(folder / "data", "--port", port) as second:
                second.ready()
                assert second.url == first.url
                # The studio's page comes back, to the same room.
                await show.host_on()
                await eventually(
                    lambda: len(platform.published(key)) > published, 30, lambda: machine.tail("controller")
                )
                await eventually(lambda: platform.bytes_in(key) > 0, 5)
                looks = len(show.seen)
                await show.until(lambda: len(show.seen) > looks and show.state("twitch") == "live", 20)
                await show.stop()
                show.session = ""
