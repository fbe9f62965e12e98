"""Facts of a sound file, from its head and tail: length, tags, encoding.

tinytag parses them from memory: the two ranges are fetched first, and bytes between them read as zeros. Loudness and
waveform need the whole file (`decode_child`).
"""

from __future__ import annotations

import asyncio
import io
from typing import Any

from butai.assets.contents.readers import claims
from butai.assets.contents.readers.glb import Read
from butai.errors import SignatureMismatch

HEAD = 256 * 1024
"""Bytes from the beginning: tags with a cover of the usual size, and enough frames for a bitrate."""

TAIL = 64 * 1024
"""Bytes from the end: the last page of an Ogg, which has its length."""

MOST_READS = 20_000
MOST_BYTES = 8 * (HEAD + TAIL)
"""Most bytes that tinytag may read. It follows a file's claims through a terabyte of zeros, and a thread cannot be
stopped from outside."""

_NAMES = {"ogg": "x.ogg", "oga": "x.ogg", "opus": "x.opus", "m4a": "x.m4a", "mp4": "x.m4a", "aac": "x.aac"}


class _Sparse(io.RawIOBase):
    """A file of `size` bytes of which only the beginning and the end are known."""

    def __init__(self, size: int, head: bytes, tail: bytes) -> None:
        self._size, self._head, self._tail = size, head, tail
        self._at = 0
        self._reads = self._bytes = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        # Never allocates more than was fetched, whatever size the parser requests.
        length = min(left, HEAD + TAIL, size if size >= 0 else left)
        found = self._head[self._at : self._at + length]
        tail_at = self._size - len(self._tail)
        if len(found) < length:
            begin = self._at + len(found)
            gap = min(length - len(found), max(0, tail_at - begin))
            found += bytes(gap)
            found += self._tail[max(0, begin + gap - tail_at) :][: length - len(found)]
        self._at += len(found)
        self._reads, self._bytes = self._reads + 1, self._bytes + len(found)
        if self._reads > MOST_READS or self._bytes > MOST_BYTES:
            raise ValueError("It would be read for ever")
        return found

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


async def sound_facts(read: Read, size: int, extension: str) -> dict[str, Any]:
    """`duration` (seconds), `sample_rate` (Hz), `channels`, `bitrate` (kbit/s), `title`, `artist`, `album`, `year`,
    `genre`, `has_cover`; unknown values are left out. Raises `SignatureMismatch` for a file that is not a sound
    file."""
    head = await read(0, min(HEAD, size))
    tail = await read(max(len(head), size - TAIL), TAIL) if size > len(head) else b""
    return await asyncio.to_thread(_read, size, head, tail, extension)


def _read(size: int, head: bytes, tail: bytes, extension: str) -> dict[str, Any]:
    import tinytag

    if extension == "webm":
        # tinytag cannot read it; its length comes with its waveform.
        return {}
    file: Any = _Sparse(size, head, tail)
    try:
        found = tinytag.TinyTag.get(filename=_NAMES.get(extension, f"x.{extension}"), file_obj=file, image=False)
    except tinytag.UnsupportedFormatError:
        return {}
    except Exception as error:
        # Its parsers raise errors of many classes: struct.error, KeyError, its own.
        raise SignatureMismatch("The sound file's head cannot be read") from error
    facts = {
        "duration": claims.seconds(found.duration),
        "sample_rate": claims.count(found.samplerate),
        "channels": claims.count(found.channels),
        "bitrate": claims.count(round(claims.seconds(found.bitrate) or 0)),
        "title": claims.text(found.title, 300),
        "artist": claims.text(found.artist, 300),
        "album": claims.text(found.album, 300),
        "year": claims.text(found.year, 40),
        "genre": claims.text(found.genre, 100),
    }
    return {name: value for name, value in facts.items() if value not in (None, 0)}
