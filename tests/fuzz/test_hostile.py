"""Clients that mean harm, or know no better: each is refused clearly, costs no memory, and the service goes on.

Every answer in this file is below 500, carries a code when it is an error, and has no header that came in as a value:
`conftest.target` looks at all of them at the end, and at the log.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import psutil
import pytest
import uvicorn
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from starlette.types import Receive, Scope, Send

from butai.assets.contents.readers.glb import Glb, read_glb
from butai.assets.contents.readers.vrm import locate
from butai.assets.keys import read_url
from butai.assets.kinds import check_glb, parse_meta
from butai.assets.uploads.multipart_form import FilePart, Form
from butai.config import Settings
from butai.errors import InvalidRequest, SignatureMismatch, UploadRefused
from butai.sign_in.codes import make_code
from butai.web import bodies, uvicorn_limits
from butai.web.uvicorn_limits import HEAD_LIMIT, BoundedHttp
from tests import files
from tests.conftest import serving
from tests.examples import examples
from tests.fuzz.conftest import Answer, Target

VRM = files.vrm(1, 300, files.png())
BOMB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def avatar(target: Target) -> str:
    """One avatar of alice's, `vrm/a.vrm`: its id. What is asked for badly must not be refused for want of it."""
    answer = target.upload("vrm/a.vrm", VRM)
    assert answer.status == 200, answer
    return answer.json["data"]["id"]


# Paths and targets


@pytest.mark.parametrize(
    ("asked", "status", "code"),
    [
        ("/api/s3/read-object?key=../../etc/passwd", 400, "key_invalid"),
        ("/api/s3/read-object?key=%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400, "key_invalid"),
        ("/api/s3/read-object?key=%252e%252e%252fetc%252fpasswd", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm/..%5c..%5ca.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm%2f.%2fa.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm//a.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=/vrm/a.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm/%00.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm/%2500.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm/%ff.vrm", 400, "key_invalid"),
        ("/api/s3/read-object?key=vrm/%0d%0aX-Injected:1", 400, "key_invalid"),
        ("/api/s3/read-object?key=butai/00/0123456789abcdef", 400, "key_invalid"),
        ("/api/s3/read-object?key=", 400, "key_invalid"),
        ("/api/s3/read-object?key", 400, "MISSING_PARAMETERS"),
        ("/api/s3/read-object?KEY=vrm/a.vrm", 400, "MISSING_PARAMETERS"),
        ("/api//s3/read-object?key=vrm/a.vrm", 404, "not_found"),
        ("//api/s3/read-object?key=vrm/a.vrm", 404, "not_found"),
        ("/api/s3/../s3/read-object?key=vrm/a.vrm", 404, "not_found"),
        ("/api/s3/read-object%2f?key=vrm/a.vrm", 404, "not_found"),
        ("/api/s3/read-object/?key=vrm/a.vrm", 404, "not_found"),
        ("/api\\s3\\read-object?key=vrm/a.vrm", 404, "not_found"),
        ("/api/assets/..%2f..%2freadyz", 404, "not_found"),
        ("/api/assets/%2e%2e/changes", 404, "not_found"),
        ("/api/assets/00000000-0000-0000-0000-000000000000%00", 404, "not_found"),
        ("/docs/../metrics", 404, "not_found"),
        ("/%00", 404, "not_found"),
        ("/a%0d%0aX-Injected:%201", 404, "not_found"),
        ("*", 404, "not_found"),
        ("readyz", 400, "http_invalid"),
        ("evil.example:443", 400, "http_invalid"),
        (b"/api/s3/\xff", 400, "http_invalid"),
        (b"/api/s3/read-object?key=\xff", 400, "http_invalid"),
        ("/api/s3/resources?type=vrm&q=%00", 400, "filter_invalid"),
        ("/api/s3/resources?type=vrm&page=%D9%A1", 400, "filter_invalid"),
        ("/api/s3/resources?type=vrm&pageSize=1e3", 400, "filter_invalid"),
        ("/api/assets/changes?after=9223372036854775808", 400, "invalid_request"),
        ("/api/assets/changes?since=9223372036854775808", 400, "invalid_request"),
        ("/api/assets/changes?since=" + "9" * 5000, 400, "invalid_request"),
        ("/?" + "a" * HEAD_LIMIT, 431, "head_too_large"),
        ("/" + "a" * 3_000_000, 431, "head_too_large"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_path_that_leads_elsewhere_is_refused(target: Target, asked: str | bytes, status: int, code: str) -> None:
    answer = target.ask("GET", asked)
    assert (answer.status, answer.code) == (status, code), answer.body


def test_an_absolute_target_is_our_own_path_and_nothing_else(target: Target) -> None:
    seen = len(target.proxy.seen)
    assert target.ask("GET", "http://169.254.169.254/latest/meta-data").code == "not_found"
    assert target.ask("GET", "http://evil.example/healthz").json["status"] == "ok"
    assert len(target.proxy.seen) == seen


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PUT", "PROPFIND", "QUERY", "POST", "DELETE", "OPTIONS"])
def test_a_method_that_a_path_has_not_is_405_and_says_which_it_has(target: Target, method: str) -> None:
    answer = target.ask(method, "/api/s3/read-object?key=vrm/a.vrm")
    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.header("allow") == "GET, HEAD"


@pytest.mark.parametrize("header", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "_method"])
def test_no_header_turns_a_read_into_a_delete(target: Target, avatar: str, header: str) -> None:
    answer = target.ask("GET", f"/api/assets/{avatar}?_method=DELETE", {header: "DELETE"})
    assert (answer.status, answer.json["deleted_at"]) == (200, None)
    refused = target.ask("POST", f"/api/assets/{avatar}", {header: "DELETE"})
    assert (refused.status, refused.header("allow")) == (405, "GET, PATCH, DELETE")


# Header injection


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Request-Id": "abcdefgh%0d%0aX-Injected: 1"},
        {"X-Request-Id": "abcdefgh\tX-Injected: 1"},
        {"X-Request-Id": "a" * 10_000},
        {"Range": "bytes=0-0%0d%0aX-Injected: 1"},
        {"If-None-Match": '"%0d%0aX-Injected: 1"'},
        {"Origin": "http://x%0d%0aX-Injected: 1"},
        {"Host": "x%0d%0aX-Injected: 1"},
    ],
    ids=lambda headers: repr(headers)[:50],
)
def test_a_header_does_not_come_back_as_another(target: Target, headers: dict[str, str]) -> None:
    answer = target.ask("GET", "/api/s3/read-object?key=vrm/a.vrm", headers)
    assert answer.status == (421 if "Host" in headers else 200)
    (request_id,) = (value for name, value in answer.headers if name == "x-request-id")
    assert request_id.isalnum() and len(request_id) == 32


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b"\r", b"\x00", b"\x0b", b"\xe2\x80\xa8", b"\xc4\x8d\xc4\x8a"])
def test_a_name_with_a_line_end_in_it_stays_a_name_or_is_refused(target: Target, line_end: bytes) -> None:
    """The last is č Ċ: characters whose low bytes are CR and LF."""
    name = b"x" + line_end + b"X-Injected: 1"
    parts: list[tuple[str, str | None, bytes]] = [
        ("fileName", None, b"vrm/" + name + b".vrm"),
        ("fileType", None, b"model/vrm" + line_end + b"X-Injected: 1"),
        ("file", "x", VRM),
    ]
    answer = target.send_form(parts)
    assert answer.code in (None, "key_invalid")
    if answer.status == 200:
        read = target.ask("GET", answer.json["data"]["url"])
        assert (read.status, read.body) == (200, VRM)
        assert read.header("content-type") == "model/gltf-binary"
    encoded = quote(name)
    for again in (encoded, quote(encoded)):
        assert target.ask("GET", f"/api/s3/read-object?key=vrm/{again}.vrm").status in (200, 400, 404)
    code = make_code(target.settings.up.data_dir, name.decode())
    assert target.send_json("POST", "/api/session", {"code": code}, user=None).status in (303, 400)


def test_the_name_of_a_file_cannot_break_out_of_its_header(target: Target) -> None:
    key = 'vrm/a"; filename="evil.exe"; x=\\%22; X-Injected: 1;.vrm'.replace("\\", "")
    answer = target.upload(key, VRM)
    assert answer.status == 200
    disposition = target.ask("GET", answer.json["data"]["url"]).header("content-disposition")
    assert disposition is not None
    plain, extended = disposition.removeprefix('inline; filename="').split('"; filename*=')
    assert not set('"\\;%') & set(plain)
    assert unquote_to_bytes(extended.removeprefix("UTF-8''")).decode() == key.removeprefix("vrm/")


# Ten thousand bytes wherever a key, or anything else, can be sent

LONG = "vrm/" + "k" * 10_000 + ".vrm"


@pytest.mark.parametrize("long", [LONG, "vrm/" + "漢" * 3334 + ".vrm", "vrm/" + "k/" * 5000 + "a.vrm"], ids=len)
def test_a_key_of_ten_thousand_bytes_is_refused_everywhere(target: Target, long: str) -> None:
    once, twice = quote(long), quote(quote(long, safe=""))
    for spelled in (once, twice):
        assert target.ask("GET", f"/api/s3/read-object?key={spelled}").code == "key_invalid"
        assert target.ask("HEAD", f"/api/s3/read-object?key={spelled}").status == 400
    inside = quote(f"/api/s3/read-object?key={once}", safe="")
    assert target.ask("GET", f"/api/vrm-thumbnail?url={inside}").code == "key_invalid"
    assert target.upload(long, VRM).code == "key_invalid"
    presigned = target.send_json("POST", "/api/s3/presigned-url", {"fileName": long, "fileType": "x"})
    assert presigned.code in ("key_invalid", "invalid_request")
    assert target.send_form([("file", None, VRM), ("fileName", None, long.encode())]).status == 400


@pytest.mark.parametrize(
    ("path", "statuses"),
    [
        ("/api/s3/resources?type={}", {400}),
        ("/api/s3/resources?type=vrm&q={}", {400}),
        ("/api/s3/resources?type=vrm&sort={}", {400}),
        ("/api/s3/resources?type=vrm&cursor={}", {400}),
        ("/api/s3/resources?type=vrm&page={}", {400}),
        ("/api/s3/resources?type=vrm&total={}", {400}),
        ("/api/s3/resources?type=vrm&{}=1", {200}),
        ("/api/s3/read-object?key=vrm/a.vrm&v={}", {200}),
        ("/api/vrm-thumbnail?url={}", {400}),
        ("/api/assets/changes?after={}", {400}),
        ("/api/assets/changes?since={}", {400}),
        ("/api/assets/{}", {404}),
        ("/sign-in?user={}", {200}),
        ("/{}", {404}),
    ],
)
def test_ten_thousand_bytes_in_a_parameter_are_refused_or_ignored(
    target: Target, path: str, statuses: set[int]
) -> None:
    assert target.ask("GET", path.format(quote(LONG, safe=""))).status in statuses


@pytest.mark.parametrize(
    ("header", "status"),
    [
        ("Range", 200),
        ("If-None-Match", 200),
        ("If-Range", 200),
        ("X-Request-Id", 200),
        ("User-Agent", 200),
        ("Accept", 200),
        ("Host", 421),
        ("Authorization", 401),
        ("X-API-Key", 401),
    ],
)
def test_ten_thousand_bytes_in_a_header_are_refused_or_ignored(target: Target, header: str, status: int) -> None:
    assert target.ask("GET", "/api/s3/read-object?key=vrm/a.vrm", {header: LONG}).status == status
    assert target.ask("GET", "/api/s3/read-object?key=vrm/a.vrm", {header: "," * 10_000}).status == status


@pytest.mark.parametrize("cookie", ["next-auth.session-token={}", "__Secure-authjs.session-token.0={}; a=b"])
def test_ten_thousand_bytes_in_a_session_are_401(target: Target, cookie: str) -> None:
    answer = target.ask("GET", "/api/s3/resources?type=vrm", {"Cookie": cookie.format("e" * 10_000)}, user=None)
    assert (answer.status, answer.code) == (401, "auth_required")


@pytest.mark.parametrize(
    "body",
    [
        {"display_name": "x" * 10_000},
        {"display_name": "a\r\nX-Injected: 1"},
        {"display_name": "\ud800"},
        {"displayName": "x" * 10_000},
        {"displayName": "a\r\nX-Injected: 1"},
        {"displayName": "\ud800"},
        {"description": "\u0000"},
        {"description": "x" * 10_000},
        {"tags": ["x" * 10_000]},
        {"tags": ["\udfff"]},
        {"tags": ["x"] * 10_000},
        {"visibility": "PUBLIC"},
        {"__proto__": {}},
        {"owner_user_id": "mallory"},
        {"ownerUserId": "mallory"},
        b'{"display_name": ' + b"[" * 60_000,
        b'{"display_name": ' + b"9" * 60_000 + b"}",
        b'{"displayName": ' + b"[" * 60_000,
        b'{"displayName": ' + b"9" * 60_000 + b"}",
        b"null",
        b"[]",
        b"",
        b"\xff\xfe",
        b"{",
    ],
    ids=lambda body: repr(body)[:40],
)
def test_an_edit_that_cannot_be_is_400(target: Target, avatar: str, body: Any) -> None:
    answer = target.send_json("PATCH", f"/api/assets/{avatar}", body)
    assert answer.status == 400
    assert answer.code in ("invalid_request", "MISSING_PARAMETERS")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"fileName": "vrm/\\ud800.vrm", "fileType": "x"}', "invalid_request"),
        (b'{"fileName": "vrm/\\u0000.vrm", "fileType": "x"}', "key_invalid"),
        (b'{"fileName": "vrm/a.vrm", "fileName": "vrm/../a.vrm", "fileType": "x"}', "key_invalid"),
        (b'{"fileName": ["vrm/a.vrm"], "fileType": "x"}', "invalid_request"),
        (b'{"fileName": "vrm/a.vrm", "fileType": "x", "size": 1e400}', "invalid_request"),
        (b'{"fileName": "vrm/a.vrm", "fileType": "x", "size": NaN}', "invalid_request"),
        (b'{"fileName": "vrm/a.vrm", "fileType": "x", "size": -1}', "invalid_request"),
        (b'{"fileName": "vrm/a.vrm", "fileType": "x", "size": ' + b"9" * 5000 + b"}", "invalid_request"),
        (b'{"fileName": "vrm/a.vrm", "fileType": "x", "sha256": "../x"}', "invalid_request"),
        (b"[" * 100_000, "invalid_request"),
        (b'{"a": "' + b"x" * bodies.BODY_LIMIT + b'"}', "body_too_large"),
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_wish_for_a_signed_upload_that_cannot_be_is_refused(target: Target, body: bytes, code: str) -> None:
    answer = target.send_json("POST", "/api/s3/presigned-url", body)
    assert (answer.status, answer.code) == (413 if code == "body_too_large" else 400, code)


# Forms

FRONTIER = "multipart/form-data; boundary=f"


def part(disposition: bytes, content: bytes = b"v", more: bytes = b"") -> bytes:
    return b"--f\r\nContent-Disposition: " + disposition + b"\r\n" + more + b"\r\n" + content + b"\r\n"


FIELDS = part(b'form-data; name="fileName"', b"vrm/f.vrm") + part(b'form-data; name="fileType"', b"model/vrm")
FILE = part(b'form-data; name="file"; filename="f.vrm"', VRM)
END = b"--f--\r\n"
GOOD = FIELDS + FILE + END


def post(target: Target, body: bytes, content_type: str | None = FRONTIER, **headers: str) -> Answer:
    kind = {"Content-Type": content_type} if content_type is not None else {}
    return target.ask("POST", "/api/s3/upload", kind | headers, body)


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "",
        "text/plain",
        "application/json",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/form-data; boundary=other",
        "multipart/form-data; boundary=" + "b" * 60_000,
        "multipart/form-data; boundary=\xff",
        "multipart/mixed; boundary=f",
    ],
    ids=lambda value: repr(value)[:50],
)
def test_a_form_under_another_type_or_boundary_is_400(target: Target, content_type: str | None) -> None:
    answer = post(target, GOOD, content_type)
    assert (answer.status, answer.code) == (400, "invalid_request")


@pytest.mark.parametrize(
    ("body", "code"),
    {
        "nothing": (b"", "invalid_request"),
        "only its end": (END, "MISSING_PARAMETERS"),
        "no end": (FIELDS + FILE, "invalid_request"),
        "cut in its file": (GOOD[:-100], "invalid_request"),
        "cut in a header": (GOOD[:30], "invalid_request"),
        "lines without CR": (GOOD.replace(b"\r\n", b"\n"), "invalid_request"),
        "10,000 parts": (part(b'form-data; name="a"') * 10_000 + GOOD, "invalid_request"),
        "a header of a megabyte": (part(b'form-data; name="' + b"n" * BOMB + b'"') + GOOD, "invalid_request"),
        "a header without an end": (b"--f\r\nContent-Disposition: " + b"n" * BOMB, "invalid_request"),
        "100 headers": (part(b'form-data; name="a"', more=b"X-A: b\r\n" * 100) + GOOD, "invalid_request"),
        "a field of a megabyte": (part(b'form-data; name="bucketName"', b"x" * BOMB) + GOOD, "invalid_request"),
        "a file as a field": (FIELDS + part(b'form-data; name="file"', b"x" * BOMB) + END, "invalid_request"),
        "two files": (FIELDS + FILE + FILE + END, "invalid_request"),
        "a file of another name": (
            FIELDS + part(b'form-data; name="x"; filename="x"', VRM) + END,
            "MISSING_PARAMETERS",
        ),
        "a file without a name": (FIELDS + part(b'form-data; filename="x"', VRM) + END, "MISSING_PARAMETERS"),
        "a part that is nothing": (b"--f\r\n\r\nx\r\n" + GOOD, "invalid_request"),
        "an attachment": (FIELDS + part(b'attachment; name="file"; filename="x"', VRM) + END, "invalid_request"),
        "a field that is not UTF-8": (
            part(b'form-data; name="fileName"', b"vrm/\xff.vrm") + FILE + END,
            "invalid_request",
        ),
        "a name that is not UTF-8": (part(b'form-data; name="\xff"') + GOOD, "invalid_request"),
        "a part longer than it says": (
            FIELDS + part(b'form-data; name="file"; filename="x"', VRM, b"Content-Length: 5\r\n") + END,
            "invalid_request",
        ),
        "a part of 10^4000 bytes": (
            FIELDS
            + part(b'form-data; name="file"; filename="x"', VRM, b"Content-Length: 1" + b"0" * 4000 + b"\r\n")
            + END,
            "invalid_request",
        ),
        "a file name over two lines": (
            FIELDS + part(b'form-data; name="file"; filename="a\r\nX-Injected: 1"', VRM) + END,
            "invalid_request",
        ),
        "a key that climbs, then a good one": (
            part(b'form-data; name="fileName"', b"vrm/../f.vrm") + GOOD,
            "key_invalid",
        ),
        "no key": (part(b'form-data; name="fileType"', b"x") + FILE + END, "MISSING_PARAMETERS"),
        "no type": (part(b'form-data; name="fileName"', b"vrm/f.vrm") + FILE + END, "MISSING_PARAMETERS"),
        "a checksum that is none": (part(b'form-data; name="sha256"', b"zz") + GOOD, "checksum_mismatch"),
        "squeezed": (gzip.compress(GOOD, mtime=0), "invalid_request"),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_form_that_is_rubbish_is_refused(target: Target, body: bytes, code: str) -> None:
    answer = post(target, body)
    assert (answer.status, answer.code) == (422 if code == "checksum_mismatch" else 400, code)


@pytest.mark.parametrize(
    "body",
    [
        b"a preamble\r\n" + GOOD,
        GOOD + b"e" * BOMB,
        part(b'form-data; name="' + b"n" * 4000 + b'"') + GOOD,
        FIELDS + part(b'form-data; name="fileName"', b"vrm/../f.vrm") + FILE + END,
        part(b'form-data; name="x"', b"--g\r\n\r\nx\r\n--g--", b"Content-Type: multipart/mixed; boundary=g\r\n") + GOOD,
        FIELDS + part(b'form-data; name="file"; filename=""', VRM) + END,
        FIELDS + part(b'form-data; name="file"; filename="../../x%0d%0aX-Injected: 1"', VRM) + END,
    ],
    ids=["preamble", "epilogue", "long name", "first key counts", "nested", "no file name", "file name that climbs"],
)
def test_a_form_that_is_odd_but_plain_is_stored_under_its_key(target: Target, body: bytes) -> None:
    answer = post(target, body)
    assert answer.status == 200, answer
    assert target.ask("GET", read_url("vrm/f.vrm")).body == VRM


# The wire


def upload_head(target: Target, *more: str) -> bytes:
    lines = [
        "POST /api/s3/upload HTTP/1.1",
        "Host: localhost",
        f"Cookie: {target.cookie('alice')}",
        "Connection: close",
    ]
    return "\r\n".join([*lines, f"Content-Type: {FRONTIER}", *more, "", ""]).encode()


def chunked(body: bytes, size: int = 1000) -> bytes:
    pieces = (body[start : start + size] for start in range(0, len(body), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


SECOND = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (["Content-Length: 4", "Transfer-Encoding: chunked"], chunked(GOOD) + SECOND),
        (["Transfer-Encoding: chunked", "Content-Length: 4"], b"0\r\n\r\n" + SECOND),
        (["Transfer-Encoding: xchunked"], chunked(GOOD)),
        (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], chunked(GOOD)),
        (["Transfer-Encoding: chunked, identity"], chunked(GOOD)),
        (["Transfer-Encoding : chunked"], chunked(GOOD)),
        (["Transfer-Encoding: chunked"], b"zz\r\n" + GOOD),
        (["Transfer-Encoding: chunked"], b"f" * 17 + b"\r\n" + GOOD),
        (["Transfer-Encoding: chunked"], b"-1\r\n" + GOOD),
        (["Content-Length: 4", "Content-Length: 5"], GOOD),
        (["Content-Length: 5, 5"], GOOD),
        (["Content-Length: -1"], GOOD),
        (["Content-Length: +5"], GOOD),
        (["Content-Length: 0x10"], GOOD),
        (["Content-Length: " + "9" * 30], GOOD),
        (["X: a\x00b"], b""),
        (["X: a\r b"], b""),
        (["Bad Name: x"], b""),
        (["X: y", " folded: z"], b""),
        (["X: " + "y" * HEAD_LIMIT], b""),
        ([f"X{number}: y" for number in range(20_000)], b""),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_head_that_can_be_read_in_two_ways_is_refused_and_ends_the_connection(
    target: Target, headers: list[str], body: bytes
) -> None:
    (answer,) = target.raw(upload_head(target, *headers) + body)
    assert answer.code in ("http_invalid", "head_too_large")
    assert answer.status == (400 if answer.code == "http_invalid" else 431)
    assert answer.header("connection") == "close"
    assert answer.header("x-request-id")


@pytest.mark.parametrize(
    "said",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"\x00" * 99,
        b"HELO x\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\nHost: localhost\n\n",
        b"GET http:// HTTP/1.1\r\n\r\n",
    ],
    ids=repr,
)
def test_another_protocol_is_400(target: Target, said: bytes) -> None:
    (answer,) = target.raw(said, keep_open=False)
    assert (answer.status, answer.code) == (400, "http_invalid")


def test_a_head_without_an_end_is_cut_off(target: Target) -> None:
    before = target.rss()
    for beginning in (b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 99):
        sent, more = 0, b"a" * 65536
        with target.connect() as wire, pytest.raises(ConnectionError):  # noqa: PT012 - the refusal may come at any of these
            wire.sendall(beginning)
            while sent < 500 * len(more):
                wire.sendall(more)
                sent += len(more)
        assert sent < 200 * len(more)
    assert target.rss() - before < 16 * 1024**2


def test_pipelined_requests_are_answered_in_turn(target: Target) -> None:
    ask = (
        b"GET /api/s3/read-object?key=vrm/a.vrm HTTP/1.1\r\nHost: localhost\r\nCookie: %b\r\n\r\n"
        % target.cookie("alice").encode()
    )
    answers = target.raw(
        (ask + b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n") * 100
        + b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )
    assert [answer.status for answer in answers] == [200, 404] * 100 + [200]
    assert all(answer.body == VRM for answer in answers[:-1:2])


def test_a_trailer_is_no_header(target: Target) -> None:
    trailer = b"X-Api-Key: butai_x\r\nCookie: a=b\r\nContent-Type: text/plain\r\n\r\n"
    body = chunked(GOOD).removesuffix(b"\r\n") + trailer
    (answer,) = target.raw(upload_head(target, "Transfer-Encoding: chunked", "Trailer: X-Api-Key") + body)
    assert answer.status == 200
    (answer,) = target.raw(
        upload_head(target, "Transfer-Encoding: chunked") + chunked(GOOD)[:-2] + b"X: " + b"y" * BOMB
    )
    assert (answer.status, answer.code) == (431, "head_too_large")


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_a_chunked_form_is_a_form(target: Target, size: int) -> None:
    (answer,) = target.raw(upload_head(target, "Transfer-Encoding: chunked") + chunked(GOOD, size))
    assert answer.status == 200


def test_a_client_that_waits_to_be_asked_is_asked(target: Target) -> None:
    head = upload_head(target, "Expect: 100-continue", f"Content-Length: {len(GOOD)}")
    with target.connect() as wire:
        wire.sendall(head)
        assert wire.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        wire.sendall(GOOD)
        assert wire.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")
    refused = head.replace(b"Cookie", b"X-Cookie")
    (answer,) = target.raw(refused)
    assert (answer.status, answer.code) == (401, "auth_required")


def test_a_length_that_is_wrong_is_no_upload(target: Target) -> None:
    (answer,) = target.raw(upload_head(target, f"Content-Length: {len(GOOD) - 50}") + GOOD)
    assert (answer.status, answer.code) == (400, "invalid_request")
    # More was promised than comes: silence ends it after `upload_idle_timeout`, 2 s here.
    began = time.monotonic()
    (answer,) = target.raw(upload_head(target, f"Content-Length: {len(GOOD) + 50}") + GOOD[:-20])
    assert (answer.status, answer.code) == (400, "client_disconnected")
    assert 1.5 < time.monotonic() - began < 10


def test_a_client_of_a_byte_a_moment_holds_up_nobody_and_ends_when_it_falls_silent(target: Target) -> None:
    with target.connect() as slow:
        slow.sendall(upload_head(target, f"Content-Length: {len(GOOD)}") + GOOD[:-40])
        sent = 0.0
        for number in range(-40, -30):
            slow.sendall(GOOD[number : number + 1])
            began = sent = time.monotonic()
            assert target.ask("GET", "/api/s3/resources?type=vrm").status == 200
            assert time.monotonic() - began < 2
            time.sleep(0.3)
        # Three seconds, and never silent for two. Now it is.
        assert slow.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert 1.5 < time.monotonic() - sent < 10


def test_an_upgrade_where_none_is_offered_hides_no_second_request(target: Target) -> None:
    upgrade = (
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        b"Upgrade: %b\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    for protocol in (b"h2c", b"x" * 1000):
        with target.connect() as wire:
            wire.sendall(upgrade % protocol + SECOND)
            said = wire.recv(65536)
            wire.settimeout(1)
            with pytest.raises(TimeoutError):  # noqa: PT012 - the end of the stream is as good
                while chunk := wire.recv(65536):
                    said += chunk
                raise TimeoutError
        assert said.count(b"HTTP/1.1 200 OK") == 1
        assert b"butai_http" not in said


@pytest.mark.parametrize("key", [b"", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"], ids=["no key", "whole"])
@pytest.mark.parametrize("path", [b"/healthz", b"/api/live/events/ws", b"/api/live/events/ws?room_id=%00"])
def test_a_websocket_that_nobody_may_have_is_refused_once(target: Target, path: bytes, key: bytes) -> None:
    upgrade = (
        b"GET %b HTTP/1.1\r\nHost: localhost\r\n"
        b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n%b\r\n"
    )
    said = b""
    with target.connect() as wire, suppress(ConnectionError):
        wire.sendall(upgrade % (path, key) + SECOND)
        while chunk := wire.recv(65536):
            said += chunk
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 ")), said[:200]
    assert said.count(b"HTTP/1.1 ") == 1
    assert b"butai_http" not in said


# What is in a file


def glb(text: bytes, binary: bytes = b"", *, length: int | None = None, json_length: int | None = None) -> bytes:
    """A GLB whose header and chunk claim what they like."""
    chunks = struct.pack("<II", len(text) if json_length is None else json_length, 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks) if length is None else length) + chunks


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


def thumbnail_path(key: str) -> str:
    return f"/api/vrm-thumbnail?url={quote(read_url(key), safe='')}"


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


# Bombs


@contextmanager
def watched(target: Target) -> Generator[list[int]]:
    """The most memory that the service had while the block ran, as the only entry once it has ended."""
    found, done = [target.rss()], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            found[0] = max(found[0], target.rss())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        done.set()
        watcher.join()


@pytest.fixture(scope="module")
def warmed(target: Target, avatar: str) -> int:
    """Its memory when it has done everything once, the largest ordinary things too."""
    for _ in range(3):
        target.upload("vrm/warm.vrm", files.vrm(2, 20 * 1024**2))
        target.ask("GET", read_url("vrm/warm.vrm"))
        target.ask("GET", thumbnail_path("vrm/a.vrm"))
    return target.rss()


GROWTH = 64 * 1024**2


@pytest.mark.parametrize(
    "text",
    {
        "lists": b'{"a":[' + b"[]," * 5_000_000 + b"[]]}",
        "objects": b'{"a":[' + b'{"":0},' * 2_200_000 + b"{}]}",
        "views": b'{"bufferViews":[' + b"{}," * 1_300_000 + b"{}]}",
        "just too many": b'{"a":[' + b'{"":0},' * 250_000 + b"{}]}",
        "just not too many": b'{"a":[' + b'{"":0},' * 190_000 + b"{}]}",
        "one wide text": b'{"a":"' + "😀".encode() * 1_000_000 + b'"}',
        "one long text": b'{"a":"' + b"a" * 16_000_000 + b'"}',
        "white space": b"{" + b" " * 16_000_000 + b"}",
    }.values(),
    ids=["lists", "objects", "views", "just too many", "just not too many", "wide text", "long text", "white space"],
)
def test_json_that_unfolds_in_memory_is_not_unfolded(target: Target, warmed: int, text: bytes) -> None:
    assert target.upload("vrm/bomb.vrm", glb(text)).status == 200
    with watched(target) as most, ThreadPoolExecutor(8) as crowd:
        answers = list(crowd.map(lambda _: target.ask("GET", thumbnail_path("vrm/bomb.vrm")), range(8)))
    assert [answer.code for answer in answers] == ["asset_not_found"] * 8
    assert most[0] - warmed < 2 * GROWTH
    assert target.rss() - warmed < GROWTH


def endless(target: Target, head: bytes, piece: bytes, total: int) -> bytes:
    """Sends `piece` again and again until `total` bytes went or the service hung up; returns what it said."""
    said = b""
    with target.connect() as wire:
        try:
            wire.sendall(head)
            for _ in range(total // len(piece)):
                wire.sendall(piece)
            wire.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass
        try:
            while chunk := wire.recv(65536):
                said += chunk
        except ConnectionError:
            pass
    return said


def test_bodies_without_an_end_take_no_memory(target: Target, warmed: int) -> None:
    megabyte, length = b"x" * 1024**2, "Content-Length: 400000000"
    json_head = upload_head(target, length).replace(b"/api/s3/upload", b"/api/s3/presigned-url")
    with watched(target) as most:
        for head, expected in {
            upload_head(target, length): b"HTTP/1.1 413",
            upload_head(target, length) + GOOD: b"HTTP/1.1 413",
            upload_head(target, length) + FIELDS: b"HTTP/1.1 400",
            upload_head(target, length) + FILE[:-2]: b"HTTP/1.1 413",
            upload_head(target, length) + b"--f\r\nContent-Disposition: form-data; name=": b"HTTP/1.1 400",
            upload_head(target, length) + part(b'form-data; name="bucketName"')[:-2]: b"HTTP/1.1 400",
            json_head.replace(FRONTIER.encode(), b"application/json"): b"HTTP/1.1 413",
            upload_head(target, length).replace(b"POST /api/s3/upload", b"GET /healthz"): b"HTTP/1.1 200",
            upload_head(target, length).replace(b"Cookie", b"X-Cookie"): b"HTTP/1.1 401",
        }.items():
            said = endless(target, head, megabyte, 220 * 1024**2)
            assert said.startswith(expected), said[:200]
    assert most[0] - warmed < GROWTH
    assert target.rss() - warmed < GROWTH


def test_a_crowd_of_half_requests_takes_little_memory(target: Target, warmed: int) -> None:
    halves = [
        b"GET / HTTP/1.1\r\nX: " + b"y" * 60_000,
        upload_head(target, "Content-Length: 100000000") + GOOD[:-20] + b"x" * 200_000,
        b"POST /api/s3/presigned-url HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n{",
    ]
    wires = [target.connect() for _ in range(90)]
    try:
        with watched(target) as most:
            for number, wire in enumerate(wires):
                wire.sendall(halves[number % 3])
            assert target.ask("GET", "/api/s3/resources?type=vrm").status == 200
        # Uploads have `BUTAI_UPLOAD_MEMORY_BYTES`, 48 MiB, and files beyond it.
        assert most[0] - warmed < GROWTH + 48 * 1024**2
    finally:
        for wire in wires:
            wire.close()
    deadline = time.monotonic() + 10
    while len(psutil.Process(target.process.pid).net_connections("tcp")) > 40:
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Time-outs that are too long to wait for


async def _hello(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\nX: ", b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET", b"HTTP/1.1 200 "),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n", b"HTTP/1.1 200 "),
    ],
    ids=["silence", "half a head", "half a second head", "half a body"],
)
async def test_a_head_that_does_not_end_is_408(monkeypatch: pytest.MonkeyPatch, said: bytes, answer: bytes) -> None:
    monkeypatch.setattr(uvicorn_limits, "HEAD_SECONDS", 0.5)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    # A connection that has been answered is closed after the keep-alive.
    config = uvicorn.Config(_hello, http=BoundedHttp, log_config=None, lifespan="off", timeout_keep_alive=1)
    server = uvicorn.Server(config)
    server.install_signal_handlers = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with asyncio.timeout(10):
            while not server.started:
                await asyncio.sleep(0.01)
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            writer.write(said)
            heard = await reader.read()
            assert heard.startswith(answer) and bool(heard) == bool(answer)
            assert heard.count(b"HTTP/1.1 408 ") == (
                1 if b"GET / HTTP/1.1\r\nX" in said or said.endswith(b"GET") else 0
            )
            writer.close()
    finally:
        server.should_exit = True
        await task


async def test_json_that_does_not_come_is_408(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.5)
    async with serving(settings) as api:
        head = (
            f"POST /api/s3/presigned-url HTTP/1.1\r\nHost: localhost\r\n"
            f"Connection: close\r\nCookie: {api.cookie('a')['Cookie']}\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", int(api.url.rpartition(":")[2]))
        writer.write(head.encode() + b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        async with asyncio.timeout(10):
            heard = await reader.read()
        writer.close()
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert b'"request_timeout"' in heard


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
    assert size in (None, length)


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
