"""`/api/live/events`: a broadcast's changes as they happen, as server-sent events or over a WebSocket.

Both carry the same messages: first a complete `status`, then a `change` for each event with the status after it, and
`metrics` each second while an output is live or interrupted. A message's id is the id of its row in `live_events`, so a
client that reconnects sends the last one it has and gets the rest.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, ExitStack, aclosing
from dataclasses import dataclass
from typing import Annotated, Any
from uuid import UUID

import msgspec
import structlog
from fastapi import APIRouter, Header, Query, Request, WebSocket, WebSocketDisconnect
from fastapi.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from butai.errors import BrokenOff, ButaiError, DatabaseUnavailable, Unauthenticated, Unavailable
from butai.identity import Identity
from butai.limits.callers import CallerRates
from butai.live.access import hosted_room_id
from butai.live.answers import StatusOut
from butai.live.broadcasts import queries
from butai.live.responses import LiveRoute, request_language
from butai.live.schemas import RoomId
from butai.live.stage import Stage, get_stage
from butai.live.texts import Language, preferred_language
from butai.web.dependencies import HostOrUser, charged_caller, charged_name
from butai.web.problems import documented

log = structlog.get_logger(__name__)

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)

_METRICS_SECONDS = 1.0
"""Seconds between two `metrics` messages."""
_KEEP_ALIVE = 15.0
"""Seconds without a message after which a comment is sent, so that proxies keep the connection open."""
_SEND_TIMEOUT = 15.0
"""Seconds for which a client may accept no bytes before it is disconnected; its messages would fill our memory."""
_PROVE_EACH = 30.0
"""Seconds between two checks that the client is still the host: tokens and sessions expire."""
_ENDS_RIGHTS = frozenset({"tokens.revoked", "room.closed"})
"""Events after which the client may no longer be the host: that is checked at once."""
_READ_EACH = 10.0
"""Seconds without a notification after which the tables are read anyway: a dead connection to Postgres is silent."""
_BATCH = 200
"""Events read at once."""


@dataclass(frozen=True, slots=True)
class _Subscription:
    """The subject of a client's stream. `scope`: the request's, to check its credentials again. `after`: the last id it
    has."""

    scope: Scope
    identity: Identity
    room_id: str
    session_id: UUID | None
    language: Language
    after: int | None

    @property
    def selection(self) -> dict[str, Any]:
        """Keyword arguments for the queries: one broadcast, or the room with its newest one."""
        of_room = self.session_id is None
        return {"session_id": self.session_id, "room_id": self.room_id if of_room else None}


@dataclass(frozen=True, slots=True)
class _Message:
    kind: str
    data: Any
    id: int | None = None


async def _may_still(stage: Stage, subscription: _Subscription) -> bool:
    """Whether the client is still the room's host. True while that cannot be checked."""
    try:
        who = await subscription.identity.identify_request(subscription.scope)
        await hosted_room_id(stage.database, who, subscription.session_id, subscription.room_id)
    except Unavailable:
        return True
    except ButaiError as error:
        log.info("events.ended", room_id=subscription.room_id, reason=error.code)
        return False
    return True


async def _messages(stage: Stage, subscription: _Subscription) -> AsyncGenerator[_Message | None]:
    """Yields messages as they occur; None for each second without one. Raises `DatabaseUnavailable` before the
    first."""
    with stage.feed.watching(subscription.room_id) as watcher:
        newest = await queries.newest_event(stage.database, **subscription.selection)
        status = await queries.status(stage.database, subscription.language, **subscription.selection)
        # An id above ours comes from another installation: start with a complete status.
        last = newest if subscription.after is None or subscription.after > newest else subscription.after
        if last == newest:
            yield _Message("status", status, newest or None)
        on_air = _on_air(status)
        prove_at, read_at = time.monotonic() + _PROVE_EACH, 0.0
        notified = True
        while not stage.feed.ending:
            now = time.monotonic()
            if now >= prove_at:
                if not await _may_still(stage, subscription):
                    return
                prove_at = now + _PROVE_EACH
            if notified or now >= read_at:
                read_at = now + _READ_EACH
                try:
                    while found := await queries.events(
                        stage.database, subscription.language, **subscription.selection, after=last, limit=_BATCH
                    ):
                        if any(event.event in _ENDS_RIGHTS for event in found) and not await _may_still(
                            stage, subscription
                        ):
                            return
                        status = await queries.status(stage.database, subscription.language, **subscription.selection)
                        on_air = _on_air(status)
                        # Its timeline would repeat the events that are being sent.
                        shown = status and msgspec.structs.replace(status, timeline=[])
                        for event in found:
                            last = event.id
                            yield _Message("change", {"event": event, "status": shown}, last)
                except DatabaseUnavailable:
                    # The client keeps the last state until Postgres is back.
                    yield None
                    await asyncio.sleep(_METRICS_SECONDS)
                    continue
            notified = await watcher.wait(_METRICS_SECONDS)
            if not notified:
                yield await _metrics(stage, subscription) if on_air else None


def _on_air(status: StatusOut | None) -> bool:
    """Whether any output has metrics."""
    return status is not None and any(output.state in ("live", "interrupted") for output in status.outputs)


async def _metrics(stage: Stage, subscription: _Subscription) -> _Message | None:
    try:
        found = await queries.figures(stage.database, **subscription.selection)
    except DatabaseUnavailable:
        return None
    return _Message("metrics", found) if found else None


class _Stream(StreamingResponse):
    """A stream that ends when the client accepts no bytes for `_SEND_TIMEOUT` seconds. `counted`: entered while it is
    open; what it raises becomes the answer."""

    def __init__(
        self, content: AsyncGenerator[bytes], headers: dict[str, str], counted: AbstractContextManager[None]
    ) -> None:
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._content, self._counted = content, counted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream. Raises `RateLimited` before it begins."""
        with self._counted:
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        """Sends the stream. Raises `BrokenOff` for a client that is too slow."""

        async def send_in_time(message: Message) -> None:
            try:
                async with asyncio.timeout(_SEND_TIMEOUT):
                    await send(message)
            except TimeoutError:
                log.info("events.client_too_slow")
                raise BrokenOff from None

        async with aclosing(self._content):
            await super().stream_response(send_in_time)


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses=documented(400, 403, 404)
    | {200: {"description": "Server-sent events", "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    summary="The changes of a broadcast as they happen",
)
async def events(
    request: Request,
    who: HostOrUser,
    session_id: UUID | None = None,
    room_id: Annotated[RoomId | None, Query()] = None,
    last_event_id: Annotated[str | None, Header(alias="Last-Event-ID", max_length=30)] = None,
) -> StreamingResponse:
    """For the room's host. First a complete `status`; then `change` for each event, with the status after it, and
    `metrics` each second while an output is live or interrupted. With `Last-Event-ID` the stream continues after that
    event, without the first `status`.

    The same messages go over a WebSocket at `/api/live/events/ws`, as `{type, id, data}`; see docs/live.md."""
    stage = get_stage(request)
    room = await hosted_room_id(stage.database, who, session_id, room_id)
    after = _event_id(last_event_id)
    subscription = _Subscription(
        request.scope, request.state.identity, room, session_id, request_language(request), after
    )
    # What compresses a stream holds it until a block is full.
    headers = {"cache-control": "no-store, no-transform", "x-accel-buffering": "no"}
    rates: CallerRates = request.state.rates
    return _Stream(_as_events(stage, subscription), headers, rates.stream(charged_name(who)))


async def _as_events(stage: Stage, subscription: _Subscription) -> AsyncGenerator[bytes]:
    quiet_since = time.monotonic()
    async with aclosing(_messages(stage, subscription)) as messages:
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

    Browsers cannot set headers on a WebSocket, so a host token is sent as a subprotocol, `bearer.TOKEN` beside `butai`.
    """
    stage = get_stage(websocket)
    offered = [part.strip() for part in websocket.headers.get("sec-websocket-protocol", "").split(",")]
    token = next((part.removeprefix("bearer.") for part in offered if part.startswith("bearer.")), None)
    scope = websocket.scope
    if token is not None:
        scope = {**scope, "headers": [*scope["headers"], (b"authorization", f"Bearer {token}".encode())]}
    rates: CallerRates = websocket.state.rates
    with ExitStack() as counted:
        try:
            who = await charged_caller(websocket, scope)
            if who.is_anonymous and not who.rooms:
                raise Unauthenticated
            room = await hosted_room_id(stage.database, who, session_id, room_id)
            counted.enter_context(rates.stream(charged_name(who)))
        except ButaiError as error:
            # Closing before accepting answers the handshake with HTTP 403.
            await websocket.close(1008, error.code)
            return
        await websocket.accept("butai" if "butai" in offered else None)
        language = preferred_language(websocket.headers.get("accept-language"))
        await _carry(
            websocket, stage, _Subscription(scope, websocket.state.identity, room, session_id, language, after)
        )


async def _carry(websocket: WebSocket, stage: Stage, subscription: _Subscription) -> None:
    """Sends messages until they end or the client leaves, then closes the socket."""
    gone = asyncio.create_task(_gone(websocket))
    try:
        code = await _send_all(websocket, stage, subscription, gone)
        await websocket.close(code)
    except (WebSocketDisconnect, TimeoutError, RuntimeError):
        # The client left or accepts no bytes; uvicorn closes the connection.
        pass
    finally:
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)


async def _send_all(websocket: WebSocket, stage: Stage, subscription: _Subscription, gone: asyncio.Task[None]) -> int:
    """Sends messages until they end. Returns the close code (RFC 6455, 7.4.1, and IANA's registry): 1001 when the
    service stops, 1008 when the client may no longer watch, 1013 when Postgres is unreachable."""
    try:
        async with aclosing(_messages(stage, subscription)) as messages:
            async for message in messages:
                if gone.done():
                    raise WebSocketDisconnect
                if message is not None:
                    text = msgspec.json.encode({"type": message.kind, "id": message.id, "data": message.data}).decode()
                    async with asyncio.timeout(_SEND_TIMEOUT):
                        await websocket.send_text(text)
    except DatabaseUnavailable:
        return 1013
    return 1001 if stage.feed.ending else 1008


async def _gone(websocket: WebSocket) -> None:
    """Returns when the client disconnects; its messages are ignored."""
    while (await websocket.receive())["type"] != "websocket.disconnect":
        pass


def _event_id(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 19 else None
