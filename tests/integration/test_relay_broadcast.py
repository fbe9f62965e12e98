"""Whole broadcasts: a host in a real livekit-server, the relay in its own process, two nginx-rtmp as platforms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
from livekit import api
from numpy.typing import NDArray

from butai.embedded.livekit import EmbeddedLiveKit
from butai.relay.clock import PATIENCE
from butai.relay.messages import (
    ByeLine,
    ConfigureLine,
    FromController,
    Line,
    MetricsLine,
    OutputLine,
    PingLine,
    Preset,
    SourceLine,
    StartOutputLine,
    StopLine,
    StopOutputLine,
    WelcomeLine,
)
from tests.integration.test_relay_process import RelayProcess
from tests.integration.test_relay_source import rooms, server, token  # noqa: F401
from tests.platforms import Platform, probe
from tests.studio_host import PULSE, HostProcess, read_stamp
from tests.unit.test_relay_outputs import until
from tests.unit.test_relay_picture import luma
from tests.unit.test_relay_server import Controller

PRESET = Preset(640, 360, 30, 1000)


@pytest.fixture(scope="module")
def youtube() -> Iterator[Platform]:
    with Platform("yt") as platform:
        yield platform


@pytest.fixture(scope="module")
def twitch() -> Iterator[Platform]:
    with Platform("tw", refuse={"bad"}) as platform:
        yield platform


@dataclass
class Broadcast:
    """A relay that runs, the controller's side of it, and hosts."""

    server: EmbeddedLiveKit
    relay: RelayProcess
    room: str
    preset: Preset = PRESET
    grace: float = 60.0
    said: list[Line] = field(default_factory=list)
    hosts: list[HostProcess] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    controller: Controller | None = None
    epoch: int = 0

    async def connect(self) -> WelcomeLine:
        """Becomes its (next) controller."""
        self.epoch += 1
        await until(self.relay.socket.exists)
        self.controller = await Controller.connect(self.relay.socket, self.epoch)
        welcome = await self.controller.hear(WelcomeLine)
        self.tasks = [asyncio.create_task(self._listen(self.controller)), asyncio.create_task(self._ping())]
        return welcome

    async def disconnect(self) -> None:
        """The controller dies without a word."""
        assert self.controller is not None
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.controller.writer.transport.abort()

    async def _listen(self, controller: Controller) -> None:
        with contextlib.suppress(AssertionError, ConnectionError):
            while True:
                self.said.append(await controller.hear(Line))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(5)
            self.say(PingLine())

    def say(self, line: FromController) -> None:
        assert self.controller is not None
        self.controller.say(line)

    def configure(self) -> None:
        livekit = self.server.livekit
        relay = token(livekit, self.room, "relay", relay=True)
        self.say(ConfigureLine("b1", livekit.url, relay, "host", self.preset, grace=self.grace))

    async def host(self, *arguments: str) -> HostProcess:
        size = (f"--width={self.preset.width}", f"--height={self.preset.height}", "--kbps=1000")
        livekit = self.server.livekit
        host = await HostProcess.start(livekit.url, token(livekit, self.room, "host"), *size, *arguments)
        self.hosts.append(host)
        return host

    def push(self, platform: Platform, key: str, attempt: int = 1) -> None:
        """Output's id = the platform's name."""
        self.say(StartOutputLine(platform.name, attempt, platform.url, key, allow_private=True))

    def output(self, platform: Platform) -> OutputLine | None:
        lines = [line for line in self.said if isinstance(line, OutputLine) and line.output_id == platform.name]
        return lines[-1] if lines else None

    async def phase(self, platform: Platform, phase: str, within: float = 15.0) -> OutputLine:
        await until(lambda: (line := self.output(platform)) is not None and line.phase == phase, within)
        line = self.output(platform)
        assert line is not None
        return line

    async def source(self, phase: str, within: float = 15.0) -> SourceLine:
        def last() -> SourceLine | None:
            lines = [line for line in self.said if isinstance(line, SourceLine)]
            return lines[-1] if lines else None

        await until(lambda: (line := last()) is not None and line.phase == phase, within)
        line = last()
        assert line is not None
        return line

    @property
    def metrics(self) -> MetricsLine:
        return next(line for line in reversed(self.said) if isinstance(line, MetricsLine))

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        if self.relay.process.poll() is None:
            self.relay.process.kill()
        # Shown by pytest when the test failed.
        print(self.relay.stderr())
        print(*(line for line in self.said if not isinstance(line, MetricsLine)), sep="\n")
        self.relay.close()
        for host in self.hosts:
            await host.kill()


@pytest.fixture
async def broadcast(
    server: EmbeddedLiveKit,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> AsyncIterator[Broadcast]:
    broadcast = Broadcast(server, RelayProcess(tmp_path / "relays"), f"room-{request.node.name}")
    try:
        await broadcast.connect()
        yield broadcast
    finally:
        await broadcast.close()


async def rises(platform: Platform, key: str, seconds: float = 1.5) -> None:
    """Fails unless bytes arrive in that time at the rate of the preset, more or less."""
    before = await asyncio.to_thread(platform.bytes_in, key)
    await asyncio.sleep(seconds)
    grown = await asyncio.to_thread(platform.bytes_in, key) - before
    assert grown > PRESET.video_kbps * 1000 / 8 * seconds * 0.5, f"{platform.name} got {grown} bytes in {seconds} s"


@dataclass
class Arrived:
    """A recording, decoded."""

    times: NDArray[np.float64]
    """Of the pictures, seconds."""
    stamps: NDArray[np.float64]
    """What is written in the pictures, seconds modulo 2³² ms."""
    marks: list[bool]
    sizes: set[tuple[int, int]]
    keyframes: list[float]
    sound_times: NDArray[np.float64]
    """Of blocks of 64 samples."""
    loudness: NDArray[np.float64]


def decoded(path: Path) -> Arrived:
    times, stamps, marks, sizes, keyframes = [], [], [], set(), []
    sound_times, loudness = [], []
    with av.open(str(path)) as container:
        for frame in container.decode(video=0, audio=0):
            if isinstance(frame, av.VideoFrame):
                assert frame.time is not None
                stamp, _, mark = read_stamp(luma(frame))
                times.append(frame.time)
                stamps.append(stamp / 1000)
                marks.append(mark)
                sizes.add((frame.width, frame.height))
                if frame.key_frame:
                    keyframes.append(frame.time)
            elif isinstance(frame, av.AudioFrame):
                assert frame.time is not None
                samples = np.abs(frame.to_ndarray()[0])
                for at in range(0, len(samples), 64):
                    sound_times.append(frame.time + at / frame.sample_rate)
                    loudness.append(samples[at : at + 64].max())
    return Arrived(
        np.array(times), np.array(stamps), marks, sizes, keyframes, np.array(sound_times), np.array(loudness)
    )


def skew(arrived: Arrived) -> float:
    """Seconds by which sound comes after the picture of the same moment (median over the marked tenths of seconds)."""
    wall = time.time() * 1000
    stamps = arrived.stamps + int(wall) // 2**32 * 2**32 / 1000
    fresh = np.abs(stamps - time.time()) < 3600
    offset = float(np.median((arrived.times - stamps)[fresh]))
    loud = arrived.loudness > 0.3
    onsets = [at for at, now, before in zip(arrived.sound_times[1:], loud[1:], loud[:-1], strict=True) if now > before]
    firsts = [at for at, before in zip(onsets, [-1.0, *onsets], strict=False) if at - before > 1 - 2 * PULSE]
    assert len(firsts) >= 3
    return float(np.median([((at - offset + 0.5) % 1) - 0.5 for at in firsts]))


def goes_on(times: NDArray[np.float64], usual: float) -> bool:
    """Whether pictures come without a gap, but for one or two moments in which the machine stood still: then the relay leaves
    out what is later than `PATIENCE`, and never less. A platform that starves sees gaps of seconds."""
    gaps = np.diff(times)
    longer = gaps[gaps >= usual]
    return len(longer) <= 2 and bool(np.all((longer > PATIENCE) & (longer < 0.6)))


async def test_one_encode_for_two_platforms(broadcast: Broadcast, youtube: Platform, twitch: Platform) -> None:
    broadcast.preset = Preset(1280, 720, 30, 3000)
    broadcast.configure()
    await broadcast.host("--kbps=2500")
    await broadcast.source("live")
    begun = time.monotonic()
    broadcast.push(youtube, "k1")
    broadcast.push(twitch, "k2")
    await broadcast.phase(youtube, "live")
    await broadcast.phase(twitch, "live")
    assert time.monotonic() - begun < 3
    await asyncio.sleep(8)
    metrics = [line for line in broadcast.said if isinstance(line, MetricsLine)][-5:]
    for name in ("yt", "tw"):
        own = [one for line in metrics for one in line.outputs if one.output_id == name]
        assert len(own) == len(metrics) == 5
        # Of five seconds: one in which the machine stood still is followed by one that makes up for it.
        assert 28 <= np.median([one.fps for one in own]) <= 32
        assert all(2000 < one.bitrate_kbps < 5000 and one.bytes_acked > 0 for one in own)
        assert 2500 < np.median([one.bitrate_kbps for one in own]) < 4000
    assert 25 <= np.median([line.source_fps for line in metrics]) <= 35
    assert metrics[-1].rss_mib < 220
    broadcast.say(StopOutputLine("yt"))
    broadcast.say(StopOutputLine("tw"))
    await broadcast.phase(youtube, "ended", 3)
    await broadcast.phase(twitch, "ended", 3)
    for platform, key in ((youtube, "k1"), (twitch, "k2")):
        await until(lambda platform=platform, key=key: bool(platform.published(key, "publish_done")))
        recording = platform.recordings(key)[0]
        said = probe(recording)
        video, audio = said["video"], said["audio"]
        assert (video["codec_name"], video["width"], video["height"]) == ("h264", 1280, 720)
        assert (video["profile"], video["pix_fmt"], video["r_frame_rate"]) == ("High", "yuv420p", "30/1")
        assert (audio["codec_name"], audio["sample_rate"], audio["channels"]) == ("aac", "48000", 2)
        arrived = await asyncio.to_thread(decoded, recording)
        assert len(arrived.times) > 200
        # Three may be asked for out of turn: by the encoder's begin and by each output's.
        # Pictures are counted, which is two seconds of them: some are left out where the machine stood still.
        between = np.diff(np.searchsorted(arrived.times, arrived.keyframes))
        assert len(between) >= 3 and between.max() == 60
        assert set(between[2:]) == {60}
        assert goes_on(arrived.times, 0.05)
        # The picture moves, at the pace of time.
        behind = arrived.times - arrived.stamps
        assert np.median(behind[-30:]) == pytest.approx(np.median(behind[30:60]), abs=0.2)
        print(f"sound {skew(arrived) * 1000:+.0f} ms behind the picture")
        assert abs(skew(arrived)) < 0.04


async def test_a_refused_key_fails_alone(broadcast: Broadcast, youtube: Platform, twitch: Platform) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "a1")
    broadcast.push(twitch, "bad")
    line = await broadcast.phase(twitch, "failed", 5)
    assert line.code == "key_rejected" and line.attempt == 1
    assert twitch.published("bad", "refused"), "the platform never refused anything"
    await broadcast.phase(youtube, "live")
    await rises(youtube, "a1")
    # The next attempt with a good key.
    broadcast.push(twitch, "good", attempt=2)
    assert (await broadcast.phase(twitch, "live")).attempt == 2
    await rises(twitch, "good")
    await rises(youtube, "a1")


async def test_a_stalled_platform_is_seen_and_the_other_goes_on(
    broadcast: Broadcast, youtube: Platform, twitch: Platform
) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "b1")
    broadcast.push(twitch, "b2")
    await broadcast.phase(youtube, "live")
    await broadcast.phase(twitch, "live")
    twitch.stall()
    try:
        stalled = time.monotonic()
        await broadcast.phase(twitch, "stalled", 5)
        assert time.monotonic() - stalled < 2.5
        await rises(youtube, "b1")
    finally:
        twitch.resume()
    await broadcast.phase(twitch, "live", 5)
    await rises(twitch, "b2")
    line = broadcast.output(youtube)
    assert line is not None and line.phase == "live"


async def test_a_dropped_output_says_so_and_a_new_attempt_heals_it(
    broadcast: Broadcast, youtube: Platform, twitch: Platform
) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "c1")
    broadcast.push(twitch, "c2")
    await broadcast.phase(youtube, "live")
    await broadcast.phase(twitch, "live")
    dropped = time.monotonic()
    await asyncio.to_thread(twitch.drop, "c2")
    line = await broadcast.phase(twitch, "failed", 3)
    assert time.monotonic() - dropped < 1 and line.code == "destination_closed"
    twitch.kill()
    broadcast.push(twitch, "c2", attempt=2)
    await until(lambda: (line := broadcast.output(twitch)) is not None and line.attempt == 2)
    line = await broadcast.phase(twitch, "failed", 5)
    assert (line.attempt, line.code) == (2, "destination_unreachable")
    await rises(youtube, "c1")
    twitch.start()
    begun = time.monotonic()
    broadcast.push(twitch, "c2", attempt=3)
    await broadcast.phase(twitch, "live", 5)
    assert time.monotonic() - begun < 2
    await rises(twitch, "c2")


async def test_mute_reload_resize_and_codec_never_starve_a_platform(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.configure()
    # Before anybody is there: black and silence.
    broadcast.push(youtube, "d1")
    await broadcast.phase(youtube, "live")
    await broadcast.source("waiting")
    await rises(youtube, "d1")
    host = await broadcast.host()
    await broadcast.source("live")
    await host.command("mute all")
    await broadcast.source("lost")
    await rises(youtube, "d1")
    await host.command("unmute all")
    await broadcast.source("live")
    await host.command("resize 320 240")
    await rises(youtube, "d1")
    await host.command("republish h264")
    await rises(youtube, "d1")
    await host.kill()
    await broadcast.source("lost", 5)
    await asyncio.sleep(8)
    await rises(youtube, "d1")
    await broadcast.host("--codec=vp9")
    await broadcast.source("live")
    await rises(youtube, "d1", 3)
    broadcast.say(StopOutputLine("yt"))
    await broadcast.phase(youtube, "ended")
    await until(lambda: bool(youtube.published("d1", "publish_done")))
    assert len(youtube.published("d1")) == 1, "the platform saw more than one publish"
    arrived = await asyncio.to_thread(decoded, youtube.recordings("d1")[0])
    assert arrived.sizes == {(640, 360)}
    assert goes_on(arrived.times, 0.1)
    assert np.diff(arrived.sound_times).max() < 0.1
    # In the end it is the new host's picture.
    assert arrived.stamps[-1] > arrived.stamps[-1 - 30 * 10] + 5


async def test_the_controller_dies_and_nobody_notices(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "e1")
    await broadcast.phase(youtube, "live")
    await broadcast.disconnect()
    await rises(youtube, "e1", 3)
    welcome = await broadcast.connect()
    assert welcome.configured and welcome.source.phase == "live"
    assert [(line.output_id, line.attempt, line.phase) for line in welcome.outputs] == [("yt", 1, "live")]
    broadcast.push(youtube, "e1")
    await rises(youtube, "e1")
    assert len(youtube.published("e1")) == 1


async def test_the_room_is_deleted(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "f1")
    await broadcast.phase(youtube, "live")
    await broadcast.source("live")
    async with rooms(broadcast.server.livekit) as client:
        await client.room.delete_room(api.DeleteRoomRequest(room=broadcast.room))
    assert (await broadcast.source("ended", 3)).code == "source_ended"
    # What becomes of the outputs is the controller's to say.
    await rises(youtube, "f1")
    broadcast.say(StopLine())
    await until(lambda: any(isinstance(line, ByeLine) for line in broadcast.said))
    assert await broadcast.relay.ended() == 0
    await until(lambda: bool(youtube.published("f1", "publish_done")))


async def test_the_host_never_comes_back(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.grace = 3.0
    broadcast.configure()
    host = await broadcast.host()
    broadcast.push(youtube, "g1")
    await broadcast.phase(youtube, "live")
    await broadcast.source("live")
    # It leaves at once, and its process takes a moment to end.
    left = time.monotonic()
    await host.stop()
    await broadcast.source("ended", 8)
    assert 3.0 <= time.monotonic() - left < 6


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_an_end_by_signal_is_in_order(broadcast: Broadcast, youtube: Platform, how: signal.Signals) -> None:
    broadcast.configure()
    await broadcast.host("--audio-tracks=2")
    key = f"h{int(how)}"
    broadcast.push(youtube, key)
    await broadcast.phase(youtube, "live")
    await broadcast.source("live")
    broadcast.relay.process.send_signal(how)
    asked = time.monotonic()
    assert await broadcast.relay.ended() == 0, "it looks like a crash"
    assert time.monotonic() - asked < 4
    assert [line.reason for line in broadcast.said if isinstance(line, ByeLine)] == ["stopped"]
    line = broadcast.output(youtube)
    assert line is not None and (line.phase, line.code) == ("failed", "egress_lost"), "nobody asked for this end"
    await until(lambda: bool(youtube.published(key, "publish_done")))
    assert key not in broadcast.relay.stderr().split('"')


async def test_a_pause_of_the_whole_process_makes_no_burst(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.configure()
    await broadcast.host()
    broadcast.push(youtube, "i1")
    await broadcast.phase(youtube, "live")
    await broadcast.source("live")
    os.kill(broadcast.relay.process.pid, signal.SIGSTOP)
    await asyncio.sleep(3)
    os.kill(broadcast.relay.process.pid, signal.SIGCONT)
    before = await asyncio.to_thread(youtube.bytes_in, "i1")
    await asyncio.sleep(2)
    grown = await asyncio.to_thread(youtube.bytes_in, "i1") - before
    assert grown < PRESET.video_kbps * 1000 / 8 * 4, "the pause was made up for"
    await rises(youtube, "i1")
    broadcast.say(StopOutputLine("yt"))
    await broadcast.phase(youtube, "ended")
    await until(lambda: bool(youtube.published("i1", "publish_done")))
    arrived = await asyncio.to_thread(decoded, youtube.recordings("i1")[0])
    # The gap is in both, and sound and picture are together after it. A packet that waited through the pause is three
    # seconds late, so its push begins anew: at the next key frame, two seconds off at most.
    assert 2 < np.diff(arrived.times).max() < 6
    assert 2 < np.diff(arrived.sound_times).max() < 6
    assert abs(arrived.times[-1] - arrived.sound_times[-1]) < 0.2
