"""The publisher's side of an RTMP connection, without I/O: takes bytes, returns events and bytes to send.

    handshake ─▶ connect ─▶ createStream ─▶ publish ─▶ publishing

After `connect` it requests an acknowledgement (type 3) each 64 KiB by *Window Acknowledgement Size* (type 5).
Acknowledgements, and answers (user control 7) to pings (user control 6), show what the platform's application has read,
whatever the kernels in between have accepted.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import Any

from butai.relay.packets import KINDS, AudioFormat, Kind, Packet, VideoFormat
from butai.relay.rtmp import amf0, chunks, flv
from butai.relay.rtmp.addresses import IngestAddress
from butai.relay.rtmp.chunks import (
    ACKNOWLEDGEMENT,
    AUDIO,
    COMMAND,
    DATA,
    SET_CHUNK_SIZE,
    USER_CONTROL,
    VIDEO,
    WINDOW_SIZE,
    ChunkReader,
    ChunkWriter,
    Message,
    ProtocolError,
)

WINDOW = 64 * 1024
"""Bytes after which an acknowledgement is requested: each 0.2 s at 2.5 Mbps."""
CHUNK = 4096
"""Bytes of a chunk, as OBS and FFmpeg have it; every platform accepts it."""
_RANDOM = 1528
_CONTROL, _COMMANDS, _SOUND, _PICTURE = 2, 3, 4, 6


@dataclass(frozen=True, slots=True)
class Connected:
    """The platform accepted `connect`: the application exists."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """The platform accepted `publish`: the stream key is valid."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The application has read. `number`: of 32 bits; most servers count the bytes of the connection, and wrap in a
    long broadcast."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the ping with this number."""

    number: int


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """A status message that refuses or ends the publish. `status`: its code (`NetStream.Publish.BadName`). `redirect`: the
    ingest URL of another server that it names instead."""

    status: str
    description: str
    redirect: str = ""


Event = Connected | Publishing | Acknowledged | Pong | PublishRefused


class Session:
    """One connection. Send `data_to_send` after the constructor, and after every call."""

    def __init__(self, address: IngestAddress, key: str) -> None:
        self._address = address
        self._key = key
        self._out = bytearray()
        self._handshake = bytearray()
        self._handshake_done = False
        self._reader, self._writer = ChunkReader(), ChunkWriter()
        self._stream = 0
        self._acknowledged = 0
        self._their_window = 0
        self._calls: dict[float, str] = {}
        self.received = 0
        """The number of bytes received."""
        self.step = "handshake"
        """The present step: `handshake`, `connect`, `publish` (sent, not answered), `publishing`."""
        self._out += b"\x03" + struct.pack(">II", 0, 0) + os.urandom(_RANDOM)

    def data_to_send(self) -> bytes:
        """Returns the bytes to send now, and clears them."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes) -> list[Event]:
        """Takes received bytes, and returns their events. Raises `ProtocolError`."""
        self.received += len(data)
        if not self._handshake_done:
            self._handshake += data
            if self._handshake and self._handshake[0] != 3:
                raise ProtocolError("the server uses another protocol")
            if len(self._handshake) < 1 + 2 * 1536:
                return []
            self._handshake_done = True
            self._out += self._handshake[1:1537]
            data = bytes(self._handshake[3073:])
            self._handshake.clear()
            self._connect()
        events: list[Event] = []
        for message in self._reader.feed(data):
            try:
                self._handle(message, events)
            except (amf0.AmfError, struct.error) as error:
                if self.step == "publishing":
                    # A note that this client cannot read is no reason to end a broadcast.
                    continue
                raise ProtocolError(f"an unreadable message: {error}") from None
        if self._their_window and self.received - self._acknowledged >= self._their_window:
            self._acknowledged = self.received
            self._control(ACKNOWLEDGEMENT, struct.pack(">I", self.received & 0xFFFFFFFF))
        return events

    def media(self, packet: Packet, timestamp: int) -> None:
        """Adds a packet. `timestamp`: milliseconds since the first one."""
        kind, channel = (VIDEO, _PICTURE) if packet.kind == "video" else (AUDIO, _SOUND)
        self._out += self._writer.write(channel, Message(kind, self._stream, timestamp, flv.body(packet)))

    def formats(
        self, video: VideoFormat | None, audio: AudioFormat | None, timestamp: int = 0, *, of: Container[Kind] = KINDS
    ) -> None:
        """Adds the metadata of both formats, as far as they are known, and the sequence headers of the kinds in `of`, which
        precede the first packet that needs them. `timestamp`: that packet's."""
        write = self._writer.write
        self._out += write(_SOUND, Message(DATA, self._stream, timestamp, flv.metadata(video, audio)))
        if video is not None and "video" in of:
            self._out += write(_PICTURE, Message(VIDEO, self._stream, timestamp, flv.video_header(video)))
        if audio is not None and "audio" in of:
            self._out += write(_SOUND, Message(AUDIO, self._stream, timestamp, flv.audio_header(audio)))

    def ping(self, number: int) -> None:
        """Adds a ping, to be answered by `Pong(number)`. The number is below 2³²."""
        self._control(USER_CONTROL, struct.pack(">HI", 6, number))

    def goodbye(self) -> None:
        """Adds the commands that end a publish in order."""
        if self._stream:
            self._command(0, "FCUnpublish", 0, None, self._key)
            self._command(0, "deleteStream", 0, None, self._stream)

    def _connect(self) -> None:
        self.step = "connect"
        self._control(SET_CHUNK_SIZE, struct.pack(">I", CHUNK))
        self._writer.chunk_size = CHUNK
        properties = {
            "app": self._address.app,
            "type": "nonprivate",
            "flashVer": "FMLE/3.0 (compatible; Butai)",
            "tcUrl": self._address.url,
        }
        self._call("connect", 1, properties)
        self._control(WINDOW_SIZE, struct.pack(">I", WINDOW))

    def _control(self, kind: int, payload: bytes) -> None:
        self._out += self._writer.write(_CONTROL, Message(kind, 0, 0, payload))

    def _call(self, name: str, number: int, *values: Any, stream: int = 0) -> None:
        """Sends a command that is answered under its number."""
        self._calls[number] = name
        self._command(stream, name, number, *values)

    def _command(self, stream: int, *values: Any) -> None:
        self._out += self._writer.write(_COMMANDS, Message(COMMAND, stream, 0, amf0.encode(*values)))

    def _handle(self, message: Message, events: list[Event]) -> None:
        payload = message.payload
        match message.kind:
            case chunks.ACKNOWLEDGEMENT:
                events.append(Acknowledged(int.from_bytes(payload[:4], "big")))
            case chunks.USER_CONTROL:
                # Not each kind has a number: the one that asks for a checksum of the player (26) has none.
                what, number = struct.unpack_from(">HI", payload.ljust(6, b"\0"))
                if what == 6:
                    self._control(USER_CONTROL, struct.pack(">HI", 7, number))
                elif what == 7:
                    events.append(Pong(number))
            case chunks.WINDOW_SIZE:
                (self._their_window,) = struct.unpack_from(">I", payload)
            case chunks.PEER_BANDWIDTH:
                # Answered with our window (5.4.5); outstanding bytes are bounded by our own queue.
                self._control(WINDOW_SIZE, struct.pack(">I", WINDOW))
            case chunks.COMMAND:
                self._handle_command(amf0.decode(payload), events)
            case chunks.COMMAND_3:
                self._handle_command(amf0.decode(payload[1:]), events)
            case _:
                pass

    def _handle_command(self, values: list[Any], events: list[Event]) -> None:
        name, number = (values[0], values[1]) if len(values) > 1 else ("", 0)
        properties = next((value for value in values[2:] if isinstance(value, dict) and "code" in value), {})
        status, description = str(properties.get("code", "")), _description(properties)
        bad = str(properties.get("level", "")).lower() == "error" or status.endswith(_FATAL_CODES)
        refusal = PublishRefused(status, description, _redirect(properties))
        if name in ("_result", "_error"):
            # An answer belongs to the call whose number it has; some come late, or twice.
            call = self._calls.pop(number, "") if isinstance(number, float) else ""
            failed = name == "_error" or bad
            if failed and call in ("connect", "createStream", "publish"):
                # Not the courtesies releaseStream and FCPublish, which many servers do not know.
                events.append(replace(refusal, status=status or name))
            elif not failed:
                self._answered(call, values, events)
        elif name == "onStatus":
            if status == "NetStream.Publish.Start":
                if self.step == "publish" and self._stream:
                    self.step = "publishing"
                    events.append(Publishing())
            elif status.startswith(_OF_RECORDINGS) or (status.startswith(_OF_VIEWERS) and self.step == "publishing"):
                pass
            elif bad:
                events.append(refusal)
        elif name == "close":
            events.append(replace(refusal, status="close"))

    def _answered(self, call: str, values: list[Any], events: list[Event]) -> None:
        """Goes on after the good answer to a call."""
        if call == "connect":
            events.append(Connected())
            self.step = "publish"
            self._call("releaseStream", 2, None, self._key)
            self._call("FCPublish", 3, None, self._key)
            self._call("createStream", 4, None)
        elif call == "createStream":
            given = values[3] if len(values) > 3 else None
            if not isinstance(given, float) or not math.isfinite(given) or not 1 <= given < 2**32:
                raise ProtocolError("no stream was given")
            self._stream = int(given)
            self._call("publish", 5, None, self._key, "live", stream=self._stream)


def _redirect(properties: dict[str, Any]) -> str:
    """The ingest URL in a status of Adobe's form for redirects (`ex.code` 302), which SRS has too."""
    more = properties.get("ex")
    if not isinstance(more, dict) or more.get("code") not in (*_REDIRECTS, *map(str, _REDIRECTS)):
        return ""
    return str(more.get("redirect") or "")


def _description(properties: dict[str, Any]) -> str:
    """What a status says in words: an application of Adobe's servers gives its reason beside the server's description."""
    reason = properties.get("application")
    reason = reason.get("message") if isinstance(reason, dict) else reason
    words = (properties.get("description"), reason)
    return " ".join(one for one in words if isinstance(one, str) and one)


_FATAL_CODES = (
    *(".Unpublish.Success", ".Connect.Closed", ".AppShutdown", ".InvalidApp"),
    *(".Rejected", ".BadName", ".BadAuth", ".Unauthorized", ".Denied", ".Failed"),
)
"""Codes that end a publish with or without the level `error`, which some servers omit."""
_REDIRECTS = (301, 302, 307, 308)
_OF_RECORDINGS = "NetStream.Record."
"""Codes of the server's own recording: the publish goes on."""
_OF_VIEWERS = "NetStream.Play."
"""Codes of the server's viewers, while there is a publish. Before it brpc refuses a name with one."""
