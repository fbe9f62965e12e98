"""`/api/live`: start, stop and status of broadcasts and their outputs, a room's history, a broadcast's timeline."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response

from butai.live.access import check_host, hosted_room_id
from butai.live.answers import HistoryOut, StatusOut, TimelineOut
from butai.live.broadcasts import queries, service
from butai.live.broadcasts.service import Start
from butai.live.responses import LiveRoute, request_language, respond_live
from butai.live.schemas import AddIn, RoomId, StartIn, StopIn
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.paging import AfterId, BeforeMoment, Limit, cut
from butai.web.responses import answers

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)

_KEY = Header(
    alias="Idempotency-Key",
    min_length=1,
    max_length=200,
    pattern=r"^[!-~]+$",
    description="A repeated request with the same key has no further effect and gets the same answer",
)


async def _answer(request: Request, session_id: UUID, status: int = 200) -> Response:
    found = await queries.status(get_stage(request).database, request_language(request), session_id=session_id)
    assert found is not None
    return respond_live(found, status)


def _idle(room_id: str) -> StatusOut:
    return StatusOut(room_id=room_id, status="idle")


@router.post(
    "/start",
    **answers(
        StatusOut,
        *(400, 403, 404, 408, 409, 413, 422, 503),
        status=201,
        also={200: "Started before, with the same Idempotency-Key"},
    ),
    summary="Go live",
)
async def start(
    request: Request, who: HostOrUser, wanted: StartIn, idempotency_key: Annotated[str | None, _KEY] = None
) -> Response:
    """For the room's host. A platform without a destination gets an output in state `error`, while the others start; if
    no platform has a destination, the answer is 422 `no_destination`. For a room that is live it is 409 `already_live`,
    with the running broadcast's `session_id`. When the only controller is full it is 503 `no_capacity` with
    `Retry-After`; with several full ones the outputs are `starting` with `no_capacity` for up to five minutes."""
    asked = Start(
        wanted.room_id,
        wanted.wanted_platforms,
        wanted.destination_ids,
        wanted.preset,
        wanted.source_grace,
        wanted.on_source_lost,
        wanted.video_source,
        wanted.video_name,
        wanted.hold_until_media,
        wanted.sound_only,
    )
    session_id, new = await service.start(get_stage(request), who, origin(request, who), asked, idempotency_key)
    return await _answer(request, session_id, 201 if new else 200)


@router.post("/stop", **answers(StatusOut, 400, 403, 404, 408, 413), summary="End a broadcast")
async def stop(request: Request, who: HostOrUser, wanted: StopIn) -> Response:
    """For the room's host. Idempotent."""
    session_id = await service.stop(get_stage(request), who, origin(request, who), wanted.session_id, wanted.room_id)
    return respond_live(_idle(wanted.room_id or "")) if session_id is None else await _answer(request, session_id)


@router.get("/status", **answers(StatusOut, 400, 403, 404), summary="What is on air")
async def status(
    request: Request,
    who: HostOrUser,
    session_id: UUID | None = None,
    room_id: Annotated[RoomId | None, Query()] = None,
) -> Response:
    """The status of a broadcast, or of a room's newest. For the room's host; other callers get 403 for every room,
    whether it exists or not."""
    room = await hosted_room_id(get_stage(request).database, who, session_id, room_id)
    which: dict[str, Any] = {"session_id": session_id} if session_id is not None else {"room_id": room}
    found = await queries.status(get_stage(request).database, request_language(request), **which)
    return respond_live(found or _idle(room))


@router.post(
    "/outputs/{output_id}/retry",
    **answers(StatusOut, 400, 403, 404, 409, 422),
    summary="Try one output again, now",
)
async def retry_output(request: Request, who: HostOrUser, output_id: UUID) -> Response:
    """For an output that failed, or waits for its next attempt. The others continue."""
    session_id = await service.retry_output(get_stage(request), who, origin(request, who), output_id)
    return await _answer(request, session_id)


@router.post("/outputs/{output_id}/stop", **answers(StatusOut, 400, 403, 404), summary="End one output")
async def stop_output(request: Request, who: HostOrUser, output_id: UUID) -> Response:
    """The other outputs continue. Idempotent."""
    session_id = await service.stop_output(get_stage(request), who, origin(request, who), output_id)
    return await _answer(request, session_id)


@router.post(
    "/broadcasts/{session_id}/outputs",
    **answers(StatusOut, 400, 403, 404, 408, 409, 413, 422),
    summary="Add outputs to a broadcast on air",
)
async def add_outputs(request: Request, who: HostOrUser, session_id: UUID, wanted: AddIn) -> Response:
    """Destinations that already have an output are left out."""
    await service.add_outputs(
        get_stage(request), who, origin(request, who), session_id, wanted.platforms, wanted.destination_ids
    )
    return await _answer(request, session_id)


@router.get("/broadcasts", **answers(HistoryOut, 400, 403, 404), summary="A room's broadcasts")
async def history(
    request: Request,
    who: HostOrUser,
    room_id: Annotated[RoomId, Query()],
    before: BeforeMoment = None,
    limit: Limit = 20,
) -> Response:
    """Newest first."""
    await check_host(get_stage(request).database, who, room_id)
    found = await queries.history(get_stage(request).database, room_id, before, limit + 1)
    page, following = cut(found, limit, lambda broadcast: broadcast.started_at)
    return respond_live(HistoryOut(data=list(page), next=following, next_before=following))


@router.get(
    "/broadcasts/{session_id}/timeline",
    **answers(TimelineOut, 400, 403, 404),
    summary="The timeline of a broadcast",
)
async def timeline(
    request: Request,
    who: HostOrUser,
    session_id: UUID,
    after: AfterId = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Response:
    """Oldest first."""
    await hosted_room_id(get_stage(request).database, who, session_id, None)
    found = await queries.events(
        get_stage(request).database, request_language(request), session_id=session_id, after=after, limit=limit + 1
    )
    page, following = cut(found, limit, lambda event: event.id)
    return respond_live(TimelineOut(data=list(page), next=following, next_after=following))
