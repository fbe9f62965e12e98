"""`/api/live/rooms` and `/api/live/watch`: rooms and the tokens to join them with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from butai.live.responses import LiveRoute, as_json
from butai.live.rooms import service
from butai.live.schemas import RoomId, RoomIn, RoomOut, RoomsOut, TokenIn, TokenOut, WatchIn
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, SignedIn, origin
from butai.web.parameters import Moment
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


@router.post(
    "/rooms",
    response_model=RoomOut,
    responses=documented(400, 404, 408, 409, 413),
    summary="Make a room, or claim one",
)
async def make_room(request: Request, who: SignedIn, wanted: RoomIn) -> Response:
    """The caller owns the room; a repeated request gives a new host token. A room made elsewhere is claimed with
    `host_token`, a token of its own that may administer it."""
    shown = wanted.host_token.get_secret_value() if wanted.host_token else None
    made = await service.make_room(get_stage(request), who, origin(request, who), wanted.room_id, shown, wanted.project)
    return as_json(
        {
            "room_id": made.room.room_id,
            "host_identity": made.room.host_identity,
            "host_token": made.host_token,
            "livekit_url": made.livekit_url,
            "project": made.room.livekit_project,
        }
    )


@router.get("/rooms", response_model=RoomsOut, responses=documented(400), summary="The caller's rooms")
async def list_rooms(
    request: Request,
    who: SignedIn,
    before: Annotated[Moment | None, Query(description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 50,
) -> Response:
    """Newest first."""
    found, more = await service.listed(get_stage(request), who, before, limit)
    data = [
        {
            "room_id": room.room_id,
            "host_identity": room.host_identity,
            "origin": room.origin,
            "project": room.livekit_project,
            "created_at": room.created_at,
        }
        for room in found
    ]
    return as_json({"data": data, "next_before": found[-1].created_at if more else None})


@router.post(
    "/rooms/{room_id}/tokens",
    response_model=TokenOut,
    responses=documented(400, 403, 404, 408, 413),
    summary="A token to join a room with",
)
async def make_token(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: TokenIn
) -> Response:
    """The host makes tokens for guests and viewers; the signed-in owner also gets another host token, after a reload."""
    joining = await service.make_token(
        get_stage(request), who, origin(request, who), room_id, wanted.role, wanted.identity, wanted.name
    )
    return as_json(_joining(joining, wanted.role))


@router.post(
    "/watch",
    response_model=TokenOut,
    responses=documented(400, 403, 408, 413),
    openapi_extra={"security": []},
    summary="Join a room as a viewer, by invitation",
)
async def watch(request: Request, wanted: WatchIn) -> Response:
    """Exchanges an invitation for a viewer token with an identity of its own, signed in or not."""
    return as_json(_joining(await service.watch(get_stage(request), wanted.invitation.get_secret_value()), "viewer"))


def _joining(joining: service.JoinGrant, role: str) -> dict[str, str]:
    return {
        "room_id": joining.room_id,
        "role": role,
        "identity": joining.identity,
        "token": joining.token,
        "livekit_url": joining.livekit_url,
        "host_identity": joining.host_identity,
    }
