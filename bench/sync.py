"""Sound against picture over a long show, with 2 % of the packets between host, LiveKit and relay lost on the way.

Runs in a `lossy_network`, so it needs root. The host's second begins with a mark in the picture and a louder tone;
a platform's recording tells how far they are apart, in each second.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import media
from harness import Benchmark, Failed, Figures, Limit, arguments, main, need, tool_version, versions
from lossy_network import counted, enter, lose_packets

from butai.embedded.livekit import EmbeddedLiveKit, livekit_binary

STATEMENTS = [
    Limit("datagrams lost on the way", "show", "lost_percent", "%", at_least=1.5),
    Limit("sound later than picture, median", "show", "sound_ms", "ms", at_least=-40, at_most=40),
    Limit("sound later than picture, the last minute", "show", "last_minute_ms", "ms", at_least=-40, at_most=40),
    Limit("sound against picture, 99 of 100 seconds within", "show", "p99_ms", "ms", at_most=40),
    Limit("drift from the first minute to the last", "show", "drift_ms", "ms", at_least=-20, at_most=20),
    Limit("seconds in which both marks arrived", "show", "seen_percent", "%"),
]


def measure(rounds: int, seconds: float) -> bool:
    need("unshare", "tc", "ip")
    bench = Benchmark("sync", f"720p30, VP8 in, {seconds:g} s on air, 2 % of the packets lost", STATEMENTS)
    bench.versions = versions("butai", "livekit", "av") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version")
    }
    lose_packets()
    with tempfile.TemporaryDirectory(prefix="butai-bench-sync-") as scratch:
        folder = Path(scratch)
        with EmbeddedLiveKit(folder / "livekit") as server:
            bench.run({"show": lambda number: asyncio.run(show(folder, server, number, seconds))}, rounds, timed=False)
    return bench.report()


async def show(folder: Path, server: EmbeddedLiveKit, number: int, seconds: float) -> Figures:
    """One. Raises `Failed` when it does not come on air, or when nothing was lost."""
    room = f"sync-{number}"
    async with AsyncExitStack() as opened:
        sink = await media.Sink.start(folder)
        opened.push_async_callback(sink.end)
        await opened.enter_async_context(media.host(server.livekit, room))
        relay = await opened.enter_async_context(media.relay(folder, server.livekit, room))
        url = f"rtmp://127.0.0.1:{sink.port}/live"
        relay.say(media.messages.StartOutputLine("0", 1, url, "bench", allow_private=True))
        await media.until(lambda: relay.phases() == {"0": "live"}, 30, "the output is live")
        before = counted()
        await asyncio.sleep(seconds)
        sent, lost = (now - then for now, then in zip(counted(), before, strict=True))
    if not lost:
        raise Failed("no packet was lost")
    offsets = await asyncio.to_thread(media.sound_offsets, sink.path)
    sink.path.unlink()
    minute = max(5, min(60, len(offsets) // 3))
    first, last = statistics.median(offsets[:minute]), statistics.median(offsets[-minute:])
    return {
        "lost_percent": 100 * lost / sent,
        "sound_ms": statistics.median(offsets),
        "last_minute_ms": last,
        "p99_ms": sorted(map(abs, offsets))[min(len(offsets) - 1, round(len(offsets) * 0.99))],
        "drift_ms": last - first,
        "seen_percent": 100 * len(offsets) / seconds,
    }


if __name__ == "__main__":
    enter()
    given = arguments(__doc__ or "", rounds=1, seconds=600.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=20, strict=given.strict)
