"""Files that claim what they are not.

Every answer is below 500, carries a code when it is an error, and has no header that came in as a value: `conftest.target`
looks at all of them at the end, and at the log.
"""

from __future__ import annotations

import json
import struct
from typing import Any
from urllib.parse import quote

import pytest

from butai.assets.contents.readers.glb import read_glb
from butai.assets.contents.readers.vrm import locate
from butai.assets.keys import read_url
from butai.errors import UploadRefused
from tests import files
from tests.fuzz.conftest import Target
from tests.fuzz.hostile_bytes import VRM, glb, thumbnail_path

pytestmark = pytest.mark.usefixtures("avatar")

# What is in a file


@pytest.mark.parametrize(
    ("content", "code"),
    {
        "four gigabytes": (glb(b"{}", length=2**32 - 1), "glb_invalid"),
        "JSON of four gigabytes": (glb(b"{}", json_length=2**32 - 1), "glb_invalid"),
        "JSON of 16 MiB that is not there": (glb(b"{}", json_length=16 * 1024**2), "glb_invalid"),
        "JSON longer than the file": (glb(b"{}", json_length=3), "glb_invalid"),
        "a length of nothing": (glb(b"{}", length=0), "glb_invalid"),
        "a magic and no more": (b"glTF", "glb_invalid"),
        "half a header": (b"glTF\x02\x00\x00\x00", "glb_invalid"),
        "version 1": (b"glTF\x01\x00\x00\x00" + bytes(20), "glb_invalid"),
        "BIN before JSON": (struct.pack("<4sIIII", b"glTF", 2, 20, 0, 0x004E4942), "glb_invalid"),
        "nothing": (b"", "signature_mismatch"),
        "zeros": (bytes(1000), "signature_mismatch"),
        "a page": (b"<script>alert(1)</script>" * 10, "signature_mismatch"),
        "a zip": (b"PK\x03\x04" + bytes(100), "signature_mismatch"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_glb_that_claims_what_it_is_not_is_422(target: Target, content: bytes, code: str) -> None:
    answer = target.upload("vrm/bad.vrm", content)
    assert (answer.status, answer.code) == (422, code)


PNG = files.png()


def document(**changed: Any) -> bytes:
    """The JSON of an avatar with a picture, and what is wrong with it."""
    whole: dict[str, Any] = {
        "asset": {"version": "2.0"},
        "bufferViews": [{"buffer": 0, "byteOffset": 0, "byteLength": len(PNG)}],
        "images": [{"mimeType": "image/png", "bufferView": 0}],
        "textures": [{"source": 0}],
        "extensions": {"VRMC_vrm": {"meta": {"thumbnailImage": 0}}},
    }
    return json.dumps(whole | changed).encode()


ODD: list[Any] = [-1, 1, 10**30, 0.0, 1e308, True, "0", None, [0], {"a": 0}, []]
ODD_DOCUMENTS = [
    *(document(extensions={"VRMC_vrm": {"meta": {"thumbnailImage": odd}}}) for odd in ODD),
    *(document(extensions={"VRM": {"meta": {"texture": odd}}}) for odd in ODD),
    *(document(extensions=odd) for odd in ODD),
    *(document(extensions={"VRMC_vrm": odd}) for odd in ODD),
    *(document(images=[{"mimeType": odd, "bufferView": 0}]) for odd in (*ODD, "text/html", "image/svg+xml")),
    *(document(images=[{"mimeType": "image/png", "bufferView": odd}]) for odd in ODD),
    *(document(images=odd) for odd in ODD),
    *(document(bufferViews=odd) for odd in ODD),
    *(document(bufferViews=[odd]) for odd in ODD),
    *(document(bufferViews=[{"byteOffset": odd, "byteLength": 71}]) for odd in ODD),
    *(document(bufferViews=[{"byteLength": odd}]) for odd in (*ODD, 2**40, 2**63, 10**400)),
    *(document(bufferViews=[{"buffer": odd, "byteLength": 71}]) for odd in ODD),
    document(images=[{"uri": "http://169.254.169.254/latest", "mimeType": "image/png"}]),
    document(images=[{"uri": "data:text/html,<script>", "mimeType": "image/png"}]),
    b"[]",
    b"nothing",
    b"",
    b"\xff\xfe{\x00}\x00",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b'{"a":' + b"9" * 100_000 + b"}",
    b'{"a":1e999,"b":NaN,"extensions":-Infinity}',
    b'{"extensions":{"VRMC_vrm":{"meta":{"thumbnailImage":' + b"9" * 4000 + b"}}}}",
]


async def thumbnail_of(content: bytes) -> tuple[int, int, str] | None:
    async def read(start: int, length: int) -> bytes:
        return content[start : start + length]

    return locate(await read_glb(read, len(content)))


async def test_the_picture_of_a_document_that_lies_is_none_or_within_the_file() -> None:
    assert await thumbnail_of(glb(document(), PNG)) is not None
    for odd in ODD_DOCUMENTS:
        content = glb(odd, PNG)
        try:
            found = await thumbnail_of(content)
        except UploadRefused:
            continue
        if found is not None:
            start, length, mime = found
            assert 0 <= start < start + length <= len(content)
            assert mime == "image/png"


def test_an_avatar_that_lies_about_its_picture_has_none(target: Target) -> None:
    for number, odd in enumerate(ODD_DOCUMENTS[::7]):
        assert target.upload("vrm/liar.vrm", glb(odd, PNG)).status == 200, odd[:200]
        answer = target.ask("GET", thumbnail_path("vrm/liar.vrm"))
        assert (answer.status, answer.code) in ((404, "asset_not_found"), (200, None)), (number, odd[:200])
        if answer.status == 200:
            assert answer.body == PNG


@pytest.mark.parametrize(
    "url",
    [
        "http://169.254.169.254/latest/meta-data/x.vrm",
        "http://169.254.169.254/api/s3/read-object?key=vrm/a.vrm",
        "//evil.example/api/s3/read-object?key=vrm/a.vrm",
        "https://127.0.0.1/api/s3/read-object?key=vrm/a.vrm",
        "http://user@{host}/api/s3/read-object?key=vrm/a.vrm",
        "http://{host}@evil.example/api/s3/read-object?key=vrm/a.vrm",
        "http://{host}.evil.example/api/s3/read-object?key=vrm/a.vrm",
        "http:\\\\{host}\\api/s3/read-object?key=vrm/a.vrm",
        "file:///etc/passwd",
        "ftp://{host}/api/s3/read-object?key=vrm/a.vrm",
        "javascript:alert(1)",
        "data:image/png;base64,AAAA",
        "/api/s3/read-object/../../../metrics?key=vrm/a.vrm",
        "/api/s3/upload?key=vrm/a.vrm",
        "/api/s3/read-object?key=../a.vrm",
        "/api/s3/read-object?key=hdr/a.png",
        "/api/s3/read-object",
        "http://[::1",
        "http://[v1.x]/api/s3/read-object?key=vrm/a.vrm",
        "http://{host}:99999/api/s3/read-object?key=vrm/a.vrm",
        "http://{host}:x/api/s3/read-object?key=vrm/a.vrm",
        "\x00",
        " ",
    ],
)
def test_a_thumbnail_of_another_place_is_400_and_no_request_goes_out(target: Target, url: str) -> None:
    seen = len(target.proxy.seen)
    asked = quote(url.format(host=f"127.0.0.1:{target.port}"), safe="")
    answer = target.ask("GET", f"/api/vrm-thumbnail?url={asked}")
    assert answer.status == 400, answer
    assert answer.code in ("invalid_request", "key_invalid", "MISSING_PARAMETERS")
    assert len(target.proxy.seen) == seen


def test_a_host_header_makes_nothing_ours_but_the_callers_own_reading(target: Target) -> None:
    """Under an allowed name that is not the one connected to, the key in the URL is read, and nothing is asked there; under
    a foreign one, nothing is read."""
    for name, body in (("vrm/host.vrm", VRM), ("vrm/host_thumb.png", PNG)):
        assert target.upload(name, body).status == 200
    for host, status in (("evil.localhost", 200), ("evil.example", 421)):
        seen = len(target.proxy.seen)
        url = quote(f"http://{host}/api/s3/read-object?key=vrm%2Fhost.vrm", safe="")
        answer = target.ask("GET", f"/api/vrm-thumbnail?url={url}", {"Host": host})
        assert answer.status == status
        asked = {entry.path.split("/")[1] for entry in target.proxy.seen[seen:]}
        if status == 200:
            assert answer.body == PNG
            assert asked == {target.settings.store.bucket}
        else:
            assert asked == set()


@pytest.mark.parametrize(
    "body",
    [
        b'{"a": 1e999}',
        b'{"a": -1e999}',
        b'{"a": NaN}',
        b'{"a": "\\u0000"}',
        b'{"\\ud800": 1}',
        b'{"a": [' + b"[]," * 20_001 + b"0]}",
        b"[1]",
        b"{",
        b'{"a":' * 9999,
        b'{"a": ' + b"9" * 5000 + b"}",
        b"\xff\xfe{\x00}\x00",
        b'"x"',
        b"{}" * 2,
    ],
    ids=repr,
)
def test_a_sidecar_that_no_table_can_hold_is_422(target: Target, body: bytes) -> None:
    answer = target.upload("vrm/a_meta.json", body)
    assert (answer.status, answer.code) == (422, "signature_mismatch")


ODD_METAS: list[dict[str, Any]] = [
    {"tags": 5, "styleTags": {"a": []}},
    {"tags": {"a": 1}, "styleTags": [1, None, {"a": 2}, ["x"]]},
    {"gender": [1], "identity": {"x": 1}, "attributes": "x", "suggestedVoice": None},
    {"id": "evil", "url": "javascript:1", "s3Key": "x", "visibility": "public", "ownerUserId": "mallory"},
    {
        "name": 7,
        "type": 5,
        "size": "x",
        "category": [],
        "createdAt": 1,
        "thumbnail": "javascript:1",
        "hasThumbnail": "no",
    },
    {"": 1, "a": 10**4000, "b": 1e308, "c": "\U0001f600\u2028</script>"},
    {"a": [[[[[]]]]] * 1000},
]


@pytest.mark.parametrize("meta", ODD_METAS, ids=lambda meta: repr(meta)[:40])
def test_a_sidecar_says_only_what_a_sidecar_may(target: Target, avatar: str, meta: dict[str, Any]) -> None:
    assert target.upload("vrm/a_meta.json", json.dumps(meta).encode()).status == 200
    listed = target.ask("GET", "/api/s3/resources?type=vrm")
    assert listed.status == 200
    (item,) = (item for item in listed.json["data"] if item["id"] == avatar)
    assert (item["url"], item["s3Key"], item["visibility"]) == (read_url("vrm/a.vrm"), "vrm/a.vrm", "private")
    assert (item["type"], item["category"], item["size"]) == ("model/vrm", "vrm", len(VRM))
    assert (item["hasThumbnail"], "thumbnail" in item) == (False, False)
    assert isinstance(item["name"], str)
    assert all(isinstance(tag, str) for tag in item["tags"])
