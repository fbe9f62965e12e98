"""RTMP servers that answer in ways of their own: late, by pointing elsewhere, by asking for a user, by hanging up."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, VIDEO, Message
from tests.fakes.rtmp_server import Server


@dataclass
class Late(Server):
    """Reads, and answers the command `late` only `seconds` after it came."""

    late: str = "publish"
    seconds: float = 0.5

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        if message.kind == COMMAND and amf0.decode(message.payload)[0] == self.late:
            asyncio.get_running_loop().call_later(self.seconds, super()._hear, message, writer)
        else:
            super()._hear(message, writer)


@dataclass
class Refusing(Server):
    """Refuses `connect`, or `publish` with `at_publish`, with a status of these fields, by an `onStatus`."""

    said: dict[str, Any] | None = None
    at_publish: bool = False

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        name = amf0.decode(message.payload)[0] if message.kind == COMMAND else ""
        if name == ("publish" if self.at_publish else "connect"):
            self.commands.append(name)
            self.say(writer, Message(COMMAND, 0, 0, amf0.encode("onStatus", 0, None, self.said)))
        else:
            super()._hear(message, writer)


@dataclass
class HangsUp(Server):
    """Closes each connection when it has read this many bytes, of which 3073 are the handshake's."""

    after: int = 0
    connections: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        hello = min(self.after, 1537)
        await reader.readexactly(hello)
        if self.after > hello:
            writer.write(b"\x03" + bytes(3072))
            await reader.readexactly(self.after - hello)
        writer.close()


@dataclass
class HoldsSessions(Server):
    """Takes a connection that is cut for one that lives, for `held` seconds, and hangs up on each further publish
    meanwhile, as SRS and Node-Media-Server do."""

    held: float = 20.0
    refused: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._until = 0.0
        self._connections = set[asyncio.StreamWriter]()

    def cut(self) -> None:
        """Cuts the connections, as a network does."""
        self._until = time.monotonic() + self.held
        for writer in self._connections:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            await super()._serve(reader, writer)
        finally:
            self._connections.discard(writer)

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        held = time.monotonic() < self._until
        if held and message.kind == COMMAND and amf0.decode(message.payload)[0] == "publish":
            self.refused += 1
            writer.close()
        else:
            super()._hear(message, writer)


@dataclass
class EndsInMidStream(Server):
    """Ends each publish in its own way after so many messages of media."""

    after: int = 40
    how: Callable[[Server, asyncio.StreamWriter], None] = lambda _, writer: writer.close()
    publishes: int = 0

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        super()._hear(message, writer)
        if message.kind == COMMAND and self.commands[-1] == "publish":
            self.publishes += 1
            self.media.clear()
        elif message.kind == VIDEO and len(self.media) == self.after:
            self.how(self, writer)


def resets(_: Server, writer: asyncio.StreamWriter) -> None:
    """RST in place of FIN."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def half_closes(_: Server, writer: asyncio.StreamWriter) -> None:
    """FIN, and goes on reading."""
    writer.write_eof()


def says(code: str) -> Callable[[Server, asyncio.StreamWriter], None]:
    """A status of level `error`, and goes on reading."""
    status = amf0.encode("onStatus", 0, None, {"level": "error", "code": code})

    def say(server: Server, writer: asyncio.StreamWriter) -> None:
        server.say(writer, Message(COMMAND, 1, 0, status))

    return say


@dataclass
class Confused(Server):
    """Answers each command first under the number of a call that was never made, and with an error."""

    def _hear(self, message: Message, writer: asyncio.StreamWriter) -> None:
        if message.kind == COMMAND and amf0.decode(message.payload)[0] in ("connect", "createStream"):
            no = {"level": "error", "code": "NetConnection.Call.Failed"}
            self.say(writer, Message(COMMAND, 0, 0, amf0.encode("_error", 77, None, no)))
            self.say(writer, Message(COMMAND, 0, 0, amf0.encode("_result", 78, None, 9)))
        super()._hear(message, writer)


def redirect(url: str) -> dict[str, Any]:
    """The fields of SRS's status, and of Adobe's."""
    more = {"code": 302, "redirect": url}
    return {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "RTMP 302 Redirect", "ex": more}
