"""Avatars that are known again at the other end: boards of one colour, and what of them came to a platform."""

from __future__ import annotations

import re
import struct
import subprocess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tests.avatars import META_1, Model
from tests.platforms import Platform
from tests.waiting import eventually

NIGHT = (0x20, 0x26, 0x3A)
"""The stage's background, when none was chosen."""

FFMPEG_EACH = 0.3
"""Seconds between two looks at a recording, for each of which ffmpeg is started and reads all of it."""

MAGENTA, CYAN = (255, 0, 255), (0, 255, 255)
"""Of `board(1, 0, 1)` and `board(0, 1, 1)`, as a screen has them."""

_BONES = {
    "hips": None,
    "spine": "hips",
    "head": "spine",
    **{f"{side}{part}": parent for side in ("left", "right") for part, parent in (
        ("UpperArm", "spine"), ("UpperLeg", "hips"))},
    **{f"{side}{part}": f"{side}{parent}" for side in ("left", "right") for part, parent in (
        ("LowerArm", "UpperArm"), ("Hand", "LowerArm"), ("LowerLeg", "UpperLeg"), ("Foot", "LowerLeg"))},
}  # fmt: skip


def board(red: float, green: float, blue: float) -> bytes:
    """A VRM 1.0 that is a standing board of one colour (linear, 0 to 1 each), which no light changes: 0.6 m wide, 1.6 m tall."""
    model = Model()
    nodes = {bone: number for number, bone in enumerate(_BONES)}
    for bone in _BONES:
        children = [nodes[child] for child, parent in _BONES.items() if parent == bone]
        model.add("nodes", {"name": bone} | ({"children": children} if children else {}))
    corners = [(-0.3, 0.0, 0.0), (0.3, 0.0, 0.0), (0.3, 1.6, 0.0), (-0.3, 1.6, 0.0)]
    points = b"".join(struct.pack("<3f", *corner) for corner in corners)
    given = {"bufferView": model.view(points), "componentType": 5126, "count": 4, "type": "VEC3"}
    position = model.add("accessors", given | {"min": [-0.3, 0, 0], "max": [0.3, 1.6, 0]})
    order = struct.pack("<6H", 0, 1, 2, 0, 2, 3)
    given = {"bufferView": model.view(order), "componentType": 5123, "count": 6, "type": "SCALAR"}
    primitive = {"attributes": {"POSITION": position}, "indices": model.add("accessors", given), "material": 0}
    model.add("meshes", {"primitives": [primitive]})
    colour = {"baseColorFactor": [red, green, blue, 1.0]}
    plain = {"pbrMetallicRoughness": colour, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    model.add("materials", plain)
    standing = model.add("nodes", {"name": "board", "mesh": 0})
    model.document |= {"scene": 0, "scenes": [{"nodes": [0, standing]}], "extensionsUsed": ["KHR_materials_unlit"]}
    bones = {bone: {"node": node} for bone, node in nodes.items()}
    model.extension("VRMC_vrm", {"specVersion": "1.0", "meta": META_1, "humanoid": {"humanBones": bones}})
    return model.file()


def last_picture(recording: Path) -> NDArray[np.int16]:
    """The newest key frame of what a platform got, as 9 rows of 16 colours; each is the mean of its part of the picture."""
    command = ["ffmpeg", "-v", "error", "-skip_frame", "nokey", "-i", recording, "-vf", "scale=16:9:flags=area"]
    done = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, timeout=60, check=False
    )
    assert len(done.stdout) >= 16 * 9 * 3, done.stderr
    return np.frombuffer(done.stdout[-16 * 9 * 3 :], np.uint8).reshape(9, 16, 3).astype(np.int16)


def is_colour(part: NDArray[np.int16], colour: tuple[int, int, int], within: int = 12) -> bool:
    """Whether a part of a picture is that colour all over, but for what an encoder does to it."""
    return bool(np.abs(part - np.array(colour)).max() <= within)


def is_green(part: NDArray[np.int16]) -> bool:
    """Whether a part of a picture is green rather than anything else, as the camera of a browser under test is."""
    return bool((part[..., 1] - part[..., [0, 2]].max(axis=-1) > 60).all())


def loudest(recording: Path) -> float:
    """The loudest moment of a recording in dBFS; -91 is silence."""
    command = ["ffmpeg", "-hide_banner", "-i", recording, "-vn", "-af", "volumedetect", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    found = re.search(r"max_volume: (-?[\d.]+) dB", done.stderr)
    assert found, done.stderr
    return float(found[1])


async def arrives(platform: Platform, key: str, avatar: tuple[int, int, int] | None) -> float:
    """Waits for a picture at the platform: an avatar of that colour in the middle, or none, before the plain background."""

    def is_there() -> bool:
        recordings = platform.recordings(key)
        if not recordings or recordings[-1].stat().st_size < 20_000:
            return False
        picture = last_picture(recordings[-1])
        ground = is_colour(picture[:, :3], NIGHT) and is_colour(picture[:, -3:], NIGHT)
        return ground and is_colour(picture[2:, 7:9], avatar or NIGHT)

    return await eventually(is_there, 30, every=FFMPEG_EACH)
