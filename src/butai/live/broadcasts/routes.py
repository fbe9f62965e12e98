"""`/api/live`: going on air, coming off, and what is on. A route parses, calls one function, answers."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response

from butai.errors import NotHost, RoomNotFound
from butai.identity import Caller
from butai.live.access import rules
from butai.live.broadcasts import queries, service
from butai.live.broadcasts.service import Start
from butai.live.responses import LiveRoute, as_json, asked_language
from butai.live.schemas import AddIn, HistoryOut, RoomId, StartIn, StatusOut, StopIn, TimelineOut
from butai.live.stage import Stage, stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.parameters import Moment
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)

_KEY = Header(
    alias="Idempotency-Key",
    min_length=1,
    max_length=200,
    pattern=r"^[!-~]+$",
    description="The same key with the same request does it once and answers the same",
)

PAGE = 100


async def check_host(stage: Stage, caller: Caller, room_id: str) -> None:
    """Raises `NotHost` unless the caller may see this room: strangers learn nothing, not even whether it exists."""
    if caller.user_id is None and room_id not in caller.rooms:
        raise NotHost
    found = await queries.owner_of(stage.database, room_id)
    if found is None and (caller.is_operator or room_id in caller.rooms):
        raise RoomNotFound
    owner, project = found or (None, "")
    if not (caller.is_operator or rules(caller, room_id, project) or (owner and owner == caller.user_id)):
        raise NotHost


async def room_asked_for(stage: Stage, caller: Caller, session_id: UUID | None, room_id: str | None) -> str:
    """The room of what was asked for, if the caller is its host. Raises `NotHost`."""
    found = await queries.room_of(stage.database, session_id) if session_id is not None else room_id
    if found is None or (room_id is not None and room_id != found):
        raise NotHost
    await check_host(stage, caller, found)
    return found


async def _answer(request: Request, session_id: UUID, status: int = 200) -> Response:
    found = await queries.status(stage(request).database, asked_language(request), session_id=session_id)
    assert found is not None
    return as_json(found, status)


def _idle(room_id: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("session_id", "preset", "started_at", "ended_at", "end", "source"))
    return nothing | {
        "room_id": room_id,
        "status": "idle",
        "platforms": {},
        "outputs": [],
        "ingress": [],
        "timeline": [],
    }


@router.post(
    "/start",
    status_code=201,
    response_model=StatusOut,
    responses={200: {"model": StatusOut, "description": "Begun before, with the same Idempotency-Key"}}
    | documented(400, 403, 404, 408, 409, 413, 422),
    summary="Go live",
)
async def start(
    request: Request, who: HostOrUser, wanted: StartIn, idempotency_key: Annotated[str | None, _KEY] = None
) -> Response:
    """By the room's host. What has no destination is answered as an error of that platform, while the rest begins; with
    nowhere to go at all it is 422 `no_destination`. A room that is live: 409 `already_live`, with its `session_id`."""
    asked = Start(
        wanted.room_id,
        wanted.wanted_platforms,
        wanted.destination_ids,
        wanted.preset,
        wanted.source_grace,
        wanted.on_source_lost,
        wanted.video_source,
        wanted.video_name,
    )
    session_id, new = await service.start(stage(request), who, origin(request, who), asked, idempotency_key)
    return await _answer(request, session_id, 201 if new else 200)


@router.post(
    "/stop", response_model=StatusOut, responses=documented(400, 403, 404, 408, 413), summary="End a broadcast"
)
async def stop(request: Request, who: HostOrUser, wanted: StopIn) -> Response:
    """By the room's host; again and again is fine."""
    session_id = await service.stop(stage(request), who, origin(request, who), wanted.session_id, wanted.room_id)
    return as_json(_idle(wanted.room_id or "")) if session_id is None else await _answer(request, session_id)


@router.get("/status", response_model=StatusOut, responses=documented(400, 403, 404), summary="What is on air")
async def status(
    request: Request,
    who: HostOrUser,
    session_id: UUID | None = None,
    room_id: Annotated[RoomId | None, Query()] = None,
) -> Response:
    """Of a broadcast, or a room's newest. For its host; to others every room is 403, whether it exists or not."""
    room = await room_asked_for(stage(request), who, session_id, room_id)
    which: dict[str, Any] = {"session_id": session_id} if session_id is not None else {"room_id": room}
    found = await queries.status(stage(request).database, asked_language(request), **which)
    return as_json(found or _idle(room))


@router.post(
    "/outputs/{output_id}/retry",
    response_model=StatusOut,
    responses=documented(400, 403, 404, 409, 422),
    summary="Try one output again, now",
)
async def retry_output(request: Request, who: HostOrUser, output_id: UUID) -> Response:
    """One that gave up, or that waits for its next attempt. The others go on."""
    session_id = await service.retry_output(stage(request), who, origin(request, who), output_id)
    return await _answer(request, session_id)


@router.post(
    "/outputs/{output_id}/stop", response_model=StatusOut, responses=documented(400, 403, 404), summary="End one output"
)
async def stop_output(request: Request, who: HostOrUser, output_id: UUID) -> Response:
    """The others go on. Again is fine."""
    session_id = await service.stop_output(stage(request), who, origin(request, who), output_id)
    return await _answer(request, session_id)


@router.post(
    "/broadcasts/{session_id}/outputs",
    response_model=StatusOut,
    responses=documented(400, 403, 404, 408, 409, 413, 422),
    summary="Add outputs to a broadcast on air",
)
async def add_outputs(request: Request, who: HostOrUser, session_id: UUID, wanted: AddIn) -> Response:
    """What goes there already is left as it is."""
    await service.add_outputs(
        stage(request), who, origin(request, who), session_id, wanted.platforms, wanted.destination_ids
    )
    return await _answer(request, session_id)


@router.get(
    "/broadcasts", response_model=HistoryOut, responses=documented(400, 403, 404), summary="A room's broadcasts"
)
async def history(
    request: Request,
    who: HostOrUser,
    room_id: Annotated[RoomId, Query()],
    before: Annotated[Moment | None, Query(description="`next_before` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE)] = 20,
) -> Response:
    """Newest first."""
    await check_host(stage(request), who, room_id)
    found, more = await queries.history(stage(request).database, room_id, before, limit)
    return as_json({"data": found, "next_before": found[-1]["started_at"] if more else None})


@router.get(
    "/broadcasts/{session_id}/timeline",
    response_model=TimelineOut,
    responses=documented(400, 403, 404),
    summary="All that happened in a broadcast",
)
async def timeline(
    request: Request,
    who: HostOrUser,
    session_id: UUID,
    after: Annotated[int, Query(ge=0, lt=2**63, description="`next_after` of the page before")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Response:
    """Oldest first."""
    await room_asked_for(stage(request), who, session_id, None)
    found = await queries.events(
        stage(request).database, asked_language(request), session_id=session_id, after=after, limit=limit
    )
    return as_json({"data": found, "next_after": found[-1]["id"] if len(found) == limit else None})
