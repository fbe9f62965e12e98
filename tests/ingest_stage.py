"""A running ingest for tests, what it takes, and a publisher of our own that talks to it byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from av import CodecContext
from av import Packet as CodecPacket
from av.video.codeccontext import VideoCodecContext

from butai.errors import Code
from butai.ingest.connection import Bounds, KeyRefused, Publication
from butai.ingest.server import Ingest
from butai.relay.incoming.reader import SourceReader
from butai.relay.incoming.tags import SourceRefused
from butai.relay.incoming.timeline import Timeline
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp.addresses import parse
from butai.relay.rtmp.server_session import Media
from butai.relay.rtmp.session import Event, Publishing, PublishRefused, Session
from tests.waiting import until

KEY = "canary-3fa1-key"
HELLO = b"\x03" + bytes(3072)
"""A client's side of the handshake."""


@dataclass
class Show:
    """Takes what is published with `KEY`, and reads it as a broadcast does."""

    addresses: list[str] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    formats: list[VideoFormat | AudioFormat] = field(default_factory=list)
    told: list[Mapping[str, Any]] = field(default_factory=list)
    refused: list[Code] = field(default_factory=list)
    ends: asyncio.Queue[bool] = field(default_factory=asyncio.Queue[bool])
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    line: Timeline = field(default_factory=Timeline)

    async def admit(self, candidates: tuple[str, ...], publication: Publication) -> Show:
        self.addresses.append(publication.address)
        if KEY not in candidates:
            raise KeyRefused(Code.KEY_INVALID, "No encoder has this key")
        self.publications.append(publication)
        self.reader = SourceReader(self.line)
        return self

    def media(self, event: Media) -> None:
        try:
            passed = self.reader.feed(event.kind, event.timestamp, event.payload, int(time.monotonic() * 1000))
        except SourceRefused as error:
            self.refused.append(error.code)
            raise
        for one in passed:
            assert one.format is not None
            if one.format not in self.formats:
                self.formats.append(one.format)
            self.packets.append(one)

    def metadata(self, values: Mapping[str, Any]) -> None:
        self.told.append(values)
        self.reader.metadata(values)

    def ended(self, *, in_order: bool) -> None:
        self.ends.put_nowait(in_order)

    def pictures(self) -> int:
        """Decodes all pictures; raises at the first error."""
        (format_,) = (one for one in self.formats if isinstance(one, VideoFormat))
        decoder = CodecContext.create("h264", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = format_.avcc
        decoder.options = {"err_detect": "explode"}
        count = 0
        for packet in self.packets:
            if packet.kind == "video":
                one = CodecPacket(packet.data)
                one.dts, one.pts, one.time_base = packet.dts, packet.pts, Fraction(1, 1000)
                count += len(decoder.decode(one))
        return count + len(decoder.decode(None))


@contextlib.asynccontextmanager
async def ingest(
    show: Show,
    bounds: Bounds | None = None,
    trusted: Callable[[str], bool] = lambda _: False,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[tuple[Ingest, int]]:
    """A running ingest, and its port."""
    server = Ingest(show.admit, bounds=bounds, trusted=trusted, tls=tls)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(listening))
    try:
        yield server, listening.getsockname()[1]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await server.close()
        listening.close()


async def counted(server: Ingest, name: str, count: int = 1) -> None:
    await until(lambda: server.counts[name] >= count, f"{count} {name}")


Talk = tuple[Session, asyncio.StreamReader, asyncio.StreamWriter, list[Event]]


async def talk(port: int, key: str = KEY, before: bytes = b"") -> Talk:
    """Publishes, until it is accepted, refused or closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(before)
    session, events = Session(parse(f"rtmp://127.0.0.1:{port}/live"), key), list[Event]()
    while not any(isinstance(one, Publishing | PublishRefused) for one in events):
        writer.write(session.data_to_send())
        try:
            data = await reader.read(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            break
        events += session.feed(data)
    return session, reader, writer, events
