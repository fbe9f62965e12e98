"""`/api/live/events`: a broadcast as it happens, as server-sent events or over a WebSocket.

Both carry the same messages: `status` first (a whole one), then `change` with an event and the status it led to, and
`metrics` while something is on air. An event's id is its row's, so a client that comes back says the last one it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from fastapi import APIRouter, Header, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse

from butai.calling import HostOrUser
from butai.errors import ButaiError, DatabaseUnavailable, NotHost
from butai.identity import Identity
from butai.live import queries
from butai.live.routes import asked_language, room_asked_for
from butai.live.schemas import RoomId
from butai.live.wiring import Stage, stage
from butai.live.words import Language, language
from butai.problems import documented

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/live", tags=["live"])

_EACH = 1.0
"""Seconds between two metrics."""
_KEEP_ALIVE = 15.0
_LONGEST = 3600.0
"""Seconds after which a stream ends, so that who watches proves again that they may. Clients come back by themselves."""
_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Asked:
    room_id: str
    session_id: UUID | None
    language: Language
    after: int | None


@dataclass(frozen=True, slots=True)
class _Message:
    kind: str
    data: Any
    id: int | None = None


async def _messages(stage: Stage, asked: _Asked) -> AsyncIterator[_Message | None]:
    """What there is to say; None each second in which there is nothing."""
    which: dict[str, Any] = {"session_id": asked.session_id} if asked.session_id else {"room_id": asked.room_id}
    ends = time.monotonic() + _LONGEST
    with stage.feed.watching(asked.room_id) as watcher:
        newest = await queries.newest_event(
            stage.database, session_id=asked.session_id, room_id=None if asked.session_id else asked.room_id
        )
        # Numbers that are not ours yet: a client of another installation.
        last = newest if asked.after is None or asked.after > newest else asked.after
        if last == newest:
            yield _Message("status", await queries.status(stage.database, asked.language, **which), newest or None)
        news = True
        while not stage.feed.ending and time.monotonic() < ends:
            if news:
                try:
                    while found := await queries.events(
                        stage.database, asked.language, **which, after=last, limit=_BATCH
                    ):
                        status = await queries.status(stage.database, asked.language, **which)
                        _shorten(status)
                        for event in found:
                            last = event["id"]
                            yield _Message("change", {"event": event, "status": status}, last)
                except DatabaseUnavailable:
                    # Whoever watches sees the last state until there is news again.
                    await asyncio.sleep(_EACH)
                    continue
            news = await watcher.wait(_EACH)
            if not news:
                yield await _metrics(stage, asked, which)


async def _metrics(stage: Stage, asked: _Asked, which: dict[str, Any]) -> _Message | None:
    try:
        status = await queries.status(stage.database, asked.language, **which)
    except DatabaseUnavailable:
        return None
    if status is None or not any(output["metrics"] for output in status["outputs"]):
        return None
    return _Message("metrics", {str(output["id"]): output["metrics"] for output in status["outputs"]})


def _shorten(status: dict[str, Any] | None) -> None:
    """The timeline is what is being told."""
    if status is not None:
        status["timeline"] = []


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=documented(400, 403, 404)
    | {200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    summary="A broadcast as it happens",
)
async def events(
    request: Request,
    who: HostOrUser,
    session_id: UUID | None = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=30)] = None,
) -> StreamingResponse:
    """For the host. `Last-Event-ID` goes on where a connection broke off."""
    there = stage(request)
    room = await room_asked_for(there, who, session_id, room_id)
    asked = _Asked(room, session_id, asked_language(request), _number(last_event_id))
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(_as_events(there, asked), media_type="text/event-stream", headers=headers)


async def _as_events(there: Stage, asked: _Asked) -> AsyncIterator[bytes]:
    quiet_since = time.monotonic()
    async for message in _messages(there, asked):
        if message is None:
            if time.monotonic() - quiet_since < _KEEP_ALIVE:
                continue
            yield b":\n\n"
        else:
            head = f"id: {message.id}\n" if message.id is not None else ""
            yield f"{head}event: {message.kind}\ndata: ".encode() + msgspec.json.encode(message.data) + b"\n\n"
        quiet_since = time.monotonic()


@router.websocket("/events/ws")
async def socket(
    websocket: WebSocket, session_id: UUID | None = None, room_id: str | None = None, after: int | None = None
) -> None:
    """The same messages as JSON: `{type, id, data}`. `after`: the last id that the client has.

    A browser cannot send headers here: a host token comes as a subprotocol, `bearer.TOKEN` beside `butai`.
    """
    there = stage(websocket)
    offered = [part.strip() for part in websocket.headers.get("sec-websocket-protocol", "").split(",")]
    token = next((part.removeprefix("bearer.") for part in offered if part.startswith("bearer.")), None)
    scope = websocket.scope
    if token is not None:
        scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]}
    try:
        identity: Identity = websocket.state.identity
        who = await identity.identify_request(scope)
        if who.is_anonymous and not who.rooms:
            raise NotHost
        room = await room_asked_for(there, who, session_id, room_id)
    except ButaiError as error:
        # Before it is accepted this is an HTTP answer, 403.
        await websocket.close(1008, error.code)
        return
    await websocket.accept("butai" if "butai" in offered else None)
    asked = _Asked(room, session_id, language(websocket.headers.get("accept-language")), after)
    gone = asyncio.create_task(_gone(websocket))
    try:
        async for message in _messages(there, asked):
            if gone.done():
                break
            if message is not None:
                said = {"type": message.kind, "id": message.id, "data": message.data}
                # A client that reads nothing for so long is dropped: memory is not its to fill.
                async with asyncio.timeout(_KEEP_ALIVE):
                    await websocket.send_text(msgspec.json.encode(said).decode())
    except (WebSocketDisconnect, TimeoutError, RuntimeError):
        pass
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
    if there.feed.ending:
        await websocket.close(1001)


async def _gone(websocket: WebSocket) -> None:
    """Returns when the client hangs up; what it says is of no interest."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
