"""Headers that change what a request with bytes means: followed or refused, on every path that takes bytes."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Awaitable, Callable, Iterator

import aiohttp
import pytest
from yarl import URL

from tests import files
from tests.conftest import Api

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
BODY = files.vrm(1)

Send = Callable[[Api, str, dict[str, str]], Awaitable[tuple[int, str]]]


def b64(value: bytes | str) -> str:
    return base64.b64encode(value.encode() if isinstance(value, str) else value).decode()


def of(algorithm: str, body: bytes = BODY) -> str:
    return b64(hashlib.new(algorithm, body).digest())


async def answered(answer: aiohttp.ClientResponse) -> tuple[int, str]:
    if not answer.content_type.endswith("json"):
        return answer.status, ""
    told = await answer.json()
    return answer.status, told.get("code") or told.get("error", {}).get("code", "")


async def by_form(api: Api, key: str, headers: dict[str, str]) -> tuple[int, str]:
    form = aiohttp.FormData()
    form.add_field("fileName", key)
    form.add_field("fileType", "model/vrm")
    form.add_field("file", BODY, filename="a.vrm")
    async with api.client.post(f"{api.url}/api/s3/upload", data=form, headers=headers | api.cookie("alice")) as answer:
        return await answered(answer)


async def by_signed_put(api: Api, key: str, headers: dict[str, str]) -> tuple[int, str]:
    status, told = await api.call(
        "POST", "/api/s3/presigned-url", "alice", json={"fileName": key, "fileType": "model/vrm"}
    )
    assert status == 200, told
    async with api.client.put(URL(told["data"]["url"], encoded=True), data=BODY, headers=headers) as answer:
        return await answered(answer)


def creation(api: Api, key: str) -> dict[str, str]:
    return api.cookie("alice") | {"Upload-Length": str(len(BODY)), "Upload-Metadata": f"filename {b64(key)}"}


async def begun(api: Api, key: str) -> str:
    async with api.client.post(f"{api.url}/api/assets/uploads", headers=TUS | creation(api, key)) as answer:
        assert answer.status == 201, await answer.text()
        return api.url + answer.headers["Location"]


async def by_tus(api: Api, key: str, headers: dict[str, str]) -> tuple[int, str]:
    sent = BYTES | api.cookie("alice") | {"Upload-Offset": "0"} | headers
    async with api.client.patch(await begun(api, key), headers=sent, data=BODY) as answer:
        return await answered(answer)


async def by_tus_creation(api: Api, key: str, headers: dict[str, str]) -> tuple[int, str]:
    sent = BYTES | creation(api, key) | headers
    async with api.client.post(f"{api.url}/api/assets/uploads", headers=sent, data=BODY) as answer:
        return await answered(answer)


PATHS: dict[str, Send] = {"form": by_form, "put": by_signed_put, "tus": by_tus, "creation": by_tus_creation}
TO_TUS = {"tus", "creation"}

REFUSED: list[tuple[str, dict[str, str], int]] = [
    ("gzip", {"Content-Encoding": "gzip"}, 415),
    ("brotli", {"Content-Encoding": "br"}, 415),
    ("chunks of a signature", {"Content-Encoding": "aws-chunked", "X-Amz-Decoded-Content-Length": "9"}, 415),
    ("two codings", {"Content-Encoding": "identity, gzip"}, 415),
    ("a range", {"Content-Range": "bytes 0-9/100"}, 400),
    ("only if absent", {"If-None-Match": "*"}, 400),
    ("only over a version", {"If-Match": '"1"'}, 400),
    ("only if unchanged", {"If-Unmodified-Since": "Sun, 06 Nov 1994 08:49:37 GMT"}, 400),
    ("a WebDAV condition", {"If": "(<urn:x>)"}, 400),
    ("another expectation", {"Expect": "202-later"}, 400),
    ("a part of several", {"Upload-Concat": "partial"}, 400),
    ("the IETF's first part", {"Upload-Complete": "?0"}, 400),
    ("the IETF's older first part", {"Upload-Incomplete": "?1"}, 400),
    ("a checksum in a trailer", {"Trailer": "Upload-Checksum"}, 400),
    ("a copy", {"X-Amz-Copy-Source": "/b/k"}, 400),
    ("open to all", {"X-Amz-Acl": "public-read"}, 400),
    ("an archive", {"X-Amz-Storage-Class": "GLACIER"}, 400),
    ("sealed by the store", {"X-Amz-Server-Side-Encryption": "AES256"}, 400),
    ("streamed signatures", {"X-Amz-Content-Sha256": "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"}, 400),
    ("an unknown sum", {"X-Amz-Checksum-Crc32c": "AAAAAA=="}, 400),
    ("an unknown digest", {"Content-Digest": "crc32c=:AAAAAA==:"}, 400),
    ("no base64", {"Content-MD5": "%"}, 400),
    ("a short digest", {"Content-MD5": "AAAA"}, 400),
    ("another method", {"X-HTTP-Method": "DELETE"}, 400),
    ("a third spelling", {"X-Method-Override": "DELETE"}, 400),
]
WRONG = [
    ("content-md5", {"Content-MD5": of("md5", b"other")}),
    ("content-digest", {"Content-Digest": f"sha-256=:{of('sha256', b'other')}:"}),
    ("digest", {"Digest": f"SHA-256={of('sha256', b'other')}"}),
]


async def test_what_changes_the_meaning_is_refused_before_a_byte_is_kept(api: Api) -> None:
    found, wanted = {}, {}
    for path, send in PATHS.items():
        for number, (name, headers, status) in enumerate(REFUSED):
            wanted[path, name] = status
            found[path, name] = (await send(api, f"vrm/{path}{number}.vrm", headers))[0]
        for name, headers in WRONG:
            wanted[path, name] = 460 if path in TO_TUS else 422
            found[path, name] = (await send(api, f"vrm/{path}-{name}.vrm", headers))[0]
    assert found == wanted
    assert await api.items("alice") == []


def harmless() -> Iterator[tuple[str, dict[str, str]]]:
    yield "identity", {"Content-Encoding": "identity"}
    yield "continue", {"Expect": "100-continue"}
    yield "the whole, as the IETF says", {"Upload-Complete": "?1", "Upload-Draft-Interop-Version": "5"}
    yield "the same method", {"X-HTTP-Method": "{method}"}
    yield "private", {"X-Amz-Acl": "private"}
    yield "a proxy's names", {"X-Amz-Cf-Id": "x", "X-Amzn-Trace-Id": "Root=1"}
    yield "unsigned", {"X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD"}
    yield "too new for a condition", {"If-Modified-Since": "Sun, 06 Nov 1994 08:49:37 GMT", "Range": "bytes=0-1"}


METHODS = {"form": "POST", "put": "PUT", "tus": "PATCH", "creation": "POST"}


async def test_what_changes_nothing_is_no_reason_to_refuse(api: Api) -> None:
    for path, send in PATHS.items():
        for number, (name, headers) in enumerate(harmless()):
            sent = {key: value.format(method=METHODS[path]) for key, value in headers.items()}
            status, code = await send(api, f"vrm/{path}{number}.vrm", sent)
            assert status in (200, 201, 204), (path, name, status, code)
    sums = [
        {"Content-MD5": of("md5")},
        {"Content-Digest": f"sha-512=:{of('sha512')}:, unknown=:AA==:"},
        {"Repr-Digest": f"sha-256=:{of('sha256')}:"},
        {"X-Amz-Checksum-Crc32": b64(zlib.crc32(BODY).to_bytes(4, "big"))},
        {"X-Amz-Content-Sha256": hashlib.sha256(BODY).hexdigest()},
    ]
    for number, headers in enumerate(sums):
        assert await by_signed_put(api, f"vrm/sum{number}.vrm", headers) == (200, "")
    assert await by_tus(api, "vrm/sum.vrm", {"Content-MD5": of("md5")}) == (204, "")
    # One of two could be wrong, and the bytes of tus are kept as they come.
    assert (await by_tus(api, "vrm/two.vrm", {"Content-MD5": of("md5"), "Upload-Checksum": f"md5 {of('md5')}"}))[
        0
    ] == 400


async def test_the_method_of_tus_may_stand_in_a_header(api: Api) -> None:
    """The official Java client sends PATCH in no other way, and some proxies pass GET and POST alone."""
    at = await begun(api, "vrm/java.vrm")

    async def post(method: str, *, real: str = "POST", **more: str) -> tuple[int, dict[str, str]]:
        headers = TUS | api.cookie("alice") | {"X-HTTP-Method-Override": method}
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        body = BODY if "Upload_Offset" in more else None
        async with api.client.request(real, at, headers=headers, data=body) as answer:
            # The body of an error has to come whole: a POST has one, whatever method it stands for.
            await answer.read()
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}

    assert (await post("HEAD"))[1]["upload-offset"] == "0"
    assert (await post("head", real="GET"))[0] == 200
    assert (await post("GET"))[0] == 405
    assert (await post("MOVE"))[0] == 405
    status, headers = await post("PATCH", Upload_Offset="0", Content_Type=BYTES["Content-Type"])
    assert (status, headers["upload-offset"]) == (204, str(len(BODY)))
    assert [item["size"] for item in await api.items("alice")] == [len(BODY)]
    other = await begun(api, "vrm/other.vrm")
    at = other
    assert (await post("DELETE"))[0] == 204
    assert (await post("HEAD"))[0] == 410
    # Anywhere else it is refused, where there is a body at all.
    status, code = await by_form(api, "vrm/form.vrm", {"X-HTTP-Method-Override": "DELETE"})
    assert (status, code) == (400, "header_unsupported")
    async with api.client.post(
        f"{api.url}/api/s3/presigned-url",
        json={"fileName": "vrm/x.vrm", "fileType": "x"},
        headers=api.cookie("alice") | {"Content-Encoding": "gzip"},
    ) as answer:
        assert answer.status == 415


@pytest.mark.parametrize("length", [len(BODY) + 4, 1])
async def test_a_length_that_is_known_stays(api: Api, length: int) -> None:
    assert await by_tus(api, "vrm/a.vrm", {"Upload-Length": str(length)}) == (400, "invalid_request")


async def test_a_creation_with_bytes_says_which(api: Api) -> None:
    for headers, status in (
        ({"Content-Type": "application/octet-stream"}, 415),
        ({"Upload-Offset": "4"}, 400),
        ({"Upload-Checksum": "sha256 %"}, 400),
    ):
        assert (await by_tus_creation(api, "vrm/a.vrm", headers))[0] == status
    assert await api.call("GET", "/api/assets/usage", "alice") == (
        200,
        (await api.call("GET", "/api/assets/usage", "bob"))[1],
    )
