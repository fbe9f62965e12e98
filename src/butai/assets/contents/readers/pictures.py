"""Sizes of pictures, from their heads: skies (Radiance, OpenEXR) and plain pictures.

Sources: Radiance's file format (a text head, an empty line, `-Y height +X width`), OpenEXR "File Layout" (attributes:
name, type, size, value, each name ending in NUL).
"""

from __future__ import annotations

import re
import struct
from typing import Any

from butai.assets.contents.readers.glb import Read
from butai.assets.contents.readers.images import image_size
from butai.errors import SignatureMismatch

HEAD = 64 * 1024

_RESOLUTION = re.compile(rb"\n\n([-+])([XY]) (\d{1,9}) [-+][XY] (\d{1,9})\n")
_COMPRESSIONS = ("none", "rle", "zips", "zip", "piz", "pxr24", "b44", "b44a", "dwaa", "dwab")
_MOST = 2**20
"""Largest accepted size in one direction, in pixels."""


async def picture_facts(read: Read, size: int, extension: str) -> dict[str, Any]:
    """`width` and `height` in pixels; for OpenEXR also `channels` and `compression`. Raises `SignatureMismatch`."""
    if extension == "hdr":
        return _radiance(await read(0, min(HEAD, size)))
    if extension == "exr":
        return _openexr(await read(0, min(HEAD, size)))
    found = await image_size(read, 0, size)
    if found is None:
        raise SignatureMismatch("The picture has no size in its head")
    return _sized(*found)


def _sized(width: int, height: int) -> dict[str, Any]:
    if not (0 < width <= _MOST and 0 < height <= _MOST):
        raise SignatureMismatch(f"The picture says it has {width} by {height} pixels")
    return {"width": width, "height": height}


def _radiance(head: bytes) -> dict[str, Any]:
    match = _RESOLUTION.search(head.replace(b"\r\n", b"\n"))
    if match is None:
        raise SignatureMismatch("The sky has no size in its head")
    first, second = int(match[3]), int(match[4])
    return _sized(second, first) if match[2] == b"Y" else _sized(first, second)


def _openexr(head: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    at = 8
    while at < len(head) and head[at] != 0:
        name, at = _word(head, at)
        _, at = _word(head, at)
        if at + 4 > len(head):
            break
        (length,) = struct.unpack_from("<I", head, at)
        value, at = head[at + 4 : at + 4 + length], at + 4 + length
        if name == b"dataWindow" and len(value) >= 16:
            left, top, right, bottom = struct.unpack_from("<iiii", value)
            facts |= _sized(right - left + 1, bottom - top + 1)
        elif name == b"compression" and value:
            facts["compression"] = _COMPRESSIONS[value[0]] if value[0] < len(_COMPRESSIONS) else "unknown"
        elif name == b"channels":
            facts["channels"] = _channels(value)
    if "width" not in facts:
        raise SignatureMismatch("The sky has no size in its head")
    return facts


def _word(head: bytes, at: int) -> tuple[bytes, int]:
    end = head.find(b"\0", at, at + 256)
    if end < 0:
        raise SignatureMismatch("The OpenEXR head is broken")
    return head[at:end], end + 1


def _channels(value: bytes) -> list[str]:
    names: list[str] = []
    at = 0
    while at < len(value) and value[at] != 0 and len(names) < 32:
        name, at = _word(value, at)
        names.append(name.decode("ascii", "replace"))
        at += 16
    return names
