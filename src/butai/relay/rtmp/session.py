"""A publisher's side of an RTMP connection, without any I/O: bytes in, events and bytes out.

    handshake ─▶ connect ─▶ createStream ─▶ publish ─▶ publishing

Called by `publisher` and `preflight`. After `connect` it asks for an acknowledgement (type 3) each 64 KiB by *Window
Acknowledgement Size* (type 5), and pings (user control 6, answered by 7): what a platform's application has read is
then known, whatever the kernels between have taken.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass
from typing import Any

from butai.relay.packets import AudioFormat, Packet, VideoFormat
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
CHUNK = 4096
"""What OBS and FFmpeg publish with; every platform takes it."""
_RANDOM = 1528
_CONTROL, _COMMANDS, _SOUND, _PICTURE = 2, 3, 4, 6


@dataclass(frozen=True, slots=True)
class Connected:
    """The platform took the application."""


@dataclass(frozen=True, slots=True)
class Publishing:
    """The platform took the key."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """So many bytes of ours has the application read, from the connection's first."""

    total: int


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to the ping of this number."""

    number: int


@dataclass(frozen=True, slots=True)
class PublishRefused:
    """A status that ends it. `word`: RTMP's own (`NetStream.Publish.BadName`); `said`: what else the platform says."""

    word: str
    said: str


Event = Connected | Publishing | Acknowledged | Pong | PublishRefused


class Session:
    """One connection. `output` holds what is to be sent; take it with `take`."""

    def __init__(self, address: IngestAddress, key: str) -> None:
        self._address = address
        self._key = key
        self._out = bytearray()
        self._shaking = bytearray()
        self._shaken = False
        self._reader, self._writer = ChunkReader(), ChunkWriter()
        self._stream = 0
        self._acknowledged = 0
        self._their_window = 0
        self._their_total = 0
        self.received = 0
        """Bytes, all in all."""
        self.step = "handshake"
        """How far it is: `handshake`, `connect`, `publish` (asked, not answered), `publishing`."""
        self._out += b"\x03" + struct.pack(">II", 0, 0) + os.urandom(_RANDOM)

    def take(self) -> bytes:
        """What to send now."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes) -> list[Event]:
        """What these bytes say. Raises `ProtocolError`."""
        self.received += len(data)
        if not self._shaken:
            self._shaking += data
            if self._shaking and self._shaking[0] != 3:
                raise ProtocolError("the other side speaks something else")
            if len(self._shaking) < 1 + 2 * 1536:
                return []
            self._shaken = True
            self._out += self._shaking[1:1537]
            data = bytes(self._shaking[3073:])
            self._shaking.clear()
            self._connect()
        events: list[Event] = []
        for message in self._reader.feed(data):
            try:
                self._hear(message, events)
            except (amf0.AmfError, struct.error) as error:
                raise ProtocolError(f"a message that cannot be read: {error}") from None
        if self._their_window and self.received - self._acknowledged >= self._their_window:
            self._acknowledged = self.received
            self._control(ACKNOWLEDGEMENT, struct.pack(">I", self.received & 0xFFFFFFFF))
        return events

    def media(self, packet: Packet, timestamp: int) -> None:
        """One packet, at a time that begins near 0."""
        kind, channel = (VIDEO, _PICTURE) if packet.kind == "video" else (AUDIO, _SOUND)
        self._out += self._writer.write(channel, Message(kind, self._stream, timestamp, flv.body(packet)))

    def formats(self, video: VideoFormat, audio: AudioFormat) -> None:
        """What goes before the first packet."""
        write = self._writer.write
        self._out += write(_SOUND, Message(DATA, self._stream, 0, flv.metadata(video, audio)))
        self._out += write(_PICTURE, Message(VIDEO, self._stream, 0, flv.video_header(video)))
        self._out += write(_SOUND, Message(AUDIO, self._stream, 0, flv.audio_header(audio)))

    def ping(self, number: int) -> None:
        """Asks for `Pong(number)`, a number below 2³²."""
        self._control(USER_CONTROL, struct.pack(">HI", 6, number))

    def goodbye(self) -> None:
        """The end of the publish, in order."""
        if self._stream:
            self._command(0, "FCUnpublish", 0, None, self._key)
            self._command(0, "deleteStream", 0, None, self._stream)

    def _connect(self) -> None:
        self.step = "connect"
        self._control(SET_CHUNK_SIZE, struct.pack(">I", CHUNK))
        self._writer.chunk_size = CHUNK
        about = {
            "app": self._address.app,
            "type": "nonprivate",
            "flashVer": "FMLE/3.0 (compatible; Butai)",
            "tcUrl": self._address.url,
        }
        self._command(0, "connect", 1, about)
        self._control(WINDOW_SIZE, struct.pack(">I", WINDOW))

    def _control(self, kind: int, payload: bytes) -> None:
        self._out += self._writer.write(_CONTROL, Message(kind, 0, 0, payload))

    def _command(self, stream: int, *values: Any) -> None:
        self._out += self._writer.write(_COMMANDS, Message(COMMAND, stream, 0, amf0.encode(*values)))

    def _hear(self, message: Message, events: list[Event]) -> None:
        payload = message.payload
        match message.kind:
            case chunks.ACKNOWLEDGEMENT:
                (low,) = struct.unpack_from(">I", payload)
                # 32 bits, which a long show goes round. Half of that at once is a step back, and says nothing.
                further = (low - self._their_total) & 0xFFFFFFFF
                if further < 2**31:
                    self._their_total += further
                    events.append(Acknowledged(self._their_total))
            case chunks.USER_CONTROL:
                what, number = struct.unpack_from(">HI", payload)
                if what == 6:
                    self._control(USER_CONTROL, struct.pack(">HI", 7, number))
                elif what == 7:
                    events.append(Pong(number))
            case chunks.WINDOW_SIZE:
                (self._their_window,) = struct.unpack_from(">I", payload)
            case chunks.PEER_BANDWIDTH:
                # Answered with the window (5.4.5): what may be outstanding is bounded by our queue, not by them.
                self._control(WINDOW_SIZE, struct.pack(">I", WINDOW))
            case chunks.COMMAND:
                self._answer(amf0.decode(payload), events)
            case chunks.COMMAND_3:
                self._answer(amf0.decode(payload[1:]), events)
            case _:
                pass

    def _answer(self, values: list[Any], events: list[Event]) -> None:
        name, number = (values[0], values[1]) if len(values) > 1 else ("", 0)
        about = next((value for value in values[2:] if isinstance(value, dict) and "code" in value), {})
        word, said = str(about.get("code", "")), str(about.get("description", ""))
        if name == "_error":
            if number in (2, 3):
                # releaseStream and FCPublish are courtesies that many servers do not know, and some say so late.
                return
            events.append(PublishRefused(word or "_error", said))
        elif name == "_result" and number == 1 and self.step == "connect":
            events.append(Connected())
            self.step = "publish"
            self._command(0, "releaseStream", 2, None, self._key)
            self._command(0, "FCPublish", 3, None, self._key)
            self._command(0, "createStream", 4, None)
        elif name == "_result" and number == 4 and self.step == "publish" and not self._stream:
            given = values[3] if len(values) > 3 else None
            if not isinstance(given, float) or not math.isfinite(given) or not 1 <= given < 2**32:
                raise ProtocolError("no stream was given")
            self._stream = int(given)
            self._command(self._stream, "publish", 5, None, self._key, "live")
        elif name == "onStatus":
            if word == "NetStream.Publish.Start":
                if self.step == "publish":
                    self.step = "publishing"
                    events.append(Publishing())
            elif about.get("level") == "error" or word.endswith(_ENDS):
                events.append(PublishRefused(word, said))
        elif name == "close":
            events.append(PublishRefused("close", said))


_ENDS = (".Unpublish.Success", ".Connect.Closed", ".Rejected", ".BadName", ".Denied", ".Failed")
"""With or without the level `error`, which some servers leave out."""
