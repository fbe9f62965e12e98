"""Connections at the server's own level: a byte now and then keeps none of them open, and none keeps others out."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from butai.config import Settings
from butai.web import uvicorn_limits
from butai.web.connections import RESERVE, RequestsOfAddress, one_client
from tests.bounded_server import HEAD, SIZE, answer_at_once, ask, bounded, crowd, large, read_all, refuse, small_window
from tests.processes import api_process
from tests.slow_clients import drip


@pytest.mark.parametrize(
    ("begin", "piece", "answer"),
    [
        (HEAD % 0 + b"X: ", b"x", b"HTTP/1.1 408 "),
        (b"", b"\r\n", b""),
        (HEAD % 0 + b"\r\n", b"\r\n", b"HTTP/1.1 200 "),
        (HEAD % 100_000 + b"\r\n", b"x", b"HTTP/1.1 200 "),
        (HEAD % 0 + b"\r\n" + HEAD % 0 + b"X: ", b"x", b"HTTP/1.1 200 "),
    ],
    ids=["a head", "empty lines", "empty lines after an answer", "a body that was answered", "a second head"],
)
async def test_no_drip_keeps_a_connection_open(
    monkeypatch: pytest.MonkeyPatch, begin: bytes, piece: bytes, answer: bytes
) -> None:
    monkeypatch.setattr(uvicorn_limits, "HEAD_SECONDS", 0.5)
    async with bounded(answer_at_once) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begin)
        dripping = asyncio.create_task(drip(writer, piece))
        said = b""
        with contextlib.suppress(ConnectionError):
            while heard := await reader.read(65536):
                said += heard
        dripping.cancel()
        writer.close()
    assert said.startswith(answer) and bool(said) == bool(answer)


async def test_a_connection_serves_again_once_the_rest_of_an_answered_body_has_come() -> None:
    async with bounded(answer_at_once, keep_alive=30) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(HEAD % 5 + b"\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
            writer.write(b"12345")
        writer.close()


@pytest.mark.parametrize("app", [answer_at_once, refuse], ids=["answered", "refused"])
async def test_an_answer_is_heard_by_who_still_sends_and_wants_the_connection_closed(app: ASGIApp) -> None:
    """As the proxy within Next.js does. A connection that is closed with bytes unread is reset, and takes the answer along."""
    async with bounded(app, keep_alive=30) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        size = 8 << 20
        writer.write(HEAD % size + b"Connection: close\r\n\r\n")
        for _ in range(size >> 16):
            writer.write(bytes(1 << 16))
            await writer.drain()
        # Not a byte of it was taken while the body was on its way.
        assert (await reader.read()).startswith(b"HTTP/1.1 ")
        writer.close()


async def test_no_more_than_so_many_bytes_of_an_answered_body_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_limits, "REST_BYTES", 1 << 20)
    for connection in (b"close", b"keep-alive"):
        async with bounded(answer_at_once, keep_alive=30) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD % (1 << 40) + b"Connection: " + connection + b"\r\n\r\n")
            await drip(writer, bytes(1 << 16), 0)
            # Not by the limit of time, which is ten seconds.
            writer.close()
            with contextlib.suppress(ConnectionError):
                await reader.read()


async def test_who_takes_nothing_of_an_answer_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_limits, "TAKE_SECONDS", 0.5)
    ended = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert not (await receive()).get("more_body")
        gone = asyncio.ensure_future(receive())
        while not gone.done():
            await send({"type": "http.response.body", "body": bytes(65536), "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    async with bounded(endless) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await ended.wait()
        writer.close()


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
async def test_a_slow_but_steady_reader_gets_the_whole_answer(
    monkeypatch: pytest.MonkeyPatch, connection: bytes
) -> None:
    monkeypatch.setattr(uvicorn_limits, "TAKE_SECONDS", 0.3)
    ended_by_limit = list[int]()
    look = uvicorn_limits.BoundedHttp._look_at_taking

    def noting(self: uvicorn_limits.BoundedHttp, before: int) -> None:
        ended_by_limit.append(before)
        look(self, before)

    monkeypatch.setattr(uvicorn_limits.BoundedHttp, "_look_at_taking", noting)
    async with bounded(large, 30, kernel=16384) as port, small_window(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: " + connection + b"\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        left = SIZE
        while left:
            left -= len(await reader.readexactly(min(left, 4000)))
            await asyncio.sleep(0.015)
    assert len(ended_by_limit) > 2, "the limit was never asked"


async def test_a_reader_below_the_least_rate_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uvicorn_limits, "TAKE_SECONDS", 0.5)
    monkeypatch.setattr(uvicorn_limits, "SLOWEST_TAKE", 1 << 20)
    async with bounded(large, 30, kernel=16384) as port, small_window(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        got = 0
        with contextlib.suppress(ConnectionError):
            while heard := await reader.read(1000):
                got += len(heard)
                await asyncio.sleep(0.02)
        assert got < SIZE


async def test_idle_connections_make_room_before_those_that_take_an_answer() -> None:
    async with bounded(large, 30, most=8, kernel=16384) as port, small_window(port) as (reader, writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        # The oldest, of which nothing but its answer is left to do.
        async with crowd(port, 30, addresses=10):
            for _ in range(10):
                assert (await ask(port)).startswith(b"HTTP/1.1 200 ")
            assert len(await reader.readexactly(SIZE)) == SIZE


GET = b"GET /%d HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


async def test_pipelined_requests_are_answered_in_turn_and_bounded() -> None:
    asked: list[str] = []
    go_on = asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["path"])
        await go_on.wait()
        await answer_at_once(scope, receive, send)

    async with bounded(waiting, 30) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        count = 1 + uvicorn_limits.MOST_PIPELINED
        writer.write(b"".join(GET % number for number in range(count)))
        while not asked:
            await asyncio.sleep(0.01)
        go_on.set()
        for _ in range(count):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert asked == [f"/{number}" for number in range(count)]
        # One more ends the connection, without an answer that could be taken for another one's.
        go_on.clear()
        writer.write(b"".join(GET % number for number in range(count + 1)))
        assert await reader.read() == b""
        go_on.set()
        writer.close()


async def test_a_request_that_others_wait_for_learns_that_the_client_left() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with bounded(waiting, 30) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % 1 + GET % 2)
        await started.wait()
        writer.close()
        async with asyncio.timeout(10):
            await ended.wait()


async def test_a_websocket_does_not_take_the_connection_of_another_request() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def waiting(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        started.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        ended.set()

    async with bounded(waiting, 30) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(GET % 1)
        await started.wait()
        writer.write((GET % 2)[:-2] + UPGRADE)
        assert await reader.read() == b""
        # Else its end would never be known to the first request.
        await ended.wait()
        writer.close()


async def test_a_websocket_does_not_take_a_connection_whose_answer_the_client_has_yet_to_take() -> None:
    asked: list[str] = []

    async def noting(scope: Scope, receive: Receive, send: Send) -> None:
        asked.append(scope["type"])
        await large(scope, receive, send)

    async with bounded(noting, 30, kernel=16384) as port, small_window(port) as (reader, writer):
        writer.write(GET % 1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write((GET % 2)[:-2] + UPGRADE)
        # Else the limit of the answer would end the WebSocket, which says nothing of what the client takes.
        said = await reader.read()
    assert said[:SIZE] == bytes(SIZE) and said[SIZE:].startswith(b"HTTP/1.1 400 ")
    assert asked == ["http"]


async def test_many_parameters_are_refused_before_they_are_read() -> None:
    async with bounded(answer_at_once) as port:
        most = "&".join("a" * uvicorn_limits.MOST_PARAMETERS)
        assert (await ask(port, f"/?{most}")).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, f"/?{most}&b")).startswith(b"HTTP/1.1 431 ")


async def test_many_headers_are_refused_before_they_are_kept() -> None:
    async with bounded(answer_at_once) as port:
        most = [f"a{number}:" for number in range(uvicorn_limits.MOST_HEADERS - 2)]
        assert (await ask(port, "/", "127.0.0.1", *most)).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, "/", "127.0.0.1", *most, "b:")).startswith(b"HTTP/1.1 431 ")


ENDLESS = HEAD % 100_000 + b"\r\n"


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"])
async def test_connections_without_a_request_make_room_for_those_with_one(said: bytes) -> None:
    async with bounded(answer_at_once, 30, most=8) as port, crowd(port, 60, said, addresses=10):
        for _ in range(5):
            assert (await ask(port)).startswith(b"HTTP/1.1 200 ")


async def test_where_all_carry_requests_health_is_answered_and_all_else_is_503() -> None:
    async with bounded(read_all, 30, most=8) as port:
        async with crowd(port, 8, ENDLESS, addresses=4), crowd(port, 2 * RESERVE, b"", addresses=4):
            for _ in range(2 * RESERVE):
                assert (await ask(port, "/healthz?a=b")).startswith(b"HTTP/1.1 200 ")
            refused = await ask(port)
            assert refused.startswith(b"HTTP/1.1 503 ")
            assert b'"too_many_connections"' in refused and b"\r\nretry-after: " in refused
            websocket = (
                "Upgrade: websocket",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            )
            assert (await ask(port, "/x", "127.0.0.1", *websocket)).startswith(b"HTTP/1.1 503 ")
        # Once they are gone, connections are accepted again.
        while not (await ask(port)).startswith(b"HTTP/1.1 200 "):
            await asyncio.sleep(0.01)


async def test_one_address_leaves_room_for_others() -> None:
    async with bounded(read_all, 30, most=100, of_address=5) as port, crowd(port, 5, ENDLESS):
        assert (await ask(port)).startswith(b"HTTP/1.1 503 ")
        assert (await ask(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, "/", "127.0.0.2")).startswith(b"HTTP/1.1 200 ")
    # Not even when the limit of an address is no lower than the whole.
    async with bounded(read_all, 30, most=8, of_address=8) as port, crowd(port, 8, ENDLESS):
        assert (await ask(port, "/", "127.0.0.2")).startswith(b"HTTP/1.1 200 ")


async def test_behind_a_proxy_requests_are_counted_by_the_forwarded_address() -> None:
    waiting = HEAD.replace(b"\r\nContent", b"\r\nX-Forwarded-For: 203.0.113.7\r\nContent") % 100_000 + b"\r\n"
    async with bounded(RequestsOfAddress(read_all, 3), 30) as port, crowd(port, 3, waiting):
        busy = "X-Forwarded-For: 203.0.113.7"
        while not (await ask(port, "/", "127.0.0.1", busy)).startswith(b"HTTP/1.1 503 "):
            await asyncio.sleep(0.01)
        assert (await ask(port, "/healthz", "127.0.0.1", busy)).startswith(b"HTTP/1.1 200 ")
        assert (await ask(port, "/", "127.0.0.1", "X-Forwarded-For: 203.0.113.8")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("host", "client"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "unknown"),
        ("unknown", "unknown"),
        ("_hidden-1", "unknown"),
        ("/run/butai.sock", "unknown"),
        ("203.0.113.7:80:80", "unknown"),
        ("203.0.113.7%1", "203.0.113.7"),
        pytest.param("x" * 60_000, "unknown", id="long"),
        pytest.param("203.0.113.7%" + "x" * 60_000, "unknown", id="long-zone"),
    ],
)
def test_a_client_of_ipv6_is_its_network(host: str, client: str) -> None:
    assert one_client(host) == client


async def test_a_real_process_with_256_files_answers_beside_260_sockets(settings: Settings, tmp_path: Path) -> None:
    """Silent ones, ones with half a head, and ones with a body that does not come."""
    watch = b"POST /api/live/watch HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\nContent-Type: application/json\r\n\r\n{"
    limits = ("prlimit", "--nofile=256:256")
    async with api_process(settings, tmp_path / "api.log", through=limits) as (_, api):
        port = int(api.url.rpartition(":")[2])
        for said in (b"", b"GET / HTTP/1.1\r\nX: "):
            async with crowd(port, 260, said, addresses=20):
                for _ in range(20):
                    assert (await ask(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
                assert (await api.call("GET", "/api/s3/resources?type=vrm", "alice"))[0] == 200
        async with crowd(port, 260, watch, addresses=20):
            for _ in range(20):
                assert (await ask(port, "/healthz")).startswith(b"HTTP/1.1 200 ")
            assert (await ask(port, "/api/assets/usage")).startswith(b"HTTP/1.1 503 ")
        while not (await ask(port, "/api/assets/usage")).startswith(b"HTTP/1.1 401 "):
            await asyncio.sleep(0.05)
