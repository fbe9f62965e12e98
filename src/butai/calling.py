"""What every route asks of a request: who is calling, and from where.

Called by the routes of all slices, as FastAPI dependencies.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from butai.audit import Origin
from butai.errors import Unauthenticated
from butai.identity import Caller, Identity


async def caller(request: Request) -> Caller:
    """The caller, perhaps anonymous. Raises `Unauthenticated` for a bad credential, `OriginDenied`."""
    identity: Identity = request.state.identity
    return await identity.identify_request(request.scope)


async def signed_in(request: Request) -> Caller:
    """The caller, who is somebody. Raises `Unauthenticated` for anonymous ones too."""
    found = await caller(request)
    if found.is_anonymous:
        raise Unauthenticated
    return found


def origin(request: Request, who: Caller) -> Origin:
    """Where the request came from, for the audit trail."""
    return Origin(
        actor=who.user_id,
        ip=request.client.host if request.client else None,
        user_agent=request.headers.get("user-agent"),
        request_id=request.state.request_id,
    )


AnyCaller = Annotated[Caller, Depends(caller)]
SignedIn = Annotated[Caller, Depends(signed_in)]
