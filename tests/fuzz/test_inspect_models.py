"""Hostile models and motions: whatever their heads say, a reader refuses or answers, within its limits.

20,000 cases in all, of which hypothesis makes the most by breaking files that are whole.
"""

from __future__ import annotations

import asyncio
import json
import random
import struct
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from butai.assets.contents.tasks import READ_LIMIT, Facts, read_facts
from butai.assets.kinds import AssetType
from butai.errors import UploadRefused
from tests import avatars, files
from tests.examples import examples

NO_LIMIT: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}

LOOP = asyncio.new_event_loop()


def inspect(body: bytes, extension: str, kind: AssetType, size: int | None = None) -> Facts | None:
    """Reads a file of `size` claimed bytes; None when it is refused. Fails on anything else, and beyond the limits."""
    total = 0

    async def read(start: int, length: int) -> bytes:
        nonlocal total
        assert start >= 0 and length >= 0
        total += length
        assert total <= READ_LIMIT
        return body[start : start + length]

    try:
        found = LOOP.run_until_complete(read_facts(read, len(body) if size is None else size, kind, extension))
    except UploadRefused:
        return None
    # What Postgres takes as JSON, a bigint, an array of texts.
    kept = json.dumps(found.sections, allow_nan=False, ensure_ascii=False).encode()
    assert len(kept) < 512 * 1024 and "\0" not in json.dumps(found.sections, ensure_ascii=False)
    assert found.triangles is None or 0 <= found.triangles < 2**63
    assert found.duration is None or 0 <= found.duration < 1e9
    assert all(len(term) < 200 for term in found.terms)
    if found.thumbnail is not None:
        start, length, _ = found.thumbnail
        assert start > 0 and length > 0 and start + length <= (len(body) if size is None else size)
    return found


GLB_KINDS = (
    ("vrm", AssetType.VRM),
    ("vrma", AssetType.ANIMATION),
    ("glb", AssetType.SCENE),
    ("glb", AssetType.ANIMATION),
)

WHOLE: list[Callable[[], bytes]] = [
    lambda: avatars.vrm1(files.png(8, 8)),
    lambda: avatars.vrm0(files.png(8, 8)),
    avatars.vrma,
]


def replace_somewhere(value: Any, chosen: random.Random, junk: Any) -> Any:
    """The document with one of its values replaced, taken away, or moved."""
    if not isinstance(value, (dict, list)) or not value or chosen.random() < 0.12:
        return junk
    if isinstance(value, dict):
        name = chosen.choice(list(value))
        if chosen.random() < 0.05:
            return {key: kept for key, kept in value.items() if key != name}
        return value | {name: replace_somewhere(value[name], chosen, junk)}
    index = chosen.randrange(len(value))
    return [*value[:index], replace_somewhere(value[index], chosen, junk), *value[index + 1 :]]


_JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=20),
    st.just("\0\ud800x"),
    st.just("x" * 5000),
    st.lists(st.integers(-2, 5), max_size=4),
    st.dictionaries(st.text(max_size=5), st.integers(-2, 5), max_size=3),
    st.just([{}] * 2000),
    st.just({f"bone{number}" * 20: {"node": 0} for number in range(500)}),
    st.just({f"name{number}": {"node": 0} for number in range(2000)}),
)


@examples(ci=200, deep=9000, **NO_LIMIT)
@given(
    st.integers(0, 2**32),
    st.sampled_from(range(len(WHOLE))),
    st.lists(_JUNK, min_size=1, max_size=4),
    st.integers(0, 3),
)
def test_documents_with_wrong_values(seed: int, which: int, junk: list[Any], kind: int) -> None:
    chosen = random.Random(seed)
    body = WHOLE[which]()
    (length,) = struct.unpack_from("<I", body, 12)
    document = json.loads(body[20 : 20 + length])
    for value in junk:
        document = replace_somewhere(document, chosen, value)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = body[20 + length :]
    broken = struct.pack("<4sIIII", b"glTF", 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest
    extension, asset = GLB_KINDS[kind]
    inspect(broken, extension, asset)


@examples(ci=200, deep=4000, **NO_LIMIT)
@given(
    st.sampled_from(range(len(WHOLE))),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    st.integers(0, 4000),
    st.one_of(st.none(), st.integers(0, 2**33)),
)
def test_containers_with_flipped_bytes_and_false_sizes(
    which: int, flips: list[tuple[int, int]], cut: int, size: int | None
) -> None:
    body = bytearray(WHOLE[which]())
    for place, value in flips:
        body[place % len(body)] = value
    inspect(bytes(body[: len(body) - cut % len(body)]), "vrm", AssetType.VRM, size)


_HEADERS = st.builds(
    struct.pack,
    st.just("<4sIIII"),
    st.sampled_from([b"glTF", b"glTf"]),
    st.sampled_from([2, 1]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0x4E4F534A, 0x004E4942]),
)


@examples(ci=200, deep=2000, **NO_LIMIT)
@given(_HEADERS, st.binary(max_size=200))
def test_containers_of_any_header(header: bytes, rest: bytes) -> None:
    inspect(header + rest, "vrm", AssetType.VRM, struct.unpack_from("<I", header, 8)[0])


_PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [
                b"HIERARCHY\n",
                b"ROOT Hips\n",
                b"JOINT A\n",
                b"{",
                b"}",
                b"MOTION\n",
                b"Frames: 3\n",
                b"Frame Time: 0.1\n",
                b"Frames: 99999999999\n",
                b"Frame Time: 1e9\n",
                b"Frame Time: -e+.\n",
                b"OFFSET 0 0 0\n",
                b" " * 40_000,
            ]
        ),
        st.binary(max_size=30),
    ),
    max_size=12,
)


@examples(ci=200, deep=2500, **NO_LIMIT)
@given(_PIECES, st.booleans(), st.one_of(st.none(), st.integers(0, 2**33)))
def test_texts_that_may_be_bvh(pieces: list[bytes], begins: bool, size: int | None) -> None:
    found = inspect((b"HIERARCHY\n" if begins else b"") + b"".join(pieces), "bvh", AssetType.ANIMATION, size)
    assert found is None or found.sections["animation"]["joints"] >= 0


@examples(ci=200, deep=1500, **NO_LIMIT)
@given(
    st.sampled_from([b"Kaydara FBX Binary  \x00", b"; FBX ", b"; FBX 7.4.0 project\nFBXVersion: ", b""]),
    st.binary(max_size=60),
)
def test_heads_that_may_be_fbx(head: bytes, rest: bytes) -> None:
    inspect(head + rest, "fbx", AssetType.ANIMATION)


@examples(ci=200, deep=1000, **NO_LIMIT)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"RIFF\0\0\0\0WEBPVP8 ", b"\xff\xd8\xff"])
            | st.just(b"\xff\xe2\xff\xff")
            | st.just(b"\xff\xd8" + b"\xff" * 3000)
            | st.just(b"\xff\xd8\xff\xe0\0\2" * 500),
            st.binary(max_size=40),
        ),
        max_size=20,
    )
)
def test_pictures_that_may_be_none(pictures: list[bytes]) -> None:
    model = avatars.Model()
    for picture in pictures:
        model.image(picture + b"\xff" * 4)
    inspect(model.file(), "glb", AssetType.SCENE)
