"""Publishes for tests: a publisher that is fed in real time, and servers that flood it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import struct
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from butai.relay.packets import Packet, VideoFormat
from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, USER_CONTROL, ChunkWriter, Message
from butai.relay.rtmp.connection import Limits, Target
from butai.relay.rtmp.publisher import Publisher, PublishError
from tests.encoded_media import Media, endless

KEY = "canary-servers-3f6a"
VIDEO_FORMAT = VideoFormat(640, 360, 30, 2000, bytes(20))


@dataclass
class Push:
    """A publish that is fed in real time, and what it reports."""

    publisher: Publisher
    task: asyncio.Task[None]
    phases: list[str] = field(default_factory=list)
    codes: list[str] = field(default_factory=list)

    @property
    def phase(self) -> str:
        return self.phases[-1] if self.phases else ""

    async def error(self, seconds: float = 10) -> PublishError:
        with pytest.raises(PublishError) as caught:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.task)
        assert KEY[:6] not in f"{caught.value!r} {caught.value.detail}"
        return caught.value

    async def stopped(self) -> float:
        """Seconds from `stop` to the end of `run`."""
        began = time.monotonic()
        self.publisher.stop()
        async with asyncio.timeout(10):
            await asyncio.shield(self.task)
        return time.monotonic() - began


def packets(kbps: int, every: float = 2.0) -> list[Packet]:
    """Two seconds of pictures of this bitrate, which cannot be decoded."""
    size = kbps * 1000 // 8 // 30
    at = [number * 1000 // 30 for number in range(60)]
    return [
        Packet("video", bytes(size), one, one, number % int(30 * every) == 0, VIDEO_FORMAT)
        for number, one in enumerate(at)
    ]


@contextlib.asynccontextmanager
async def pushing(
    url: str, *, kbps: int = 2000, limits: Limits | None = None, media: Media | None = None
) -> AsyncGenerator[Push]:
    """Feeds a publisher in real time until the block ends. `media`: what can be decoded, in place of noise of `kbps`."""
    phases: list[str] = []
    codes: list[str] = []

    def report(phase: str, code: str, _detail: str) -> None:
        phases.append(phase)
        codes.append(code)

    publisher = Publisher(Target(url, KEY, True), report=report, limits=limits)
    push = Push(publisher, asyncio.create_task(publisher.run()), phases, codes)
    stream = media.endless() if media else endless(packets(kbps), 2000)

    async def feed() -> None:
        began = time.monotonic()
        for packet in stream:
            await asyncio.sleep(max(0.0, began + packet.dts / 1000 - time.monotonic()))
            publisher.send(packet)

    feeder = asyncio.create_task(feed())
    try:
        yield push
    finally:
        feeder.cancel()
        publisher.stop()
        async with asyncio.timeout(5):
            await asyncio.gather(push.task, feeder, return_exceptions=True)


@contextlib.asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncGenerator[str]:
    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await serve(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(served, "127.0.0.1", 0)
    try:
        yield f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
    finally:
        server.close()


HANDSHAKE = b"\x03" + bytes(3072)


async def flood(writer: asyncio.StreamWriter, data: bytes) -> None:
    while True:
        writer.write(data)
        await writer.drain()


def accepted() -> bytes:
    out = ChunkWriter()
    good = [
        amf0.encode("_result", 1, None, {"code": "NetConnection.Connect.Success"}),
        amf0.encode("_result", 4, None, 1),
        amf0.encode("onStatus", 0, None, {"level": "status", "code": "NetStream.Publish.Start"}),
    ]
    return b"".join(out.write(3, Message(COMMAND, 0, 0, payload)) for payload in good)


PING = Message(USER_CONTROL, 0, 0, struct.pack(">HI", 6, 1))
HARM = {
    "pings": b"".join(itertools.repeat(ChunkWriter().write(2, PING), 4000)),
    "data": ChunkWriter().write(5, Message(18, 0, 0, bytes(100))) * 600,
    "bandwidths": ChunkWriter().write(2, Message(6, 0, 0, struct.pack(">IB", 1, 2))) * 4000,
}
