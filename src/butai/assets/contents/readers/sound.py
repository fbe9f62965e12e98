"""Facts of a sound file, from its head and tail: what it is, length, tags, encoding.

tinytag parses tags from memory: the ranges are fetched first, and bytes between them read as zeros. It knows no raw AAC and
no RF64, and believes the length in a WAV. Loudness and waveform need the whole file (`decode_child`).
"""

from __future__ import annotations

import asyncio
import io
import struct
from typing import Any

from butai.assets.contents.readers import claims
from butai.assets.contents.readers.glb import Read
from butai.assets.signatures import sound_kind, sound_start
from butai.errors import SignatureMismatch

HEAD = 256 * 1024
"""Bytes from the beginning: tags with a cover of the usual size, and enough frames for a bitrate."""

TAIL = 64 * 1024
"""Bytes from the end: the last page of an Ogg, which has its length."""

MOST_READS = 20_000
MOST_BYTES = 8 * (HEAD + TAIL)
"""Most bytes that tinytag may read. It follows a file's claims through a terabyte of zeros, and a thread cannot be
stopped from outside."""

_NAMES = {"ogg": "x.ogg", "mp4": "x.m4a", "mp3": "x.mp3", "flac": "x.flac", "wav": "x.wav"}
"""The containers that tinytag reads, and names by which it knows them. The length of the others comes with their waveform."""


class _Sparse(io.RawIOBase):
    """A file of `size` bytes, from `base` on, of which only some pieces are known (first byte, bytes)."""

    def __init__(self, size: int, pieces: list[tuple[int, bytes]], base: int = 0) -> None:
        self._size = max(0, size - base)
        self._pieces = [(start - base, piece) for start, piece in pieces]
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
        found = bytearray(length)
        for start, piece in self._pieces:
            first, last = max(start, self._at), min(start + len(piece), self._at + length)
            if first < last:
                found[first - self._at : last - self._at] = piece[first - start : last - start]
        self._at += len(found)
        self._reads, self._bytes = self._reads + 1, self._bytes + len(found)
        if self._reads > MOST_READS or self._bytes > MOST_BYTES:
            raise ValueError("It would be read for ever")
        return bytes(found)

    def readinto(self, buffer: Any) -> int:
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)


async def sound_facts(read: Read, size: int, extension: str) -> dict[str, Any]:
    """`container` (of `signatures.SOUND_MIMES`), `duration` (seconds), `sample_rate` (Hz), `channels`, `bitrate` (kbit/s),
    `title`, `artist`, `album`, `year`, `genre`, `has_cover`; unknown values are left out.

    The container is what is inside: the `extension` decides alone where nothing else does. Raises `SignatureMismatch` for a
    file that is not a sound file."""
    head = await read(0, min(HEAD, size))
    pieces = [(0, head)]
    _, start = sound_start(head)
    if start >= len(head) and start < size:
        # Behind a long tag, such as a cover. No sound with its length at its end has one.
        pieces.append((start, await read(start, min(TAIL, size - start))))
    elif size > len(head):
        pieces.append((last := max(len(head), size - TAIL), await read(last, TAIL)))
    return await asyncio.to_thread(_read, size, pieces, extension)


def _read(size: int, pieces: list[tuple[int, bytes]], extension: str) -> dict[str, Any]:
    head = pieces[0][1]
    tag, start = sound_start(head)
    piece = head[start:] if start < len(head) else pieces[-1][1] if pieces[-1][0] == start else b""
    # Padding may follow a long tag, too.
    skipped = sound_start(piece)[1] if start >= len(head) else 0
    start, piece = start + skipped, piece[skipped:]
    kind = sound_kind(piece)
    if kind is None and not (extension == "mp3" and piece[:1] == b"\xff"):
        raise SignatureMismatch("The file holds no sound that browsers play")
    found: dict[str, Any] = {"container": kind or "mp3"}
    if kind == "aac":
        measured = _adts(piece, size - start)
    elif kind == "wav":
        measured = _wave(piece, size - start)
        # RF64 and BW64 have the chunks of a RIFF.
        pieces = [*pieces, (start, b"RIFF")]
    else:
        measured = {}
    named = _NAMES.get(found["container"])
    # MP3's own tag is read by its parser; other containers behind one have their tags in it alone.
    base = tag if found["container"] == "mp3" else start
    facts = _tags(_Sparse(size, pieces, base), named) if named else {}
    if tag < start and base != tag:
        facts = _tags(_Sparse(size, pieces, tag), _NAMES["mp3"], duration=False) | facts
    found |= facts | measured
    return {name: value for name, value in found.items() if value not in (None, 0)}


def _tags(file: Any, name: str, *, duration: bool = True) -> dict[str, Any]:
    import tinytag

    try:
        found = tinytag.TinyTag.get(filename=name, file_obj=file, image=False, duration=duration)
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


_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350)


def _adts(piece: bytes, size: int) -> dict[str, Any]:
    """The figures of raw AAC, by the frames in a piece from its beginning (ISO/IEC 13818-7, 6.2): no field has its length."""
    at = blocks = 0
    rate, channels = _RATES[piece[2] >> 2 & 15], (piece[2] & 1) << 2 | piece[3] >> 6
    while at + 7 <= len(piece) and sound_kind(piece[at : at + 7]) == "aac":
        length = (piece[at + 3] & 3) << 11 | piece[at + 4] << 3 | piece[at + 5] >> 5
        if length < 7:
            break
        at, blocks = at + length, blocks + 1 + (piece[at + 6] & 3)
    if not blocks:
        return {"sample_rate": rate, "channels": channels}
    seconds = blocks * 1024 / rate * max(1.0, size / at)
    return {
        "sample_rate": rate,
        # 7 stands for eight channels, 0 for what the frames themselves say.
        "channels": 8 if channels == 7 else channels,
        "duration": claims.seconds(seconds),
        "bitrate": claims.count(round(size * 8 / seconds / 1000)),
    }


def _wave(piece: bytes, size: int) -> dict[str, Any]:
    """The figures of a WAV by its chunks. What its data chunk claims counts as far as the file goes: programs that write
    to a pipe leave 0 or 4 GiB there, and in RF64 and BW64 another chunk has it."""
    at, rate, channels, per_second, long = 12, 0, 0, 0, 0
    while at + 8 <= len(piece):
        name, length = piece[at : at + 4], struct.unpack_from("<I", piece, at + 4)[0]
        if name == b"ds64" and at + 24 <= len(piece):
            (long,) = struct.unpack_from("<Q", piece, at + 16)
        elif name == b"fmt " and at + 24 <= len(piece):
            kind, channels, rate, per_second, align = struct.unpack_from("<HHIIH", piece, at + 8)
            per_second = rate * align if kind in (1, 3) else per_second
        elif name == b"data":
            left = size - at - 8
            claimed = long if length == 0xFFFFFFFF and long else length
            held = claimed if 0 < claimed <= left else left
            seconds = held / per_second if per_second else 0
            return {
                "sample_rate": claims.count(rate),
                "channels": claims.count(channels),
                "duration": claims.seconds(seconds),
                "bitrate": claims.count(round(per_second * 8 / 1000)),
            }
        at += 8 + length + length % 2
    return {}
