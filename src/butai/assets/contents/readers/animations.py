"""Facts of motions: VRM animations, other GLB, the heads of BVH and FBX. Pure.

Sources: VRM, `specification/VRMC_vrm_animation-1.0/README.md`; BVH as Biovision defined it
("HIERARCHY" and "MOTION" parts, a text); FBX has no public specification, its header is known from its readers.
"""

from __future__ import annotations

import re
import struct
from typing import Any

from butai.assets.contents.readers import claims, gltf
from butai.assets.contents.readers.glb import Glb, Read, entry
from butai.assets.kinds import is_bvh, is_text_fbx
from butai.errors import SignatureMismatch

BVH_LIMIT = 256 * 1024
"""Most bytes of a BVH that are read. A skeleton has 10 KB; one of a person with all fingers 30."""

PIECE = 32 * 1024
"""Bytes of one read of a BVH."""

FBX_HEAD = 4096
"""Bytes of an FBX that are read. A text FBX has its version in its first lines."""

_JOINT = re.compile(rb"\b(?:ROOT|JOINT)\s", re.IGNORECASE)
_MOTION = re.compile(rb"\bMOTION\s+Frames:\s*(\d{1,10})\s+Frame\s?Time:\s*([0-9.eE+-]{1,32})\s", re.IGNORECASE)


def is_vrma(glb: Glb) -> bool:
    """Whether a GLB is a VRM animation."""
    return isinstance(claims.section(glb.document, "extensions").get("VRMC_vrm_animation"), dict)


def glb_animation(glb: Glb) -> dict[str, Any]:
    """Facts of a motion in a GLB; for a VRM animation also the bones and expressions that it animates."""
    animations = list(gltf.animation_lengths(glb.document))
    found: dict[str, Any] = {
        "duration": gltf.longest(animations),
        "animations": len(animations),
        "names": [name for name, _ in animations[: gltf.ANIMATIONS_SHOWN] if name is not None],
        "external_uris": gltf.external_uris(glb.document),
    }
    if not is_vrma(glb):
        return found
    motion = claims.section(glb.document, "extensions", "VRMC_vrm_animation")
    moved = gltf.animated_nodes(glb.document)

    def moving(*path: str) -> list[str]:
        return claims.names(
            name
            for name, value in claims.section(motion, *path).items()
            if entry(glb.document, "nodes", node := claims.section(value).get("node")) is not None and node in moved
        )

    return found | {
        "spec_version": claims.text(motion.get("specVersion"), claims.NAME_LIMIT),
        "bones": moving("humanoid", "humanBones"),
        "expressions": moving("expressions", "preset"),
        "custom_expressions": moving("expressions", "custom"),
        "look_at": claims.count(claims.section(motion, "lookAt").get("node")) in moved,
    }


async def bvh_animation(read: Read, size: int) -> dict[str, Any]:
    """`joints`, `frames`, `frame_time` and `duration` (seconds) of a BVH. When its motion begins beyond `BVH_LIMIT`,
    only the joints that were read, with `complete` false.

    Raises `SignatureMismatch`.
    """
    text = b""
    while len(text) < min(BVH_LIMIT, size):
        piece = await read(len(text), min(PIECE, size - len(text), BVH_LIMIT - len(text)))
        if not piece:
            break
        # From 200 bytes before the piece on: a match may span two pieces.
        searched = max(0, len(text) - 200)
        text += piece
        if len(text) == len(piece) and not is_bvh(text):
            raise SignatureMismatch
        if (match := _MOTION.search(text, searched)) is not None:
            found = {"joints": len(_JOINT.findall(text, 0, match.start())), "complete": True}
            return found | _bvh_length(match)
    return {"joints": len(_JOINT.findall(text)), "complete": False}


def _bvh_length(match: re.Match[bytes]) -> dict[str, Any]:
    frames = int(match[1])
    try:
        step = float(match[2])
    except ValueError:
        return {"frames": frames}
    # Not rounded: a frame time of 0.0083333, rounded to milliseconds, would be wrong by 4 %.
    if not 0 < step < 1000:
        return {"frames": frames}
    return {"frames": frames, "frame_time": step, "duration": claims.seconds(frames * step)}


async def fbx_animation(read: Read, size: int) -> dict[str, Any]:
    """Encoding and version (7400 is 7.4) of an FBX; further facts would take a read of the whole file.

    Raises `SignatureMismatch`.
    """
    head = await read(0, min(FBX_HEAD, size))
    if head.startswith(b"Kaydara FBX Binary  \x00"):
        version = struct.unpack_from("<I", head, 23)[0] if len(head) >= 27 else None
        return {"encoding": "binary", "fbx_version": version if version and 1000 <= version <= 99_999 else None}
    if not is_text_fbx(head):
        raise SignatureMismatch
    if match := re.search(rb"\bFBXVersion:\s*(\d{4,5})\b", head):
        return {"encoding": "text", "fbx_version": int(match[1])}
    if match := re.match(rb"\s*; FBX (\d{1,2})\.(\d)\.(\d)", head):
        return {"encoding": "text", "fbx_version": int(match[1]) * 1000 + int(match[2]) * 100 + int(match[3]) * 10}
    return {"encoding": "text", "fbx_version": None}
