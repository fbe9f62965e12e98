"""The media relay at 720p30: CPU, memory, the delay that it adds, and sound against picture.

Each round runs, in turn: the relay with one output and with two (a real room, VP8 in, two platforms that write down
what arrives), and `ffmpeg` making the same of a VP8 recording of the same pictures: the floor, since no program decodes
and encodes for less. The delay is measured in a run of its own, against a subscriber that sees each picture at the same
time as the relay does.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import media
from harness import (
    Benchmark,
    Figures,
    Limit,
    Ratio,
    arguments,
    cpu_of,
    main,
    need,
    tool_version,
    versions,
)

from butai.embedded.livekit import EmbeddedLiveKit, LiveKit, livekit_binary

SETTLE = 4.0
"""Seconds on air before anything is measured."""

STATEMENTS = [
    Ratio("CPU for each second of media, one output, to ffmpeg's", "one output", "ffmpeg", "cpu"),
    Ratio("CPU for each second of media, two outputs, to ffmpeg's", "two outputs", "ffmpeg", "cpu", at_most=1.5),
    Ratio("the same, to ffmpeg's at a show's own pace", "two outputs", "ffmpeg, paced", "cpu"),
    Limit("CPU of ffmpeg at a show's own pace", "ffmpeg, paced", "cpu", "core"),
    Limit("CPU of ffmpeg: the floor", "ffmpeg", "cpu", "core"),
    Limit("CPU of the relay with two outputs", "two outputs", "cpu", "core"),
    Limit("memory of the relay with two outputs (RSS)", "two outputs", "rss_mib", "MiB", at_most=200),
    Limit("delay added, p95", "delay", "added_p95_ms", "ms", at_most=300),
    Limit("delay added, p50", "delay", "added_p50_ms", "ms"),
    Limit("from the host's drawing to the platform, p95", "delay", "glass_p95_ms", "ms"),
    Limit("sound later than picture, median", "two outputs", "sound_ms", "ms", at_least=-40, at_most=40),
    Limit("sound against picture, worst", "two outputs", "sound_worst_ms", "ms", at_most=40),
    Limit("pictures a second that arrive, each output", "two outputs", "fps", ""),
    Limit("pictures dropped", "two outputs", "dropped", "", at_most=0),
]


def measure(rounds: int, seconds: float) -> bool:
    need("ffmpeg")
    bench = Benchmark("relay", f"720p30, VP8 in, H.264 and AAC out, {seconds:g} s a run", STATEMENTS)
    bench.versions = versions("butai", "livekit", "av") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version"),
        "ffmpeg": tool_version("ffmpeg", "-version"),
    }
    with tempfile.TemporaryDirectory(prefix="butai-bench-relay-") as scratch:
        folder = Path(scratch)
        recording = folder / "host.mkv"
        media.vp8_recording(recording, seconds)
        with EmbeddedLiveKit(folder / "livekit") as server:
            livekit = server.livekit

            def on_air(number: int, outputs: int, *, watched: bool = False) -> Figures:
                return asyncio.run(air(folder, livekit, f"{outputs}-{watched}-{number}", outputs, seconds, watched))

            def floor(*, paced: bool) -> Figures:
                figures: Figures = {}
                with cpu_of({}, figures):
                    figures["cpu"] = media.transcode(recording, paced=paced) / seconds
                return figures

            bench.run(
                {
                    "ffmpeg": lambda _: floor(paced=False),
                    "ffmpeg, paced": lambda _: floor(paced=True),
                    "one output": lambda number: on_air(number, 1),
                    "two outputs": lambda number: on_air(number, 2),
                    "delay": lambda number: on_air(number, 1, watched=True),
                },
                rounds,
            )
    return bench.report()


async def air(folder: Path, livekit: LiveKit, room: str, outputs: int, seconds: float, watched: bool) -> Figures:
    """One broadcast. Raises `Failed` when it does not come on air."""
    figures: Figures = {}
    saw = folder / f"{room}.saw"
    async with AsyncExitStack() as opened:
        sinks = [await media.Sink.start(folder) for _ in range(outputs)]
        for sink in sinks:
            opened.push_async_callback(sink.end)
        await opened.enter_async_context(media.host(livekit, room))
        if watched:
            await opened.enter_async_context(media.watcher(livekit, room, saw))
        relay = await opened.enter_async_context(media.relay(folder, livekit, room))
        for number, sink in enumerate(sinks):
            url = f"rtmp://127.0.0.1:{sink.port}/live"
            relay.say(media.messages.StartOutputLine(str(number), 1, url, "bench", allow_private=True))
        await media.until(
            lambda: list(relay.phases().values()) == ["live"] * outputs, 30, f"{outputs} outputs are live in {room}"
        )
        await asyncio.sleep(SETTLE)
        used: Figures = {}
        with cpu_of({"relay": relay.process.pid}, used):
            await asyncio.sleep(seconds)
        figures["cpu"], figures["foreign_cores"] = used["relay"] / seconds, used["foreign_cores"]
        last = relay.metrics()[-1]
        figures["rss_mib"] = max(line.rss_mib for line in relay.metrics())
        figures["fps"] = statistics.mean(output.fps for output in last.outputs)
        figures["dropped"] = float(max(output.dropped_frames for output in last.outputs))
    offsets = [offset for sink in sinks for offset in media.sound_offsets(sink.path)]
    figures["sound_ms"], figures["sound_worst_ms"] = statistics.median(offsets), max(map(abs, offsets))
    glass = [picture.came - picture.drawn for picture in media.pictures(sinks[0].path)]
    figures["glass_p50_ms"], figures["glass_p95_ms"] = statistics.median(glass), media.p95(glass)
    if watched:
        delays = media.added(sinks[0].path, saw)
        figures["added_p50_ms"], figures["added_p95_ms"] = statistics.median(delays), media.p95(delays)
    for sink in sinks:
        sink.path.unlink()
    return figures


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=3, seconds=20.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=30, strict=given.strict)
