"""Sound against picture over a long show, with 2 % of the packets between host, LiveKit and relay lost on the way.

Runs in a network of its own (`unshare --net`, so it needs root), whose loopback drops UDP datagrams at random. What was
really dropped is counted by the kernel, and shown. The host's second begins with a mark in the picture and a louder tone;
a platform's recording tells how far they are apart, in each second.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

import media
from harness import Benchmark, Failed, Figures, Limit, arguments, main, need, tool_version, versions

from butai.embedded.livekit import EmbeddedLiveKit, livekit_binary

INSIDE = "BUTAI_BENCH_SYNC_INSIDE"
_ONE_OF = 50
_DROPS = (
    # A classic BPF program for `tc … bpf`: the byte 23 of an Ethernet frame is IP's protocol, 17 is UDP's number; then a
    # random number (SKF_AD_OFF + SKF_AD_RANDOM, linux/filter.h) modulo the share that is lost.
    f"7,48 0 0 23,21 0 4 17,32 0 0 {2**32 - 4096 + 56},148 0 0 {_ONE_OF},21 0 1 0,6 0 0 {2**32 - 1},6 0 0 0"
)

STATEMENTS = [
    Limit("datagrams lost on the way", "show", "lost_percent", "%", at_least=1.5),
    Limit("sound later than picture, median", "show", "sound_ms", "ms", at_least=-40, at_most=40),
    Limit("sound later than picture, the last minute", "show", "last_minute_ms", "ms", at_least=-40, at_most=40),
    Limit("sound against picture, 99 of 100 seconds within", "show", "p99_ms", "ms", at_most=40),
    Limit("drift from the first minute to the last", "show", "drift_ms", "ms", at_least=-20, at_most=20),
    Limit("seconds in which both marks arrived", "show", "seen_percent", "%"),
]


def lose_packets() -> None:
    """Puts the losses into this network's loopback."""
    commands = [
        "ip link set lo up",
        # WebRTC looks for an interface that is not loopback; what goes to its own address takes loopback all the same.
        "ip link add stage0 type veth peer name stage1",
        "ip addr add 10.99.0.1/24 dev stage0",
        "ip link set stage0 up",
        "ip link set stage1 up",
        "tc qdisc add dev lo root handle 1: htb default 10",
        "tc class add dev lo parent 1: classid 1:10 htb rate 40gbit burst 10m cburst 10m quantum 60000",
        "tc class add dev lo parent 1: classid 1:30 htb rate 8bit ceil 8bit quantum 1500",
        "tc qdisc add dev lo parent 1:10 handle 10: pfifo limit 10000",
        # Takes nothing: what is sent here is lost.
        "tc qdisc add dev lo parent 1:30 handle 30: bfifo limit 1",
    ]
    for command in commands:
        subprocess.run(command.split(), check=True)
    lossy = "tc filter add dev lo parent 1: protocol ip prio 1 bpf flowid 1:30 bytecode"
    subprocess.run([*lossy.split(), _DROPS], check=True)


def counted() -> tuple[int, int]:
    """UDP datagrams that were sent, and those that were dropped, in this network."""
    snmp = [line.split() for line in Path("/proc/net/snmp").read_text().splitlines() if line.startswith("Udp:")]
    sent = int(dict(zip(snmp[0], snmp[1], strict=True))["OutDatagrams"])
    said = subprocess.run(["tc", "-s", "qdisc", "show", "dev", "lo"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"qdisc bfifo 30:.*?dropped (\d+)", said, re.DOTALL)
    return sent, int(found[1]) if found else 0


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
    if INSIDE not in os.environ:
        program = shutil.which("unshare") or "unshare"
        os.execve(program, [program, "--net", sys.executable, *sys.argv], os.environ | {INSIDE: "1"})
    given = arguments(__doc__ or "", rounds=1, seconds=600.0)
    main(lambda: measure(given.rounds, given.seconds), minutes=20, strict=given.strict)
