"""Facts of a glTF's model, from its JSON alone: no mesh is decoded and no URI in it is fetched. Pure.

Compressed meshes (Draco, meshopt) are counted like others: their accessors still have the counts
(KHR_draco_mesh_compression, "Conformance").
Source: glTF 2.0, "Concepts": Meshes, Accessors, Animations.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from butai.assets.contents.readers import claims
from butai.assets.contents.readers.glb import Glb, entry

TRIANGLES, STRIP, FAN = 4, 5, 6
"""Modes of a primitive that draw triangles; 4 is the default (glTF 2.0, `mesh.primitive.mode`)."""

ANIMATIONS_SHOWN = 50
"""Most animations that are named; all are counted."""


def model_facts(glb: Glb) -> dict[str, Any]:
    """Counts and names of the model's content. A mesh counts once, however many nodes use it.

    `extensions` are those in use, `external_uris` how many other files the model needs.
    """
    document = glb.document
    triangles, vertices = _sizes(document)
    animations = list(animation_lengths(document))
    found: dict[str, Any] = {
        "triangles": triangles,
        "vertices": vertices,
        "meshes": len(claims.items(document, "meshes")),
        "materials": len(claims.items(document, "materials")),
        "textures": len(claims.items(document, "textures")),
        "images": len(claims.items(document, "images")),
        "nodes": len(claims.items(document, "nodes")),
        "skins": len(claims.items(document, "skins")),
        "animations": len(animations),
        "extensions": claims.names(claims.items(document, "extensionsUsed"), 64),
        "external_uris": external_uris(document),
    }
    if animations:
        found["animation_names"] = [name for name, _ in animations[:ANIMATIONS_SHOWN] if name is not None]
        found["animation_seconds"] = longest(animations)
    if generator := claims.text(claims.section(document, "asset").get("generator")):
        found["generator"] = generator
    return found


def _sizes(document: dict[str, Any]) -> tuple[int, int]:
    """Triangles and vertices of all meshes."""
    triangles = vertices = 0
    for mesh in claims.items(document, "meshes"):
        for primitive in claims.items(mesh, "primitives"):
            if not isinstance(primitive, dict):
                continue
            corners = _accessor_count(document, claims.section(primitive, "attributes").get("POSITION"))
            vertices += corners
            indexed = primitive.get("indices")
            drawn = corners if indexed is None else _accessor_count(document, indexed)
            mode = primitive.get("mode", TRIANGLES)
            if mode == TRIANGLES:
                triangles += drawn // 3
            elif mode in (STRIP, FAN):
                triangles += max(0, drawn - 2)
    return triangles, vertices


def _accessor_count(document: dict[str, Any], index: object) -> int:
    accessor = entry(document, "accessors", index)
    return (claims.count(accessor.get("count")) if accessor else None) or 0


def animation_lengths(document: dict[str, Any]) -> Iterator[tuple[str | None, float]]:
    """Name and seconds of each animation: the latest key frame of its samplers (`accessor.max`, which inputs must
    have)."""
    for animation in claims.items(document, "animations"):
        length = 0.0
        for sampler in claims.items(animation, "samplers"):
            accessor = entry(document, "accessors", sampler.get("input")) if isinstance(sampler, dict) else None
            highest = claims.items(accessor, "max")
            length = max(length, (claims.seconds(highest[0]) if highest else None) or 0.0)
        yield claims.text(animation.get("name") if isinstance(animation, dict) else None), length


def longest(animations: list[tuple[str | None, float]]) -> float:
    """Seconds of the longest animation; 0 without any."""
    return max((length for _, length in animations), default=0.0)


def animated_nodes(document: dict[str, Any]) -> set[int]:
    """The nodes that an animation moves."""
    found: set[int] = set()
    for animation in claims.items(document, "animations"):
        for channel in claims.items(animation, "channels"):
            node = claims.count(claims.section(channel, "target").get("node"))
            if node is not None:
                found.add(node)
    return found


def external_uris(document: dict[str, Any]) -> int:
    """How many buffers and images are in other files. They are never fetched."""
    return sum(
        isinstance(item, dict) and isinstance(uri := item.get("uri"), str) and uri[:5].lower() != "data:"
        for name in ("buffers", "images")
        for item in claims.items(document, name)
    )
