"""Facts of a VRM's avatar, in the terms of VRM 1.0 for both versions. Pure.

Sources: VRM 1.0, `specification/VRMC_vrm-1.0/` (meta,
humanoid, expressions) and `VRMC_springBone-1.0`; VRM 0.x, `specification/0.0/`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from butai.assets.contents.readers import claims
from butai.assets.contents.readers.glb import Glb, buffer_view, entry
from butai.assets.contents.readers.licence import Licence, licence_0, licence_1

THUMBNAIL_LIMIT = 8 * 1024**2
"""Largest embedded picture that becomes a thumbnail: VRM recommends 1024 x 1024, some 2 MB as PNG."""

_IMAGE_MIMES = {
    "image/png": "image/png",
    "image/jpeg": "image/jpeg",
    "image/webp": "image/webp",
    "image/jpg": "image/jpeg",
    "image/x-png": "image/png",
}
"""MIME types that an embedded picture may claim, with two that exporters misspell. The bytes decide which of them it is."""

_PRESETS_0 = {
    "neutral": "neutral",
    "joy": "happy",
    "angry": "angry",
    "sorrow": "sad",
    "fun": "relaxed",
    "surprised": "surprised",
    "a": "aa",
    "i": "ih",
    "u": "ou",
    "e": "ee",
    "o": "oh",
    "blink": "blink",
    "blink_l": "blinkLeft",
    "blink_r": "blinkRight",
    "lookup": "lookUp",
    "lookdown": "lookDown",
    "lookleft": "lookLeft",
    "lookright": "lookRight",
}
"""Presets of VRM 0.x and their names in VRM 1.0 (`expressions.md`). Files have them in any letter case."""


@dataclass(frozen=True, slots=True)
class Avatar:
    """An avatar. `facts` is JSON; `bones` and `expressions` are sorted names."""

    spec: Literal["0.x", "1.0"]
    facts: dict[str, Any]
    bones: list[str]
    expressions: list[str]
    licence: Licence


def avatar(glb: Glb) -> Avatar | None:
    """The avatar in a GLB; None when it is not a VRM."""
    extensions = claims.section(glb.document, "extensions")
    if isinstance(extensions.get("VRMC_vrm"), dict):
        return _avatar_1(extensions)
    if isinstance(extensions.get("VRM"), dict):
        return _avatar_0(glb, claims.section(extensions, "VRM"))
    return None


def _avatar_1(extensions: dict[str, Any]) -> Avatar:
    vrm = claims.section(extensions, "VRMC_vrm")
    meta = claims.section(vrm, "meta")
    bones = claims.names(
        name for name, bone in claims.section(vrm, "humanoid", "humanBones").items() if isinstance(bone, dict)
    )
    preset = claims.names(claims.section(vrm, "expressions", "preset"))
    custom = claims.names(claims.section(vrm, "expressions", "custom"))
    facts = {
        "spec_version": claims.text(vrm.get("specVersion"), claims.NAME_LIMIT),
        "title": claims.text(meta.get("name")),
        "authors": claims.texts(meta.get("authors")),
        "version": claims.text(meta.get("version")),
        "copyright": claims.text(meta.get("copyrightInformation")),
        "contact": claims.text(meta.get("contactInformation")),
        "references": claims.texts(meta.get("references")),
        "bones": bones,
        "expressions": preset,
        "custom_expressions": custom,
        # One chain for each.
        "spring_bones": len(claims.items(claims.section(extensions, "VRMC_springBone"), "springs")),
    }
    return Avatar("1.0", facts, bones, sorted({*preset, *custom}), licence_1(meta))


def _avatar_0(glb: Glb, vrm: dict[str, Any]) -> Avatar:
    meta = claims.section(vrm, "meta")
    bones = claims.names(
        bone.get("bone")
        for bone in claims.items(claims.section(vrm, "humanoid"), "humanBones")
        # Exporters write a bone that the avatar does not have as node -1.
        if isinstance(bone, dict) and entry(glb.document, "nodes", bone.get("node")) is not None
    )
    preset: set[str] = set()
    custom: set[object] = set()
    for group in claims.items(claims.section(vrm, "blendShapeMaster"), "blendShapeGroups"):
        if not isinstance(group, dict):
            continue
        named, kind = group.get("name"), group.get("presetName")
        if isinstance(kind, str) and kind.lower() in _PRESETS_0:
            preset.add(_PRESETS_0[kind.lower()])
        elif isinstance(named, str):
            custom.add(named)
    chosen = claims.names(custom)
    author = claims.text(meta.get("author"))
    reference = claims.text(meta.get("reference"))
    facts = {
        # The extension's version is in its exporter's name, if anywhere.
        "spec_version": claims.text(vrm.get("specVersion"), claims.NAME_LIMIT) or "0.x",
        "title": claims.text(meta.get("title")),
        "authors": [author] if author else [],
        "version": claims.text(meta.get("version")),
        "copyright": None,
        "contact": claims.text(meta.get("contactInformation")),
        "references": [reference] if reference else [],
        "bones": bones,
        "expressions": sorted(preset),
        "custom_expressions": chosen,
        # Each root bone is a chain of VRM 1.0.
        "spring_bones": sum(
            len(claims.items(group, "bones"))
            for group in claims.items(claims.section(vrm, "secondaryAnimation"), "boneGroups")
        ),
    }
    return Avatar("0.x", facts, bones, sorted({*preset, *chosen}), licence_0(meta))


def locate(glb: Glb) -> tuple[int, int, str] | None:
    """First byte, length and claimed MIME type of a VRM's picture within the file.

    VRM 1.0 names it as an index into `images`, VRM 0.x as one into `textures`.
    """
    extensions = glb.document.get("extensions")
    if not isinstance(extensions, dict):
        return None
    index: object = None
    for name in ("VRMC_vrm", "VRM"):
        vrm = extensions.get(name)
        meta = vrm.get("meta") if isinstance(vrm, dict) else None
        if not isinstance(meta, dict):
            continue
        if name == "VRMC_vrm":
            index = meta.get("thumbnailImage")
        else:
            texture = entry(glb.document, "textures", meta.get("texture"))
            index = texture.get("source") if texture else None
        break
    image = entry(glb.document, "images", index)
    claimed = image.get("mimeType", "image/png") if image is not None else None
    mime = _IMAGE_MIMES.get(claimed) if isinstance(claimed, str) else None
    if image is None or mime is None:
        return None
    place = buffer_view(glb, image.get("bufferView"))
    if place is None or place[1] > THUMBNAIL_LIMIT:
        return None
    return *place, mime
