"""A server with Butai's limits of connections, and clients that strain them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator

from starlette.types import ASGIApp, Receive, Scope, Send

from butai.web.connections import Connections
from butai.web.uvicorn_limits import protocols
from tests.prompt_server import run_server


async def answer_at_once(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads no body."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers after the first bytes of a body, with an error that has a text."""
    await receive()
    await send({"type": "http.response.start", "status": 413, "headers": [(b"content-length", b"9")]})
    await send({"type": "http.response.body", "body": b"too large"})


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers once the body has come."""
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    await answer_at_once(scope, receive, send)


@contextlib.asynccontextmanager
async def bounded(
    app: ASGIApp, keep_alive: int = 1, most: int = 100, of_address: int = 100, kernel: int = 0
) -> AsyncGenerator[int]:
    """The port of a server with our protocol and limits. `kernel`: bytes of an answer that it holds, if not 0."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if kernel:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, kernel)
    listener.bind(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    http, ws = protocols(Connections(most, of_address))
    async with run_server(app, listener, http=http, ws=ws, lifespan="off", timeout_keep_alive=keep_alive):
        yield port


HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n"

SIZE = 400_000


async def large(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers with `SIZE` bytes at once."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % SIZE)]})
    await send({"type": "http.response.body", "body": bytes(SIZE)})


@contextlib.asynccontextmanager
async def small_window(port: int) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A client that lets little wait for it."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    one.setblocking(False)
    await asyncio.get_running_loop().sock_connect(one, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=one, limit=4096)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(port: int, path: str = "/", address: str = "127.0.0.1", *headers: str) -> bytes:
    """What is said to a request of a new connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
    writer.write(
        "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]).encode()
    )
    try:
        return await reader.read()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def crowd(port: int, count: int, said: bytes = b"", addresses: int = 1) -> AsyncGenerator[list[socket.socket]]:
    """Sockets that say the beginning of a request, or nothing."""
    sockets: list[socket.socket] = []
    loop = asyncio.get_running_loop()
    try:
        for number in range(count):
            one = socket.socket()
            one.setblocking(False)
            one.bind((f"127.0.0.{1 + number % addresses}", 0))
            sockets.append(one)
            await loop.sock_connect(one, ("127.0.0.1", port))
            await loop.sock_sendall(one, said)
        yield sockets
    finally:
        for one in sockets:
            one.close()
