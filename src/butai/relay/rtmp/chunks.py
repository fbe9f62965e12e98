"""RTMP's chunk stream in both directions (Adobe's "Real-Time Messaging Protocol", 1.0, section 5.3). Pure: bytes and
messages.

The reader's limits are tight at first, since platforms send only commands and acknowledgements, and so do encoders until
their key was accepted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

SET_CHUNK_SIZE, ABORT, ACKNOWLEDGEMENT, USER_CONTROL, WINDOW_SIZE, PEER_BANDWIDTH = 1, 2, 3, 4, 5, 6
AUDIO, VIDEO, DATA_3, COMMAND_3, DATA, COMMAND, AGGREGATE = 8, 9, 15, 17, 18, 20, 22
"""Message types. The payload of `DATA_3` and `COMMAND_3` is one byte, then as of `DATA` and `COMMAND`. `AGGREGATE` holds
others (`split`)."""

LONGEST_MESSAGE = 64 * 1024
"""The longest message from a platform, in bytes. A status with a long description has one kilobyte."""

LONGEST_MEDIA = 4 * 1024 * 1024
"""The longest message from an encoder whose key was accepted, in bytes: a key frame of a second at 32 Mbps."""

MOST_STREAMS = 16
"""Chunk streams that a peer may use at most. Servers and encoders use three or four."""

MOST_TAGS = 1000
"""Tags of an aggregate. Encoders send none, and servers that relay some seconds of media a few hundred."""

_EXTENDED = 0xFFFFFF


class ProtocolError(Exception):
    """The bytes are not RTMP, or exceed a limit. The text quotes nothing of them."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `kind`: its type; `stream`: its message stream; `timestamp` in milliseconds."""

    kind: int
    stream: int
    timestamp: int
    payload: bytes = field(repr=False)


@dataclass(slots=True)
class _Sent:
    stream: int
    timestamp: int


class ChunkWriter:
    """Encodes messages. The first header of a chunk stream is full, later ones have the time since the message
    before."""

    def __init__(self) -> None:
        self.chunk_size = 128
        self._last: dict[int, _Sent] = {}

    def write(self, channel: int, message: Message) -> bytes:
        """Encodes a message on a chunk stream (`channel`, 2 to 63)."""
        payload = message.payload
        last = self._last.get(channel)
        delta = 0 if last is None else message.timestamp - last.timestamp
        if last is None or last.stream != message.stream or not 0 <= delta < _EXTENDED:
            time, form = message.timestamp & 0xFFFFFFFF, 0
        else:
            time, form = delta, 1
        self._last[channel] = _Sent(message.stream, message.timestamp)
        short = min(time, _EXTENDED)
        header = bytes((form << 6 | channel,)) + short.to_bytes(3, "big") + len(payload).to_bytes(3, "big")
        header += bytes((message.kind,))
        if form == 0:
            header += message.stream.to_bytes(4, "little")
        # Repeated before each further chunk of the message, as all servers expect.
        extended = time.to_bytes(4, "big") if short == _EXTENDED else b""
        size = self.chunk_size
        if len(payload) <= size:
            return header + extended + payload
        further = bytes((0xC0 | channel,)) + extended
        pieces = [header + extended, payload[:size]]
        for start in range(size, len(payload), size):
            pieces += (further, payload[start : start + size])
        return b"".join(pieces)


@dataclass(slots=True)
class _Incoming:
    kind: int = 0
    stream: int = 0
    length: int = 0
    time: int = 0
    delta: int = 0
    given: int = 0
    """The extended time stamp of the last header that had one."""
    extended: bool = False
    known: bool = False
    payload: bytearray | None = None


class ChunkReader:
    """Decodes messages of at most `longest` bytes, of which those that are not complete have at most twice as many together.
    Not to be used after it raised `ProtocolError`."""

    def __init__(self, longest: int = LONGEST_MESSAGE) -> None:
        self.longest = longest
        """May be raised between two calls of `feed`."""
        self._buffer = bytearray()
        self._chunk_size = 128
        self._streams: dict[int, _Incoming] = {}
        self._unfinished = 0
        self._repeats_extended: bool | None = None

    def feed(self, data: bytes) -> list[Message]:
        """Adds bytes, and returns the messages that they complete. Raises `ProtocolError`."""
        return list(self.read(data))

    def read(self, data: bytes) -> Iterator[Message]:
        """Adds bytes, and reads each message that they complete when it is asked for. Raises `ProtocolError`."""
        self._buffer += data
        while (message := self._chunk()) is not None:
            if message is _MORE:
                continue
            self._apply_control(message)
            yield message

    def _apply_control(self, message: Message) -> None:
        """Applies the messages that concern the chunk stream itself."""
        if message.kind == SET_CHUNK_SIZE:
            size = int.from_bytes(message.payload[:4], "big")
            if len(message.payload) < 4 or not 1 <= size < 1 << 31:
                raise ProtocolError("an invalid chunk size")
            self._chunk_size = size
        elif message.kind == ABORT:
            stream = self._streams.get(int.from_bytes(message.payload[:4], "big"))
            if stream is not None and stream.payload is not None:
                self._unfinished -= len(stream.payload)
                stream.payload = None

    def _chunk(self) -> Message | None:  # noqa: C901 - one branch for each field of the header, in their order
        """Takes one chunk off the buffer. Returns the message that it completes, `_MORE` if it completes none, None for
        an incomplete chunk."""
        buffer = self._buffer
        if not buffer:
            return None
        form, channel, at = buffer[0] >> 6, buffer[0] & 63, 1
        if channel < 2:
            at += channel + 1
            if len(buffer) < at:
                return None
            channel = 64 + buffer[1] + (buffer[2] << 8 if channel else 0)
        stream = self._streams.get(channel)
        if stream is None:
            if len(self._streams) >= MOST_STREAMS:
                raise ProtocolError("too many chunk streams")
            stream = self._streams.setdefault(channel, _Incoming())
        # A header of form 1 lacks the message stream, which is 0 then; some servers begin with one.
        if form > 1 and not stream.known:
            raise ProtocolError("a chunk refers to a message that does not exist")
        head = at + (11, 7, 3, 0)[form]
        if len(buffer) < head:
            return None
        time = int.from_bytes(buffer[at : at + 3], "big") if form < 3 else 0
        extended = time == _EXTENDED if form < 3 else stream.extended
        length = int.from_bytes(buffer[at + 3 : at + 6], "big") if form < 2 else stream.length
        if length > self.longest:
            raise ProtocolError("a message that is too long")
        payload = stream.payload
        if payload is not None and form < 3:
            raise ProtocolError("a message begins within another")
        if extended and (form < 3 or self._repeats_extended is not False):
            if len(buffer) < head + 4:
                return None
            given = int.from_bytes(buffer[head : head + 4], "big")
            if form < 3:
                time = stream.given = given
            elif payload is not None and self._repeats_extended is None:
                self._repeats_extended = given in (stream.given, stream.time)
            if form < 3 or self._repeats_extended is not False:
                head += 4
        take = min(self._chunk_size, length - (len(payload) if payload is not None else 0))
        if len(buffer) < head + take:
            return None
        if form < 2:
            stream.kind, stream.length = buffer[at + 6], length
        if form == 0:
            stream.stream = int.from_bytes(buffer[at + 7 : at + 11], "little")
            stream.time, stream.delta = time, 0
        elif form < 3:
            stream.delta = time
        if form < 3:
            stream.extended = extended
        if payload is None:
            payload = stream.payload = bytearray()
            if form:
                stream.time = (stream.time + stream.delta) & 0xFFFFFFFF
        stream.known = True
        payload += buffer[head : head + take]
        del buffer[: head + take]
        if len(payload) < stream.length:
            self._unfinished += take
            if self._unfinished > 2 * self.longest:
                raise ProtocolError("too many messages that are not complete")
            return _MORE
        self._unfinished -= len(payload) - take
        stream.payload = None
        return Message(stream.kind, stream.stream, stream.time, bytes(payload))


_MORE = Message(0, 0, 0, b"")


def split(message: Message) -> list[Message]:
    """The messages within an `AGGREGATE` (section 7.1.6): FLV tags, each followed by its length. The first has the aggregate's
    time stamp, and the others are as far from it as they were from the first. Raises `ProtocolError`, also beyond
    `MOST_TAGS`."""
    payload, at, found = message.payload, 0, list[Message]()
    first: int | None = None
    while at < len(payload):
        body = at + 11
        end = body + int.from_bytes(payload[at + 1 : at + 4], "big")
        if end + 4 > len(payload):
            raise ProtocolError("an aggregate ends before its end")
        if len(found) >= MOST_TAGS:
            raise ProtocolError("an aggregate of too many messages")
        time = int.from_bytes(payload[at + 4 : at + 7], "big") | payload[at + 7] << 24
        first = time if first is None else first
        found.append(
            Message(payload[at], message.stream, (message.timestamp + time - first) & 0xFFFFFFFF, payload[body:end])
        )
        at = end + 4
    return found
