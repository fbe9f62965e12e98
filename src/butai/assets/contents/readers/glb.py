"""The container of a GLB: its JSON chunk, and where its binary chunk is. Pure.

Every number in a file is checked against the file's real size before it is used.
Source: glTF 2.0, "GLB File Format Specification".
"""

from __future__ import annotations

import json
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from butai.assets.kinds import GLB_JSON_LIMIT, check_glb
from butai.errors import GlbInvalid, InspectionTooLarge, SignatureMismatch

Read = Callable[[int, int], Awaitable[bytes]]
"""Reads a range: (start, length) to at most `length` bytes."""

FIRST_READ = 16 * 1024
"""Bytes of the first range read: header and JSON of a small avatar."""

JSON_LIMIT = 4 * 1024**2
"""Largest JSON chunk that is parsed in the process that asks: twice the largest of most avatars."""

VALUES_LIMIT = 400_000
"""Most values in the JSON, counted by its commas and brackets. Parsing so many takes a quarter of a second, in which
the process does nothing else, and at most 60 MB; 4 MiB of `[],[],…` would be four times as many."""


@dataclass(frozen=True, slots=True)
class Glb:
    """`document` is the glTF; `binary` the first byte and the length of the BIN chunk's content, None without one."""

    document: dict[str, Any]
    binary: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Unparsed:
    """A document's JSON as text, and the BIN chunk as in `Glb`."""

    text: bytes
    binary: tuple[int, int] | None = None

    @property
    def is_small(self) -> bool:
        """Whether it may be parsed in the process that asks."""
        return len(self.text) <= JSON_LIMIT and count_values(self.text) <= VALUES_LIMIT

    def parsed(self) -> Glb:
        """The document. Raises `GlbInvalid`, `InspectionTooLarge`."""
        if len(self.text) > JSON_LIMIT:
            raise InspectionTooLarge(f"The JSON has {len(self.text)} bytes; {JSON_LIMIT} is the most")
        return Glb(parsed(self.text, VALUES_LIMIT), self.binary)


async def read_glb(read: Read, size: int) -> Glb:
    """Opens a GLB of `size` bytes whose document is small. Raises `GlbInvalid`, `SignatureMismatch`,
    `InspectionTooLarge`."""
    return (await open_glb(read, size)).parsed()


async def open_glb(read: Read, size: int) -> Unparsed:
    """The JSON of a GLB of `size` bytes. Raises `GlbInvalid`, `SignatureMismatch`."""
    head = await read(0, min(FIRST_READ, size))
    check_glb(head, size)
    (json_length,) = struct.unpack_from("<I", head, 12)
    end = 20 + json_length
    # The BIN chunk's header follows the JSON: the same read gets it.
    wanted = min(end + 8, size)
    if len(head) < wanted:
        head += await read(len(head), wanted - len(head))
    if len(head) < wanted:
        raise GlbInvalid("The file ends inside its JSON")
    # Chunks end where the header says, whatever follows.
    (length,) = struct.unpack_from("<I", head, 8)
    return Unparsed(head[20:end], _binary(head, end, length))


async def read_gltf(read: Read, size: int) -> Glb:
    """Opens a small `.gltf`. Raises as `read_glb` does."""
    if size > JSON_LIMIT:
        raise InspectionTooLarge(f"The document has {size} bytes; {JSON_LIMIT} is the most")
    return (await open_gltf(read, size)).parsed()


async def open_gltf(read: Read, size: int) -> Unparsed:
    """The text of a `.gltf`, a JSON without a BIN chunk. Raises `SignatureMismatch`, `InspectionTooLarge`."""
    if size > GLB_JSON_LIMIT:
        raise InspectionTooLarge(f"The document has {size} bytes; {GLB_JSON_LIMIT} is the most")
    text = (await read(0, size)).removeprefix(b"\xef\xbb\xbf") if size else b""
    if not text.lstrip().startswith(b"{"):
        raise SignatureMismatch
    return Unparsed(text)


def count_values(text: bytes) -> int:
    """At least as many as a JSON text has values."""
    return sum(text.count(mark) for mark in (b",", b"[", b"{"))


def parsed(text: bytes, most: int) -> dict[str, Any]:
    """The object of a JSON text with at most `most` values. Raises `GlbInvalid`, `InspectionTooLarge`."""
    if count_values(text) > most:
        raise InspectionTooLarge(f"The JSON has more than {most} values")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GlbInvalid("The JSON chunk is not JSON") from error
    if not isinstance(document, dict):
        raise GlbInvalid("The JSON chunk is not an object")
    return document


def _binary(head: bytes, start: int, size: int) -> tuple[int, int] | None:
    if size - start < 8:
        return None
    length, kind = struct.unpack_from("<II", head, start)
    if kind != 0x004E4942 or start + 8 + length > size:
        return None
    return start + 8, length


def buffer_view(glb: Glb, index: object) -> tuple[int, int] | None:
    """First byte and length, in the file, of a buffer view in the BIN chunk. None when it does not lie within the
    chunk."""
    views = glb.document.get("bufferViews")
    if glb.binary is None or not isinstance(views, list) or not _is_index(index, len(views)):
        return None
    view = views[index]  # pyright: ignore[reportArgumentType, reportCallIssue]
    if not isinstance(view, dict) or view.get("buffer", 0) != 0:
        return None
    offset, length = _count(view.get("byteOffset", 0)), _count(view.get("byteLength"))
    if offset is None or not length or offset + length > glb.binary[1]:
        return None
    return glb.binary[0] + offset, length


def entry(value: object, name: str, index: object) -> dict[str, Any] | None:
    """`value[name][index]` when it exists and is an object, else None."""
    items = value.get(name) if isinstance(value, dict) else None
    if not isinstance(items, list) or not _is_index(index, len(items)):
        return None
    found = items[index]  # pyright: ignore[reportArgumentType, reportCallIssue]
    return found if isinstance(found, dict) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _is_index(value: object, length: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < length
