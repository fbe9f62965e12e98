"""Avatars and motions with something inside: VRM 1.0, VRM 0.x, VRMA, BVH, FBX heads; small, valid, made here."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.files import glb, png


class Model:
    """A glTF being put together: what is added gets its buffer view, accessor and so on."""

    def __init__(self) -> None:
        self.document: dict[str, Any] = {"asset": {"version": "2.0", "generator": "tests"}}
        self.binary = b""

    def add(self, name: str, item: dict[str, Any]) -> int:
        """Appends to a list of the document; returns the index."""
        found = self.document.setdefault(name, [])
        found.append(item)
        return len(found) - 1

    def view(self, body: bytes) -> int:
        """Bytes in the BIN chunk, as a buffer view."""
        self.binary += b"\0" * (-len(self.binary) % 4)
        offset = len(self.binary)
        self.binary += body
        return self.add("bufferViews", {"buffer": 0, "byteOffset": offset, "byteLength": len(body)})

    def image(self, body: bytes, mime: str = "image/png") -> int:
        """A picture, and a texture of it; returns the image's index."""
        image = self.add("images", {"bufferView": self.view(body), "mimeType": mime})
        self.add("textures", {"source": image})
        return image

    def mesh(self, triangles: int = 2, mode: int | None = None, indexed: bool = True) -> int:
        """A mesh of one primitive."""
        corners = triangles * 3 if mode in (None, 4) else triangles + 2
        vertices = corners if not indexed else max(3, corners // 2)
        position = self.add(
            "accessors",
            {
                "bufferView": self.view(struct.pack("<fff", 0, 0, 0) * vertices),
                "componentType": 5126,
                "count": vertices,
                "type": "VEC3",
                "min": [0, 0, 0],
                "max": [0, 0, 0],
            },
        )
        primitive: dict[str, Any] = {"attributes": {"POSITION": position}}
        if indexed:
            body = struct.pack(f"<{corners}H", *(index % vertices for index in range(corners)))
            accessor = {"bufferView": self.view(body), "componentType": 5123, "count": corners, "type": "SCALAR"}
            primitive["indices"] = self.add("accessors", accessor)
        if mode is not None:
            primitive["mode"] = mode
        return self.add("meshes", {"primitives": [primitive]})

    def box(self, middle: tuple[float, ...], sides: tuple[float, ...], material: int) -> int:
        """A mesh that can be seen: a box of its own corners and normals for each face."""
        around = ((-1, -1, 1), (1, -1, 1), (1, 1, 1), (-1, 1, 1), (-1, -1, -1), (1, -1, -1), (1, 1, -1), (-1, 1, -1))
        normals = ((0, 0, 1), (0, 0, -1), (-1, 0, 0), (1, 0, 0), (0, 1, 0), (0, -1, 0))
        corners = [tuple(m + s * a / 2 for m, s, a in zip(middle, sides, one, strict=True)) for one in around]
        points = [corners[corner] for face in _FACES for corner in face]
        faces = [start + place for start in range(0, 24, 4) for place in (0, 1, 2, 0, 2, 3)]
        given = {"componentType": 5126, "count": 24, "type": "VEC3"}
        bounds = {"min": [min(axis) for axis in zip(*points, strict=True)]}
        bounds["max"] = [max(axis) for axis in zip(*points, strict=True)]
        # As the file itself holds them: 32-bit floats.
        bounds = {side: list(struct.unpack("<3f", struct.pack("<3f", *values))) for side, values in bounds.items()}
        body = b"".join(struct.pack("<3f", *point) for point in points)
        position = self.add("accessors", {"bufferView": self.view(body), **given, **bounds})
        body = b"".join(struct.pack("<3f", *normal) * 4 for normal in normals)
        normal = self.add("accessors", {"bufferView": self.view(body), **given})
        indices = {"bufferView": self.view(struct.pack("<36H", *faces)), "componentType": 5123, "count": 36}
        primitive = {
            "attributes": {"POSITION": position, "NORMAL": normal},
            "indices": self.add("accessors", indices | {"type": "SCALAR"}),
            "material": material,
        }
        return self.add("meshes", {"primitives": [primitive]})

    def animation(
        self,
        seconds: float,
        nodes: list[int],
        name: str | None = None,
        to: tuple[float, float, float, float] = (0, 0, 0, 1),
    ) -> int:
        """Turns these nodes for some time, up to the quaternion `to`."""
        times = struct.pack("<2f", 0, seconds)
        given = {"bufferView": self.view(times), "componentType": 5126, "count": 2, "type": "SCALAR"}
        # As the file itself holds it: a 32-bit float.
        latest = struct.unpack("<2f", times)[1]
        time = self.add("accessors", given | {"min": [0], "max": [latest]})
        turns = struct.pack("<8f", 0, 0, 0, 1, *to)
        given = {"bufferView": self.view(turns), "componentType": 5126, "count": 2, "type": "VEC4"}
        turn = self.add("accessors", given)
        found: dict[str, Any] = {
            "samplers": [{"input": time, "output": turn}],
            "channels": [{"sampler": 0, "target": {"node": node, "path": "rotation"}} for node in nodes],
        }
        return self.add("animations", found | ({"name": name} if name else {}))

    def extension(self, name: str, value: dict[str, Any]) -> None:
        """At the root, in use."""
        self.document.setdefault("extensions", {})[name] = value
        self.document.setdefault("extensionsUsed", []).append(name)

    def file(self) -> bytes:
        """The GLB."""
        if self.binary:
            self.document["buffers"] = [{"byteLength": len(self.binary)}]
        return glb(self.document, self.binary)


META_1: dict[str, Any] = {
    "name": "Aoi",
    "version": "1.2",
    "authors": ["Mio", "Ren"],
    "licenseUrl": "https://vrm.dev/licenses/1.0/",
    "avatarPermission": "everyone",
    "commercialUsage": "personalProfit",
    "creditNotation": "unnecessary",
    "allowRedistribution": False,
    "modification": "allowModification",
    "allowExcessivelyViolentUsage": True,
}

META_0: dict[str, Any] = {
    "title": "Aoi",
    "version": "0.9",
    "author": "Mio",
    "allowedUserName": "Everyone",
    "violentUssageName": "Allow",
    "sexualUssageName": "Disallow",
    "commercialUssageName": "Allow",
    "licenseName": "CC_BY",
    "otherPermissionUrl": "https://example.org/terms",
}

BONES = ("hips", "spine", "head", "leftHand")


def _body(thumbnail: bytes | None, padding: int, mime: str) -> tuple[Model, int | None]:
    model = Model()
    for bone in BONES:
        model.add("nodes", {"name": bone})
    model.add("materials", {"name": "skin"})
    model.mesh(triangles=10)
    model.mesh(triangles=4, mode=5, indexed=False)
    model.image(png(64, 32))
    index = model.image(thumbnail, mime) if thumbnail is not None else None
    if padding:
        model.view(b"\x55" * padding)
    return model, index


def vrm1(
    thumbnail: bytes | None = None, meta: dict[str, Any] | None = None, padding: int = 0, mime: str = "image/png"
) -> bytes:
    """A VRM 1.0: four bones, `happy`, `blinkLeft` and one expression of its own, 14 triangles."""
    model, index = _body(thumbnail, padding, mime)
    given = dict(META_1 if meta is None else meta)
    if index is not None:
        given["thumbnailImage"] = index
    expressions = {"preset": {"happy": {}, "blinkLeft": {}}, "custom": {"Wink": {}}}
    bones = {bone: {"node": node} for node, bone in enumerate(BONES)}
    model.extension(
        "VRMC_vrm",
        {"specVersion": "1.0", "meta": given, "humanoid": {"humanBones": bones}, "expressions": expressions},
    )
    model.extension("VRMC_springBone", {"specVersion": "1.0", "springs": [{"joints": [{"node": 2}]}] * 3})
    return model.file()


def vrm0(
    thumbnail: bytes | None = None, meta: dict[str, Any] | None = None, padding: int = 0, mime: str = "image/png"
) -> bytes:
    """The same as VRM 0.x; its thumbnail is named as a texture."""
    model, index = _body(thumbnail, padding, mime)
    given = dict(META_0 if meta is None else meta)
    if index is not None:
        given["texture"] = index
    groups = [
        {"name": "Joy", "presetName": "joy"},
        {"name": "Blink_L", "presetName": "blink_l"},
        {"name": "Wink", "presetName": "unknown"},
    ]
    bones = [{"bone": bone, "node": node} for node, bone in enumerate(BONES)] + [{"bone": "jaw", "node": -1}]
    model.extension(
        "VRM",
        {
            "exporterVersion": "UniVRM-0.99",
            "specVersion": "0.0",
            "meta": given,
            "humanoid": {"humanBones": bones},
            "blendShapeMaster": {"blendShapeGroups": groups},
            "secondaryAnimation": {"boneGroups": [{"bones": [2]}, {"bones": [1, 3]}]},
        },
    )
    return model.file()


def vrma(seconds: float = 2.5) -> bytes:
    """Moves hips and head and the expression `happy`; names the spine, and does not move it."""
    model = Model()
    nodes = {name: model.add("nodes", {"name": name}) for name in ("hips", "head", "spine", "happy", "Wink")}
    model.animation(1.0, [nodes["hips"]])
    model.animation(seconds, [nodes["head"], nodes["happy"]], "wave")
    model.extension(
        "VRMC_vrm_animation",
        {
            "specVersion": "1.0",
            "humanoid": {"humanBones": {name: {"node": nodes[name]} for name in ("hips", "head", "spine")}},
            "expressions": {"preset": {"happy": {"node": nodes["happy"]}}, "custom": {"Wink": {"node": nodes["Wink"]}}},
        },
    )
    return model.file()


_PARENTS = {
    "hips": None,
    "spine": "hips",
    "chest": "spine",
    "neck": "chest",
    "head": "neck",
    **{f"{side}UpperArm": "chest" for side in ("left", "right")},
    **{f"{side}LowerArm": f"{side}UpperArm" for side in ("left", "right")},
    **{f"{side}Hand": f"{side}LowerArm" for side in ("left", "right")},
    **{f"{side}UpperLeg": "hips" for side in ("left", "right")},
    **{f"{side}LowerLeg": f"{side}UpperLeg" for side in ("left", "right")},
    **{f"{side}Foot": f"{side}LowerLeg" for side in ("left", "right")},
}
"""The bones that a VRM 1.0 must have, chest and neck, each with what it hangs on."""

_PLACES: dict[str, tuple[float, float, float]] = {
    "hips": (0, 0.9, 0),
    "spine": (0, 0.12, 0),
    "chest": (0, 0.16, 0),
    "neck": (0, 0.22, 0),
    "head": (0, 0.08, 0),
    "UpperArm": (0.18, 0.16, 0),
    "LowerArm": (0.26, 0, 0),
    "Hand": (0.24, 0, 0),
    "UpperLeg": (0.1, -0.05, 0),
    "LowerLeg": (0, -0.4, 0),
    "Foot": (0, -0.38, 0),
}
"""Where a bone begins, from where its parent does; metres, of the left side."""

# A box for each bone: its middle from the bone's beginning, and its sides.
_BOXES: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "hips": ((0, 0, 0), (0.3, 0.18, 0.2)),
    "spine": ((0, 0.06, 0), (0.26, 0.16, 0.18)),
    "chest": ((0, 0.1, 0), (0.34, 0.24, 0.2)),
    "neck": ((0, 0.03, 0), (0.1, 0.1, 0.1)),
    "head": ((0, 0.14, 0), (0.26, 0.28, 0.24)),
    "UpperArm": ((0.13, 0, 0), (0.26, 0.1, 0.1)),
    "LowerArm": ((0.12, 0, 0), (0.24, 0.09, 0.09)),
    "Hand": ((0.06, 0, 0), (0.12, 0.08, 0.06)),
    "UpperLeg": ((0, -0.2, 0), (0.14, 0.4, 0.14)),
    "LowerLeg": ((0, -0.19, 0), (0.12, 0.38, 0.12)),
    "Foot": ((0, -0.03, 0.05), (0.12, 0.08, 0.24)),
}

_FACES = ((0, 1, 2, 3), (5, 4, 7, 6), (4, 0, 3, 7), (1, 5, 6, 2), (3, 2, 6, 7), (4, 5, 1, 0))

SKIN, SHIRT, TROUSERS, HAPPY = (1.0, 0.55, 0.4), (0.1, 0.25, 0.9), (0.1, 0.6, 0.2), (1.0, 0.0, 0.8)
"""Colours of the figure: hands and head, the upper part, the lower, and the head that is happy."""


def figure(meta: dict[str, Any] | None = None, thumbnail: bytes | None = None) -> bytes:
    """A VRM 1.0 that can be seen: a person of boxes, 1.5 m tall, who stands with arms held out. `happy` colours the head."""
    model, nodes, face = _person(1.0)
    happy = {"materialColorBinds": [{"material": face, "type": "color", "targetValue": [*HAPPY, 1]}]}
    given: dict[str, Any] = dict(META_1 if meta is None else meta)
    if thumbnail is not None:
        given["thumbnailImage"] = model.image(thumbnail)
    bones = {bone: {"node": node} for bone, node in nodes.items()}
    model.extension(
        "VRMC_vrm",
        {
            "specVersion": "1.0",
            "meta": given,
            "humanoid": {"humanBones": bones},
            "expressions": {"preset": {"happy": happy}},
        },
    )
    return model.file()


def pointing_at(url: str) -> bytes:
    """The figure, all of whose materials name a texture at this address, outside of the file."""
    body = figure()
    length = int.from_bytes(body[12:16], "little")
    document = json.loads(body[20 : 20 + length])
    image = document.setdefault("images", [])
    image.append({"uri": url})
    textures = document.setdefault("textures", [])
    textures.append({"source": len(image) - 1})
    for material in document["materials"]:
        material["pbrMetallicRoughness"]["baseColorTexture"] = {"index": len(textures) - 1}
    return glb(document, body[28 + length :])


def figure0() -> bytes:
    """The same as VRM 0.x, which looks the other way; without expressions."""
    model, nodes, _ = _person(-1.0)
    bones = [{"bone": bone, "node": node} for bone, node in nodes.items()]
    plain = [{"name": one["name"], "shader": "VRM_USE_GLTFSHADER"} for one in model.document["materials"]]
    model.extension(
        "VRM",
        {
            "specVersion": "0.0",
            "meta": META_0,
            "humanoid": {"humanBones": bones},
            "blendShapeMaster": {"blendShapeGroups": []},
            "materialProperties": plain,
        },
    )
    return model.file()


def _person(looks: float) -> tuple[Model, dict[str, int], int]:
    """Its nodes by bone, and the material of its face. `looks`: to +z, as VRM 1.0, or to -z."""
    model = Model()
    unlit = {"KHR_materials_unlit": {}}
    colours = {
        name: model.add(
            "materials",
            {"name": name, "pbrMetallicRoughness": {"baseColorFactor": [*colour, 1]}, "extensions": unlit},
        )
        for name, colour in (("face", SKIN), ("skin", SKIN), ("shirt", SHIRT), ("trousers", TROUSERS))
    }
    nodes: dict[str, int] = {}
    for bone, parent in _PARENTS.items():
        kind = bone.removeprefix("left").removeprefix("right")
        mirrored = -looks if bone.startswith("right") else looks
        x, y, z = _PLACES[kind]
        (mx, my, mz), sides = _BOXES[kind]
        worn = {"head": "face", "neck": "skin", "Hand": "skin", "hips": "trousers"}.get(kind)
        worn = worn or ("trousers" if kind in ("UpperLeg", "LowerLeg", "Foot") else "shirt")
        mesh = model.box((mx * mirrored, my, mz * looks), sides, colours[worn])
        nodes[bone] = model.add("nodes", {"name": bone, "translation": [x * mirrored, y, z], "mesh": mesh})
        if parent is not None:
            model.document["nodes"][nodes[parent]].setdefault("children", []).append(nodes[bone])
    model.document["scenes"] = [{"nodes": [nodes["hips"]]}]
    model.document["scene"] = 0
    model.document["extensionsUsed"] = ["KHR_materials_unlit"]
    return model, nodes, colours["face"]


def wave(seconds: float = 2.0) -> bytes:
    """A VRMA for `figure`: the whole body turns half around, and stays so."""
    model = Model()
    nodes = {}
    for bone, parent in _PARENTS.items():
        kind = bone.removeprefix("left").removeprefix("right")
        x, y, z = _PLACES[kind]
        nodes[bone] = model.add("nodes", {"name": bone, "translation": [-x if bone.startswith("right") else x, y, z]})
        if parent is not None:
            model.document["nodes"][nodes[parent]].setdefault("children", []).append(nodes[bone])
    model.document["scenes"] = [{"nodes": [nodes["hips"]]}]
    model.document["scene"] = 0
    model.animation(seconds, [nodes["hips"]], "turn", to=(0, 1, 0, 0))
    model.extension(
        "VRMC_vrm_animation",
        {"specVersion": "1.0", "humanoid": {"humanBones": {name: {"node": node} for name, node in nodes.items()}}},
    )
    return model.file()


def bvh(joints: int = 3, frames: int = 120, frame_time: str = "0.0333333") -> bytes:
    """A chain of joints, and a motion."""
    lines = ["HIERARCHY", "ROOT Hips", "{", "OFFSET 0 0 0", "CHANNELS 3 Zrotation Xrotation Yrotation"]
    for number in range(1, joints):
        lines += [f"JOINT Bone{number}", "{", "OFFSET 0 1 0", "CHANNELS 3 Zrotation Xrotation Yrotation"]
    lines += ["End Site", "{", "OFFSET 0 1 0", "}"] + ["}"] * joints
    lines += ["MOTION", f"Frames:\t{frames}", f"Frame Time:\t{frame_time}"]
    lines += [" ".join(["0.0"] * joints * 3)] * frames
    return "\n".join(lines).encode() + b"\n"


def fbx(version: int = 7400) -> bytes:
    """A binary FBX's head."""
    return b"Kaydara FBX Binary  \x00\x1a\x00" + struct.pack("<I", version) + b"\0" * 200


def jpeg(width: int, height: int, profile: int = 0) -> bytes:
    """A JPEG's headers, with a colour profile of so many bytes before its size."""
    body = b"\xff\xd8\xff\xe0" + struct.pack(">H", 16) + b"JFIF\0\1\1\0\0\1\0\1\0\0"
    while profile > 0:
        size = min(profile, 65_000)
        body += b"\xff\xe2" + struct.pack(">H", size + 2) + b"p" * size
        profile -= size
    return body + b"\xff\xc0" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\1\x22\0" * 3 + b"\xff\xda\0\2"


def webp(width: int, height: int) -> bytes:
    """A WebP's extended header."""
    chunk = b"VP8X" + struct.pack("<I", 10) + b"\0" * 4
    chunk += (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk
