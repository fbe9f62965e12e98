"""Connections and bodies that mean harm, or know no better: each is refused clearly, costs no memory, and the service goes on.

Every answer is below 500, carries a code when it is an error, and has no header that came in as a value: `conftest.target`
looks at all of them at the end, and at the log.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import psutil
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from butai.assets.keys import read_url
from butai.config import Settings
from butai.web import bodies, uvicorn_limits
from butai.web.uvicorn_limits import HEAD_LIMIT, BoundedHttp
from tests import files
from tests.conftest import serving
from tests.fuzz.conftest import Target
from tests.fuzz.hostile_bytes import BOMB, FIELDS, FILE, FRONTIER, GOOD, VRM, glb, part, thumbnail_path

pytestmark = pytest.mark.usefixtures("avatar")

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
    assert time.monotonic() - began > 1.5


def test_a_client_of_a_byte_a_moment_holds_up_nobody_and_ends_when_it_falls_silent(target: Target) -> None:
    with target.connect() as slow:
        slow.sendall(upload_head(target, f"Content-Length: {len(GOOD)}") + GOOD[:-40])
        sent = 0.0
        for number in range(-40, -30):
            slow.sendall(GOOD[number : number + 1])
            sent = time.monotonic()
            assert target.ask("GET", "/api/s3/resources?type=vrm").status == 200
            time.sleep(0.3)
        # Three seconds, and never silent for two. Now it is.
        assert slow.recv(1000).startswith(b"HTTP/1.1 400 ")
        assert time.monotonic() - sent > 1.5


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
        async with asyncio.timeout(60):
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
        async with asyncio.timeout(60):
            heard = await reader.read()
        writer.close()
        assert heard.startswith(b"HTTP/1.1 408 ")
        assert b'"request_timeout"' in heard
