"""`/api/live/rooms/{room_id}/invitations`: invitations to watch a room."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from butai.live.answers import InvitationMade, InvitationOut, InvitationsOut
from butai.live.responses import LiveRoute, respond_live
from butai.live.rooms import invitations, service
from butai.live.schemas import InvitationIn, RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.paging import BeforeMoment, Limit, cut
from butai.web.problems import documented
from butai.web.responses import answers

router = APIRouter(prefix="/api/live/rooms/{room_id}/invitations", tags=["live"], route_class=LiveRoute)


@router.post("", **answers(InvitationMade, 400, 403, 404, 408, 409, 413, status=201), summary="Invite to watch a room")
async def make_invitation(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: InvitationIn
) -> Response:
    """`invitation` is a viewer's token, for `POST /api/live/watch`; any number of viewers may use it. It is in this answer
    only, and good for twelve hours, or until the end of the host token that made it."""
    made = await service.make_token(
        get_stage(request), who, origin(request, who), room_id, role="viewer", identity=None, name=wanted.name
    )
    assert made.invitation is not None
    row = made.invitation
    return respond_live(
        InvitationMade(
            invitation_id=row.id,
            name=row.name,
            created_at=row.created_at,
            expires_at=row.expires_at,
            invitation=made.token,
        ),
        201,
    )


@router.get("", **answers(InvitationsOut, 400, 403, 404), summary="A room's invitations, without their tokens")
async def list_invitations(
    request: Request,
    who: HostOrUser,
    room_id: Annotated[RoomId, Path()],
    before: BeforeMoment = None,
    limit: Limit = 50,
) -> Response:
    """Those that are good now, newest first."""
    found = await invitations.listed(get_stage(request), who, room_id, before, limit + 1)
    rows, following = cut(found, limit, lambda row: row.created_at)
    data = [
        InvitationOut(invitation_id=row.id, name=row.name, created_at=row.created_at, expires_at=row.expires_at)
        for row in rows
    ]
    return respond_live(InvitationsOut(data=data, next=following))


@router.delete(
    "/{invitation_id}",
    status_code=204,
    response_class=Response,
    responses=documented(400, 403, 404),
    summary="Take an invitation back",
)
async def take_invitation_back(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], invitation_id: UUID
) -> Response:
    """The viewers who came by it are removed, also when they join again. Idempotent."""
    await invitations.take_back(get_stage(request), who, origin(request, who), room_id, invitation_id)
    return Response(status_code=204)
