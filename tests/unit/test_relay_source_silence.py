"""Whether a host of whom nothing is seen or heard is there: told from packets of sound, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from butai.relay import source as module
from butai.relay.messages import ConfigureLine, Preset, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.picture import Screen
from butai.relay.room import Received
from butai.relay.source import HostSource
from butai.relay.timing import RelayTiming
from butai.relay.tracks import Choice

TICK = RelayTiming().phase_every
BOTH = Choice("v", frozenset({"a"}), shown=True, heard=True)
SOUND = Choice(sounds=frozenset({"a"}), heard=True)


class Quiet:
    """A host who was live until now, and the packets that LiveKit has counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.said = 1000.0, list[SourceLine]()
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        preset = Preset(320, 180, 30, 500)
        configure = ConfigureLine("b1", "ws://127.0.0.1:9", "token", "host", preset)
        self.source = HostSource(configure, Screen(preset.width, preset.height), Mixer(48000), self.said.append)
        self.source._presence.host(self.now, here=True, choice=SOUND)
        self.source._sound_arrived()
        self.packets: Callable[[], int] = lambda: 0
        self.frames: Callable[[], int] = lambda: 0
        self.choice, self.read_again = SOUND, 0

    async def received(self) -> Received:
        return Received(self.packets(), self.frames())

    def read_picture_again(self) -> None:
        self.read_again += 1

    async def go_on(self, seconds: float) -> list[str]:
        """The phases that are told meanwhile."""
        told, room = len(self.said), self
        for _ in range(round(seconds / TICK)):
            self.now += TICK
            self.source._presence.host(self.now, here=True, choice=self.choice)
            await self.source._count_received(room, self.now, self.choice)  # pyright: ignore[reportArgumentType]
            self.source._update_phase()
        return [line.phase for line in self.said[told:]]


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    return Quiet(monkeypatch)


async def test_a_silent_host_whose_packets_come_is_live_all_the_while(quiet: Quiet) -> None:
    # The fewest there are: one each 400 ms, in silence that is not sent.
    quiet.packets = lambda: int(quiet.now / 0.4)
    assert await quiet.go_on(30) == []


async def test_a_host_without_packets_is_lost_after_two_seconds(quiet: Quiet) -> None:
    quiet.packets = lambda: 700
    assert await quiet.go_on(1.9) == []
    assert await quiet.go_on(0.3) == ["lost"]


async def test_packets_from_before_it_was_quiet_are_no_news(quiet: Quiet) -> None:
    quiet.packets = lambda: 5
    await quiet.go_on(1.2)
    # Pictures for a minute, and sound; then the host is killed.
    quiet.packets = lambda: 3000
    quiet.now += 60
    quiet.source._sound_arrived()
    assert await quiet.go_on(1.9) == []
    assert await quiet.go_on(0.3) == ["lost"]


async def test_silence_that_begins_again_is_media_again(quiet: Quiet) -> None:
    quiet.packets = lambda: 700
    assert await quiet.go_on(5) == ["lost"]
    quiet.packets = lambda: int(quiet.now / 0.4)
    assert await quiet.go_on(2) == ["live"]


async def test_frames_that_arrive_and_are_not_shown_are_no_still_picture_and_are_read_again(quiet: Quiet) -> None:
    quiet.choice, quiet.packets = BOTH, lambda: int(quiet.now / 0.02)
    quiet.source._presence.host(quiet.now, here=True, choice=BOTH)
    quiet.source._picture_arrived("v")
    # A picture that stands still sends no frames.
    assert await quiet.go_on(30) == [] and quiet.read_again == 0
    quiet.source._picture_arrived("v")
    quiet.frames = lambda: int(quiet.now / 0.1)
    assert await quiet.go_on(2.9) == []
    assert await quiet.go_on(0.3) == ["lost"]
    assert quiet.source.line.code == "no_picture" and quiet.read_again == 1
    assert await quiet.go_on(4) == [] and quiet.read_again == 3
    quiet.source._picture_arrived("v")
    assert quiet.source.line.phase == "live"
