"""`/api/live/broadcasts/all`: the broadcasts of all rooms, on air and past, for operators.

A broadcast's timeline, its end, and each of its outputs are at the host's paths, which an operator may use for any room
(`butai.live.access`).
"""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from butai.live.answers import BroadcastOverviewPage
from butai.live.broadcasts import overview
from butai.live.responses import LiveRoute, request_language, respond_live
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import Operator
from butai.web.paging import BeforeUuid, Limit, cut
from butai.web.responses import answers

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


@router.get(
    "/broadcasts/all",
    **answers(BroadcastOverviewPage, 400, 403),
    summary="The broadcasts of all rooms",
)
async def list_broadcasts(
    request: Request,
    who: Operator,
    state: Annotated[Literal["on_air", "over"] | None, Query(description="Only these")] = None,
    session_id: Annotated[UUID | None, Query()] = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    owner: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] = None,
    before: BeforeUuid = None,
    limit: Limit = 20,
) -> Response:
    """For operators. Newest first."""
    found = await overview.list_broadcasts(
        get_stage(request).database,
        request_language(request),
        limit + 1,
        session_id=session_id,
        on_air=None if state is None else state == "on_air",
        room_id=room_id,
        owner=owner,
        before=before,
    )
    page, following = cut(found, limit, lambda broadcast: broadcast.session_id)
    return respond_live(BroadcastOverviewPage(data=list(page), next=following, next_before=following))


# The path of version 0.1, which version 0.2 still answers.
router.add_api_route("/shows", list_broadcasts, methods=["GET"], include_in_schema=False)
