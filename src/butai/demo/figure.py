"""Avatars for a studio without any: a small round figure as a VRM 1.0, generated from numbers.

Free for any use, as its licence record states.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from butai.demo.shapes import Body, Gltf, ellipsoid, turned

Colour = tuple[float, float, float]

# The bones' places in metres, in a T-pose that faces +Z (VRM 1.0, "humanoid"); a bone's parent comes before it.
BONES: dict[str, tuple[str | None, tuple[float, float, float]]] = {
    "hips": (None, (0, 0.62, 0)),
    "spine": ("hips", (0, 0.70, 0)),
    "chest": ("spine", (0, 0.80, 0)),
    "neck": ("chest", (0, 0.93, 0)),
    "head": ("neck", (0, 0.98, 0)),
}
for _side, _sign in (("left", 1), ("right", -1)):
    BONES.update(
        {
            f"{_side}UpperArm": ("chest", (_sign * 0.12, 0.89, 0)),
            f"{_side}LowerArm": (f"{_side}UpperArm", (_sign * 0.27, 0.89, 0)),
            f"{_side}Hand": (f"{_side}LowerArm", (_sign * 0.41, 0.89, 0)),
            f"{_side}UpperLeg": ("hips", (_sign * 0.07, 0.57, 0)),
            f"{_side}LowerLeg": (f"{_side}UpperLeg", (_sign * 0.07, 0.33, 0)),
            f"{_side}Foot": (f"{_side}LowerLeg", (_sign * 0.07, 0.08, 0)),
        }
    )

_SKIN: Colour = (1.0, 0.86, 0.76)
_WHITE: Colour = (1.0, 1.0, 1.0)
_LASH: Colour = (0.16, 0.12, 0.2)
_BLUSH: Colour = (1.0, 0.62, 0.6)
_MOUTH: Colour = (0.75, 0.25, 0.3)


@dataclass(frozen=True)
class Look:
    """The differences between figures. Colours are linear, 0 to 1."""

    name: str
    hair: Colour
    dress: Colour
    trim: Colour
    eyes: Colour
    tails: bool


AOI = Look(
    "Aoi", hair=(0.13, 0.35, 0.8), dress=(0.95, 0.96, 1.0), trim=(0.1, 0.25, 0.6), eyes=(0.1, 0.4, 0.85), tails=True
)
MOMO = Look(
    "Momo",
    hair=(0.95, 0.42, 0.55),
    dress=(0.3, 0.22, 0.45),
    trim=(1.0, 0.75, 0.35),
    eyes=(0.6, 0.15, 0.45),
    tails=False,
)

Part = tuple[str, Colour, Body]
"""A bone, a colour, and the body attached to the bone, in world coordinates."""


def _mirrored(
    bone: str, colour: Colour, centre: tuple[float, float, float], radii: tuple[float, float, float]
) -> list[Part]:
    x, y, z = centre
    return [(bone, colour, ellipsoid((sign * x, y, z), radii)) for sign in (1, -1)]


def _head(look: Look) -> list[Part]:
    parts: list[Part] = [
        ("head", _SKIN, ellipsoid((0, 1.15, 0), (0.20, 0.195, 0.185), 20)),
        ("head", look.hair, ellipsoid((0, 1.205, -0.045), (0.222, 0.205, 0.205), 20)),
        ("head", look.trim, ellipsoid((0.1, 1.36, 0.07), (0.055, 0.022, 0.03))),
        ("head", look.trim, ellipsoid((0.19, 1.34, 0.05), (0.05, 0.022, 0.03))),
        ("neck", _SKIN, ellipsoid((0, 0.955, -0.005), (0.045, 0.06, 0.045))),
        *_mirrored("head", look.hair, (0.192, 1.08, 0.035), (0.04, 0.15, 0.06)),
        *_mirrored("head", _BLUSH, (0.115, 1.08, 0.150), (0.03, 0.016, 0.014)),
    ]
    for x, y, radius in ((-0.12, 1.27, 0.07), (-0.035, 1.285, 0.075), (0.06, 1.282, 0.072), (0.135, 1.26, 0.062)):
        parts.append(("head", look.hair, ellipsoid((x, y, 0.125), (radius, 0.07, 0.065))))
    if look.tails:
        parts += _mirrored("head", look.trim, (0.215, 1.27, -0.06), (0.035, 0.035, 0.035))
        parts += _mirrored("head", look.hair, (0.275, 1.06, -0.07), (0.062, 0.24, 0.07))
    else:
        parts += _mirrored("head", look.hair, (0.13, 1.385, -0.03), (0.075, 0.07, 0.07))
    return parts


def _torso(look: Look) -> list[Part]:
    parts: list[Part] = [
        (
            "chest",
            look.dress,
            turned([(0.0, 0.93), (0.06, 0.925), (0.105, 0.89), (0.11, 0.84), (0.1, 0.78), (0.0, 0.77)]),
        ),
        ("spine", look.dress, turned([(0.0, 0.82), (0.1, 0.8), (0.092, 0.74), (0.1, 0.68), (0.0, 0.67)])),
        ("chest", look.trim, ellipsoid((0, 0.885, 0.085), (0.05, 0.03, 0.03))),
        ("hips", look.trim, turned([(0.098, 0.715), (0.108, 0.7), (0.104, 0.68), (0.098, 0.67)])),
        (
            "hips",
            look.dress,
            turned([(0.098, 0.7), (0.13, 0.63), (0.18, 0.52), (0.2, 0.46), (0.19, 0.455), (0.0, 0.5)]),
        ),
        ("hips", look.trim, turned([(0.186, 0.495), (0.197, 0.48), (0.202, 0.458), (0.196, 0.452)])),
    ]
    for side, sign in (("left", 1), ("right", -1)):
        sleeve = turned([(0.0, 0.02), (0.045, 0.0), (0.05, -0.06), (0.062, -0.15), (0.0, -0.155)], "x")
        lower = turned([(0.0, 0.02), (0.034, 0.0), (0.03, -0.14), (0.0, -0.15)], "x")
        for bone, colour, body in ((f"{side}UpperArm", look.dress, sleeve), (f"{side}LowerArm", _SKIN, lower)):
            # Made to the left of the bone at the origin; the other arm is the same turned by 180° about y.
            flip = np.array([-sign, 1, -sign], np.float32)
            placed = Body(body.points * flip, body.normals * flip, body.corners).moved(BONES[bone][1])
            parts.append((bone, colour, placed))
        parts.append((f"{side}Hand", _SKIN, ellipsoid((sign * 0.445, 0.89, 0), (0.05, 0.033, 0.038))))
        x = sign * 0.07
        thigh = turned([(0.0, 0.6), (0.062, 0.57), (0.05, 0.36), (0.045, 0.31), (0.0, 0.3)]).moved((x, 0, 0))
        shin = turned([(0.0, 0.36), (0.047, 0.33), (0.046, 0.2), (0.04, 0.07), (0.0, 0.06)]).moved((x, 0, 0))
        parts += [
            (f"{side}UpperLeg", _SKIN, thigh),
            (f"{side}LowerLeg", _WHITE, shin),
            (f"{side}Foot", look.trim, ellipsoid((x, 0.045, 0.03), (0.052, 0.045, 0.09))),
        ]
    return parts


def _eyes(look: Look) -> list[tuple[Colour, Body]]:
    found = []
    for sign in (1, -1):
        found += [
            (_LASH, ellipsoid((sign * 0.078, 1.148, 0.158), (0.036, 0.052, 0.018))),
            (look.eyes, ellipsoid((sign * 0.078, 1.14, 0.166), (0.029, 0.041, 0.016))),
            (_LASH, ellipsoid((sign * 0.078, 1.142, 0.176), (0.014, 0.022, 0.0085))),
            (_WHITE, ellipsoid((sign * 0.078 + 0.011, 1.163, 0.18), (0.011, 0.013, 0.006))),
        ]
    return found


_MOUTH_BODY = ellipsoid((0, 1.062, 0.165), (0.022, 0.006, 0.01))


def _material(model: Gltf, colour: Colour) -> int:
    shade = [part * 0.78 for part in colour]
    model.use("VRMC_materials_mtoon")
    mtoon = {
        "specVersion": "1.0",
        "shadeColorFactor": shade,
        "shadingShiftFactor": -0.1,
        "shadingToonyFactor": 0.85,
        "giEqualizationFactor": 0.9,
    }
    return model.add(
        "materials",
        {
            "name": f"colour {len(model.document.get('materials', []))}",
            "pbrMetallicRoughness": {"baseColorFactor": [*colour, 1.0], "metallicFactor": 0.0, "roughnessFactor": 0.9},
            "extensions": {"VRMC_materials_mtoon": mtoon},
        },
    )


def skeleton(model: Gltf) -> dict[str, int]:
    """The bones as nodes, each at its place, by their names. The motions' files have the same ones."""
    nodes: dict[str, int] = {}
    for bone, (parent, place) in BONES.items():
        above = BONES[parent][1] if parent else (0.0, 0.0, 0.0)
        nodes[bone] = model.add(
            "nodes", {"name": bone, "translation": [a - b for a, b in zip(place, above, strict=True)]}
        )
        if parent:
            model.document["nodes"][nodes[parent]].setdefault("children", []).append(nodes[bone])
    model.document |= {"scenes": [{"nodes": [nodes["hips"]]}], "scene": 0}
    return nodes


def avatar(look: Look) -> bytes:
    """The VRM: 17 bones; blink, happy, relaxed, surprised and five vowels; toon shading."""
    model = Gltf()
    nodes = skeleton(model)
    materials: dict[Colour, int] = {}

    def material(colour: Colour) -> int:
        if colour not in materials:
            materials[colour] = _material(model, colour)
        return materials[colour]

    def hang(bone: str, name: str, primitives: list[dict[str, Any]]) -> int:
        mesh = model.add("meshes", {"name": name, "primitives": primitives})
        node = model.add("nodes", {"name": name, "mesh": mesh})
        model.document["nodes"][nodes[bone]].setdefault("children", []).append(node)
        return node

    def local(bone: str, body: Body) -> Body:
        x, y, z = BONES[bone][1]
        return body.moved((-x, -y, -z))

    by_bone: dict[str, list[dict[str, Any]]] = {}
    for bone, colour, body in [*_head(look), *_torso(look)]:
        by_bone.setdefault(bone, []).append(model.primitive(local(bone, body), material(colour)))
    for bone, primitives in by_bone.items():
        hang(bone, f"{bone} body", primitives)

    eyes = []
    for colour, body in _eyes(look):
        placed = local("head", body)
        closed, smiling, wide = (np.zeros_like(placed.points) for _ in range(3))
        # The lid's line is where the eye's lower third is; a smile is an arc above it.
        closed[:, 1] = (1.13 - 0.98 - placed.points[:, 1]) * 0.94
        bow = 0.02 * np.cos((np.abs(placed.points[:, 0]) - 0.078) / 0.036 * np.pi / 2)
        smiling[:, 1] = (1.135 - 0.98 + bow - placed.points[:, 1]) * 0.86
        wide[:, 1] = (placed.points[:, 1] - (1.145 - 0.98)) * 0.16
        eyes.append(model.primitive(placed, material(colour), [closed, smiling, wide]))
    eye_node = hang("head", "eyes", eyes)
    mouth = local("head", _MOUTH_BODY)
    shifts = []
    for wide_by, tall_by in ((1.0, 4.6), (1.25, 1.6), (0.5, 2.4), (1.1, 2.6), (0.75, 3.8), (1.35, 2.0)):
        shift = np.zeros_like(mouth.points)
        middle = 1.062 - 0.98
        shift[:, 0] = mouth.points[:, 0] * (wide_by - 1)
        shift[:, 1] = (mouth.points[:, 1] - middle) * (tall_by - 1) - 0.004
        shifts.append(shift)
    mouth_node = hang("head", "mouth", [model.primitive(mouth, material(_MOUTH), shifts)])

    def moves(*binds: tuple[int, int, float]) -> dict[str, Any]:
        return {"morphTargetBinds": [{"node": node, "index": index, "weight": weight} for node, index, weight in binds]}

    preset = {"blink": moves((eye_node, 0, 1.0))}
    preset |= {vowel: moves((mouth_node, index, 1.0)) for index, vowel in enumerate(("aa", "ih", "ou", "ee", "oh"))}
    preset |= {
        "happy": moves((eye_node, 1, 1.0), (mouth_node, 5, 1.0)),
        "relaxed": moves((eye_node, 0, 0.55)),
        "surprised": moves((eye_node, 2, 1.0), (mouth_node, 4, 0.9)),
    }
    picture = model.add(
        "images", {"bufferView": model.view(portrait(look)), "mimeType": "image/png", "name": "portrait"}
    )
    model.extension(
        "VRMC_vrm",
        {
            "specVersion": "1.0",
            "meta": {
                "name": look.name,
                "version": "1.0",
                "authors": ["Butai"],
                "licenseUrl": "https://vrm.dev/licenses/1.0/",
                "avatarPermission": "everyone",
                "commercialUsage": "corporation",
                "creditNotation": "unnecessary",
                "allowRedistribution": True,
                "modification": "allowModificationRedistribution",
                "thumbnailImage": picture,
            },
            "humanoid": {"humanBones": {bone: {"node": node} for bone, node in nodes.items()}},
            "expressions": {"preset": preset},
            "lookAt": {
                "type": "bone",
                "offsetFromHeadBone": [0, 0.16, 0.1],
                **{
                    f"rangeMap{way}": {"inputMaxValue": 90, "outputScale": 8}
                    for way in ("HorizontalInner", "HorizontalOuter", "VerticalDown", "VerticalUp")
                },
            },
        },
    )
    return model.file()


def portrait(look: Look, size: int = 256) -> bytes:
    """Head and shoulders as a PNG, `size` pixels square: each ellipsoid met by straight rays, lit from the upper
    left."""
    parts = (
        [(colour, body) for _, colour, body in [*_head(look), *_torso(look)]] + _eyes(look) + [(_MOUTH, _MOUTH_BODY)]
    )
    places = (np.arange(size) + 0.5) / size
    x, y = np.meshgrid((places - 0.5) * 0.66, 1.47 - places * 0.66)
    depth = np.full((size, size), -np.inf)
    picture = np.empty((size, size, 3))
    picture[:] = np.linspace((0.86, 0.9, 1.0), (0.72, 0.78, 0.95), size)[:, None, :]
    for colour, body in parts:
        low, high = body.points.min(axis=0), body.points.max(axis=0)
        (cx, cy, cz), (rx, ry, rz) = (low + high) / 2, np.maximum((high - low) / 2, 1e-6)
        left = 1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2
        z = np.where(left > 0, cz + rz * np.sqrt(np.maximum(left, 0)), -np.inf)
        nearer = z > depth
        depth = np.where(nearer, z, depth)
        normal = np.stack([(x - cx) / rx**2, (y - cy) / ry**2, np.where(left > 0, (z - cz) / rz**2, 0)], axis=-1)
        normal /= np.maximum(np.linalg.norm(normal, axis=-1, keepdims=True), 1e-9)
        light = normal @ np.array([-0.35, 0.55, 0.76])
        shade = np.clip((light - 0.05) * 9, 0, 1)[..., None] * 0.22 + 0.78
        # From linear to display values, approximately.
        picture = np.where(nearer[..., None], np.power(np.array(colour) * shade, 1 / 2.2), picture)
    rows = (np.clip(picture, 0, 1) * 255).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    head = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 9)) + chunk(b"IEND", b"")
