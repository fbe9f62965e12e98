"""What is read out of models, against Khronos' own validator: that ours are valid, and that both count the same.

Real files are read too where there is a folder of them: `BUTAI_TEST_MODELS=/folder/of/glb pytest …`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pygltflib
import pytest

from butai.assets.contents.tasks import READ_LIMIT, Facts, read_facts
from butai.assets.kinds import AssetType
from tests import avatars, files

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent / "gltf_validator"


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder from which the validator runs."""
    folder = tmp_path_factory.mktemp("validator") / "gltf_validator"
    shutil.copytree(HERE, folder, ignore=shutil.ignore_patterns("node_modules"))
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=120, capture_output=True)
    return folder


def validated(validator: Path, paths: list[Path]) -> dict[Path, dict[str, Any]]:
    ended = subprocess.run(
        ["node", "validate.mjs", *map(str, paths)],
        cwd=validator,
        check=True,
        timeout=300,
        capture_output=True,
        text=True,
    )
    return {Path(one["path"]): one for one in map(json.loads, ended.stdout.splitlines())}


async def ours(path: Path, kind: AssetType, extension: str) -> tuple[Facts, int]:
    """What our reader says of a file, and how many bytes it read."""
    read_bytes = 0
    size = path.stat().st_size

    async def read(start: int, length: int) -> bytes:
        nonlocal read_bytes
        read_bytes += length
        with path.open("rb") as file:
            file.seek(start)
            return file.read(length)

    return await read_facts(read, size, kind, extension), read_bytes


def check(facts: Facts, theirs: dict[str, Any]) -> None:
    """Asserts that both report the same about one model."""
    model, info = facts.sections["model"], theirs["info"]
    counted = {
        "triangles": info["totalTriangleCount"],
        "vertices": info["totalVertexCount"],
        "materials": info["materialCount"],
        "animations": info["animationCount"],
    }
    assert {word: model[word] for word in counted} == counted, theirs["path"]
    assert sorted(model["extensions"]) == sorted(info.get("extensionsUsed", []))
    pictures = [one["image"] for one in info.get("resources", []) if "image" in one]
    assert sorted(model.get("image_sizes", [])) == sorted((one["width"], one["height"]) for one in pictures)
    assert model.get("generator") == info.get("generator")


def variants() -> dict[str, bytes]:
    """Avatars as exporters differ: with and without pictures, large, with strips and fans, with no index."""
    made = {"vrm1": avatars.vrm1(files.png(8, 8)), "vrm0": avatars.vrm0(files.png(9, 7)), "bare": avatars.vrm1()}
    for seed in range(12):
        chance = random.Random(seed)
        model = avatars.Model()
        for _ in range(chance.randrange(1, 6)):
            mode = chance.choice((None, 4, 5, 6))
            model.mesh(chance.randrange(1, 400), mode, indexed=chance.random() < 0.6)
        for _ in range(chance.randrange(4)):
            model.add("materials", {"name": "skin"})
            model.image(files.png(chance.randrange(1, 300), chance.randrange(1, 300)))
        if chance.random() < 0.5:
            model.animation(chance.random() * 9 + 0.1, [model.add("nodes", {"name": "hips"})])
        made[f"made{seed}"] = model.file()
    return made


async def test_generated_models_are_valid_and_counted_alike(validator: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.glb" for name in variants()]
    for path, body in zip(paths, variants().values(), strict=True):
        path.write_bytes(body)
    theirs = validated(validator, paths)
    assert len(theirs) == 15
    for path in paths:
        assert theirs[path]["errors"] == [], path.name
        facts, _ = await ours(path, AssetType.VRM, "vrm")
        check(facts, theirs[path])


async def test_a_generated_motion_is_valid(validator: Path, tmp_path: Path) -> None:
    path = tmp_path / "wave.glb"
    path.write_bytes(avatars.vrma(2.5))
    theirs = validated(validator, [path])[path]
    assert (theirs["errors"], theirs["info"]["animationCount"]) == ([], 2)
    facts, _ = await ours(path, AssetType.ANIMATION, "vrma")
    assert facts.duration == 2.5


MODELS = os.environ.get("BUTAI_TEST_MODELS", "")


@pytest.mark.skipif(not MODELS, reason="BUTAI_TEST_MODELS names no folder of real models")
async def test_real_models_are_counted_alike_by_three_readers(validator: Path) -> None:
    paths = sorted(path for path in Path(MODELS).iterdir() if path.suffix in (".glb", ".vrm"))
    assert paths
    theirs = validated(validator, paths)
    for path in paths:
        facts, read_bytes = await ours(path, AssetType.SCENE, path.suffix[1:])
        assert read_bytes <= READ_LIMIT
        check(facts, theirs[path])
        other: Any = pygltflib.GLTF2().load_binary(str(path))
        model = facts.sections["model"]
        for word in ("meshes", "materials", "textures", "images", "nodes"):
            assert model[word] == len(getattr(other, word)), (path.name, word)
