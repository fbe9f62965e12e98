"""A long show: new tracks every 10 s, a platform's connection dropped each minute, 2 % of the datagrams lost on the way.

Runs in a `lossy_network`, so it needs root. The relay has two outputs: one that nothing happens to, whose recording is
read picture by picture afterwards, and one on a real nginx, whose connection is closed each minute. What is shown is what
must not change: the memory and CPU of the relay, sound against picture, and that no state is told that is not so.

    python bench/long_show.py --seconds 1800
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import media
from harness import (
    Benchmark,
    Failed,
    Figures,
    Limit,
    arguments,
    cpu_of,
    cpu_seconds,
    main,
    need,
    tool_version,
    versions,
)
from lossy_network import counted, enter, lose_packets

from butai.embedded.livekit import EmbeddedLiveKit, livekit_binary

sys.path.append(str(Path(__file__).parent.parent))

from tests.platforms import Platform
from tests.studio_host import HostProcess

SCENE_EVERY = 10.0
DROP_EVERY = 60.0
FIRST_DROP = 35.0
"""Seconds on air until the first drop: between two changes of the scene."""
RETRY_AFTER = 1.0
"""Seconds from a dropped connection to the next attempt, as the controller waits."""
KEY = "bench-long-show"

STATEMENTS = [
    Limit("datagrams lost on the way", "show", "lost_percent", "%", at_least=1.5),
    Limit("changes of the scene", "show", "scenes"),
    Limit("connections dropped", "show", "drops"),
    Limit("memory of the relay in the last minutes, to the first", "show", "memory_percent", "%", at_most=105),
    Limit("memory of the relay in the first minutes", "show", "memory_mib", "MiB"),
    Limit("the most memory of the relay", "show", "memory_most_mib", "MiB"),
    Limit("CPU of the relay in the last minutes, to the first", "show", "cpu_percent", "%"),
    Limit("CPU of the relay in the first minutes", "show", "cpu", "core"),
    Limit("sound later than picture, median", "show", "sound_ms", "ms", at_least=-40, at_most=40),
    Limit("sound against picture, 99 of 100 seconds within", "show", "p99_ms", "ms", at_most=40),
    Limit("seconds compared", "show", "compared"),
    Limit("outputs called stalled", "show", "stalls", at_most=0),
    Limit("attempts that ended at the platform that stays", "show", "ends", at_most=0),
    Limit("times that the source was called not live, or faulty", "show", "source_changes", at_most=0),
    Limit("times that the relay joined the room anew, beside its stay", "show", "succeeded"),
    Limit("times that it could not", "show", "not_succeeded", at_most=0),
    Limit("longest hole at a change of the scene", "show", "hole_s", "s", at_most=1.0),
    Limit("the same, median of the changes", "show", "hole_median_s", "s"),
    Limit("longest hole without a change", "show", "hole_between_s", "s"),
    Limit("longest from a drop to live again", "show", "again_s", "s", at_most=3.0),
    Limit("pictures left out by the encoder or the queue", "show", "left_out"),
    Limit("cores that others kept busy", "show", "foreign_cores"),
]


@dataclass
class Air:
    """What happened on air; times are seconds since 1970."""

    began: float
    scenes: list[tuple[float, float]] = field(default_factory=list)
    """From when to when the host changed its tracks."""
    drops: list[float] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    """CPU seconds of the relay so far, about each second."""


def measure(rounds: int, seconds: float) -> bool:
    need("unshare", "tc", "ip", "nginx")
    about = f"720p30, VP8 in, {seconds:g} s on air, new tracks every {SCENE_EVERY:g} s, 2 % of the packets lost"
    bench = Benchmark("long_show", about, STATEMENTS)
    bench.versions = versions("butai", "livekit", "av") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version"),
        "nginx": tool_version("nginx", "-v"),
    }
    lose_packets()
    with tempfile.TemporaryDirectory(prefix="butai-bench-long-") as scratch:
        folder = Path(scratch)
        with EmbeddedLiveKit(folder / "livekit") as server:
            bench.run({"show": lambda number: asyncio.run(show(folder, server, number, seconds))}, rounds, timed=False)
    return bench.report()


async def show(folder: Path, server: EmbeddedLiveKit, number: int, seconds: float) -> Figures:
    """One. Raises `Failed` when it does not come on air, or when nothing was lost."""
    room = f"long-{number}"
    async with AsyncExitStack() as opened:
        sink = await media.Sink.start(folder)
        opened.push_async_callback(sink.end)
        platform = opened.enter_context(Platform("long"))
        host = await opened.enter_async_context(media.host(server.livekit, room))
        relay = await opened.enter_async_context(media.relay(folder, server.livekit, room))
        start(relay, "stays", 1, f"rtmp://127.0.0.1:{sink.port}/live", "bench")
        start(relay, "dropped", 1, platform.url, KEY)
        live = {"stays": "live", "dropped": "live"}
        await media.until(lambda: relay.phases() == live and source_is_live(relay), 30, "it is on air")
        before, first_line, others = counted(), len(relay.lines), Figures()
        written = (folder / "relay.log").stat().st_size
        with cpu_of({}, others):
            air = await on_air(host, relay, platform, seconds)
        sent, lost = (now - then for now, then in zip(counted(), before, strict=True))
        lines = relay.lines[first_line:]
        log = (folder / "relay.log").read_bytes()[written:]
    if not lost:
        raise Failed("no packet was lost")
    figures = others | {"lost_percent": 100 * lost / sent, "scenes": len(air.scenes), "drops": len(air.drops)}
    figures |= {name: log.count(f"room.{name}".encode()) for name in ("succeeded", "not_succeeded")}
    figures |= told(lines, air)
    figures |= used(lines, air, seconds)
    figures |= await asyncio.to_thread(arrived, sink.path, air)
    sink.path.unlink()
    return figures


def source_is_live(relay: media.Relay) -> bool:
    """Whether the host's picture has come."""
    sources = [line for line in relay.lines if isinstance(line, media.messages.SourceLine)]
    return bool(sources) and sources[-1].phase == "live" and bool(sources[-1].ready)


def start(relay: media.Relay, output: str, attempt: int, url: str, key: str) -> None:
    """Orders an attempt."""
    relay.say(media.messages.StartOutputLine(output, attempt, url, key, allow_private=True))


async def on_air(host: HostProcess, relay: media.Relay, platform: Platform, seconds: float) -> Air:
    """Changes the scene, drops the connection and begins the next attempt, each when it is time."""
    air = Air(time.time())
    begun = time.monotonic()
    scene, drop, retry, attempt, sampled = SCENE_EVERY, FIRST_DROP, 0.0, 1, -1.0
    while (at := time.monotonic() - begun) < seconds:
        if at >= sampled + 1:
            sampled = at
            air.cpu.append((time.time(), cpu_seconds(relay.process.pid)))
        if at >= scene:
            scene += SCENE_EVERY
            changing = time.time()
            await host.command("change_scene")
            air.scenes.append((changing, time.time()))
        phase = relay.phases()["dropped"]
        if at >= drop and phase == "live":
            drop += DROP_EVERY
            air.drops.append(time.time())
            await asyncio.to_thread(platform.drop, KEY)
            for recording in platform.recordings(KEY):
                recording.unlink()
        elif phase == "failed" and not retry:
            retry = at + RETRY_AFTER
        elif phase == "failed" and at >= retry:
            retry, attempt = 0.0, attempt + 1
            start(relay, "dropped", attempt, platform.url, KEY)
            await media.until(lambda: relay.phases()["dropped"] != "failed", 5, "the next attempt began")
        await asyncio.sleep(0.02)
    return air


def told(lines: list[media.messages.FromRelay], air: Air) -> Figures:
    """What the relay said of the outputs and of the source."""
    outputs = [line for line in lines if isinstance(line, media.messages.OutputLine)]
    lives = [line.at for line in outputs if line.output_id == "dropped" and line.phase == "live"]
    # One that never came back counts up to the end.
    end = max(line.at for line in lines if isinstance(line, media.messages.MetricsLine))
    again = [min((at for at in lives if at > drop), default=end) for drop in air.drops]
    sources = [line for line in lines if isinstance(line, media.messages.SourceLine)]
    for line in sources:
        print(f"  {line.at - air.began:.1f} s: source {line.phase} {line.code}", flush=True)
    return {
        "stalls": sum(line.phase == "stalled" for line in outputs),
        "ends": sum(line.output_id == "stays" and line.phase in ("failed", "ended") for line in outputs),
        "source_changes": sum(line.phase != "live" or bool(line.code) for line in sources),
        "again_s": max((at - drop for at, drop in zip(again, air.drops, strict=True)), default=0.0),
    }


def used(lines: list[media.messages.FromRelay], air: Air, seconds: float) -> Figures:
    """Memory and CPU of the relay: a third of the show at most, five minutes at most, without the first half minute, in
    which both rise."""
    metrics = [line for line in lines if isinstance(line, media.messages.MetricsLine)]
    skipped, window = min(30.0, seconds / 6), min(300.0, seconds / 3)
    first = (air.began + skipped, air.began + skipped + window)
    last = (air.began + seconds - window, air.began + seconds)

    def memory(within: tuple[float, float]) -> float:
        return statistics.median(line.rss_mib for line in metrics if within[0] <= line.at <= within[1])

    def cpu(within: tuple[float, float]) -> float:
        inside = [one for one in air.cpu if within[0] <= one[0] <= within[1]]
        return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])

    dropped = [output.dropped_frames for output in metrics[-1].outputs if output.output_id == "stays"]
    return {
        "memory_percent": 100 * memory(last) / memory(first),
        "memory_mib": memory(first),
        "memory_most_mib": max(line.rss_mib for line in metrics),
        "cpu_percent": 100 * cpu(last) / cpu(first),
        "cpu": cpu(first),
        "left_out": metrics[-1].skipped_frames + sum(dropped),
    }


def arrived(path: Path, air: Air) -> Figures:
    """What the recording of the platform that stays shows. Seconds in which the scene changed are not compared: their
    marks are cut off."""
    seen = media.pictures(path)
    changes = [(begin * 1000 - 500, end * 1000 + 2000) for begin, end in air.scenes]

    def changing(at: float) -> int | None:
        return next((number for number, (begin, end) in enumerate(changes) if begin <= at <= end), None)

    holes, between = [0.0] * len(changes), 0.0
    for before, picture in itertools.pairwise(seen):
        hole, scene = (picture.came - before.came) / 1000, changing(before.came)
        if scene is None:
            between = max(between, hole)
        else:
            holes[scene] = max(holes[scene], hole)
    offsets = [offset for at, offset in media.offsets_of(seen, media.beats(path)) if changing(at) is None]
    return {
        "sound_ms": statistics.median(offsets),
        "p99_ms": sorted(map(abs, offsets))[min(len(offsets) - 1, round(len(offsets) * 0.99))],
        "compared": len(offsets),
        "hole_s": max(holes, default=0.0),
        "hole_median_s": statistics.median(holes) if holes else 0.0,
        "hole_between_s": between,
    }


if __name__ == "__main__":
    enter()
    given = arguments(__doc__ or "", rounds=1, seconds=600.0)
    # Reading the recording takes less than the show.
    main(
        lambda: measure(given.rounds, given.seconds),
        minutes=5 + given.rounds * given.seconds / 30,
        strict=given.strict,
    )
