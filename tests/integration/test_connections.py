"""Connections at the server's own level: a byte now and then keeps none of them open."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from butai.web import uvicorn_limits
from butai.web.uvicorn_limits import BoundedHttp
from tests.prompt_server import run_server


async def answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads no body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


@contextlib.asynccontextmanager
async def bounded(app: ASGIApp, keep_alive: int = 1) -> AsyncGenerator[int]:
    """The port of a server with our protocol."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    async with run_server(app, listener, http=BoundedHttp, lifespan="off", timeout_keep_alive=keep_alive):
        yield port


async def dripping(writer: asyncio.StreamWriter, piece: bytes) -> None:
    """Sends `piece` again and again."""
    with contextlib.suppress(ConnectionError):
        while not writer.is_closing():
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.05)


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"


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
        drip = asyncio.create_task(dripping(writer, piece))
        said = b""
        with contextlib.suppress(ConnectionError):
            while heard := await reader.read(65536):
                said += heard
        drip.cancel()
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
