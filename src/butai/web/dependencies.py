"""FastAPI dependencies of every route: the caller, and the origin for the audit trail."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any

from fastapi import Depends, Request
from starlette.requests import HTTPConnection
from starlette.types import Scope

from butai.audit import Origin, actors
from butai.errors import Forbidden, Unauthenticated, UserSuspended
from butai.identity import Caller, Identity, api_key_of
from butai.limits.callers import CallerRates, RateClass, class_of
from butai.web.bodies import before_body
from butai.web.connections import one_client

_CALLER, _CHARGED = "butai.caller", "butai.charged"


@before_body
async def caller(request: Request) -> Caller:
    """The caller, perhaps anonymous; found and charged once for a request. Raises as `charged_caller` does."""
    found: Caller | None = request.scope.get(_CALLER)
    if found is None:
        found = request.scope[_CALLER] = await charged_caller(request, request.scope)
    return found


async def charged_caller(connection: HTTPConnection, scope: Scope) -> Caller:
    """The caller by the credentials of `scope`, charged for one request.

    Raises `Unauthenticated` for a credential that is not accepted, `UserSuspended`, `OriginDenied`,
    `RateLimited`.
    """
    identity: Identity = connection.state.identity
    rates: CallerRates = connection.state.rates
    address = client_address(connection)
    key = api_key_of(scope["headers"])
    try:
        async with rates.checking(address, key) if key is not None else nullcontext():
            found = await identity.identify_request(scope)
    except (Unauthenticated, UserSuspended):
        rates.charge(RateClass.ANONYMOUS, address)
        raise
    if found.is_anonymous and not found.rooms:
        rates.charge(RateClass.ANONYMOUS, address)
    elif (kind := class_of(scope.get("method", ""), scope["path"])) is not None:
        rates.charge(kind, charged_name(found))
    return found


def client_address(connection: HTTPConnection) -> str:
    """The caller's address as limits count it."""
    return one_client(connection.client.host if connection.client else "")


def charged_name(who: Caller) -> str:
    """Whose limits a known caller's requests count for: the user's, or those of the rooms of a host token."""
    return f"user:{who.user_id}" if who.user_id is not None else f"rooms:{who.livekit_project}:{sorted(who.rooms)}"


@before_body
async def by_probe(request: Request) -> None:
    """Charges the address of a caller of `/metrics`. Raises `RateLimited`."""
    _charge_address(request, RateClass.PROBE)


@before_body
async def by_invitation(request: Request) -> None:
    """Charges the address of a caller who is known by an invitation alone. Raises `RateLimited`."""
    _charge_address(request, RateClass.INVITATION)


def _charge_address(request: Request, kind: RateClass) -> None:
    """Charges an address once for a request."""
    if _CHARGED not in request.scope:
        request.scope[_CHARGED] = kind
        rates: CallerRates = request.state.rates
        rates.charge(kind, client_address(request))


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
