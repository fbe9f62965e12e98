"""Whole broadcasts: a host in a real livekit-server, the relay in its own process, two nginx-rtmp as platforms."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
import pytest
import pytest_asyncio
from livekit import api
from numpy.typing import NDArray

from butai.embedded.livekit import EmbeddedLiveKit
from butai.relay.clock import MAX_FRAME_DELAY
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
from tests.integration.test_relay_source import server  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.platforms import Platform, probe
from tests.relay_stage import Controller, luma, until
from tests.studio_host import PULSE, HostProcess, read_stamp
from tests.watched_source import rooms, token

# One loop for all, since most of them break one broadcast, in turn.
pytestmark = pytest.mark.asyncio(loop_scope="module")

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
    outputs: dict[str, str] = field(default_factory=dict)
    """The newest output's id for each platform's name."""

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
        """A first attempt is another output's; those that follow are of the platform's newest."""
        if attempt == 1:
            self.outputs[platform.name] = f"{platform.name}-{key}"
        self.say(StartOutputLine(self.outputs[platform.name], attempt, platform.url, key, allow_private=True))

    def stop_output(self, platform: Platform) -> None:
        self.say(StopOutputLine(self.outputs[platform.name]))

    def output(self, platform: Platform) -> OutputLine | None:
        lines = [
            line
            for line in self.said
            if isinstance(line, OutputLine) and line.output_id == self.outputs.get(platform.name)
        ]
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


@contextlib.asynccontextmanager
async def running(server: EmbeddedLiveKit, folder: Path, room: str) -> AsyncGenerator[Broadcast]:  # noqa: F811
    broadcast = Broadcast(server, RelayProcess(folder), room)
    try:
        await broadcast.connect()
        yield broadcast
    finally:
        await broadcast.close()


@pytest_asyncio.fixture(loop_scope="module")
async def broadcast(
    server: EmbeddedLiveKit,  # noqa: F811
    tmp_path: Path,
    request: pytest.FixtureRequest,
    _shared: Shared,
) -> AsyncIterator[Broadcast]:
    """One that a test has for itself, and the processors, too."""
    await _shared.end()
    async with running(server, tmp_path / "relays", f"room-{request.node.name}") as made:
        yield made


class Shared:
    """A broadcast with a host, which tests break one after the other; another one begins when it is not well."""

    def __init__(self, server: EmbeddedLiveKit, folder: Path) -> None:  # noqa: F811
        self._server, self._folder = server, folder
        self._opened = contextlib.AsyncExitStack()
        self._broadcast: Broadcast | None = None
        self._number = 0

    async def well(self, *platforms: Platform) -> Broadcast:
        """Its host is live, all platforms are well, and nothing is pushed to them."""
        for platform in platforms:
            if platform.alive:
                platform.resume()
            else:
                platform.start()
        if self._broadcast is not None:
            try:
                for platform in platforms:
                    if self._broadcast.output(platform) is not None:
                        self._broadcast.stop_output(platform)
                        await until(lambda one=platform: _over(self._broadcast, one), 10)
                await self._broadcast.source("live")
                return self._broadcast
            except (AssertionError, TimeoutError, OSError) as error:
                print(f"another broadcast begins, since the last one is not well: {error}")
                await self.end()
        self._number += 1
        made = running(self._server, self._folder / f"relays-{self._number}", f"room-shared-{self._number}")
        self._broadcast = await self._opened.enter_async_context(made)
        self._broadcast.configure()
        await self._broadcast.host()
        await self._broadcast.source("live")
        return self._broadcast

    async def end(self) -> None:
        self._broadcast = None
        await self._opened.aclose()


def _over(broadcast: Broadcast | None, platform: Platform) -> bool:
    line = broadcast.output(platform) if broadcast is not None else None
    return line is not None and line.phase in ("ended", "failed")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def _shared(
    server: EmbeddedLiveKit,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[Shared]:
    made = Shared(server, tmp_path_factory.mktemp("shared"))
    yield made
    await made.end()


@pytest_asyncio.fixture(loop_scope="module")
async def live(_shared: Shared, youtube: Platform, twitch: Platform) -> Broadcast:
    """The broadcast that tests share: its host is live, and nothing is pushed yet."""
    return await _shared.well(youtube, twitch)


async def rises(platform: Platform, key: str, seconds: float = 1.5) -> None:
    """Fails unless as many bytes arrive as the preset's half rate brings in that time, before it is over."""
    before = await asyncio.to_thread(platform.bytes_in, key)
    least, until_then = PRESET.video_kbps * 1000 / 8 * seconds * 0.5, time.monotonic() + seconds
    while (grown := await asyncio.to_thread(platform.bytes_in, key) - before) <= least:
        assert time.monotonic() < until_then, f"{platform.name} got {grown} bytes in {seconds} s"
        await asyncio.sleep(0.05)


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
    out what is later than `MAX_FRAME_DELAY`, and never less. A platform that starves sees gaps of seconds."""
    gaps = np.diff(times)
    longer = gaps[gaps >= usual]
    return len(longer) <= 2 and bool(np.all((longer > MAX_FRAME_DELAY) & (longer < 0.6)))


async def test_one_encode_for_two_platforms(broadcast: Broadcast, youtube: Platform, twitch: Platform) -> None:
    broadcast.preset = Preset(1280, 720, 30, 3000)
    broadcast.configure()
    await broadcast.host("--kbps=2500")
    await broadcast.source("live")
    broadcast.push(youtube, "k1")
    broadcast.push(twitch, "k2")
    await broadcast.phase(youtube, "live")
    await broadcast.phase(twitch, "live")
    since = len(broadcast.said)
    # One each second.
    await until(lambda: sum(isinstance(line, MetricsLine) for line in broadcast.said[since:]) >= 8, 20)
    metrics = [line for line in broadcast.said if isinstance(line, MetricsLine)][-5:]
    for name in broadcast.outputs.values():
        own = [one for line in metrics for one in line.outputs if one.output_id == name]
        assert len(own) == len(metrics) == 5
        # Of five seconds: one in which the machine stood still is followed by one that makes up for it.
        assert 28 <= np.median([one.fps for one in own]) <= 32
        assert all(2000 < one.bitrate_kbps < 5000 and one.bytes_acked > 0 for one in own)
        assert 2500 < np.median([one.bitrate_kbps for one in own]) < 4000
    assert 25 <= np.median([line.source_fps for line in metrics]) <= 35
    assert metrics[-1].rss_mib < 220
    broadcast.stop_output(youtube)
    broadcast.stop_output(twitch)
    await broadcast.phase(youtube, "ended")
    await broadcast.phase(twitch, "ended")
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
        # What nobody notices (ITU-R BT.1359-1, 45 ms early to 125 ms late). The 40 ms of the relay alone are `bench/sync`'s: here
        # a host that is held up sends its sound late, too.
        assert -0.045 < skew(arrived) < 0.125


async def test_a_refused_key_fails_alone(live: Broadcast, youtube: Platform, twitch: Platform) -> None:
    live.push(youtube, "a1")
    live.push(twitch, "bad")
    line = await live.phase(twitch, "failed", 5)
    assert line.code == "key_rejected" and line.attempt == 1
    assert twitch.published("bad", "refused"), "the platform never refused anything"
    await live.phase(youtube, "live")
    await rises(youtube, "a1")
    # The next attempt with a good key.
    live.push(twitch, "good", attempt=2)
    assert (await live.phase(twitch, "live")).attempt == 2
    await rises(twitch, "good")
    await rises(youtube, "a1")


async def test_a_stalled_platform_is_seen_and_the_other_goes_on(
    live: Broadcast, youtube: Platform, twitch: Platform
) -> None:
    live.push(youtube, "b1")
    live.push(twitch, "b2")
    await live.phase(youtube, "live")
    await live.phase(twitch, "live")
    twitch.stall()
    try:
        await live.phase(twitch, "stalled")
        await rises(youtube, "b1")
    finally:
        twitch.resume()
    await live.phase(twitch, "live")
    await rises(twitch, "b2")
    line = live.output(youtube)
    assert line is not None and line.phase == "live"


async def test_a_dropped_output_says_so_and_a_new_attempt_heals_it(
    live: Broadcast, youtube: Platform, twitch: Platform
) -> None:
    live.push(youtube, "c1")
    live.push(twitch, "c2")
    await live.phase(youtube, "live")
    await live.phase(twitch, "live")
    await asyncio.to_thread(twitch.drop, "c2")
    line = await live.phase(twitch, "failed")
    assert line.code == "destination_closed"
    twitch.kill()
    live.push(twitch, "c2", attempt=2)
    await until(lambda: (line := live.output(twitch)) is not None and line.attempt == 2)
    line = await live.phase(twitch, "failed", 5)
    assert (line.attempt, line.code) == (2, "destination_unreachable")
    await rises(youtube, "c1")
    twitch.start()
    live.push(twitch, "c2", attempt=3)
    await live.phase(twitch, "live")
    await rises(twitch, "c2")


async def test_the_controller_dies_and_nobody_notices(live: Broadcast, youtube: Platform) -> None:
    live.push(youtube, "e1")
    await live.phase(youtube, "live")
    await live.disconnect()
    await rises(youtube, "e1", 3)
    welcome = await live.connect()
    assert welcome.configured and welcome.source.phase == "live"
    lines = [line for line in welcome.outputs if line.output_id == live.outputs["yt"]]
    assert [(line.attempt, line.phase) for line in lines] == [(1, "live")]
    live.push(youtube, "e1")
    await rises(youtube, "e1")
    assert len(youtube.published("e1")) == 1


async def test_a_pause_of_the_whole_process_makes_no_burst(live: Broadcast, youtube: Platform) -> None:
    live.push(youtube, "i1")
    await live.phase(youtube, "live")
    os.kill(live.relay.process.pid, signal.SIGSTOP)
    await asyncio.sleep(3)
    os.kill(live.relay.process.pid, signal.SIGCONT)
    before = await asyncio.to_thread(youtube.bytes_in, "i1")
    await asyncio.sleep(2)
    grown = await asyncio.to_thread(youtube.bytes_in, "i1") - before
    assert grown < PRESET.video_kbps * 1000 / 8 * 4, "the pause was made up for"
    await rises(youtube, "i1")
    live.stop_output(youtube)
    await live.phase(youtube, "ended")
    await until(lambda: bool(youtube.published("i1", "publish_done")))
    arrived = await asyncio.to_thread(decoded, youtube.recordings("i1")[0])
    # The gap is in both, and sound and picture are together after it. A packet that waited through the pause is three
    # seconds late, so its push begins anew: at the next key frame, two seconds off at most.
    assert 2 < np.diff(arrived.times).max() < 6
    assert 2 < np.diff(arrived.sound_times).max() < 6
    assert abs(arrived.times[-1] - arrived.sound_times[-1]) < 0.2


async def test_mute_reload_resize_and_codec_never_starve_a_platform(broadcast: Broadcast, youtube: Platform) -> None:
    broadcast.configure()
    # Before a host is there: black and silence.
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
    broadcast.stop_output(youtube)
    await broadcast.phase(youtube, "ended")
    await until(lambda: bool(youtube.published("d1", "publish_done")))
    assert len(youtube.published("d1")) == 1, "the platform saw more than one publish"
    arrived = await asyncio.to_thread(decoded, youtube.recordings("d1")[0])
    assert arrived.sizes == {(640, 360)}
    assert goes_on(arrived.times, 0.1)
    assert np.diff(arrived.sound_times).max() < 0.1
    # In the end it is the new host's picture.
    assert arrived.stamps[-1] > arrived.stamps[-1 - 30 * 10] + 5


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
    await broadcast.source("ended")
    assert time.monotonic() - left >= 3.0


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
async def test_an_end_by_signal_is_in_order(broadcast: Broadcast, youtube: Platform, how: signal.Signals) -> None:
    broadcast.configure()
    await broadcast.host("--audio-tracks=2")
    key = f"h{int(how)}"
    broadcast.push(youtube, key)
    await broadcast.phase(youtube, "live")
    await broadcast.source("live")
    broadcast.relay.process.send_signal(how)
    assert await broadcast.relay.ended() == 0, "it looks like a crash"
    assert [line.reason for line in broadcast.said if isinstance(line, ByeLine)] == ["stopped"]
    line = broadcast.output(youtube)
    assert line is not None and (line.phase, line.code) == ("failed", "egress_lost"), "nobody asked for this end"
    await until(lambda: bool(youtube.published(key, "publish_done")))
    assert key not in broadcast.relay.stderr().split('"')
