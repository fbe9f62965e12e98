"""The demo's files, by readers that are not theirs."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from butai.assets import keys
from butai.assets.kinds import FORMATS, AssetType
from butai.demo import figure, library, motion, scenery
from tests.unit.test_inspect_models import facts_of, independent, independent_triangles

REQUIRED = {
    "hips", "spine", "head", *(f"{side}{bone}" for side in ("left", "right") for bone in
    ("UpperLeg", "LowerLeg", "Foot", "UpperArm", "LowerArm", "Hand")),
}  # fmt: skip
"""The bones that no VRM 1.0 may be without (VRMC_vrm-1.0, humanoid)."""


@pytest.mark.parametrize("look", [figure.AOI, figure.MOMO], ids=lambda look: look.name)
async def test_an_avatar_is_a_whole_vrm_that_anybody_may_use(look: figure.Look, tmp_path: Path) -> None:
    body = figure.avatar(look)
    facts = await facts_of(body)
    model = independent(body, tmp_path)
    assert set(model.extensions["VRMC_vrm"]["humanoid"]["humanBones"]) >= REQUIRED
    assert facts.sections["model"]["triangles"] == independent_triangles(model) > 10_000
    assert {"blink", "happy", "aa"} <= set(facts.sections["model"]["expressions"])
    licence = facts.sections["licence"]
    assert (licence["redistribution"], licence["commercial"], licence["credit"]) == (
        "allowed",
        "corporation",
        "unnecessary",
    )
    # Its face is to the front, and it stands on the ground.
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    at: dict[int, np.ndarray] = {}

    def walk(index: int, place: np.ndarray) -> None:
        node = model.nodes[index]
        at[index] = place = place + np.array(node.translation or (0, 0, 0))
        if node.mesh is not None:
            for primitive in model.meshes[node.mesh].primitives:
                accessor = model.accessors[primitive.attributes.POSITION]
                low[:], high[:] = np.minimum(low, place + accessor.min), np.maximum(high, place + accessor.max)
        for child in node.children or []:
            walk(child, place)

    walk(model.scenes[0].nodes[0], np.zeros(3))
    assert -0.01 < low[1] < 0.01
    assert 1.3 < high[1] < 1.6
    assert len(at) == len(model.nodes), "every part hangs somewhere"


@pytest.mark.parametrize("look", [figure.AOI, figure.MOMO], ids=lambda look: look.name)
def test_a_portrait_shows_hair_and_eyes_of_the_figure(look: figure.Look) -> None:
    picture = np.asarray(Image.open(io.BytesIO(figure.portrait(look))).convert("RGB"), float) / 255
    assert picture.shape == (256, 256, 3)

    def share(colour: figure.Colour) -> float:
        return float((np.abs(picture - np.power(np.array(colour), 1 / 2.2)).max(axis=-1) < 0.02).mean())

    assert share(look.hair) > 0.1
    assert 0.001 < share(look.eyes) < 0.1


@pytest.mark.parametrize(("make", "seconds"), [(motion.waving, 4.0), (motion.swaying, 8.0)])
async def test_a_motion_turns_bones_and_ends_as_it_begins(
    make: Callable[[], bytes], seconds: float, tmp_path: Path
) -> None:
    body = make()
    facts = await facts_of(body, "vrma", library_type("animations/x.vrma"))
    assert facts.sections["animation"]["duration"] == pytest.approx(seconds)
    model = independent(body, tmp_path)
    (animation,) = model.animations
    assert len(animation.channels) >= 7
    for sampler in animation.samplers:
        accessor = model.accessors[sampler.output]
        view = model.bufferViews[accessor.bufferView]
        turns = np.frombuffer(model.binary_blob(), np.float32, accessor.count * 4, view.byteOffset).reshape(-1, 4)
        assert np.allclose(np.linalg.norm(turns, axis=1), 1, atol=1e-4)
        assert np.allclose(turns[0], turns[-1], atol=1e-4)


def library_type(key: str) -> AssetType:
    return keys.parse(key).kind


def test_music_is_sixteen_seconds_and_never_clips() -> None:
    with wave.open(io.BytesIO(scenery.music())) as sound:
        assert (sound.getnchannels(), sound.getsampwidth()) == (1, 2)
        assert sound.getnframes() / sound.getframerate() == pytest.approx(16)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    assert 15_000 < np.abs(samples).max() < 32_000


@pytest.mark.parametrize("make", [scenery.noon, scenery.dusk])
def test_a_sky_is_brighter_than_white_only_at_its_sun(make: Callable[[], bytes]) -> None:
    body = make()
    head, _, pixels = body.rpartition(b"+X 512\n")
    assert head.startswith(b"#?RADIANCE\n")
    rgbe = np.frombuffer(pixels, np.uint8).reshape(256, 512, 4).astype(float)
    light = rgbe[..., :3] * np.exp2(rgbe[..., 3:] - 136)
    assert light.max() > 5
    assert float((light.max(axis=-1) > 3).mean()) < 0.01


def test_every_file_is_what_its_key_says() -> None:
    for key, make in library.FILES.items():
        body = make()
        FORMATS[library_type(key)][key.rpartition(".")[2]].check(body[:64], len(body))
