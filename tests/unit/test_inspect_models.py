"""What is read out of models and motions, against an independent reader and against what the builders put in."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pygltflib
import pytest

from butai.assets.contents.readers import animations, claims, gltf, vrm
from butai.assets.contents.readers.glb import Glb, read_glb, read_gltf
from butai.assets.contents.readers.images import IMAGES_LIMIT, image_places, image_size, image_sizes
from butai.assets.contents.tasks import Facts, read_facts
from butai.assets.kinds import FORMATS, HEAD_BYTES, AssetType
from butai.errors import GlbInvalid, InspectionTooLarge, SignatureMismatch
from tests import avatars, files


class Bytes:
    """A file in memory, and what was read of it."""

    def __init__(self, body: bytes) -> None:
        self.body, self.reads = body, []

    async def __call__(self, start: int, length: int) -> bytes:
        assert start >= 0 and length > 0
        self.reads.append((start, length))
        return self.body[start : start + length]

    @property
    def total(self) -> int:
        return sum(length for _, length in self.reads)


async def facts_of(body: bytes, extension: str = "vrm", kind: AssetType = AssetType.VRM) -> Facts:
    return await read_facts(Bytes(body), len(body), kind, extension)


def independent(body: bytes, tmp_path: Path) -> Any:
    """The same file as pygltflib reads it."""
    path = tmp_path / "file.glb"
    path.write_bytes(body)
    found = pygltflib.GLTF2().load_binary(str(path))
    assert found is not None
    return found


def independent_triangles(model: Any) -> int:
    total = 0
    for mesh in model.meshes:
        for primitive in mesh.primitives:
            accessor = primitive.attributes.POSITION if primitive.indices is None else primitive.indices
            drawn = model.accessors[accessor].count
            total += drawn // 3 if primitive.mode in (None, pygltflib.TRIANGLES) else drawn - 2
    return total


FILES: dict[str, Callable[[], bytes]] = {
    "vrm 1.0": lambda: avatars.vrm1(files.png(8, 8)),
    "vrm 0.x": lambda: avatars.vrm0(files.png(8, 8)),
    "vrma": avatars.vrma,
}


@pytest.mark.parametrize("name", FILES)
async def test_an_independent_reader_counts_the_same(name: str, tmp_path: Path) -> None:
    body = FILES[name]()
    theirs = independent(body, tmp_path)
    glb = await read_glb(Bytes(body), len(body))
    ours = gltf.model_facts(glb)
    counted = {word: len(getattr(theirs, word)) for word in ("meshes", "materials", "textures", "images", "nodes")}
    assert {word: ours[word] for word in counted} == counted
    assert ours["triangles"] == independent_triangles(theirs)
    assert ours["vertices"] == sum(
        theirs.accessors[primitive.attributes.POSITION].count for mesh in theirs.meshes for primitive in mesh.primitives
    )
    lengths = [
        max(theirs.accessors[sampler.input].max[0] for sampler in animation.samplers) for animation in theirs.animations
    ]
    assert ours["animations"] == len(lengths)
    assert ours.get("animation_seconds") == (pytest.approx(max(lengths), abs=1e-3) if lengths else None)
    assert set(ours["extensions"]) == set(theirs.extensionsUsed)


async def test_the_thumbnail_lies_where_an_independent_reader_finds_it(tmp_path: Path) -> None:
    picture = files.png(8, 8)
    for body, extension in ((avatars.vrm1(picture), "VRMC_vrm"), (avatars.vrm0(picture), "VRM")):
        theirs = independent(body, tmp_path)
        meta = theirs.extensions[extension]["meta"]
        image = meta["thumbnailImage"] if "thumbnailImage" in meta else theirs.textures[meta["texture"]].source
        view = theirs.bufferViews[theirs.images[image].bufferView]
        found = vrm.locate(await read_glb(Bytes(body), len(body)))
        assert found is not None
        start, length, mime = found
        offset = view.byteOffset or 0
        assert body[start : start + length] == theirs.binary_blob()[offset : offset + view.byteLength] == picture
        assert mime == "image/png"


async def test_a_vrm_1_says_what_it_holds() -> None:
    found = await facts_of(avatars.vrm1(files.png(8, 8)))
    model = found.sections["model"]
    assert model["title"] == "Aoi" and model["authors"] == ["Mio", "Ren"] and model["version"] == "1.2"
    assert model["spec_version"] == "1.0" and model["generator"] == "tests"
    assert model["bones"] == sorted(avatars.BONES)
    assert model["expressions"] == ["blinkLeft", "happy"] and model["custom_expressions"] == ["Wink"]
    assert model["spring_bones"] == 3
    assert model["triangles"] == found.triangles == 14
    assert model["image_sizes"] == [(64, 32), (8, 8)] and model["largest_image"] == (64, 32)
    assert {
        "format=vrm1",
        "humanoid",
        "expression=happy",
        "expression=Wink",
        "licence.commercial=personal_profit",
    } <= set(found.terms)
    assert found.duration is None and found.thumbnail is not None


async def test_a_vrm_0_says_the_same_in_the_words_of_1() -> None:
    found = await facts_of(avatars.vrm0())
    model = found.sections["model"]
    assert model["title"] == "Aoi" and model["authors"] == ["Mio"] and model["spec_version"] == "0.0"
    # A bone on node -1 is none.
    assert model["bones"] == sorted(avatars.BONES)
    assert model["expressions"] == ["blinkLeft", "happy"] and model["custom_expressions"] == ["Wink"]
    assert model["spring_bones"] == 3
    assert "format=vrm0" in found.terms and found.thumbnail is None


async def test_a_vrma_says_what_it_really_moves() -> None:
    found = await facts_of(avatars.vrma(2.5), "vrma", AssetType.ANIMATION)
    motion = found.sections["animation"]
    assert motion["bones"] == ["head", "hips"] and motion["expressions"] == ["happy"]
    assert motion["custom_expressions"] == [] and motion["look_at"] is False
    assert motion["spec_version"] == "1.0" and motion["animations"] == 2 and motion["names"] == ["wave"]
    assert found.duration == 2.5
    assert found.terms == ["format=vrma", "expression=happy", "humanoid"]


async def test_a_glb_motion_and_a_scene() -> None:
    body = avatars.vrm1()
    assert "licence" not in (await facts_of(body, "glb", AssetType.ANIMATION)).sections
    scene = await facts_of(files.glb(), "glb", AssetType.SCENE)
    assert scene.terms == ["format=glb"]
    assert scene.triangles == 0 and "licence" not in scene.sections


async def test_a_gltf_text_says_which_files_it_needs() -> None:
    document = {
        "asset": {"version": "2.0"},
        "buffers": [{"uri": "scene.bin", "byteLength": 9}, {"uri": "data:;base64,AAAA", "byteLength": 3}],
        "images": [{"uri": "https://example.org/a.png"}, {"bufferView": 0}],
        "extensionsUsed": ["KHR_draco_mesh_compression"],
    }
    body = json.dumps(document).encode()
    read = Bytes(body)
    found = await read_facts(read, len(body), AssetType.SCENE, "gltf")
    assert found.sections["model"]["external_uris"] == 2
    assert found.sections["model"]["extensions"] == ["KHR_draco_mesh_compression"]
    assert found.terms == ["format=gltf"]


async def test_compressed_meshes_are_counted_without_decoding() -> None:
    model = avatars.Model()
    model.mesh(triangles=100)
    primitive = model.document["meshes"][0]["primitives"][0]
    for accessor in (primitive["indices"], primitive["attributes"]["POSITION"]):
        del model.document["accessors"][accessor]["bufferView"]
    primitive["extensions"] = {"KHR_draco_mesh_compression": {"bufferView": 0, "attributes": {"POSITION": 0}}}
    body = model.file()
    assert (await facts_of(body, "glb", AssetType.SCENE)).triangles == 100


async def test_a_mesh_that_is_shown_twice_counts_once() -> None:
    model = avatars.Model()
    mesh = model.mesh(triangles=7)
    for _ in range(2):
        model.add("nodes", {"mesh": mesh})
    assert (await facts_of(model.file(), "glb", AssetType.SCENE)).triangles == 7


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (files.png(640, 480), (640, 480)),
        (avatars.jpeg(640, 480), (640, 480)),
        (avatars.jpeg(640, 480, profile=130_000), (640, 480)),
        # Ten segments: more than Photoshop writes.
        (avatars.jpeg(640, 480, profile=600_000), (640, 480)),
        (avatars.jpeg(640, 480, profile=1_000_000), None),
        (avatars.webp(640, 480), (640, 480)),
        (b"\xff\xd8\xff", None),
        (b"RIFF\0\0\0\0WEBP", None),
        (b"GIF89a", None),
    ],
)
async def test_sizes_of_pictures(body: bytes, size: tuple[int, int] | None) -> None:
    # It never reads beyond the picture, into what lies behind it.
    read = Bytes(b"head" + body + b"\xff\xc0 behind" * 20)
    assert await image_size(read, 4, len(body)) == size
    assert all(start + length <= 4 + len(body) for start, length in read.reads)


async def test_no_more_than_sixteen_pictures_are_looked_at() -> None:
    model = avatars.Model()
    for _ in range(40):
        model.image(avatars.jpeg(8, 8, profile=400_000))
    body = model.file()
    read = Bytes(body)
    glb = await read_glb(read, len(body))
    before = read.total
    await image_sizes(read, image_places(glb))
    assert 0 < read.total - before <= IMAGES_LIMIT * 4 * 512


async def test_an_avatar_of_20_mib_costs_no_more_than_64_kib() -> None:
    body = avatars.vrm1(files.png(8, 8), padding=20 * 1024**2)
    read = Bytes(body)
    assert (await read_facts(read, len(body), AssetType.VRM, "vrm")).triangles == 14
    assert read.total <= 64 * 1024


async def test_a_bvh_says_its_joints_and_length() -> None:
    found = await facts_of(avatars.bvh(5, 120, "0.0333333"), "bvh", AssetType.ANIMATION)
    assert found.sections["animation"] == {
        "joints": 5,
        "complete": True,
        "frames": 120,
        "frame_time": 0.0333333,
        "duration": 4.0,
    }
    assert found.duration == 4.0 and found.terms == ["format=bvh"]


async def test_a_bvh_is_one_in_any_letter_case() -> None:
    body = avatars.bvh(5, 120, "0.0333333")
    for spelled in (body.lower(), body.title(), b"\xef\xbb\xbf\r\n" + body.lower().replace(b"\n", b"\r\n")):
        FORMATS[AssetType.ANIMATION]["bvh"].check(spelled[:HEAD_BYTES], None)
        found = (await facts_of(spelled, "bvh", AssetType.ANIMATION)).sections["animation"]
        assert (found["joints"], found["frames"], found["duration"]) == (5, 120, 4.0)


async def test_a_bvh_whose_motion_lies_far_behind_says_what_is_known() -> None:
    body = b"HIERARCHY\nROOT Hips\n{\n" + b" " * 300_000 + avatars.bvh(3)[10:]
    read = Bytes(body)
    found = await animations.bvh_animation(read, len(body))
    assert found == {"joints": 1, "complete": False}
    assert read.total <= animations.BVH_LIMIT


async def test_a_bvh_is_read_across_the_edges_of_its_pieces() -> None:
    for shift in range(-60, 5):
        filler = b"\n" * (animations.PIECE - len(b"HIERARCHY") + shift)
        body = b"HIERARCHY" + filler + avatars.bvh(3, 10, "0.1")[len(b"HIERARCHY") :]
        at = body.index(b"MOTION")
        body = body[:9] + b"\n" * (animations.PIECE - at + shift) + body[9:] if at < animations.PIECE else body
        found = await animations.bvh_animation(Bytes(body), len(body))
        assert (found["frames"], found["duration"]) == (10, 1.0)


@pytest.mark.parametrize("step", ["nan", "-1", "1e999", "0", "1e5", "--"])
async def test_a_bvh_with_an_impossible_frame_time_has_no_duration(step: str) -> None:
    found = await facts_of(avatars.bvh(3, 10, step), "bvh", AssetType.ANIMATION)
    assert found.duration is None and found.sections["animation"].get("duration") is None


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (avatars.fbx(7400), {"encoding": "binary", "fbx_version": 7400}),
        (avatars.fbx(0), {"encoding": "binary", "fbx_version": None}),
        (files.FBX[:23], {"encoding": "binary", "fbx_version": None}),
        (b"; FBX 7.3.0 project file\n", {"encoding": "text", "fbx_version": 7300}),
        (b"; FBX project file\nFBXHeaderExtension: {\n\tFBXVersion: 6100\n", {"encoding": "text", "fbx_version": 6100}),
        (b"; FBX project\n", {"encoding": "text", "fbx_version": None}),
        (b"FBXHeaderExtension:  {\n\tFBXVersion: 7500\n", {"encoding": "text", "fbx_version": 7500}),
        (b"\xef\xbb\xbf\r\n; made by a tool\r\nFBXVersion: 7400\n", {"encoding": "text", "fbx_version": 7400}),
    ],
)
async def test_heads_of_fbx(body: bytes, expected: dict[str, Any]) -> None:
    FORMATS[AssetType.ANIMATION]["fbx"].check(body[:HEAD_BYTES], None)
    found = await facts_of(body, "fbx", AssetType.ANIMATION)
    assert found.sections["animation"] == expected and found.terms == ["format=fbx"]


async def test_a_large_document_is_read_in_a_process_of_its_own() -> None:
    """Found: avatars whose document has 4 to 30 MiB, by blend shapes that are written as numbers."""
    body = avatars.vrm1(files.png(8, 8))
    small = await facts_of(body)
    glb = await read_glb(Bytes(body), len(body))
    assert glb.binary is not None
    binary = body[glb.binary[0] : sum(glb.binary)]
    for extras in ("x" * 6 * 1024**2, [0] * 600_000):
        large = files.glb({**glb.document, "extras": extras}, binary)
        moved = len(large) - len(body)
        found = await facts_of(large)
        assert small.thumbnail is not None
        assert found.thumbnail == (small.thumbnail[0] + moved, *small.thumbnail[1:])
        found.thumbnail = small.thumbnail
        assert found == small
    broken = files.glb({"asset": "x" * (5 * 1024**2)}).replace(b'{"asset"', b'["asset"')
    with pytest.raises(GlbInvalid):
        await facts_of(broken)


async def test_bytes_behind_the_declared_length_are_left_out() -> None:
    """Khronos' validator warns of them (`GLB_EXTRA_DATA` is not an error), and loaders read the declared chunks."""
    body = avatars.vrm1(files.png(8, 8))
    for behind in (b"\0", b"\n", struct.pack("<II", 4, 0x004E4942) + b"more", bytes(4096)):
        glb, longer = await read_glb(Bytes(body), len(body)), body + behind
        assert await read_glb(Bytes(longer), len(longer)) == glb
    # Without a BIN chunk in the declared length, none begins behind it.
    alone = files.glb()
    assert (await read_glb(Bytes(alone + files.glb(None, b"x")[len(alone) :]), len(alone) + 12)).binary is None


async def test_what_is_broken_is_refused() -> None:
    whole = avatars.vrm1()
    for body, error in (
        (whole[:-1], GlbInvalid),
        (whole[:15], GlbInvalid),
        (b"nothing", SignatureMismatch),
        (whole[:20] + b"\xff" * (len(whole) - 20), GlbInvalid),
        (files.glb({"asset": [0] * 4_100_000}), InspectionTooLarge),
        (files.glb({"asset": "x" * (33 * 1024**2)}), GlbInvalid),
    ):
        with pytest.raises(error):
            await facts_of(body)
    with pytest.raises(SignatureMismatch):
        await facts_of(b"not a motion", "bvh", AssetType.ANIMATION)
    with pytest.raises(SignatureMismatch):
        await facts_of(b"not a motion", "fbx", AssetType.ANIMATION)
    with pytest.raises(InspectionTooLarge):
        await read_gltf(Bytes(b""), 5 * 1024**2)
    with pytest.raises(InspectionTooLarge):
        await facts_of(b"{" + b" " * 33 * 1024**2, "gltf", AssetType.SCENE)
    with pytest.raises(SignatureMismatch):
        await read_gltf(Bytes(b""), 0)


async def test_what_comes_out_of_a_hostile_document_can_be_kept() -> None:
    nasty = "\0\ud800" + "x" * 10_000
    document = {
        "asset": {"version": "2.0", "generator": nasty},
        "extensionsUsed": [nasty, 5, None],
        "meshes": [{"primitives": [{"attributes": {"POSITION": True}, "indices": -1}, 7, None]}, 3],
        "accessors": [{"count": 10**30, "max": [1e999]}],
        "animations": [{"samplers": [{"input": 0}, 4], "channels": [{"target": {"node": []}}], "name": nasty}, 5],
        "images": {"0": 1},
        "nodes": "nodes",
        "extensions": {"VRMC_vrm": {"meta": {"name": nasty, "authors": [nasty, 4]}, "humanoid": {"humanBones": [1]}}},
    }
    text = json.dumps(document).encode()
    body = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text
    found = await facts_of(body)
    kept = json.dumps(found.sections, ensure_ascii=False, allow_nan=False).encode()
    assert b"\\u0000" not in kept and len(kept) < 5000
    assert found.triangles == 0


def test_a_look_at_node_of_the_wrong_type_is_no_movement() -> None:
    motion = {"VRMC_vrm_animation": {"lookAt": {"node": [1]}, "humanoid": {"humanBones": {"hips": {"node": []}}}}}
    found = animations.glb_animation(Glb({"extensions": motion, "nodes": [{}]}, None))
    assert found["look_at"] is False and found["bones"] == []


def test_links_are_web_addresses_only() -> None:
    assert claims.link("https://vrm.dev/licenses/1.0/") == "https://vrm.dev/licenses/1.0/"
    for text in ("javascript:alert(1)", "https://a b", " https://a", "", None, 5, "https://" + "a" * 600):
        assert claims.link(text) is None
