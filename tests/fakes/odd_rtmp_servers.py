"""RTMP servers that answer in ways of their own: late, by pointing elsewhere, by asking for a user, by hanging up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, Message
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


def redirect(url: str) -> dict[str, Any]:
    """The fields of SRS's status, and of Adobe's."""
    more = {"code": 302, "redirect": url}
    return {"level": "error", "code": "NetConnection.Connect.Rejected", "description": "RTMP 302 Redirect", "ex": more}
