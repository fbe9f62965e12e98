"""RTMP's chunk stream (Adobe's "Real-Time Messaging Protocol", 1.0, section 5.3), both ways. Pure: bytes in, messages out.

What a platform sends is small (commands, acknowledgements), so the reader's limits are tight.
"""

from __future__ import annotations

from dataclasses import dataclass

SET_CHUNK_SIZE, ABORT, ACKNOWLEDGEMENT, USER_CONTROL, WINDOW_SIZE, PEER_BANDWIDTH = 1, 2, 3, 4, 5, 6
AUDIO, VIDEO, COMMAND_3, DATA, COMMAND = 8, 9, 17, 18, 20
"""`COMMAND_3`: one byte, then as `COMMAND`."""

LONGEST_MESSAGE = 64 * 1024
"""Bytes of one message to us. A status with a long description has one kilobyte."""

MOST_STREAMS = 16
"""Chunk streams that a platform may use. Servers use three or four."""

_EXTENDED = 0xFFFFFF


class ProtocolError(Exception):
    """What came is not RTMP, or more than a publisher's client has to take."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message. `timestamp` in milliseconds."""

    kind: int
    stream: int
    timestamp: int
    payload: bytes


@dataclass(slots=True)
class _Sent:
    stream: int
    timestamp: int


class ChunkWriter:
    """Messages to bytes. Headers are full for the first message of a chunk stream, then with the time since the last."""

    def __init__(self) -> None:
        self.chunk_size = 128
        self._last: dict[int, _Sent] = {}

    def write(self, channel: int, message: Message) -> bytes:
        """The bytes of a message on a chunk stream (`channel`, 2 to 63)."""
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
        # Also before each further chunk of the message, as every server reads it.
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
    extended: bool = False
    known: bool = False
    parts: bytearray | None = None


class ChunkReader:
    """Bytes to messages of at most `longest` bytes. Raises `ProtocolError`, after which it must not be used."""

    def __init__(self, longest: int = LONGEST_MESSAGE) -> None:
        self._longest = longest
        self._buffer = bytearray()
        self._chunk_size = 128
        self._streams: dict[int, _Incoming] = {}

    def feed(self, data: bytes) -> list[Message]:
        """The messages that are whole with these bytes."""
        self._buffer += data
        found: list[Message] = []
        while (message := self._chunk()) is not None:
            if message is _MORE:
                continue
            found.append(message)
            self._obey(message)
        return found

    def _obey(self, message: Message) -> None:
        """What the chunk stream itself has to know."""
        if message.kind == SET_CHUNK_SIZE:
            size = int.from_bytes(message.payload[:4], "big")
            if len(message.payload) < 4 or not 1 <= size <= 0xFFFFFF:
                raise ProtocolError("a chunk size that cannot be")
            self._chunk_size = size
        elif message.kind == ABORT:
            stream = self._streams.get(int.from_bytes(message.payload[:4], "big"))
            if stream is not None:
                stream.parts = None

    def _chunk(self) -> Message | None:
        """One chunk off the buffer: its message if that is whole now, `_MORE` if not, None when the chunk is not all here."""
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
        # Form 1 names all but the stream, which is 0 then; some servers begin with it.
        if form > 1 and not stream.known:
            raise ProtocolError("a chunk refers to a message that was not there")
        head = at + (11, 7, 3, 0)[form]
        if len(buffer) < head:
            return None
        time = int.from_bytes(buffer[at : at + 3], "big") if form < 3 else 0
        extended = time == _EXTENDED if form < 3 else stream.extended
        length = int.from_bytes(buffer[at + 3 : at + 6], "big") if form < 2 else stream.length
        if length > self._longest:
            raise ProtocolError("a message that is too long")
        if extended:
            if len(buffer) < head + 4:
                return None
            given = int.from_bytes(buffer[head : head + 4], "big")
            time, head = (given if form < 3 else 0), head + 4
        parts = stream.parts
        if parts is not None and form < 3:
            raise ProtocolError("a message begins within another")
        take = min(self._chunk_size, length - (len(parts) if parts is not None else 0))
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
        if parts is None:
            parts = stream.parts = bytearray()
            if form:
                stream.time = (stream.time + stream.delta) & 0xFFFFFFFF
        stream.known = True
        parts += buffer[head : head + take]
        del buffer[: head + take]
        if len(parts) < stream.length:
            return _MORE
        stream.parts = None
        return Message(stream.kind, stream.stream, stream.time, bytes(parts))


_MORE = Message(0, 0, 0, b"")
