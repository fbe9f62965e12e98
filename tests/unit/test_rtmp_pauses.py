"""A publisher whose process stood still, in virtual time: what it hears and checks first afterwards."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from butai.relay.packets import Packet
from butai.relay.rtmp import publisher as module
from butai.relay.rtmp.publisher import Limits, Publisher, PublishError, Target
from butai.relay.rtmp.session import Event, Pong, Publishing
from tests.pushes import KEY, VIDEO_FORMAT
from tests.virtual_time import run_virtually

PAUSE = 40.0


class Platform:
    """The session and the connection of a platform that answers when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limits: Limits, step: str) -> None:
        self.step, self.received = step, 0
        self.phases: list[str] = []
        self.pinged, self._paused = 0, 0.0
        self._events: list[Event] = []
        self._reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: 1000 + loop.time() + self._paused))
        self.publisher = Publisher(Target("rtmp://a.example/live", KEY), report=self._report, limits=limits)

    def _report(self, phase: str, _code: str, _detail: str) -> None:
        self.phases.append(phase)

    def publish(self) -> asyncio.Task[None]:
        transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
        writer = SimpleNamespace(write=len, drain=_drained, get_extra_info=lambda _: None, transport=transport)
        return asyncio.create_task(self.publisher._publish(cast("Any", self), self._reader, cast("Any", writer)))

    def pause(self) -> None:
        """Lets the time pass in which the process does not run."""
        self._paused += PAUSE

    def say(self, event: Event | None = None) -> None:
        """This event, or the answer to the latest ping."""
        self._events.append(event or Pong(self.pinged))
        self._reader.feed_data(b"x")

    # As a session

    def feed(self, _: bytes) -> list[Event]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        return bytes(1000)

    def ping(self, number: int) -> None:
        self.pinged = number

    def formats(self, *_: object, **__: object) -> None:
        """Sends nothing."""

    def media(self, *_: object) -> None:
        """Sends nothing."""


async def _drained() -> None:
    """A platform that reads at once."""


def test_a_stall_right_after_a_pause_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        platform = Platform(monkeypatch, Limits(), "publishing")
        publishing = platform.publish()
        platform.say(Publishing())
        await asyncio.sleep(0.01)
        platform.publisher.send(Packet("video", b"picture", 0, 0, keyframe=True, format=VIDEO_FORMAT))
        answered = 0
        for _ in range(10):
            await asyncio.sleep(0.5)
            platform.say()
            answered = platform.pinged
        await asyncio.sleep(0.25)
        assert platform.phases == ["publishing", "live"] and platform.pinged > answered
        platform.pause()
        # It waited in the socket, and is read before the next check.
        platform.say()
        await asyncio.sleep(1)
        assert platform.phases == ["publishing", "live"]
        await asyncio.sleep(1)
        assert platform.phases == ["publishing", "live", "stalled"]
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)

    run_virtually(act())


@pytest.mark.parametrize(("publish_timeout", "deadline"), [(30.0, 1000.0), (1000.0, 30.0)])
def test_a_pause_is_no_time_in_which_a_platform_is_late(
    monkeypatch: pytest.MonkeyPatch, publish_timeout: float, deadline: float
) -> None:
    async def act() -> None:
        platform = Platform(monkeypatch, Limits(publish_timeout=publish_timeout), "publish")
        platform.publisher._deadline = 1000 + deadline
        publishing = platform.publish()
        await asyncio.sleep(20)
        platform.pause()
        await asyncio.sleep(9)
        assert not publishing.done()
        with pytest.raises(PublishError, match="no answer in time"):
            await publishing
        assert asyncio.get_running_loop().time() == pytest.approx(30, abs=0.5)

    run_virtually(act())
