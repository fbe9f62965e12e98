"""Bytes and documents by the thousand: files, sidecars and forms are read or refused."""

from __future__ import annotations

import json
import struct
from collections.abc import AsyncIterator
from typing import Any

from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from butai.assets.contents.readers.glb import Glb, read_glb
from butai.assets.contents.readers.vrm import locate
from butai.assets.kinds import check_glb, parse_meta
from butai.assets.uploads.multipart_form import FilePart, Form
from butai.errors import InvalidRequest, SignatureMismatch, UploadRefused
from tests.examples import examples
from tests.fuzz.hostile_bytes import END, FIELDS, FILE, FRONTIER, glb, part

# By the thousand

NO_LIMIT: dict[str, Any] = {
    "deadline": None,
    "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large],
}

U32 = st.one_of(st.integers(0, 64), st.integers(0, 2**32 - 1), st.sampled_from([2, 0x4E4F534A, 0x004E4942, 2**32 - 1]))


@examples(ci=200, deep=12_000, **NO_LIMIT)
@given(
    head=st.one_of(
        st.binary(max_size=64),
        st.binary(max_size=60).map(b"glTF".__add__),
        st.builds(
            lambda *numbers: b"glTF" + struct.pack("<IIII", *numbers), st.sampled_from([0, 1, 2, 3]), U32, U32, U32
        ),
        st.builds(lambda length, first: struct.pack("<4sIIII", b"glTF", 2, length, first, 0x4E4F534A), U32, U32),
    ),
    size=st.one_of(st.none(), U32),
)
def test_any_first_bytes_are_a_glb_or_refused(head: bytes, size: int | None) -> None:
    try:
        check_glb(head, size)
    except UploadRefused:
        return
    version, length, json_length, _ = struct.unpack_from("<IIII", head, 4)
    assert version == 2 and json_length + 20 <= length
    assert size is None or length <= size


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2**65), st.floats(), st.text(max_size=4), st.just("image/png")),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(
                ["buffer", "byteOffset", "byteLength", "bufferView", "mimeType", "source", "meta", "texture"]
            )
            | st.sampled_from(["thumbnailImage", "VRM", "VRMC_vrm", "uri"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)
GLTF = st.fixed_dictionaries(
    {},
    optional={
        "bufferViews": st.one_of(
            JSON,
            st.lists(
                st.fixed_dictionaries(
                    {}, optional={"buffer": JSON, "byteOffset": JSON, "byteLength": JSON | st.integers(0, 99)}
                ),
                max_size=2,
            ),
        ),
        "images": st.one_of(
            JSON, st.lists(st.fixed_dictionaries({"mimeType": JSON, "bufferView": JSON | st.just(0)}), max_size=2)
        ),
        "textures": st.one_of(JSON, st.lists(st.fixed_dictionaries({"source": JSON | st.just(0)}), max_size=2)),
        "extensions": st.one_of(
            JSON,
            st.fixed_dictionaries(
                {
                    "VRMC_vrm": st.fixed_dictionaries(
                        {"meta": st.fixed_dictionaries({"thumbnailImage": JSON | st.just(0)})}
                    )
                }
            ),
            st.fixed_dictionaries(
                {"VRM": st.fixed_dictionaries({"meta": st.fixed_dictionaries({"texture": JSON | st.just(0)})})}
            ),
        ),
    },
)


@examples(ci=200, deep=4_000, **NO_LIMIT)
@given(whole=GLTF, binary=st.one_of(st.none(), st.tuples(st.integers(0, 200), st.integers(0, 99))))
def test_any_document_has_a_picture_within_its_chunk_or_none(
    whole: dict[str, Any], binary: tuple[int, int] | None
) -> None:
    found = locate(Glb(whole, binary))
    if found is not None:
        assert binary is not None
        start, length, mime = found
        assert binary[0] <= start and start + length <= sum(binary) and length > 0
        assert mime == "image/png"


@examples(ci=200, deep=2_000, **NO_LIMIT)
@given(
    text=st.one_of(st.binary(max_size=200), JSON.map(lambda value: json.dumps(value).encode())),
    extra=st.binary(max_size=60),
    cut=st.integers(0, 300),
)
async def test_any_glb_is_opened_or_refused(text: bytes, extra: bytes, cut: int) -> None:
    content = (glb(text) + extra)[: cut + 20]

    async def read(start: int, length: int) -> bytes:
        assert 0 <= start <= start + length <= len(content)
        return content[start : start + length]

    try:
        opened = await read_glb(read, len(content))
    except UploadRefused:
        return
    assert opened.binary is None or sum(opened.binary) <= len(content)


@examples(ci=200, deep=2_000, **NO_LIMIT)
@given(
    body=st.one_of(
        st.binary(max_size=100),
        JSON.map(lambda value: json.dumps(value).encode()),
        st.text(max_size=99).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )
)
def test_any_bytes_are_a_sidecar_or_refused(body: bytes) -> None:
    try:
        value = parse_meta(body)
    except SignatureMismatch:
        return
    assert isinstance(json.loads(json.dumps(value, allow_nan=False)), dict)


PIECE = st.one_of(
    st.sampled_from(
        [b"--f", b"--f\r\n", b"--f--", b"--f--\r\n", b"\r\n", b"\r\n\r\n", b"\n", b"--", b"\r", b":", b";", b'"']
    )
    | st.sampled_from(
        [b"Content-Disposition: form-data", b'; name="fileName"', b'; name="file"', b'; filename="x"', b"vrm/a.vrm"]
    )
    | st.sampled_from(
        [b"Content-Length: 3\r\n", b"Content-Type: text/plain; charset=utf-16\r\n", b"; filename*=UTF-8''%ff", b"\xff"]
    ),
    st.sampled_from([FIELDS, FILE, END, part(b'form-data; name="a"')]),
    st.binary(max_size=20),
)


@examples(ci=200, deep=2_000, **NO_LIMIT)
@given(
    pieces=st.lists(PIECE, max_size=12),
    size=st.integers(1, 40),
    kind=st.sampled_from([FRONTIER, FRONTIER + "; charset=x"]),
)
async def test_any_body_is_a_form_or_refused(pieces: list[bytes], size: int, kind: str) -> None:
    body = b"".join(pieces)

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    form = Form(kind, chunks())
    try:
        async for found in form.file_parts():
            assert isinstance(found, FilePart)
            async for chunk in found.chunks():
                assert isinstance(chunk, bytes)
    except InvalidRequest:
        return
    assert all(isinstance(value, str) for value in form.fields.values())
