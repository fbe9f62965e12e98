"""`/api/live/events`: a broadcast as it happens, as server-sent events or over a WebSocket.

Both carry the same messages: `status` first (a whole one), then `change` with an event and the status it led to, and
`metrics` while something is on air. An event's id is its row's, so a client that comes back says the last one it has.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from fastapi import APIRouter, Header, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.types import Message, Scope, Send

from butai.errors import BrokenOff, ButaiError, DatabaseUnavailable, Unauthenticated, Unavailable
from butai.identity import Identity
from butai.live.broadcasts import queries
from butai.live.broadcasts.routes import room_asked_for
from butai.live.responses import LiveRoute, asked_language
from butai.live.schemas import RoomId
from butai.live.stage import Stage, stage
from butai.live.texts import Language, language
from butai.web.dependencies import HostOrUser
from butai.web.problems import documented

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)

_EACH = 1.0
"""Seconds between two metrics."""
_KEEP_ALIVE = 15.0
_PATIENCE = 15.0
"""Seconds for which a client may take nothing; then it is dropped: our memory is not its to fill."""
_PROVE_EACH = 30.0
"""Seconds between two looks at whether who watches still may: tokens end, and so do sessions."""
_LOOK_EACH = 10.0
"""Seconds of silence after which the tables are asked all the same: a dead connection to Postgres says nothing."""
_BATCH = 200


@dataclass(frozen=True, slots=True)
class _Asked:
    """`scope`: of the request, to prove again by the same headers that its sender may watch."""

    scope: Scope
    identity: Identity
    room_id: str
    session_id: UUID | None
    language: Language
    after: int | None

    @property
    def which(self) -> dict[str, Any]:
        """The broadcast, or whatever the room has on air."""
        of_room = self.session_id is None
        return {"session_id": self.session_id, "room_id": self.room_id if of_room else None}


@dataclass(frozen=True, slots=True)
class _Message:
    kind: str
    data: Any
    id: int | None = None


async def _may_still(stage: Stage, asked: _Asked) -> bool:
    """Whether who watches is still the host. While that cannot be found out, they are."""
    try:
        who = await asked.identity.identify_request(asked.scope)
        await room_asked_for(stage, who, asked.session_id, asked.room_id)
    except Unavailable:
        return True
    except ButaiError as error:
        log.info("events.ended", room_id=asked.room_id, reason=error.code)
        return False
    return True


async def _messages(stage: Stage, asked: _Asked) -> AsyncGenerator[_Message | None]:
    """What there is to say; None each second in which there is nothing. Raises `DatabaseUnavailable` at the beginning."""
    with stage.feed.watching(asked.room_id) as watcher:
        newest = await queries.newest_event(stage.database, **asked.which)
        status = await queries.status(stage.database, asked.language, **asked.which)
        # Numbers that are not ours yet: a client of another installation.
        last = newest if asked.after is None or asked.after > newest else asked.after
        if last == newest:
            yield _Message("status", status, newest or None)
        on_air = _on_air(status)
        prove_at, look_at = time.monotonic() + _PROVE_EACH, 0.0
        news = True
        while not stage.feed.ending:
            now = time.monotonic()
            if now >= prove_at:
                if not await _may_still(stage, asked):
                    return
                prove_at = now + _PROVE_EACH
            if news or now >= look_at:
                look_at = now + _LOOK_EACH
                try:
                    while found := await queries.events(
                        stage.database, asked.language, **asked.which, after=last, limit=_BATCH
                    ):
                        status = await queries.status(stage.database, asked.language, **asked.which)
                        on_air = _on_air(status)
                        # The timeline is what is being told.
                        shown = status and status | {"timeline": []}
                        for event in found:
                            last = event["id"]
                            yield _Message("change", {"event": event, "status": shown}, last)
                except DatabaseUnavailable:
                    # Whoever watches sees the last state until there is news again.
                    yield None
                    await asyncio.sleep(_EACH)
                    continue
            news = await watcher.wait(_EACH)
            if not news:
                yield await _metrics(stage, asked) if on_air else None


def _on_air(status: dict[str, Any] | None) -> bool:
    """Whether there are figures to tell."""
    return status is not None and any(output["state"] in ("live", "interrupted") for output in status["outputs"])


async def _metrics(stage: Stage, asked: _Asked) -> _Message | None:
    try:
        found = await queries.figures(stage.database, **asked.which)
    except DatabaseUnavailable:
        return None
    return _Message("metrics", found) if found else None


class _Stream(StreamingResponse):
    """One that breaks off when the client takes nothing for `_PATIENCE`."""

    def __init__(self, content: AsyncGenerator[bytes], headers: dict[str, str]) -> None:
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._content = content

    async def stream_response(self, send: Send) -> None:
        """Raises `BrokenOff`."""

        async def patient(message: Message) -> None:
            try:
                async with asyncio.timeout(_PATIENCE):
                    await send(message)
            except TimeoutError:
                log.info("events.client_too_slow")
                raise BrokenOff from None

        async with aclosing(self._content):
            await super().stream_response(patient)


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
    """For the host. First `status`, a whole one; then `change` with an event and the status it led to, and `metrics` each
    second while something is on air. `Last-Event-ID` goes on where a connection broke off, without the first.

    The same over a WebSocket at `/api/live/events/ws`, as `{type, id, data}`; see docs/live.md."""
    there = stage(request)
    room = await room_asked_for(there, who, session_id, room_id)
    asked = _Asked(
        request.scope, request.state.identity, room, session_id, asked_language(request), _number(last_event_id)
    )
    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return _Stream(_as_events(there, asked), headers)


async def _as_events(there: Stage, asked: _Asked) -> AsyncGenerator[bytes]:
    quiet_since = time.monotonic()
    async with aclosing(_messages(there, asked)) as messages:
        async for message in messages:
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
    websocket: WebSocket,
    session_id: UUID | None = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    after: int | None = None,
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
    identity: Identity = websocket.state.identity
    try:
        who = await identity.identify_request(scope)
        if who.is_anonymous and not who.rooms:
            raise Unauthenticated
        room = await room_asked_for(there, who, session_id, room_id)
    except ButaiError as error:
        # Before it is accepted this is an HTTP answer, 403.
        await websocket.close(1008, error.code)
        return
    await websocket.accept("butai" if "butai" in offered else None)
    tongue = language(websocket.headers.get("accept-language"))
    gone = asyncio.create_task(_gone(websocket))
    try:
        code = await _tell(websocket, there, _Asked(scope, identity, room, session_id, tongue, after), gone)
        await websocket.close(code)
    except (WebSocketDisconnect, TimeoutError, RuntimeError):
        # It went away, or takes nothing; uvicorn drops what is left of it.
        pass
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _tell(websocket: WebSocket, there: Stage, asked: _Asked, gone: asyncio.Task[None]) -> int:
    """Sends messages until they end. The code to close with (RFC 6455, 7.4.1, and the IANA's registry)."""
    try:
        async with aclosing(_messages(there, asked)) as messages:
            async for message in messages:
                if gone.done():
                    raise WebSocketDisconnect
                if message is not None:
                    said = {"type": message.kind, "id": message.id, "data": message.data}
                    async with asyncio.timeout(_PATIENCE):
                        await websocket.send_text(msgspec.json.encode(said).decode())
    except DatabaseUnavailable:
        return 1013
    return 1001 if there.feed.ending else 1008


async def _gone(websocket: WebSocket) -> None:
    """Returns when the client hangs up; what it says is of no interest."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
