"""RTMP servers of our own, for behaviour that a real one cannot be configured for: never acknowledge, read slowly,
answer oddly."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import (
    ACKNOWLEDGEMENT,
    AUDIO,
    COMMAND,
    USER_CONTROL,
    VIDEO,
    ChunkReader,
    ChunkWriter,
    Message,
)

_LONGEST = 16 * 1024 * 1024


@dataclass
class Server:
    """Takes every key. `acks`: acknowledges each so many bytes, with the number that `counts` makes of their total;
    `pongs`: answers pings; `rate`: bytes it reads a second.

    `said_at_publish`: messages behind its word about the key.
    """

    acks: int | None = None
    counts: Callable[[int], int] = lambda total: total & 0xFFFFFFFF
    pongs: bool = False
    rate: float | None = None
    said_at_publish: list[Message] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    """With a certificate for 127.0.0.1."""
    bytes: int = 0
    commands: list[str] = field(default_factory=list)
    controls: list[Message] = field(default_factory=list)
    media: list[tuple[int, int, bytes]] = field(default_factory=list)
    """Kind, time stamp and first two bytes of each audio and video message."""
    closed: int = 0
    """Connections that the other side has ended in order."""

    def __post_init__(self) -> None:
        self.reads = asyncio.Event()
        self.reads.set()
        self._out = ChunkWriter()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        """Its address, until the block ends."""
        tasks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            tasks.add(task)
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._serve(reader, writer)
            writer.transport.abort()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=2**16, ssl=self.tls)
        try:
            yield f"rtmp{'s' if self.tls else ''}://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        finally:
            server.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def say(self, writer: asyncio.StreamWriter, message: Message) -> None:
        """One message."""
        writer.write(self._out.write(3, message))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\x03" + bytes(3072))
        await reader.readexactly(1536)
        self._out = ChunkWriter()
        messages, total, acknowledged = ChunkReader(_LONGEST), 3073, 0
        while True:
            await self.reads.wait()
            data = await reader.read(65536 if self.rate is None else max(1, int(self.rate / 20)))
            if not data:
                self.closed += 1
                return
            self.bytes += len(data)
            total += len(data)
            for message in messages.feed(data):
                self._hear(message, writer)
            if self.acks is not None and total - acknowledged >= self.acks:
                acknowledged = total
                self.say(writer, Message(ACKNOWLEDGEMENT, 0, 0, struct.pack(">I", self.counts(total))))
            if self.rate is not None:
                await asyncio.sleep(len(data) / self.rate)

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        if message.kind in (AUDIO, VIDEO):
            self.media.append((message.kind, message.timestamp, message.payload[:2]))
        elif message.kind == USER_CONTROL:
            self.controls.append(message)
            if self.pongs:
                self.say(writer, Message(USER_CONTROL, 0, 0, struct.pack(">H", 7) + message.payload[2:6]))
        elif message.kind == COMMAND:
            name, number, *_ = amf0.decode(message.payload)
            self.commands.append(name)
            if name == "connect":
                good = {"level": "status", "code": "NetConnection.Connect.Success"}
                self.say(writer, Message(COMMAND, 0, 0, amf0.encode("_result", number, None, good)))
            elif name == "createStream":
                self.say(writer, Message(COMMAND, 0, 0, amf0.encode("_result", number, None, 1)))
            elif name == "publish":
                good = {"level": "status", "code": "NetStream.Publish.Start"}
                self.say(writer, Message(COMMAND, 1, 0, amf0.encode("onStatus", 0, None, good)))
                for further in self.said_at_publish:
                    self.say(writer, further)
        else:
            self.controls.append(message)
