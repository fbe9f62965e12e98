"""A publisher connects first and learns the formats later: which headers go before which packet, and when it is live."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from butai.relay.packets import KINDS, AudioFormat, Kind, Packet, VideoFormat
from butai.relay.rtmp import amf0, flv
from butai.relay.rtmp import publisher as module
from butai.relay.rtmp.publisher import Limits, Publisher, Target
from butai.relay.rtmp.session import Event, Pong, Publishing
from tests.virtual_time import run_virtually

HD, SD = VideoFormat(1920, 1080, 30, 3500, b"hd"), VideoFormat(640, 360, 30, 900, b"sd")
STEREO, MONO = AudioFormat(48000, 2, 160, b"stereo"), AudioFormat(44100, 1, 64, b"mono")


def picture(at: int, format_: VideoFormat | None, *, keyframe: bool = False) -> Packet:
    return Packet("video", f"v{at}".encode(), at, at, keyframe, format_)


def sound(at: int, format_: AudioFormat | None) -> Packet:
    return Packet("audio", f"a{at}".encode(), at, at, keyframe=True, format=format_)


class Platform:
    """A platform that has accepted the publish, answers pings, and takes notes of what is sent to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.received = "publishing", 0
        self.sent: list[Any] = []
        self.phases: list[str] = []
        self.reads = asyncio.Event()
        self.reads.set()
        self._events: list[Event] = []
        self._reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=loop.time))
        self.publisher = Publisher(
            Target("rtmp://a.example/live", "canary-formats"),
            report=lambda phase, _code, _detail: self.phases.append(phase),
            limits=Limits(),
        )
        transport = SimpleNamespace(get_write_buffer_size=lambda: 0)
        writer = SimpleNamespace(write=len, drain=self.reads.wait, get_extra_info=lambda _: None, transport=transport)
        self.run = asyncio.create_task(self.publisher._publish(cast("Any", self), self._reader, cast("Any", writer)))
        self._say(Publishing())

    def _say(self, event: Event) -> None:
        self._events.append(event)
        self._reader.feed_data(b"x")

    async def send(self, *packets: Packet) -> None:
        for packet in packets:
            self.publisher.send(packet)
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        self.run.cancel()
        await asyncio.gather(self.run, return_exceptions=True)

    # As a session

    def feed(self, _: bytes) -> list[Event]:
        events, self._events = self._events, []
        return events

    def data_to_send(self) -> bytes:
        return bytes(1000)

    def ping(self, number: int) -> None:
        self._say(Pong(number))

    def formats(
        self, video: VideoFormat | None, audio: AudioFormat | None, timestamp: int, *, of: Collection[Kind] = KINDS
    ) -> None:
        self.sent.append((video, audio, timestamp, *of))

    def media(self, packet: Packet, _timestamp: int) -> None:
        self.sent.append(packet.data.decode())


def test_headers_go_before_the_first_packet_that_needs_them_and_again_only_when_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def act() -> None:
        platform = Platform(monkeypatch)
        await asyncio.sleep(0.01)
        # Heard before the picture begins: its format is known, and the sound itself is not sent.
        await platform.send(sound(90, STEREO))
        assert platform.sent == []
        await platform.send(picture(100, HD, keyframe=True), sound(110, STEREO), picture(133, HD), sound(131, None))
        assert platform.sent == [(HD, STEREO, 0, "video", "audio"), "v100", "a110", "v133", "a131"]
        platform.sent.clear()
        await platform.send(picture(200, SD, keyframe=True), sound(210, MONO), picture(233, SD), sound(231, MONO))
        assert platform.sent == [(SD, STEREO, 100, "video"), "v200", (SD, MONO, 110, "audio"), "a210", "v233", "a231"]
        platform.sent.clear()
        # Other figures for the same parameter sets: our metadata alone.
        await platform.send(picture(300, replace(SD, kbps=1200), keyframe=True))
        assert platform.sent == [(replace(SD, kbps=1200), MONO, 200), "v300"]
        await platform.close()

    run_virtually(act())


def test_a_format_that_came_with_dropped_packets_is_sent_with_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        platform = Platform(monkeypatch)
        await asyncio.sleep(0.01)
        await platform.send(picture(0, HD, keyframe=True))
        platform.reads.clear()
        await platform.send(picture(33, HD))
        # More than the queue holds, and the key frame that has changed the format is among what is dropped.
        await platform.send(picture(66, SD, keyframe=True), *(picture(66 + at, SD) for at in range(100, 3200, 100)))
        assert platform.publisher.stats.dropped_frames > 20
        await platform.send(picture(4000, SD, keyframe=True))
        platform.sent.clear()
        platform.reads.set()
        await platform.send(picture(4033, SD))
        assert platform.sent == [(SD, None, 4000, "video"), "v4000", "v4033"]
        await platform.close()

    run_virtually(act())


def test_a_sound_that_begins_later_has_its_header_then(monkeypatch: pytest.MonkeyPatch) -> None:
    async def act() -> None:
        platform = Platform(monkeypatch)
        await asyncio.sleep(0.01)
        await platform.send(picture(0, HD, keyframe=True), sound(50, STEREO))
        assert platform.sent == [(HD, STEREO, 0, "video", "audio"), "v0", "a50"]
        await platform.close()
        platform = Platform(monkeypatch)
        await asyncio.sleep(0.01)
        await platform.send(picture(0, HD, keyframe=True))
        await platform.send(sound(50, STEREO))
        assert platform.sent == [(HD, None, 0, "video"), "v0", (HD, STEREO, 50, "audio"), "a50"]
        await platform.close()

    run_virtually(act())


def test_live_waits_for_a_picture_that_was_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform that answers every ping while nothing is sent to it has a publish, and no picture."""

    async def act() -> None:
        platform = Platform(monkeypatch)
        await asyncio.sleep(20)
        assert platform.phases == ["publishing"] and not platform.run.done()
        await platform.send(picture(0, HD, keyframe=True))
        await asyncio.sleep(1)
        assert platform.phases == ["publishing", "live"]
        await platform.close()

    run_virtually(act())


def test_metadata_has_only_what_is_known() -> None:
    only = amf0.decode(flv.metadata(VideoFormat(640, 360, 0, 0, b""), None))[2]
    assert only == {"width": 640, "height": 360, "videocodecid": 7, "encoder": "Butai"}
    both = amf0.decode(flv.metadata(None, AudioFormat(44100, 1, 0, b"")))[2]
    assert both == {
        "audiosamplerate": 44100,
        "audiosamplesize": 16,
        "stereo": False,
        "audiocodecid": 10,
        "encoder": "Butai",
    }
