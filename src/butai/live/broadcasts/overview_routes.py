"""`/api/live/broadcasts/all`: what is and was on air in all rooms, for operators.

A broadcast's timeline, its end, and each of its outputs are at the host's own paths, which an operator may use for any room
(`butai.live.access`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from butai.live.broadcasts import overview
from butai.live.responses import LiveRoute, as_json, request_language
from butai.live.schemas import ErrorOut, OutputOut, RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import Operator
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


class OperatorOutput(OutputOut):
    """An output with `error_detail`, the engine's own error text, redacted."""

    error_detail: str | None


class BroadcastOverview(BaseModel):
    """A broadcast of any room. `controller`: the process that holds its lease; null once it has ended."""

    session_id: UUID
    room_id: str
    owner: str
    started_by: str | None
    project: str
    egress: str
    preset: str
    status: Literal["starting", "live", "degraded", "stopping", "ended", "error"]
    source: Literal["connecting", "waiting", "live", "lost", "ended", "failed"]
    controller: str | None
    started_at: datetime
    ended_at: datetime | None
    end: ErrorOut | None
    outputs: list[OperatorOutput]


class BroadcastOverviewPage(BaseModel):
    """Newest first. `next_before`: for the page behind."""

    data: list[BroadcastOverview]
    next_before: UUID | None


@router.get(
    "/broadcasts/all",
    response_model=BroadcastOverviewPage,
    responses=documented(400, 403),
    summary="The broadcasts of all rooms",
)
async def list_broadcasts(
    request: Request,
    who: Operator,
    state: Annotated[Literal["on_air", "over"] | None, Query(description="Only these")] = None,
    session_id: Annotated[UUID | None, Query()] = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    owner: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] = None,
    before: Annotated[UUID | None, Query(description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """For operators. Newest first."""
    found, more = await overview.list_broadcasts(
        get_stage(request).database,
        request_language(request),
        limit,
        session_id=session_id,
        on_air=None if state is None else state == "on_air",
        room_id=room_id,
        owner=owner,
        before=before,
    )
    return as_json({"data": found, "next_before": found[-1]["session_id"] if more else None})


# The path of version 0.1, which version 0.2 still answers.
router.add_api_route("/shows", list_broadcasts, methods=["GET"], include_in_schema=False)
