"""What the media benchmarks need: a room with a host, a relay under orders, platforms that write down what arrives.

The host is the tests' (`tests/studio_host.py`): its pictures carry their own time and number. Used by `relay`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import resource
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from harness import Failed
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings
from butai.embedded.folder import choose_port
from butai.embedded.livekit import LiveKit
from butai.live.projects import DEFAULT, Projects
from butai.live.stamps import Stamp
from butai.live.tokens import Tokens
from butai.relay import messages

HERE = Path(__file__).parent
sys.path.append(str(HERE.parent))

from tests.studio_host import HostProcess, TestCard, read_stamp  # noqa: E402

HOST = "host"
PRESET = messages.Preset(1280, 720, 30, 4000)


def token(livekit: LiveKit, room: str, identity: str, *, hidden: bool = False) -> str:
    """Joins the room: to publish, or unseen to look. As the service's own tokens, with what they say of the room."""
    tokens = Tokens(
        Projects(
            LiveKitSettings(url=livekit.url, api_key=livekit.api_key, api_secret=SecretStr(livekit.api_secret)),
            LiveSettings(),
        )
    )
    if hidden:
        return tokens.for_egress(DEFAULT, room, identity)
    return tokens.make(DEFAULT, Stamp("guest", room, identity, 1, time.time() + 3600))


@contextlib.asynccontextmanager
async def host(livekit: LiveKit, room: str, *arguments: str) -> AsyncGenerator[HostProcess]:
    """Publishes 1280×720, VP8 at 3 Mbit/s, and a tone, until the block ends."""
    process = await HostProcess.start(livekit.url, token(livekit, room, HOST), *arguments)
    try:
        yield process
    finally:
        await process.stop()


@contextlib.asynccontextmanager
async def watcher(livekit: LiveKit, room: str, path: Path) -> AsyncGenerator[None]:
    """A subscriber of its own, which writes when it saw what."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "watcher.py"),
        livekit.url,
        str(path),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(token(livekit, room, "watcher", hidden=True).encode() + b"\n")
    try:
        async with asyncio.timeout(20):
            if await process.stdout.readline() != b"on\n":
                raise Failed("the watcher could not join")
        yield
    finally:
        process.stdin.close()
        async with asyncio.timeout(10):
            await process.wait()


@dataclass
class Sink:
    """A platform; `path` is what it recorded."""

    path: Path
    port: int
    process: asyncio.subprocess.Process

    @classmethod
    async def start(cls, folder: Path) -> Sink:
        """Listens when this returns."""
        port, path = choose_port(), folder / f"{uuid.uuid4().hex}.mkv"
        process = await asyncio.create_subprocess_exec(sys.executable, str(HERE / "sink.py"), str(port), str(path))
        wanted = f"0100007F:{port:04X}"
        await until(lambda: wanted in Path("/proc/net/tcp").read_text(), 20, "a platform listens")
        return cls(path, port, process)

    async def end(self) -> None:
        """It ends by itself after the publisher."""
        try:
            async with asyncio.timeout(5):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()


@dataclass
class Relay:
    """`python -m butai.relay`, with us as its controller."""

    process: asyncio.subprocess.Process
    writer: asyncio.StreamWriter
    lines: list[messages.FromRelay] = field(default_factory=list)

    def say(self, line: messages.FromController) -> None:
        """To the relay."""
        self.writer.write(messages.encode(line))

    def phases(self) -> dict[str, str]:
        """The newest of each output."""
        return {line.output_id: line.phase for line in self.lines if isinstance(line, messages.OutputLine)}

    def metrics(self) -> list[messages.MetricsLine]:
        """All that came."""
        return [line for line in self.lines if isinstance(line, messages.MetricsLine)]


@contextlib.asynccontextmanager
async def relay(folder: Path, livekit: LiveKit, room: str) -> AsyncGenerator[Relay]:
    """One that is configured for the room's host."""
    broadcast = str(uuid.uuid4())
    with (folder / "relay.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "butai.relay",
            "--folder",
            str(folder),
            "--broadcast",
            broadcast,
            stdout=log,
            stderr=log,
        )
    path = folder / f"{broadcast}.sock"
    try:
        reader, writer = await _connect(path)
        ours = Relay(process, writer)

        async def listen() -> None:
            while line := await reader.readline():
                ours.lines.append(messages.read_by_controller(line))

        async def ping() -> None:
            while True:
                ours.say(messages.PingLine())
                await asyncio.sleep(5)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(ping())]
        ours.say(messages.HelloLine("bench", 1))
        seat, spare = (token(livekit, room, f"relay-{broadcast}{end}", hidden=True) for end in ("", "-spare"))
        ours.say(messages.ConfigureLine(broadcast, livekit.url, seat, HOST, PRESET, spare_token=spare))
        yield ours
        ours.say(messages.StopLine())
        async with asyncio.timeout(15):
            await process.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects as soon as the relay listens. Raises `Failed`."""
    deadline = time.monotonic() + 20
    while True:
        try:
            return await asyncio.open_unix_connection(path, limit=messages.LINE_LIMIT)
        except OSError as error:
            if time.monotonic() > deadline:
                raise Failed("the relay does not listen") from error
        await asyncio.sleep(0.02)


async def until(condition: Callable[[], bool], seconds: float, what: str) -> float:
    """Waits; returns how long. Raises `Failed`."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > seconds:
            raise Failed(f"waited {seconds:.0f} s in vain until {what}")
        await asyncio.sleep(0.01)
    return time.monotonic() - began


# What arrived


@dataclass(frozen=True)
class Picture:
    """One that arrived: its number, when it was drawn, when it came, its time stamp (milliseconds), and its mark."""

    number: int
    drawn: float
    came: float
    pts: float
    marked: bool


def pictures(path: Path) -> list[Picture]:
    """In order, without repeats and those of the first two seconds (a decoder's and a probe's beginnings)."""
    came: dict[int, float] = {}
    for line in Path(f"{path}.times").read_text().splitlines():
        pts, at = line.split()
        came[int(pts)] = float(at)
    found: list[Picture] = []
    with av.open(path) as file:
        for frame in file.decode(video=0):
            low, number, marked = read_stamp(np.asarray(frame.to_ndarray(), np.uint8)[: frame.height])
            pts = float((frame.pts or 0) * (frame.time_base or 0)) * 1000
            arrived = came.get(int(pts + 0.001))
            if arrived is None or (found and found[-1].number == number):
                continue
            # The stamp is the time modulo 2³²; the rest is that of the arrival.
            drawn = low + (int(arrived) & ~0xFFFFFFFF)
            if drawn - arrived > 2**31:
                drawn -= 2**32
            found.append(Picture(number, drawn, arrived, pts, marked))
    if not found:
        raise Failed(f"nothing that can be read arrived in {path}")
    begin = found[0].pts + 2000
    return [picture for picture in found if picture.pts >= begin]


def beats(path: Path) -> list[float]:
    """When the tone of each second begins, in milliseconds of time stamps."""
    levels: list[tuple[float, float]] = []
    with av.open(path) as file:
        for frame in file.decode(audio=0):
            samples = frame.to_ndarray()[0]
            begin = float((frame.pts or 0) * (frame.time_base or 0)) * 1000
            step = frame.sample_rate // 500
            for offset in range(0, len(samples) - step + 1, step):
                level = float(np.sqrt(np.mean(np.square(samples[offset : offset + step]))))
                levels.append((begin + offset * 1000 / frame.sample_rate, level))
    found: list[float] = []
    for at, level in levels:
        # Half-way between the two loudnesses (0.1 and 0.5 of full scale, as effective values).
        if level > 0.2 and (not found or at - found[-1] > 500):
            found.append(at)
    return found


def sound_offsets(path: Path) -> list[float]:
    """How much later the sound of each second's begin is than its picture, in milliseconds."""
    return [offset for _, offset in offsets_of(pictures(path), beats(path))]


def offsets_of(seen: list[Picture], heard: list[float]) -> list[tuple[float, float]]:
    """The same of what was read from a recording, each with the time when its picture came."""
    offsets: list[tuple[float, float]] = []
    for before, picture in itertools.pairwise(seen):
        if picture.marked and not before.marked:
            # The picture was drawn a little after the second began: its stamp says how much.
            begin = picture.pts - picture.drawn % 1000
            nearest = min(heard, key=lambda at: abs(at - begin), default=None)
            if nearest is not None and abs(nearest - begin) < 500:
                offsets.append((picture.came, nearest - begin))
    return offsets


def added(path: Path, watched: Path) -> list[float]:
    """Milliseconds from a subscriber's sight of each picture to its arrival at the platform."""
    saw: dict[int, float] = {}
    for line in watched.read_text().splitlines():
        with contextlib.suppress(ValueError):
            number, at = line.split()
            saw.setdefault(int(number), float(at))
    return [picture.came - saw[picture.number] for picture in pictures(path) if picture.number in saw]


def p95(values: list[float]) -> float:
    """Raises `Failed` for too few values."""
    if len(values) < 20:
        raise Failed(f"only {len(values)} values")
    return statistics.quantiles(values, n=20)[-1]


def vp8_recording(path: Path, seconds: float) -> None:
    """What a host publishes, as a file: the same pictures, VP8 at 3 Mbit/s, and Opus."""
    card = TestCard(PRESET.width, PRESET.height)
    with av.open(str(path), "w", format="matroska") as file:
        video = file.add_stream("libvpx", rate=PRESET.fps)
        video.width, video.height, video.pix_fmt = PRESET.width, PRESET.height, "yuv420p"
        video.bit_rate = 3_000_000
        video.options = {"deadline": "realtime", "cpu-used": "8"}
        audio = file.add_stream("libopus", rate=48000)
        begun = time.time()
        for number in range(round(seconds * PRESET.fps)):
            data = np.frombuffer(card.draw(begun + number / PRESET.fps, number), np.uint8)
            frame = av.VideoFrame.from_ndarray(data.reshape(PRESET.height * 3 // 2, PRESET.width), "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, PRESET.fps)
            file.mux(video.encode(frame))
        chunk = 960
        for number in range(round(seconds * 48000 / chunk)):
            at = (number * chunk + np.arange(chunk)) / 48000
            wave = (np.sin(2 * np.pi * 440 * at) * 3000).astype(np.int16)
            sound = av.AudioFrame.from_ndarray(wave[None, :], "s16", "mono")
            sound.sample_rate, sound.pts, sound.time_base = 48000, number * chunk, Fraction(1, 48000)
            file.mux(audio.encode(sound))
        file.mux(video.encode(None))
        file.mux(audio.encode(None))


def transcode(path: Path, *, paced: bool = False) -> float:
    """CPU seconds that ffmpeg takes to make of a recording what a relay makes of a room. `paced`: as slowly as a show
    goes, which costs more than the same work in one go."""
    rate = f"{PRESET.video_kbps}k"
    # The settings of `butai.relay.encoder`.
    argv = [
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-y", *(("-re",) if paced else ()), "-i", str(path)),
        *("-c:v", "libx264", "-preset", "veryfast", "-tune", "zerolatency", "-profile:v", "high", "-threads:v", "1"),
        *("-g", str(PRESET.fps * 2), "-keyint_min", str(PRESET.fps * 2), "-sc_threshold", "0", "-pix_fmt", "yuv420p"),
        *("-b:v", rate, "-minrate", rate, "-maxrate", rate, "-bufsize", rate, "-nal-hrd", "cbr", "-forced-idr", "1"),
        *("-c:a", "aac", "-b:a", f"{PRESET.audio_kbps}k", "-ar", str(PRESET.audio_rate), "-ac", "2"),
        *("-f", "flv", os.devnull),
    ]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise Failed(ended.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
