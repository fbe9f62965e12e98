"""Motions as other programs write them, whole and small: a hip that is turned to the side all the time, as BVH and as
binary FBX with Mixamo's names. For the tests that look at them on an avatar."""

from __future__ import annotations

import struct
from typing import Any

_BVH = """HIERARCHY
ROOT Hips
{
  OFFSET 0.0 90.0 0.0
  CHANNELS 6 Xposition Yposition Zposition Zrotation Xrotation Yrotation
  JOINT Spine
  {
    OFFSET 0.0 10.0 0.0
    CHANNELS 3 Zrotation Xrotation Yrotation
    End Site
    {
      OFFSET 0.0 10.0 0.0
    }
  }
}
MOTION
Frames: 60
Frame Time: 0.033333
"""


def sideways_bvh() -> bytes:
    """Two seconds."""
    return (_BVH + "0 90 0 0 0 90 0 0 0\n" * 60).encode()


def sideways_fbx() -> bytes:
    """Two seconds, FBX 7.4."""
    second = 46_186_158_000
    hips, spine, stack, layer, turn, *curves = range(1001, 1009)
    rest: list[Any] = ["P", ["Lcl Translation", "Lcl Translation", "", "A", 0.0, 90.0, 0.0]]
    objects = [
        ("Model", [hips, "mixamorig:Hips\0\1Model", "LimbNode"], [("Properties70", [], [(*rest, [])])]),
        ("Model", [spine, "mixamorig:Spine\0\1Model", "LimbNode"], [("Properties70", [], [(*rest, [])])]),
        ("AnimationStack", [stack, "mixamo.com\0\1AnimStack", ""], []),
        ("AnimationLayer", [layer, "BaseLayer\0\1AnimLayer", ""], []),
        ("AnimationCurveNode", [turn, "R\0\1AnimCurveNode", ""], []),
        *(
            (
                "AnimationCurve",
                [curve, "\0\1AnimCurve", ""],
                [("KeyTime", [[0, 2 * second]], []), ("KeyValueFloat", [[angle, angle]], [])],
            )
            for curve, angle in zip(curves, (0.0, 90.0, 0.0), strict=True)
        ),
    ]
    joined = [
        ("OO", hips, 0),
        ("OO", spine, hips),
        ("OO", layer, stack),
        ("OO", turn, layer),
        ("OP", turn, hips, "Lcl Rotation"),
        *(("OP", curve, turn, f"d|{axis}") for curve, axis in zip(curves, "XYZ", strict=True)),
    ]
    body = b"Kaydara FBX Binary  \0\x1a\0" + struct.pack("<I", 7400)
    for node in (("Objects", [], objects), ("Connections", [], [("C", list(one), []) for one in joined])):
        body += _node(*node, at=len(body))
    # An empty record, and as many bytes as the real foot has.
    return body + bytes(13 + 160)


def _node(name: str, values: list[Any], children: list[Any], at: int) -> bytes:
    """A record, and those in it; it says where it ends, so it has to know where it begins."""
    given = b"".join(_property(value) for value in values)
    inner = b""
    begins = at + 13 + len(name) + len(given)
    for child in children:
        inner += _node(*child, at=begins + len(inner))
    if children:
        inner += bytes(13)
    head = struct.pack("<IIIB", begins + len(inner), len(values), len(given), len(name))
    return head + name.encode() + given + inner


def _property(value: Any) -> bytes:
    match value:
        case int():
            return b"L" + struct.pack("<q", value)
        case float():
            return b"D" + struct.pack("<d", value)
        case str():
            return b"S" + struct.pack("<I", len(value.encode())) + value.encode()
        case [int(), *_]:
            return b"l" + struct.pack(f"<III{len(value)}q", len(value), 0, 8 * len(value), *value)
        case _:
            return b"f" + struct.pack(f"<III{len(value)}f", len(value), 0, 4 * len(value), *value)
