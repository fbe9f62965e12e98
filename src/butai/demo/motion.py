"""Motions for the demo's avatars, as VRMA: a wave and a sway."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from butai.demo.figure import skeleton
from butai.demo.shapes import Gltf

Angles = Callable[[NDArray[np.float64]], dict[str, tuple[object, object, object]]]
"""From the turn of a loop (0 to 2π) to each bone's angles about x, y and z, in degrees."""

_KEYS_A_SECOND = 15


def _quaternions(x: object, y: object, z: object, count: int) -> NDArray[np.float32]:
    """Turns about z, then y, then x, as (x, y, z, w) each."""
    halves = [np.radians(np.broadcast_to(np.asarray(angle, float), count)) / 2 for angle in (x, y, z)]
    (sx, sy, sz), (cx, cy, cz) = (map(np.sin, halves)), (map(np.cos, halves))
    found = [
        sx * cy * cz - cx * sy * sz,
        cx * sy * cz + sx * cy * sz,
        cx * cy * sz - sx * sy * cz,
        cx * cy * cz + sx * sy * sz,
    ]
    return np.stack(found, axis=-1).astype(np.float32)


def _waving(turn: NDArray[np.float64]) -> dict[str, tuple[object, object, object]]:
    quick = np.sin(turn * 4)
    return {
        "rightUpperArm": (0, 0, -28 + 3 * np.sin(turn)),
        "rightLowerArm": (0, 0, -62 + 22 * quick),
        "rightHand": (0, 0, 14 * quick),
        "leftUpperArm": (0, 0, -68 + 3 * np.sin(turn * 2)),
        "leftLowerArm": (0, 0, -10),
        "head": (2 * np.sin(turn * 2), 0, 7 + 4 * np.sin(turn)),
        "spine": (0, 3 * np.sin(turn), -3 * np.sin(turn)),
    }


def _swaying(turn: NDArray[np.float64]) -> dict[str, tuple[object, object, object]]:
    beat = np.sin(turn * 4)
    slow = np.sin(turn)
    return {
        "hips": (0, 8 * slow, 5 * beat),
        "spine": (2 * np.abs(beat), -4 * slow, -7 * beat),
        "chest": (0, 0, -4 * beat),
        "head": (4 * np.abs(beat), 6 * slow, 8 * beat),
        "leftUpperArm": (0, -25, -48 - 16 * beat),
        "rightUpperArm": (0, 25, 48 - 16 * beat),
        "leftLowerArm": (0, -55 - 15 * beat, 0),
        "rightLowerArm": (0, 55 - 15 * beat, 0),
        "leftUpperLeg": (-4 * np.maximum(beat, 0), 0, -5 * beat),
        "rightUpperLeg": (-4 * np.maximum(-beat, 0), 0, -5 * beat),
        "leftLowerLeg": (8 * np.maximum(beat, 0), 0, 0),
        "rightLowerLeg": (8 * np.maximum(-beat, 0), 0, 0),
    }


def _motion(name: str, seconds: float, angles: Angles) -> bytes:
    model = Gltf()
    nodes = skeleton(model)
    times = np.linspace(0, seconds, int(seconds * _KEYS_A_SECOND) + 1)
    given = model.numbers(times.astype(np.float32), bounds=True)
    samplers, channels = [], []
    for bone, (x, y, z) in angles(times / seconds * 2 * np.pi).items():
        samplers.append({"input": given, "output": model.numbers(_quaternions(x, y, z, len(times)))})
        channels.append({"sampler": len(samplers) - 1, "target": {"node": nodes[bone], "path": "rotation"}})
    model.add("animations", {"name": name, "samplers": samplers, "channels": channels})
    bones = {bone: {"node": node} for bone, node in nodes.items()}
    model.extension("VRMC_vrm_animation", {"specVersion": "1.0", "humanoid": {"humanBones": bones}})
    return model.file()


def waving() -> bytes:
    """Four seconds that begin as they end: the right hand is raised and waves."""
    return _motion("Waving", 4.0, _waving)


def swaying() -> bytes:
    """Eight seconds in time with the demo's music (120 beats a minute)."""
    return _motion("Swaying", 8.0, _swaying)
