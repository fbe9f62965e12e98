"""Small bodies: read whole, within limits of size and time, once it is known who calls.

FastAPI reads a declared body before it solves any dependency, so a caller without a credential could keep a connection
open by sending none of it. A `SmallBodies` route first asks the dependencies that are marked with `before_body`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from butai.errors import BodyTooLarge, BodyTooSlow, ClientDisconnected
from butai.web.problems import documented_only
from butai.web.request_headers import check_headers

BODY_LIMIT = 128 * 1024
"""Most bytes of a JSON body. The longest valid one is an edit with 64 tags of 64 letters and 2,000 letters of text,
each spelled with 12 bytes (`\\ud83d\\ude00`): 76 KiB."""

BODY_SECONDS = 10.0
"""Most seconds for the whole of such a body. Most have less than a kilobyte; the longest valid one takes a connection
of 64 kbit/s."""

_Gate = TypeVar("_Gate", bound=Callable[[Request], Coroutine[Any, Any, Any]])
_gates: set[Callable[[Request], Coroutine[Any, Any, Any]]] = set()


def before_body(dependency: _Gate) -> _Gate:
    """Marks a dependency that is asked before a request's body is read. It takes the request alone, and may be asked
    twice for one request."""
    _gates.add(dependency)
    return dependency


async def read_body(request: Request, limit: int = BODY_LIMIT) -> bytes:
    """A request's whole body. Raises `BodyTooLarge` before it reads more than `limit` bytes, `BodyTooSlow` after
    `BODY_SECONDS`, `ClientDisconnected`, and what `check_headers` does."""
    check_headers(request.scope)
    for name, value in request.scope["headers"]:
        if name == b"content-length" and int(value) > limit:
            raise BodyTooLarge(f"The body is longer than {limit} bytes")
    parts: list[bytes] = []
    size, more = 0, True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnected
                part: bytes = message.get("body", b"")
                size += len(part)
                if size > limit:
                    raise BodyTooLarge(f"The body is longer than {limit} bytes")
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise BodyTooSlow(f"The body was not complete after {BODY_SECONDS:g} seconds") from None
    return parts[0] if len(parts) == 1 else b"".join(parts)


class SmallBodies(APIRoute):
    """A route that reads its body with `read_body`, once the caller is known. Documents that a coded body is refused."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **how: Any) -> None:
        super().__init__(path, endpoint, **how)
        if self.body_field is not None:
            self.responses = documented_only(415) | self.responses

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the framework's handler, which is given a body that is there already."""
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle
        gates = [gate for each in self.dependant.dependencies for gate in _gates if gate is each.call]

        async def limited(request: Request) -> Response:
            for gate in gates:
                await gate(request)
            body: bytes | None = await read_body(request)

            async def receive() -> Message:
                nonlocal body
                if body is None:
                    return await request.receive()
                message: Message = {"type": "http.request", "body": body, "more_body": False}
                body = None
                return message

            return await handle(Request(request.scope, receive))

        return limited
