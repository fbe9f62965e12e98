"""AMF0, the encoding of RTMP's commands (Adobe's "Action Message Format — AMF 0", 2007). Pure.

Depth and number of decoded values are bounded, since a platform may send anything. Objects are dicts, `undefined` is None.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

MOST_VALUES = 1000
DEEPEST = 8

Value = None | bool | float | str | Sequence["Value"] | Mapping[str, "Value"]


class EcmaArray(dict[str, Value]):
    """An object that is encoded as an ECMA array, which has a count before its fields. Some servers accept no other form of
    `onMetaData`; it is the one that FLV prescribes."""


class AmfError(ValueError):
    """The bytes are not AMF0, or exceed a limit."""


def encode(*values: Value) -> bytes:
    """Encodes values one after another. Integers become numbers, which are doubles in AMF0."""
    return b"".join(map(_encode, values))


def _encode(value: Value) -> bytes:
    if value is None:
        return b"\x05"
    if isinstance(value, bool):
        return b"\x01\x01" if value else b"\x01\x00"
    if isinstance(value, int | float):
        return b"\x00" + struct.pack(">d", value)
    if isinstance(value, str):
        raw = value.encode()
        return b"\x02" + _short(raw) if len(raw) < 0x10000 else b"\x0c" + struct.pack(">I", len(raw)) + raw
    if isinstance(value, Mapping):
        inner = b"".join(_short(name.encode()) + _encode(item) for name, item in value.items())
        head = b"\x08" + struct.pack(">I", len(value)) if isinstance(value, EcmaArray) else b"\x03"
        return head + inner + b"\x00\x00\x09"
    return b"\x0a" + struct.pack(">I", len(value)) + b"".join(map(_encode, value))


def _short(raw: bytes) -> bytes:
    return struct.pack(">H", len(raw)) + raw


def decode(data: bytes) -> list[Any]:
    """Decodes all values in `data`. Raises `AmfError`."""
    reader = _Reader(data)
    values = []
    while reader.position < len(data):
        values.append(reader.value(0))
    return values


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = MOST_VALUES
        self.position = 0

    def _take(self, count: int) -> bytes:
        end = self.position + count
        if end > len(self._data):
            raise AmfError("a value ends before its end")
        taken = self._data[self.position : end]
        self.position = end
        return taken

    def _text(self, width: int) -> str:
        return self._take(int.from_bytes(self._take(width), "big")).decode("utf-8", "replace")

    def value(self, depth: int) -> Any:
        self._left -= 1
        if depth > DEEPEST or self._left < 0:
            raise AmfError("too many values, or too deep")
        kind = self._take(1)[0]
        match kind:
            case 0x00:
                return struct.unpack(">d", self._take(8))[0]
            case 0x01:
                return self._take(1) != b"\x00"
            case 0x02:
                return self._text(2)
            case 0x03:
                return self._object(depth)
            case 0x05 | 0x06:
                return None
            case 0x08:
                self._take(4)
                return self._object(depth)
            case 0x0A:
                # The count is not trusted: each value must be there.
                return [self.value(depth + 1) for _ in range(int.from_bytes(self._take(4), "big"))]
            case 0x0B:
                return struct.unpack(">dxx", self._take(10))[0]
            case 0x0C | 0x0F:
                # The latter is XML.
                return self._text(4)
            case 0x10:
                # An object of a class, whose name is first.
                self._text(2)
                return self._object(depth)
            case _:
                raise AmfError(f"no value begins with {kind:#04x} here")

    def _object(self, depth: int) -> dict[str, Any]:
        decoded: dict[str, Any] = {}
        while True:
            name = self._text(2)
            if not name and self._data[self.position : self.position + 1] == b"\x09":
                self.position += 1
                return decoded
            decoded[name] = self.value(depth + 1)
