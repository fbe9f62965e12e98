"""Forms, files and paths from which the tests of hostile clients make theirs."""

from __future__ import annotations

import struct
from urllib.parse import quote

from butai.assets.keys import read_url
from tests import files

VRM = files.vrm(1, 300, files.png())
BOMB = 1_000_000
"""Bytes of what is far too long."""

FRONTIER = "multipart/form-data; boundary=f"


def part(disposition: bytes, content: bytes = b"v", more: bytes = b"") -> bytes:
    return b"--f\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


FIELDS = part(b'form-data; name="fileName"', b"vrm/f.vrm") + part(b'form-data; name="fileType"', b"model/vrm")
FILE = part(b'form-data; name="file"; filename="f.vrm"', VRM)
END = b"--f--\r\n"
GOOD = FIELDS + FILE + END


def glb(text: bytes, binary: bytes = b"", *, length: int | None = None, json_length: int | None = None) -> bytes:
    """A GLB whose header and chunk claim what they like."""
    chunks = struct.pack("<II", len(text) if json_length is None else json_length, 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) if length is None else length) + chunks


def thumbnail_path(key: str) -> str:
    return f"/api/vrm-thumbnail?url={quote(read_url(key), safe='')}"
