"""The frames in which an ingest hands a publisher's messages to the relay of its broadcast. Pure.

The relay listens at `source_socket` (mode 0600). A link is one connection there, and carries one publisher: `Hello`, then
`Metadata` and `Media` in the order in which they came, then `Ended`. A link that is closed without `Ended` says that the ingest
died. A publisher that is linked in mid-stream (the relay restarted, or its broadcast began later) begins with its `Opening`. The
relay sends nothing but `Refused`, after which it reads no more, and closes.

A frame is four bytes of length, one byte of type, and a body of that length. Types that a side does not know are skipped, and
unknown fields are ignored, so that an ingest and a relay of neighbouring versions work together.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec

from butai.relay.incoming.tags import SourceRefused, Tag, audio_tag, video_tag
from butai.relay.rtmp.chunks import LONGEST_MEDIA
from butai.relay.rtmp.server_session import Media, Metadata

LONGEST_BODY = LONGEST_MEDIA + 16
"""Bytes of a body: the longest message, its kind and its time stamp."""
MOST_UNREAD = 8 * 1024 * 1024
"""Bytes that a relay may leave unread, two seconds of the highest bitrate; then it hangs, and the ingest closes the link."""
_MOST_VALUES = 64
_LONGEST_TEXT = 256
_HELLO, _MEDIA, _METADATA, _ENDED, _REFUSED = range(1, 6)
_HEAD = struct.Struct(">IB")
_TAG = struct.Struct(">BI")
_KINDS: dict[int, Literal["audio", "video"]] = {8: "audio", 9: "video"}
_NUMBERS = {kind: number for number, kind in _KINDS.items()}


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first frame of a link: whose media it carries.

    `source`: what publishes. `source_id`: the id of its stream key's row, never the key; a new link with the id of an open one
    replaces it. `label`: the host's name for it. `since`: when its publish began, in seconds since 1970."""

    source: Literal["egress", "encoder"]
    source_id: str
    label: str = ""
    since: float = 0.0


class Ended(msgspec.Struct, frozen=True, omit_defaults=True):
    """The publish is over. `in_order`: the encoder said so, and did not lose its connection."""

    in_order: bool = False


class Refused(msgspec.Struct, frozen=True, omit_defaults=True):
    """The relay takes no more of this source. `code`: a stable one; `text`: a sentence for the encoder's user."""

    code: str
    text: str = ""


Frame = Hello | Media | Metadata | Ended | Refused


class WireError(ValueError):
    """Bytes that are no frame. The text quotes nothing of them."""


_structs: dict[int, msgspec.json.Decoder[Hello | Ended | Refused | dict[str, Any]]] = {
    _HELLO: msgspec.json.Decoder(Hello),
    _METADATA: msgspec.json.Decoder(dict[str, Any]),
    _ENDED: msgspec.json.Decoder(Ended),
    _REFUSED: msgspec.json.Decoder(Refused),
}
_encoder = msgspec.json.Encoder()


def source_socket(folder: Path, broadcast_id: str) -> Path:
    """The socket at which the relay of this broadcast takes links."""
    return folder / f"{broadcast_id}.in"


def write(frame: Frame) -> bytes:
    """A frame as bytes."""
    match frame:
        case Media():
            kind, body = _MEDIA, _TAG.pack(_NUMBERS[frame.kind], frame.timestamp & 0xFFFFFFFF) + frame.payload
        case Metadata():
            kind, body = _METADATA, _encoder.encode(_plain_values(frame.values))
        case Hello():
            kind, body = _HELLO, _encoder.encode(frame)
        case Ended():
            kind, body = _ENDED, _encoder.encode(frame)
        case Refused():
            kind, body = _REFUSED, _encoder.encode(frame)
    if len(body) > LONGEST_BODY:
        raise WireError("a frame that is too long")
    return _HEAD.pack(len(body), kind) + body


class FrameReader:
    """Reads one direction of a link."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete. Raises `WireError`, after which the link is of no use."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            length, kind = _HEAD.unpack_from(self._buffer)
            if length > LONGEST_BODY:
                raise WireError("a frame that is too long")
            end = _HEAD.size + length
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_HEAD.size : end])
            del self._buffer[:end]
            frame = _frame(kind, body)
            if frame is not None:
                yield frame


def _frame(kind: int, body: bytes) -> Frame | None:
    if kind == _MEDIA:
        if len(body) < _TAG.size or body[0] not in _KINDS:
            raise WireError("a message of no known kind")
        number, timestamp = _TAG.unpack_from(body)
        return Media(_KINDS[number], timestamp, body[_TAG.size :])
    decoder = _structs.get(kind)
    if decoder is None:
        return None
    try:
        frame = decoder.decode(body)
    except (msgspec.MsgspecError, ValueError):
        raise WireError("a frame that cannot be read") from None
    return Metadata(frame) if isinstance(frame, dict) else frame


def _plain_values(values: dict[str, Any]) -> dict[str, Any]:
    """Numbers, truths and short texts of what an encoder says of itself."""
    found = dict[str, Any]()
    for name, value in values.items():
        short = isinstance(value, str) and len(value) <= _LONGEST_TEXT
        number = isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**53
        if len(name) <= _LONGEST_TEXT and (short or number):
            found[name] = value
        if len(found) >= _MOST_VALUES:
            break
    return found


class Opening:
    """Remembers what the media of a publisher needs before it can be read from a later moment on: its metadata and headers."""

    def __init__(self) -> None:
        self._metadata: Metadata | None = None
        self._headers: dict[str, Media] = {}

    def note(self, frame: Media | Metadata) -> None:
        """Records a frame that passed. To be called with each."""
        if isinstance(frame, Metadata):
            self._metadata = frame
        elif _is_header(frame):
            self._headers[frame.kind] = frame

    def frames(self) -> list[Media | Metadata]:
        """What a link in mid-stream begins with, after `Hello`."""
        return [*([self._metadata] if self._metadata is not None else []), *self._headers.values()]


def _is_header(frame: Media) -> bool:
    try:
        tag: Tag | None = video_tag(frame.payload) if frame.kind == "video" else audio_tag(frame.payload)
    except SourceRefused:
        # Which the relay finds, too.
        return False
    return tag is not None and tag.kind == "header"
