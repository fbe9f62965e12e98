"""Encoding in virtual time, and its thread in real time, with a small picture."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from butai.relay.messages import Preset
from butai.relay.mixer import Mixer
from butai.relay.packets import Packet
from butai.relay.picture import Screen
from butai.relay.pipeline import Interleaver, Pipeline
from tests.relay_stage import luma, until
from tests.studio_host import TestCard, read_stamp
from tests.unit.test_relay_encoder import decode

PRESET = Preset(320, 180, 30, 500)


class Encoding:
    """The encoder's steps, in time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.screen, self.mixer = Screen(320, 180), Mixer(48000)
        self.packets: list[tuple[float, Packet]] = []
        nothing = asyncio.new_event_loop()
        nothing.close()
        self.pipeline = Pipeline(
            PRESET, self.screen, self.mixer, nothing, lambda _: None, lambda _: None, now=lambda: self.now
        )

    def go_on(self, seconds: float) -> None:
        until = self.now + seconds
        while self.pipeline.next_at <= until:
            self.now = max(self.now, self.pipeline.next_at)
            self.packets += [(self.now, packet) for packet in self.pipeline.step(lambda: self.now)]
        self.now = until

    def of(self, kind: str) -> list[Packet]:
        return [packet for _, packet in self.packets if packet.kind == kind]


def test_picture_and_sound_come_in_time_and_in_order() -> None:
    encoding = Encoding()
    encoding.pipeline.want(True)
    encoding.go_on(3)
    stamps = [packet.dts for _, packet in encoding.packets]
    assert stamps == sorted(stamps)
    pictures, sounds = encoding.of("video"), encoding.of("audio")
    slots = [round(packet.dts * 30 / 1000) for packet in pictures]
    assert [packet.dts for packet in pictures] == [round(slot * 1000 / 30) for slot in slots]
    assert slots == list(range(len(slots))) and 80 <= len(pictures) <= 92
    assert encoding.pipeline.skipped == 0
    assert encoding.pipeline.take_lateness() == 0.0
    assert {int(gap) for gap in np.diff([packet.dts for packet in sounds])} <= {21, 22}
    # Sound reaches as far as the picture.
    assert abs(pictures[-1].dts - sounds[-1].dts) < 50
    # Delivered in the pace of the stamps, not in bursts.
    late = np.array([at * 1000 - packet.dts for at, packet in encoding.packets if packet.kind == "video"])
    assert late.max() - late.min() < 100


def test_a_machine_that_stood_still_leaves_a_gap_and_no_shift() -> None:
    encoding = Encoding()
    encoding.pipeline.want(True)
    encoding.go_on(1)
    encoding.now += 2
    encoding.go_on(1)
    slots = [round(packet.dts * 30 / 1000) for packet in encoding.of("video")]
    assert sum(np.diff(slots) - 1) == encoding.pipeline.skipped > 50
    assert encoding.of("video")[-1].dts > 3800


def test_nothing_is_encoded_while_nobody_wants_it() -> None:
    encoding = Encoding()
    encoding.go_on(0.5)
    assert encoding.packets == [] and encoding.pipeline.frames == 0
    encoding.pipeline.want(True)
    encoding.go_on(0.5)
    assert len(encoding.of("video")) > 5
    encoding.pipeline.want(False)
    count, frames = len(encoding.packets), encoding.pipeline.frames
    encoding.go_on(0.8)
    assert (len(encoding.packets), encoding.pipeline.frames) == (count, frames)
    encoding.pipeline.want(True)
    encoding.go_on(0.5)
    resumed = [packet for _, packet in encoding.packets[count:]]
    assert len(resumed) > 5 and next(packet for packet in resumed if packet.kind == "video").keyframe
    # The clock went on meanwhile, and nothing from before the pause comes after it.
    assert min(packet.dts for packet in resumed) > encoding.packets[count - 1][1].dts + 500


def test_what_is_shown_comes_out_soon() -> None:
    encoding = Encoding()
    encoding.pipeline.want(True)
    card = TestCard(320, 180)
    for number in range(60):
        encoding.screen.show(320, 180, card.draw(encoding.now, number))
        encoding.go_on(1 / 30)
    frames = decode(encoding.pipeline.video_format, encoding.of("video"))
    numbers = [read_stamp(luma(frame))[1] for frame in frames[10:]]
    assert len(set(numbers)) > 30 and numbers == sorted(numbers)


class Stage:
    def __init__(self) -> None:
        self.screen, self.mixer = Screen(320, 180), Mixer(48000)
        self.packets: list[tuple[float, Packet]] = []
        self.failures: list[str] = []
        loop = asyncio.get_running_loop()
        self.pipeline = Pipeline(PRESET, self.screen, self.mixer, loop, self._deliver, self.failures.append)

    def _deliver(self, packets: list[Packet]) -> None:
        self.packets += [(time.monotonic(), packet) for packet in packets]

    def of(self, kind: str) -> list[Packet]:
        return [packet for _, packet in self.packets if packet.kind == kind]


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    stage = Stage()
    stage.pipeline.start()
    yield stage
    stage.pipeline.stop()
    assert not stage.pipeline.is_alive()


async def test_a_keyframe_for_the_asking(stage: Stage) -> None:
    stage.pipeline.want(True)
    await until(lambda: len(stage.of("video")) > 10)
    stage.pipeline.force_keyframe()
    asked = len(stage.of("video"))
    await until(lambda: len(stage.of("video")) > asked + 10)
    assert any(packet.keyframe for packet in stage.of("video")[asked : asked + 8])


async def test_an_encoder_that_breaks_is_told(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> list[Packet]:
        raise RuntimeError("rtmp://127.0.0.1/app/canary-key-1f")

    monkeypatch.setattr(stage.pipeline._video, "encode", broken)
    stage.pipeline.want(True)
    await until(lambda: stage.failures == ["encoder: RuntimeError"])


def packet(kind: str, dts: int) -> Packet:
    return Packet("video" if kind == "video" else "audio", b"", dts, dts, False)


def test_pictures_wait_for_the_sound_of_their_time() -> None:
    interleaver = Interleaver()
    assert interleaver.put([packet("video", 0)]) == []
    assert interleaver.put([packet("video", 33)]) == []
    assert [one.dts for one in interleaver.put([packet("audio", 10), packet("audio", 31)])] == [0, 10, 31]
    assert [one.dts for one in interleaver.put([packet("audio", 52)])] == [33]


def test_nothing_waits_for_ever() -> None:
    interleaver = Interleaver()
    out = [one.dts for dts in range(0, 1000, 33) for one in interleaver.put([packet("video", dts)])]
    assert out == list(range(0, 792, 33))


def test_pictures_that_are_late_are_told_before_any_is_skipped() -> None:
    encoding = Encoding()
    encoding.now += 5.0
    encoding.go_on(1)
    # Nothing is wanted yet, so nothing was late.
    assert (encoding.pipeline.take_lateness(), encoding.pipeline.skipped) == (0.0, 0)
    encoding.pipeline.want(True)
    encoding.go_on(1)
    encoding.now += 0.2
    encoding.go_on(1)
    assert 0.15 < encoding.pipeline.take_lateness() <= 0.2
    assert (encoding.pipeline.take_lateness(), encoding.pipeline.skipped) == (0.0, 0)
    encoding.now += 1.0
    encoding.go_on(1)
    assert 0.9 < encoding.pipeline.take_lateness() <= 1.0
    assert 28 <= encoding.pipeline.skipped <= 31
