"""FastAPI dependencies of every route: the caller, and the origin for the audit trail."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import HTTPConnection

from butai.audit import Origin, actors
from butai.errors import Forbidden, Unauthenticated
from butai.identity import Caller, Identity
from butai.web.bodies import before_body

_CALLER = "butai.caller"


@before_body
async def caller(request: Request) -> Caller:
    """The caller, perhaps anonymous; found once for a request. Raises `Unauthenticated` for a credential that is not
    accepted, and `OriginDenied`."""
    found: Caller | None = request.scope.get(_CALLER)
    if found is None:
        identity: Identity = request.state.identity
        found = request.scope[_CALLER] = await identity.identify_request(request.scope)
    return found


@before_body
async def signed_in(request: Request) -> Caller:
    """The caller, who is signed in. Raises `Unauthenticated` for anonymous callers too."""
    found = await caller(request)
    if found.is_anonymous:
        raise Unauthenticated
    return found


@before_body
async def operator(request: Request) -> Caller:
    """The caller, who is an operator. Raises `Unauthenticated`, `Forbidden`."""
    found = await signed_in(request)
    if not found.is_operator:
        raise Forbidden("This is for operators")
    return found


@before_body
async def host_or_user(request: Request) -> Caller:
    """The caller, who is signed in or holds a room's host token. Raises `Unauthenticated` for all others."""
    found = await caller(request)
    if found.is_anonymous and not found.rooms:
        raise Unauthenticated
    return found


def origin(request: HTTPConnection, who: Caller) -> Origin:
    """Where the request came from, for the audit trail."""
    return Origin(
        actor=_actor(who),
        ip=request.client.host if request.client else None,
        # A client may send any length; the row keeps the beginning.
        user_agent=request.headers.get("user-agent", "")[:300] or None,
        request_id=getattr(request.state, "request_id", None),
    )


def _actor(who: Caller) -> str | None:
    if who.kind == "host_token":
        return actors.host(who.name or "")
    return None if who.user_id is None else actors.user(who.user_id)


_SIGN_IN = [{"session": []}, {"bearer": []}, {"apiKey": []}]
NEEDS_SIGN_IN: dict[str, Any] = {"security": _SIGN_IN}
"""The `security` of an operation in the OpenAPI document, where signing in is required: one of these."""

TAKES_SIGN_IN: dict[str, Any] = {"security": [{}, *_SIGN_IN]}
"""The `security` of an operation, where signing in is optional: one of these, or none."""

AnyCaller = Annotated[Caller, Depends(caller)]
SignedIn = Annotated[Caller, Depends(signed_in)]
Operator = Annotated[Caller, Depends(operator)]
HostOrUser = Annotated[Caller, Depends(host_or_user)]
