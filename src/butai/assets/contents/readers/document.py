"""Facts of a glTF document: of a model, an avatar or a motion.

The same in the process that has the file and, for a large document, in a child of it (`model_child`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from butai.assets.contents.readers import animations, gltf, vrm
from butai.assets.contents.readers.glb import Glb
from butai.assets.contents.readers.images import image_places
from butai.assets.contents.readers.licence import Licence
from butai.assets.kinds import AssetType


@dataclass(slots=True)
class Facts:
    """The facts of a file. `sections` is the JSON that is shown; `terms` are words to filter by, in lower case;
    `duration` is in seconds.

    `thumbnail`: first byte, length and MIME type of a picture inside the file. `mime`: of the file itself, where its name does
    not decide it.
    """

    sections: dict[str, Any] = field(default_factory=dict)
    terms: list[str] = field(default_factory=list)
    triangles: int | None = None
    duration: float | None = None
    thumbnail: tuple[int, int, str] | None = None
    mime: str | None = None


Places = list[tuple[int, int]]
"""First byte and length, in the file, of pictures whose sizes are still to be read."""


def document_facts(glb: Glb, kind: AssetType, form: str) -> tuple[Facts, Places]:
    """The facts of a GLB, or of a `.gltf` (`form`), and where its pictures are."""
    vrma = animations.is_vrma(glb)
    if vrma or kind is AssetType.ANIMATION:
        return motion_facts(animations.glb_animation(glb), "vrma" if vrma else form), []
    model = gltf.model_facts(glb)
    found = Facts({"model": model}, [f"format={form}"], triangles=model["triangles"])
    places = image_places(glb)
    if (avatar := vrm.avatar(glb)) is None:
        return found, places
    model |= avatar.facts
    found.sections["licence"] = avatar.licence.as_facts()
    found.terms = ["format=vrm1" if avatar.spec == "1.0" else "format=vrm0", *avatar.licence.terms()]
    if avatar.bones:
        found.terms.append("humanoid")
    found.terms += _expressions(avatar.expressions)
    found.thumbnail = vrm.locate(glb)
    return found, places


def motion_facts(motion: dict[str, Any], form: str) -> Facts:
    """The facts of a motion, by what its reader found."""
    terms = [f"format={form}", *_expressions(motion.get("expressions", []) + motion.get("custom_expressions", []))]
    if motion.get("bones"):
        terms.append("humanoid")
    return Facts({"animation": motion}, terms, duration=motion.get("duration"))


def unknown_licence(found: Facts) -> Facts:
    """The facts of an avatar whose licence could not be read: the strictest, so that no filter takes it for a permission and
    its publication has a warning."""
    strictest = Licence()
    return Facts(
        found.sections | {"licence": strictest.as_facts()},
        [*found.terms, *strictest.terms()],
        found.triangles,
        found.duration,
        found.thumbnail,
        found.mime,
    )


def _expressions(names: Sequence[str]) -> list[str]:
    return [f"expression={name}" for name in names]
