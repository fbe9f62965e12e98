"""Avatars and motions with something inside: VRM 1.0, VRM 0.x, VRMA, BVH, FBX heads; small, valid, made here."""

from __future__ import annotations

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

    def animation(self, seconds: float, nodes: list[int], name: str | None = None) -> int:
        """Turns these nodes for some time."""
        times = struct.pack("<2f", 0, seconds)
        given = {"bufferView": self.view(times), "componentType": 5126, "count": 2, "type": "SCALAR"}
        # As the file itself holds it: a 32-bit float.
        latest = struct.unpack("<2f", times)[1]
        time = self.add("accessors", given | {"min": [0], "max": [latest]})
        turns = struct.pack("<8f", 0, 0, 0, 1, 0, 0, 0, 1)
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
