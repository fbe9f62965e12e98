"""Sizes of the pictures inside a GLB, from a few hundred bytes of each.

Sources: PNG (ISO 15948, IHDR is the first chunk), JPEG (ITU-T T.81, B.2: segments up to a frame
header), WebP (RFC 9649, VP8, VP8L and VP8X chunks).
"""

from __future__ import annotations

import asyncio
import struct

from butai.assets.contents.readers.glb import Glb, Read, buffer_view, entry

IMAGES_LIMIT = 16
"""Most pictures that are read: avatars have ten or so."""

PIECE = 512
"""Bytes of one read. A PNG or WebP has its size in the first 30; a JPEG has it after its colour profile and preview."""

HOP = 128
"""Bytes of each further read of a JPEG: a segment's head, and often a few small segments after it."""

HOPS = 12
"""Most reads of one JPEG. Photoshop writes Exif, its own resources, XMP, colour profile and tables before the frame
header: eight (seen in real models). With the others 30 KiB for a file at most."""

AT_ONCE = 8
"""Concurrent reads of one file."""

Size = tuple[int, int]
"""Width and height in pixels."""


def image_places(glb: Glb) -> list[tuple[int, int]]:
    """First byte and length, in the file, of its first `IMAGES_LIMIT` pictures."""
    places: list[tuple[int, int]] = []
    images = glb.document.get("images")
    for index in range(min(len(images), 1000) if isinstance(images, list) else 0):
        image = entry(glb.document, "images", index)
        place = buffer_view(glb, image.get("bufferView")) if image else None
        if place is not None and len(places) < IMAGES_LIMIT:
            places.append(place)
    return places


async def image_sizes(read: Read, places: list[tuple[int, int]]) -> list[Size]:
    """Sizes of the pictures whose heads have them. Raises the errors of `read`."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(start: int, length: int) -> Size | None:
        async with slots:
            return await image_size(read, start, length)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*place)) for place in places]
    except BaseExceptionGroup as errors:
        # The first error, which cancelled the other reads.
        raise errors.exceptions[0] from None
    return [size for task in tasks if (size := task.result()) is not None]


async def image_size(read: Read, start: int, length: int) -> Size | None:
    """The size of the PNG, JPEG or WebP there; None for other formats, and without a size in its head."""
    head = await read(start, min(PIECE, length))
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return _sane(*struct.unpack_from(">II", head, 16)) if head[12:16] == b"IHDR" and len(head) >= 24 else None
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    return await _jpeg(read, start, length, head) if head.startswith(b"\xff\xd8\xff") else None


def _sane(width: int, height: int) -> Size | None:
    return (width, height) if 0 < width < 2**31 and 0 < height < 2**31 else None


def _webp(head: bytes) -> Size | None:
    if len(head) < 30:
        return None
    kind = head[12:16]
    if kind == b"VP8X":
        return _sane(1 + int.from_bytes(head[24:27], "little"), 1 + int.from_bytes(head[27:30], "little"))
    if kind == b"VP8L" and head[20] == 0x2F:
        bits = int.from_bytes(head[21:25], "little")
        return _sane(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if kind == b"VP8 " and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return _sane(width & 0x3FFF, height & 0x3FFF)
    return None


async def _jpeg(read: Read, start: int, length: int, piece: bytes) -> Size | None:
    """Steps through the segments to the frame header. `piece` holds the bytes from `at` on; more are read where it
    ends."""
    at, place, reads = 0, 2, 1
    while True:
        if place + 9 > at + len(piece):
            if reads == HOPS or place + 9 > length:
                return None
            at, reads = place, reads + 1
            piece = await read(start + at, min(HOP, length - at))
            if len(piece) < 9:
                return None
        marker, kind, size = struct.unpack_from(">BBH", piece, place - at)
        if marker != 0xFF:
            return None
        if kind == 0xFF:
            # Fill bytes before a marker are allowed.
            place += 1
        elif 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", piece, place - at + 5)
            return _sane(width, height)
        elif kind == 0xDA or size < 2:
            return None
        else:
            place += 2 + size
