"""FastAPI dependencies of every route: the caller, the origin for the audit trail, and a limit for the body.

The limit is a `route_class` for routers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.requests import HTTPConnection
from starlette.types import Message

from butai.audit import Origin
from butai.errors import Forbidden, Unauthenticated
from butai.identity import Caller, Identity


async def caller(request: Request) -> Caller:
    """The caller, perhaps anonymous. Raises `Unauthenticated` for a credential that is not accepted, and
    `OriginDenied`."""
    identity: Identity = request.state.identity
    return await identity.identify_request(request.scope)


async def signed_in(request: Request) -> Caller:
    """The caller, who is signed in. Raises `Unauthenticated` for anonymous callers too."""
    found = await caller(request)
    if found.is_anonymous:
        raise Unauthenticated
    return found


async def operator(request: Request) -> Caller:
    """The caller, who is an operator. Raises `Unauthenticated`, `Forbidden`."""
    found = await signed_in(request)
    if not found.is_operator:
        raise Forbidden("This is for operators")
    return found


async def host_or_user(request: Request) -> Caller:
    """The caller, who is signed in or holds a room's host token. Raises `Unauthenticated` for all others."""
    found = await caller(request)
    if found.is_anonymous and not found.rooms:
        raise Unauthenticated
    return found


def origin(request: HTTPConnection, who: Caller) -> Origin:
    """Where the request came from, for the audit trail."""
    return Origin(
        actor=f"host_token:{who.name}" if who.kind == "host_token" else who.user_id,
        ip=request.client.host if request.client else None,
        # A client may send any length; the row keeps the beginning.
        user_agent=request.headers.get("user-agent", "")[:300] or None,
        request_id=getattr(request.state, "request_id", None),
    )


BODY_LIMIT = 128 * 1024
"""Most bytes of a JSON body. The longest valid one is an edit with 64 tags of 64 letters and 2,000 letters of text,
each spelled with 12 bytes (`\\ud83d\\ude00`): 76 KiB."""


BODY_SECONDS = 30.0
"""Most seconds between two pieces of such a body."""


class SmallBodies(APIRoute):
    """A route whose body may have `BODY_LIMIT` bytes: the framework reads it whole, before the caller is known."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the framework's handler: answers 413 and 408 beyond the limits of size and time."""
        handle = super().get_route_handler()

        async def limited(request: Request) -> Response:
            seen = 0

            async def receive() -> Message:
                nonlocal seen
                try:
                    async with asyncio.timeout(BODY_SECONDS):
                        message = await request.receive()
                except TimeoutError:
                    raise HTTPException(408, f"No byte of the body came for {BODY_SECONDS:g} seconds") from None
                seen += len(message.get("body", b""))
                if seen > BODY_LIMIT:
                    raise HTTPException(413, f"The body is longer than {BODY_LIMIT} bytes")
                return message

            return await handle(Request(request.scope, receive))

        return limited


_SIGN_IN = [{"session": []}, {"bearer": []}, {"apiKey": []}]
NEEDS_SIGN_IN: dict[str, Any] = {"security": _SIGN_IN}
"""The `security` of an operation in the OpenAPI document, where signing in is required: one of these."""

TAKES_SIGN_IN: dict[str, Any] = {"security": [{}, *_SIGN_IN]}
"""The `security` of an operation, where signing in is optional: one of these, or none."""

AnyCaller = Annotated[Caller, Depends(caller)]
SignedIn = Annotated[Caller, Depends(signed_in)]
Operator = Annotated[Caller, Depends(operator)]
HostOrUser = Annotated[Caller, Depends(host_or_user)]
