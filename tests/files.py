"""Files that tests upload: small, valid, made here."""

from __future__ import annotations

import json
import random
import struct
import zlib


def glb(document: dict[str, object] | None = None, binary: bytes = b"") -> bytes:
    """A GLB with this JSON and BIN chunk."""
    text = json.dumps(document or {"asset": {"version": "2.0"}}).encode()
    text += b" " * (-len(text) % 4)
    binary += b"\0" * (-len(binary) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def vrm(seed: int = 0, padding: int = 1000, thumbnail: bytes | None = None, version: str = "1.0") -> bytes:
    """An avatar of about `padding` bytes; files of different seeds differ."""
    noise = random.Random(seed).randbytes(padding)
    document: dict[str, object] = {"asset": {"version": "2.0"}, "buffers": [{"byteLength": padding}]}
    meta: dict[str, object] = {"name": f"Avatar {seed}", "licenseUrl": "https://vrm.dev/licenses/1.0/"}
    if thumbnail is not None:
        document["bufferViews"] = [{"buffer": 0, "byteOffset": padding, "byteLength": len(thumbnail)}]
        document["images"] = [{"mimeType": "image/png", "bufferView": 0}]
        if version == "1.0":
            meta["thumbnailImage"] = 0
        else:
            document["textures"] = [{"source": 0}]
            meta["texture"] = 0
        noise += thumbnail
    document["extensions"] = {"VRMC_vrm" if version == "1.0" else "VRM": {"specVersion": version, "meta": meta}}
    return glb(document, noise)


def png(width: int = 2, height: int = 2) -> bytes:
    """A grey picture."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + b"\x80" * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


FBX = b"Kaydara FBX Binary  \x00\x1a\x00" + b"\0" * 100
BVH = b"HIERARCHY\nROOT Hips\n{\n}\nMOTION\nFrames: 1\nFrame Time: 0.033\n0 0 0\n"
MP3 = b"ID3\x04\x00\x00\x00\x00\x00\x00" + b"\0" * 100
HDR = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 1\n" + b"\0" * 4
