"""What sounds and pictures are, by their first bytes, whatever their name says. Pure; imports nothing of Butai.

What browsers play begins with more than a container's signature: tags of two kinds, padding, another container around it.
Sources: ID3v2.4 "Main Structure" 3.1 and 3.4, APEv2 (https://wiki.hydrogenaud.io/index.php?title=Ape_Tags_Header), ISO/IEC
13818-7 6.2 (ADTS), ISO/IEC 11172-3 2.4.1.3 (MPEG audio), EBU Tech 3306 (RF64), ITU-R BS.2088 (BW64),
ISO/IEC 14496-12 4.2 (boxes).
"""

from __future__ import annotations

import re
import struct

SOUND_MIMES = {
    "aac": "audio/aac",
    "flac": "audio/flac",
    "mp3": "audio/mpeg",
    "mp4": "audio/mp4",
    "ogg": "audio/ogg",
    "wav": "audio/wav",
    "webm": "audio/webm",
}
"""The containers of sounds that are accepted, and their MIME types."""

PADDING = 64 * 1024
"""Most NULs before a sound that are skipped."""

_BOXES = (b"ftyp", b"styp", b"moov", b"mdat", b"free", b"skip", b"wide")
_APE_HEADER = 32
_LONGEST_SIGNATURE = 12
_NULS = re.compile(rb"\0+")
MOST_TAGS = 64
"""Most tags and paddings before a sound. Files have one or two; each costs a look at what follows it."""


def sound_start(head: bytes) -> tuple[int, int]:
    """Where a file's last tag of ID3 begins, and where its sound begins, beyond all tags and padding. Both lie at the end
    of `head` or beyond when the tags do; they are the same without such a tag."""
    at = tag = steps = 0
    while at < len(head) and steps < MOST_TAGS:
        steps += 1
        rest = head[at : at + _APE_HEADER]
        if rest.startswith(b"ID3") and len(rest) >= 10 and not any(byte & 0x80 for byte in rest[6:10]):
            size = sum((byte & 0x7F) << shift for byte, shift in zip(rest[6:10], (21, 14, 7, 0), strict=True))
            # A tag may have a footer as long as its header.
            tag, at = at, at + 10 + size + (10 if rest[5] & 0x10 else 0)
        elif rest.startswith(b"APETAGEX") and len(rest) >= 24:
            (size, _, flags) = struct.unpack_from("<III", rest, 12)
            # The size leaves the header out; without this flag there is none, and these bytes are the footer.
            tag = at = at + (size + _APE_HEADER if flags & 0x80000000 else _APE_HEADER)
        elif rest.startswith(b"RIFF") and rest[8:16] == b"RMP3data":
            tag = at = at + 20
        elif (nuls := _NULS.match(head, at)) is not None and sound_kind(rest[:_LONGEST_SIGNATURE]) is None:
            padding = nuls.end() - at
            if padding > PADDING:
                break
            # A tag before the padding is still the sound's.
            tag, at = (at + padding if tag == at else tag), at + padding
        else:
            break
    return min(tag, at), at


def sound_kind(head: bytes) -> str | None:
    """The container that begins here, one of `SOUND_MIMES`; None for anything else."""
    if head.startswith(b"fLaC"):
        return "flac"
    if head.startswith(b"OggS"):
        return "ogg"
    if head[:4] in (b"RIFF", b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return "webm"
    if head[4:8] in _BOXES:
        return "mp4"
    if len(head) < 4 or head[0] != 0xFF:
        return None
    # Twelve sync bits and the layer 00, which is reserved in MPEG audio; with or without a CRC.
    if head[1] & 0xF6 == 0xF0 and head[2] >> 2 & 15 < 13:
        return "aac"
    # Eleven sync bits, layer III, a version, a bitrate and a sample rate that exist. The other layers are as short as the
    # first letters of a text in UTF-16.
    real = head[1] & 0x18 != 0x08 and 0 < head[2] >> 4 < 15 and head[2] & 0x0C != 0x0C
    return "mp3" if head[1] & 0xE6 == 0xE2 and real else None


def picture_mime(head: bytes) -> str | None:
    """The MIME type of the PNG, JPEG or WebP that begins here."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/webp" if head.startswith(b"RIFF") and head[8:12] == b"WEBP" else None
