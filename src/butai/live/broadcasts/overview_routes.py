"""`/api/live/shows`: what is and was on air in all rooms, for operators.

A show's timeline, its end, and each of its outputs are at the host's own paths (`routes`), which an operator may use for any
room (`access`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from butai.live.broadcasts import overview
from butai.live.responses import LiveRoute, as_json, asked_language
from butai.live.schemas import ErrorOut, OutputOut, RoomId
from butai.live.stage import stage
from butai.web.dependencies import Operator
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


class ShowOutput(OutputOut):
    """An output as its host sees it. `error_detail`: the engine's own words, without secrets."""

    error_detail: str | None


class ShowOut(BaseModel):
    """One broadcast of anybody's. `controller`: who looks after it now."""

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
    outputs: list[ShowOutput]


class ShowsOut(BaseModel):
    """Newest first. `next_before`: for the page behind."""

    data: list[ShowOut]
    next_before: UUID | None


@router.get("/shows", response_model=ShowsOut, responses=documented(400, 403), summary="The shows of all rooms")
async def list_shows(
    request: Request,
    who: Operator,
    state: Annotated[Literal["on_air", "over"] | None, Query(description="Only these")] = None,
    session_id: Annotated[UUID | None, Query()] = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    owner: Annotated[str | None, Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")] = None,
    before: Annotated[UUID | None, Query(description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """For operators, newest first."""
    found, more = await overview.shows(
        stage(request).database,
        asked_language(request),
        limit,
        session_id=session_id,
        on_air=None if state is None else state == "on_air",
        room_id=room_id,
        owner=owner,
        before=before,
    )
    return as_json({"data": found, "next_before": found[-1]["session_id"] if more else None})
