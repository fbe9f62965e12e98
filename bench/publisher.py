"""Seconds in which the publisher, by itself, sees what a server does, and ends when it is ordered to.

The servers are nginx with its RTMP module, and one of our own for behaviour that nginx cannot be configured for: answer
no ping, take nothing, say without end, drip. `faults.py` measures the same from a platform to the status.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from harness import Benchmark, Figures, Limit, arguments, main, need, tool_version, versions

from butai.relay.rtmp.connection import Limits

sys.path.append(str(Path(__file__).parent.parent))

from tests.fakes.rtmp_server import Server
from tests.platforms import Platform
from tests.processes import free_port
from tests.pushes import HANDSHAKE, HARM, KEY, Push, accepted, flood, listening, pushing
from tests.waiting import until

FLOODED_WITH = "pings"


async def nobody_there() -> float:
    began = time.monotonic()
    async with pushing(f"rtmp://127.0.0.1:{free_port()}/live") as push:
        await push.error()
    return time.monotonic() - began


async def closed() -> float:
    with Platform("closed") as platform:
        async with pushing(platform.url) as push:
            await until(lambda: push.phase == "live", "live")
            began = time.monotonic()
            platform.drop(KEY)
            await push.error()
            return time.monotonic() - began


async def nginx_stalled() -> float:
    with Platform("stalled") as platform:
        # So much that both kernels' buffers are full at once.
        async with pushing(platform.url, kbps=12_000, limits=Limits(queue_ms=1500)) as push:
            await until(lambda: push.phase == "live", "live")
            platform.stall()
            try:
                return await _stalled(push)
            finally:
                platform.resume()


async def mute_stalled() -> float:
    server = Server(acks=65536)
    async with server.running() as url, pushing(url) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 400_000, "acknowledgements")
        server.reads.clear()
        return await _stalled(push)


async def _stalled(push: Push) -> float:
    began = time.monotonic()
    await until(lambda: push.phase == "stalled", "stalled")
    return time.monotonic() - began


async def stopped_connecting() -> float:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        async with pushing(f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live") as push:
            await until(lambda: push.phase == "connecting", "connecting")
            return await push.stopped()


async def stopped_full() -> float:
    server = Server(acks=65536, pongs=True)
    limits = Limits(queue_ms=500, give_up_stalled=30)
    async with server.running() as url, pushing(url, kbps=60_000, limits=limits) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 400_000, "acknowledgements")
        server.reads.clear()
        await until(lambda: push.publisher.stats.dropped_frames > 0, "drops", 15)
        return await push.stopped()


async def stopped_answered() -> float:
    async with Server(acks=65536, pongs=True).running() as url, pushing(url) as push:
        await until(lambda: push.phase == "live", "live")
        return await push.stopped()


async def stopped_nginx() -> float:
    with Platform("bye") as platform:
        async with pushing(platform.url) as push:
            await until(lambda: push.phase == "live", "live")
            return await push.stopped()


async def flooded() -> float:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HANDSHAKE)
        await reader.readexactly(1537 + 1536)
        writer.write(accepted())
        await flood(writer, HARM[FLOODED_WITH])

    return await _given_up(serve, Limits(publish_timeout=3))


async def dripped() -> float:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x03")
        while True:
            writer.write(b"\x00")
            await writer.drain()
            await asyncio.sleep(0.05)

    return await _given_up(serve, Limits(publish_timeout=1))


async def _given_up(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], limits: Limits
) -> float:
    began = time.monotonic()
    async with listening(serve) as url, pushing(url, limits=limits) as push:
        await push.error()
        return time.monotonic() - began


# What it is, the most that it may take in any round, and how it is measured.
TARGETS: dict[str, tuple[float, Callable[[], Awaitable[float]]]] = {
    "nobody listens → unreachable": (1.5, nobody_there),
    "nginx closes the connection → closed": (0.5, closed),
    "nginx stops reading → stalled": (2.2, nginx_stalled),
    "a server that answers no ping stops reading → stalled": (2.5, mute_stalled),
    "stop while connecting → over": (2.0, stopped_connecting),
    "stop where nothing is taken → over": (1.3, stopped_full),
    "stop where the server answers → over": (0.4, stopped_answered),
    "stop at nginx → over": (1.0, stopped_nginx),
    "a flood → given up": (5.0, flooded),
    "a handshake that drips, with a second for it → given up": (2.0, dripped),
}
STATEMENTS = [Limit(what, what, "seconds", "s", at_most=most, worst=True) for what, (most, _) in TARGETS.items()]


def measure(rounds: int) -> bool:
    need("nginx")
    bench = Benchmark("publisher", f"seconds until the publisher says so, {rounds} rounds", STATEMENTS)
    bench.versions = versions("butai") | {"nginx": tool_version("nginx", "-v")}

    def one(ask: Callable[[], Awaitable[float]]) -> Callable[[int], Figures]:
        async def run() -> float:
            return await ask()

        return lambda _: {"seconds": asyncio.run(run())}

    bench.run({what: one(ask) for what, (_, ask) in TARGETS.items()}, rounds, timed=False)
    return bench.report()


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=10)
    main(lambda: measure(given.rounds), minutes=15, strict=given.strict)
