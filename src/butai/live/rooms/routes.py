"""`/api/live/rooms` and `/api/live/watch`: rooms and the tokens to join them with."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response

from butai.live.answers import RevokedOut, RoomListed, RoomOut, RoomsOut, TokenOut
from butai.live.responses import LiveRoute, respond_live
from butai.live.rooms import service
from butai.live.schemas import RoomId, RoomIn, TokenIn, WatchIn
from butai.live.stage import get_stage
from butai.live.tokens import Role
from butai.web.dependencies import HostOrUser, SignedIn, by_invitation, origin
from butai.web.paging import BeforeMoment, Limit, cut
from butai.web.responses import answers

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


@router.post(
    "/rooms",
    **answers(RoomOut, 400, 403, 404, 408, 409, 413, 503),
    summary="Make a room, or claim one",
)
async def make_room(request: Request, who: SignedIn, wanted: RoomIn) -> Response:
    """The caller owns the room; a repeated request gives a new host token. A room made elsewhere is claimed with
    `host_token`, a token of its own that may administer it. A new room of a chosen name needs an answer of LiveKit, which
    may have a room of that name: 503 without one."""
    shown = wanted.host_token.get_secret_value() if wanted.host_token else None
    made = await service.make_room(get_stage(request), who, origin(request, who), wanted.room_id, shown, wanted.project)
    room = made.room
    return respond_live(
        RoomOut(
            room_id=room.room_id,
            host_identity=room.host_identity,
            host_token=made.host_token,
            livekit_url=made.livekit_url,
            project=room.livekit_project,
        )
    )


@router.get("/rooms", **answers(RoomsOut, 400), summary="The caller's rooms")
async def list_rooms(request: Request, who: SignedIn, before: BeforeMoment = None, limit: Limit = 50) -> Response:
    """Newest first."""
    found = await service.listed(get_stage(request), who, before, limit + 1)
    rooms, following = cut(found, limit, lambda room: room.created_at)
    data = [
        RoomListed(
            room_id=room.room_id,
            host_identity=room.host_identity,
            origin="claimed" if room.origin == "claimed" else "made",
            project=room.livekit_project,
            created_at=room.created_at,
            closed_at=room.closed_at,
        )
        for room in rooms
    ]
    return respond_live(RoomsOut(data=data, next=following, next_before=following))


@router.post(
    "/rooms/{room_id}/tokens",
    **answers(TokenOut, 400, 403, 404, 408, 409, 413),
    summary="A token to join a room with",
)
async def make_token(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: TokenIn
) -> Response:
    """The host makes tokens for guests and viewers; the signed-in owner also gets another host token, after a reload."""
    joining = await service.make_token(
        get_stage(request),
        who,
        origin(request, who),
        room_id,
        role=wanted.role,
        identity=wanted.identity,
        name=wanted.name,
    )
    return respond_live(_joining(joining, wanted.role))


@router.post(
    "/rooms/{room_id}/tokens/revoke",
    **answers(RevokedOut, 400, 403, 404),
    summary="Revoke all tokens of a room",
)
async def revoke_tokens(request: Request, who: SignedIn, room_id: Annotated[RoomId, Path()]) -> Response:
    """Host tokens, guests' and viewers' tokens and invitations; a broadcast goes on. Their holders are removed from the
    room, also when they join again; ingresses made with a host token are deleted. For the signed-in owner."""
    revoked = await service.revoke_tokens(get_stage(request), who, origin(request, who), room_id)
    return respond_live(RevokedOut(room_id=room_id, removed=revoked.removed))


@router.post(
    "/watch",
    **answers(TokenOut, 400, 403, 408, 413),
    openapi_extra={"security": []},
    summary="Join a room as a viewer, by invitation",
)
async def watch(request: Request, wanted: WatchIn, _: Annotated[None, Depends(by_invitation)]) -> Response:
    """Exchanges an invitation for a viewer token with an identity of its own, signed in or not."""
    return respond_live(
        _joining(await service.watch(get_stage(request), wanted.invitation.get_secret_value()), "viewer")
    )


def _joining(joining: service.JoinGrant, role: Role) -> TokenOut:
    return TokenOut(
        room_id=joining.room_id,
        role=role,
        identity=joining.identity,
        token=joining.token,
        livekit_url=joining.livekit_url,
        host_identity=joining.host_identity,
        invitation_id=joining.invitation.id if joining.invitation else None,
    )
