"""`/api/live/rooms/{room_id}/close` and `/open`, and `DELETE /api/live/rooms/{room_id}`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response

from butai.live.answers import ClosedOut
from butai.live.broadcasts import closing
from butai.live.responses import LiveRoute, respond_live
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import SignedIn, origin
from butai.web.problems import documented
from butai.web.responses import answers

router = APIRouter(prefix="/api/live/rooms/{room_id}", tags=["live"], route_class=LiveRoute)


@router.post("/close", **answers(ClosedOut, 400, 403, 404), summary="Close a room")
async def close_room(request: Request, who: SignedIn, room_id: Annotated[RoomId, Path()]) -> Response:
    """Its broadcast ends, its tokens and invitations are revoked, all participants are removed, its ingresses are
    deleted, and nothing is started or made in it until it is opened. Idempotent."""
    closed = await closing.close_room(get_stage(request), who, origin(request, who), room_id)
    return respond_live(ClosedOut(room_id=room_id, closed_at=closed.room.closed_at, removed=closed.removed))


@router.post("/open", **answers(ClosedOut, 400, 403, 404, 409), summary="Open a closed room")
async def open_room(request: Request, who: SignedIn, room_id: Annotated[RoomId, Path()]) -> Response:
    """Tokens of before it was closed stay revoked. A room that was given up is 409 `room_closed`. Idempotent."""
    room = await closing.open_room(get_stage(request), who, origin(request, who), room_id)
    return respond_live(ClosedOut(room_id=room_id, closed_at=room.closed_at, removed=None))


@router.delete(
    "",
    status_code=204,
    response_class=Response,
    responses=documented(400, 403, 404),
    summary="Give up a room",
)
async def give_up_room(request: Request, who: SignedIn, room_id: Annotated[RoomId, Path()]) -> Response:
    """Closes it for good. Its name is never given to another user, nor to its owner again. Idempotent."""
    await closing.close_room(get_stage(request), who, origin(request, who), room_id, give_up=True)
    return Response(status_code=204)
