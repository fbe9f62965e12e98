"""The server's side of an RTMP connection, without I/O: takes an encoder's bytes, returns events and bytes to send.

    handshake ─▶ connect ─▶ createStream ─▶ publish (`PublishAsked`) ─▶ `accept` ─▶ media ─▶ `PublishEnded`
                                                                    └▶ `refuse`

It answers in the forms that OBS (librtmp), FFmpeg and GStreamer accept, which number their commands differently: GStreamer's
`publish` has the number 0. It asks for no identification: what an encoder says before its key is in no event, text or log,
since people paste keys into the wrong field.
"""

from __future__ import annotations

import math
import os
import struct
from dataclasses import dataclass, field
from typing import Any, Literal

from butai.relay.rtmp import amf0, chunks
from butai.relay.rtmp.chunks import COMMAND, ChunkReader, ChunkWriter, Message, ProtocolError

EARLY, ACKNOWLEDGE_EARLY, ACKNOWLEDGE_LATER = 1024 * 1024, 64 * 1024, 1024 * 1024
"""Up to `EARLY` bytes, each so many are acknowledged: LiveKit Egress gives up for good at the first error of a connection
that had no byte acknowledged. Later ones seldom: FFmpeg's goodbye is lost where it closes with an acknowledgement unread, since
its kernel holds the goodbye back (Nagle's algorithm) and then resets. An encoder that asks for a smaller window gets it."""
MOST_EARLY_MESSAGES = 100
"""Messages before the publish was accepted; encoders send ten."""
LONGEST_CANDIDATE = 512
"""Bytes of a text that may be a key."""
_WINDOW = 2_500_000
"""The window that we ask for, as nginx-rtmp and Wowza do: encoders acknowledge what we send, which is little."""
_SMALLEST_WINDOW = 1024
"""Bytes: an encoder cannot make us answer more than it sends."""
_CHUNK = 4096
_BLOCK, _HELLO = 1536, 1537
_STREAM = 1
"""The one message stream of a connection."""
_CONTROL, _COMMANDS, _STATUS = 2, 3, 5


@dataclass(frozen=True, slots=True)
class PublishAsked:
    """The encoder wants to publish, and waits. `candidates`: texts that may be its key, the likeliest first: the stream name,
    with and without its parameters, then what stands in the address where the name is empty or not it."""

    candidates: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Media:
    """One audio or video message: the body of an FLV tag. `timestamp`: milliseconds, of 32 bits."""

    kind: Literal["audio", "video"]
    timestamp: int
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the encoder says of its stream (`onMetaData`). Nothing in it is checked."""

    values: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class PublishEnded:
    """The publish has ended. `in_order`: the encoder said so (`FCUnpublish`, `deleteStream`, `closeStream`), and did not lose
    its connection."""

    in_order: bool


ServerEvent = PublishAsked | Media | Metadata | PublishEnded


class ServerSession:
    """One connection of an encoder. Send `data_to_send` after every call."""

    def __init__(self) -> None:
        self.step: Literal["handshake", "connect", "command", "asked", "publishing", "over"] = "handshake"
        """The present step: `command` before the publish, `asked` until it is accepted or refused, `over` after it ended or was
        refused."""
        self.received = 0
        """The number of bytes received."""
        self.messages = 0
        """The number of messages received, those within aggregates included."""
        self._out = bytearray()
        self._opening = bytearray()
        self._greeted = False
        self._reader, self._writer = ChunkReader(chunks.LONGEST_MESSAGE), ChunkWriter()
        self._acknowledged = 0
        self._window = _WINDOW
        self._addresses: list[str] = []

    def data_to_send(self) -> bytes:
        """Returns the bytes to send now, and clears them."""
        out = bytes(self._out)
        self._out.clear()
        return out

    def feed(self, data: bytes) -> list[ServerEvent]:
        """Takes received bytes, and returns their events; what follows the end of the publish is not read. Raises
        `ProtocolError`, after which the connection is of no use."""
        self.received += len(data)
        if self.step == "over":
            return []
        if self.step == "handshake":
            data = self._handshake(data)
            if self.step == "handshake":
                return []
        events: list[ServerEvent] = []
        for message in self._reader.read(data):
            self.messages += 1
            if self.step != "publishing" and self.messages > MOST_EARLY_MESSAGES:
                raise ProtocolError("too many messages before the publish was accepted")
            try:
                self._handle(message, events)
            except (amf0.AmfError, struct.error):
                # A show does not end for it: the chunks around it are whole.
                if self.step != "publishing":
                    raise ProtocolError("an unreadable message") from None
            if self.step == "over":
                break
        each = ACKNOWLEDGE_EARLY if self.received <= EARLY else ACKNOWLEDGE_LATER
        if self.received - self._acknowledged >= min(each, self._window):
            self._acknowledged = self.received
            self._control(chunks.ACKNOWLEDGEMENT, struct.pack(">I", self.received & 0xFFFFFFFF))
        return events

    def end_of_input(self) -> list[ServerEvent]:
        """The events of a connection that the encoder has closed or lost."""
        was, self.step = self.step, "over"
        return [PublishEnded(in_order=False)] if was == "publishing" else []

    def accept(self) -> None:
        """Accepts the publish that was asked for: media may come, in messages of up to `chunks.LONGEST_MEDIA` bytes."""
        if self.step != "asked":
            return
        self.step = "publishing"
        self._reader.longest = chunks.LONGEST_MEDIA
        self._control(chunks.USER_CONTROL, struct.pack(">HI", 0, _STREAM))
        self._status("status", "NetStream.Publish.Start", "Start publishing")

    def refuse(self, code: str, text: str, status: str = "NetStream.Publish.BadName") -> None:
        """Refuses or ends the publish. `code`: a stable one, `text`: a sentence; encoders show both or neither. `status`: RTMP's
        word for it."""
        if self.step in ("asked", "publishing"):
            self.step = "over"
            self._status("error", status, f"{code}: {text}")

    def _handshake(self, data: bytes) -> bytes:
        """Takes C0 to C2, and answers with S0 to S2 (section 5.2). Returns what comes after C2.

        S1 is of version zero, so that no client expects Flash's digests; S2 repeats C1, and C2 is not checked."""
        self._opening += data
        if self._opening and self._opening[0] != 3:
            raise ProtocolError("the client uses another protocol")
        if not self._greeted and len(self._opening) >= _HELLO:
            self._greeted = True
            first = b"\x03" + struct.pack(">II", 0, 0) + os.urandom(_BLOCK - 8)
            self._out += first + self._opening[1:_HELLO]
        if len(self._opening) < _HELLO + _BLOCK:
            return b""
        rest = bytes(self._opening[_HELLO + _BLOCK :])
        self._opening.clear()
        self.step = "connect"
        return rest

    def _control(self, kind: int, payload: bytes) -> None:
        self._out += self._writer.write(_CONTROL, Message(kind, 0, 0, payload))

    def _command(self, *values: Any, channel: int = _COMMANDS, stream: int = 0) -> None:
        self._out += self._writer.write(channel, Message(COMMAND, stream, 0, amf0.encode(*values)))

    def _status(self, level: str, status: str, text: str) -> None:
        properties = {"level": level, "code": status, "description": text}
        self._command("onStatus", 0, None, properties, channel=_STATUS, stream=_STREAM)

    def _handle(self, message: Message, events: list[ServerEvent]) -> None:
        payload = message.payload
        match message.kind:
            case chunks.AUDIO | chunks.VIDEO if self.step == "publishing":
                events.append(Media("audio" if message.kind == chunks.AUDIO else "video", message.timestamp, payload))
            case chunks.AGGREGATE if self.step == "publishing":
                parts = chunks.split(message)
                self.messages += len(parts)
                for part in parts:
                    if part.kind in (chunks.AUDIO, chunks.VIDEO, chunks.DATA):
                        self._handle(part, events)
            case chunks.DATA | chunks.DATA_3 if self.step == "publishing":
                _metadata(payload[1:] if message.kind == chunks.DATA_3 else payload, events)
            case chunks.COMMAND | chunks.COMMAND_3:
                # The first byte of AMF3's form is 0: what follows is AMF0.
                self._handle_command(amf0.decode(payload[1:] if message.kind == chunks.COMMAND_3 else payload), events)
            case chunks.USER_CONTROL:
                (what,) = struct.unpack_from(">H", payload)
                if what == 6:
                    self._control(chunks.USER_CONTROL, struct.pack(">H", 7) + payload[2:6].ljust(4, b"\0"))
            case chunks.WINDOW_SIZE:
                (window,) = struct.unpack_from(">I", payload)
                self._window = max(_SMALLEST_WINDOW, window)
            case _:
                # Peer bandwidth and acknowledgements of what we send ask for nothing.
                pass

    def _handle_command(self, values: list[Any], events: list[ServerEvent]) -> None:
        if len(values) < 2 or not isinstance(values[0], str) or not isinstance(values[1], float):
            raise amf0.AmfError("a command without a name or number")
        name, number = values[0], values[1]
        if not math.isfinite(number):
            raise amf0.AmfError("a command without a number")
        if self.step == "connect" and name != "connect":
            raise ProtocolError("a command before connect")
        match name:
            case "connect":
                self._connect(number, values[2] if len(values) > 2 else None)
            case "createStream":
                self._command("_result", number, None, _STREAM)
            case "publish":
                self._publish(values[3] if len(values) > 3 else None, events)
            case "play" | "play2":
                events += self.end_of_input()
                self._status("error", "NetStream.Play.Failed", "not_found: Nothing is played here")
            case "FCUnpublish" | "deleteStream" | "closeStream":
                # Not answered: an answer that an encoder leaves unread makes its goodbye a reset.
                if self.step == "publishing":
                    events.append(PublishEnded(in_order=True))
                if self.step in ("publishing", "asked"):
                    self.step = "over"
            case "releaseStream" | "FCPublish" | "getStreamLength" | "_checkbw" if number:
                self._command("_result", number, None, None)
            case _:
                pass

    def _connect(self, number: float, properties: Any) -> None:
        if self.step != "connect":
            raise ProtocolError("connect for the second time")
        self.step = "command"
        given: dict[str, Any] = properties if isinstance(properties, dict) else {}
        self._addresses = [one for one in (given.get("app"), given.get("tcUrl")) if isinstance(one, str)]
        self._control(chunks.WINDOW_SIZE, struct.pack(">I", _WINDOW))
        self._control(chunks.PEER_BANDWIDTH, struct.pack(">IB", _WINDOW, 2))
        self._control(chunks.SET_CHUNK_SIZE, struct.pack(">I", _CHUNK))
        self._writer.chunk_size = _CHUNK
        good = {
            "level": "status",
            "code": "NetConnection.Connect.Success",
            "description": "Connected",
            "objectEncoding": 0,
        }
        self._command("_result", number, {"fmsVer": "FMS/3,0,1,123", "capabilities": 31}, good)

    def _publish(self, name: Any, events: list[ServerEvent]) -> None:
        if self.step != "command":
            raise ProtocolError("publish for the second time")
        self.step = "asked"
        events.append(PublishAsked(_candidates(name if isinstance(name, str) else "", self._addresses)))
        self._addresses = []


def _candidates(name: str, addresses: list[str]) -> tuple[str, ...]:
    """Texts that may be the key: the stream name, then the last parts of the name, of `app` and of `tcUrl`."""
    found = [name.strip()]
    for text in (name, *addresses):
        path, _, query = text.strip().partition("?")
        last = path.rstrip("/").rpartition("/")[2]
        found += (last, f"{last}?{query}" if query else "")
    return tuple(dict.fromkeys(one for one in found if one and len(one.encode()) <= LONGEST_CANDIDATE))


def _metadata(payload: bytes, events: list[ServerEvent]) -> None:
    """Adds the metadata of a data message. Others, and unreadable ones, are left out: they concern players."""
    try:
        values = amf0.decode(payload)
    except amf0.AmfError:
        return
    names, values = [one for one in values if isinstance(one, str)], [one for one in values if isinstance(one, dict)]
    if "onMetaData" in names[:2] and values:
        events.append(Metadata(values[0]))
