"""Requests that mean harm, or know no better: paths, headers, values and forms are refused clearly, and the service goes on.

Every answer is below 500, carries a code when it is an error, and has no header that came in as a value: `conftest.target`
looks at all of them at the end, and at the log.
"""

from __future__ import annotations

import gzip
from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest

from butai.assets.keys import read_url
from butai.sign_in.codes import make_code
from butai.web import bodies
from butai.web.uvicorn_limits import HEAD_LIMIT
from tests.fuzz.conftest import Answer, Target
from tests.fuzz.hostile_bytes import BOMB, END, FIELDS, FILE, FRONTIER, GOOD, VRM, part

pytestmark = pytest.mark.usefixtures("avatar")

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
        # What a head says in another encoding, or of a file's name, is no reason to refuse a form whose fields are right.
        part(b'form-data; name="\xff"') + GOOD,
        FIELDS + part(b'form-data; name="file"; filename="a\r\nX-Injected: 1"', VRM) + END,
    ],
    ids=[
        *("preamble", "epilogue", "long name", "first key counts", "nested", "no file name", "file name that climbs"),
        *("name that is not UTF-8", "file name over two lines"),
    ],
)
def test_a_form_that_is_odd_but_plain_is_stored_under_its_key(target: Target, body: bytes) -> None:
    answer = post(target, body)
    assert answer.status == 200, answer
    assert answer.header("x-injected") is None
    assert target.ask("GET", read_url("vrm/f.vrm")).body == VRM
