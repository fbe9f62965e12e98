"""Going live with `butai up`: everything that it started ends with it, in any way, and on the next start the broadcast
continues.

The cases share a data folder, so each start but the first is a warm one.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.e2e.show import Show
from tests.e2e.stage import relays_in
from tests.e2e.ups import Machine, Up, living, sign_in
from tests.platforms import Platform
from tests.processes import free_port
from tests.waiting import eventually


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One port for all starts, so that a page finds the service again."""
    path = Path(tempfile.mkdtemp(prefix="butai-up-"))
    made = Machine(path / "data", "--port", str(free_port()))
    yield made
    made.end()
    shutil.rmtree(path)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform("tw") as running:
        yield running


class OneMachine:
    """A `butai up` as a show sees it."""

    def __init__(self, up: Up) -> None:
        self.up = up

    @property
    def url(self) -> str:
        return self.up.url

    def cookie(self, user: str) -> dict[str, str]:
        return sign_in(self.up, user)

    def tail(self, role: str) -> str:
        return (self.up.data_dir / "logs" / f"{role}.log").read_text(errors="replace")[-3000:]

    def relays(self) -> list[psutil.Process]:
        return relays_in(self.up.data_dir / "relays")


@asynccontextmanager
async def on_air(up: Up, platform: Platform) -> AsyncGenerator[tuple[Show, OneMachine, str]]:
    machine = OneMachine(up)
    async with Show(machine) as show:
        key = f"key{uuid.uuid4().hex[:12]}"
        twitch = await show.destination("twitch", platform.url, key)
        await show.host_on()
        await show.start(twitch)
        await show.until_live("twitch")
        yield show, machine, key


async def test_a_show_on_one_machine_has_livekits_words_in_its_timeline(machine: Machine, platform: Platform) -> None:
    """`butai up` makes its LiveKit send webhooks to its API; with the relay as engine the timeline has them too."""
    up = machine.up()
    async with on_air(up, platform) as (show, _, _):

        async def told(name: str) -> list[dict[str, Any]]:
            found = await show.call("GET", f"/api/live/broadcasts/{show.session}/timeline")
            return [one for one in found["data"] if (one["event"], one["actor"]) == (name, "service:livekit")]

        async def engine_came() -> bool:
            return bool(await told("participant.joined"))

        await eventually(engine_came, 10)
        (relay,) = await told("participant.joined")
        assert (relay["detail"]["identity"], relay["detail"]["engine"]) == (f"egress-{show.session}", True)
    logs = {name: (up.data_dir / "logs" / f"{name}.log").read_text() for name in ("livekit", "api")}
    assert '"path":"/api/live/webhook","status":200' in logs["api"] and "webhook.refused" not in logs["api"]
    assert "failed to send webhook" not in logs["livekit"], logs["livekit"]


async def test_after_it_is_killed_no_relay_lives_and_after_the_next_start_the_show_goes_on(
    machine: Machine, platform: Platform
) -> None:
    first = machine.up()
    async with on_air(first, platform) as (show, one, key):
        family = first.family()
        (relay,) = one.relays()
        first.process.kill()
        first.process.wait()
        # Nobody is there who could end them: they end by themselves.
        await eventually(lambda: not living([*family, relay]), 30, lambda: str(living([*family, relay])))
        assert show.host is not None
        await show.host.kill()
        # The relay needs no host to go on publishing.
        published = len(platform.published(key))
        second = machine.up()
        assert second.url == first.url
        # The studio's page comes back, to the same room.
        await show.host_on()
        await eventually(lambda: len(platform.published(key)) > published, 30, lambda: one.tail("controller"))
        await eventually(lambda: platform.bytes_in(key) > 0, 5)
        looks = len(show.seen)
        await show.until(lambda: len(show.seen) > looks and show.state("twitch") == "live", 20)
        await show.stop()
        show.session = ""


async def test_ctrl_c_while_on_air_says_goodbye_to_the_platform_and_leaves_no_relay(
    machine: Machine, platform: Platform
) -> None:
    up = machine.up()
    async with on_air(up, platform) as (show, one, key):
        family = up.family()
        assert one.relays()
        up.process.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(up.ended) == 0
        assert not one.relays()
        assert not living(family)
        await eventually(lambda: bool(platform.published(key, "publish_done")), 5)
        show.session = ""
