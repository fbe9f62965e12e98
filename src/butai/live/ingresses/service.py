"""Ingresses: ways into a room for hosts who stream from OBS, over RTMP or WHIP.

LiveKit's Ingress service carries them. An ingress joins the room as the host, so that its media go on air like
those that a browser publishes. Its key is shown once, when it is made, and stored sealed.

No request to LiveKit is made within a transaction. A new ingress is a row in state `making` first; then LiveKit makes
it; then the row is filled. Its name at LiveKit holds the row's id, so `sweep` finds and ends the remains of a crash or
a lost answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import NAMESPACE_OID, UUID, uuid5

import aiohttp
import structlog
from livekit import api
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin
from butai.errors import (
    ButaiError,
    Conflict,
    IngressNotFound,
    IngressUnavailable,
    InvalidRequest,
    LiveKitUnauthorized,
    LiveKitUnreachable,
)
from butai.identity import Caller
from butai.live import audit
from butai.live.access import hosted_open_room, hosted_room
from butai.live.ingresses.states import REPORTS, IllegalIngressTransition, IngressTrigger
from butai.live.ingresses.sweep import delete_at_livekit, end_unknown, name_of
from butai.live.ingresses.transitions import locked, move, reserve
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.models import Ingress
from butai.live.stage import Stage
from butai.live.states import IngressState
from butai.live.tokens import is_engines

log = structlog.get_logger(__name__)

MOST = 4
"""Ingresses of one room: a host uses one program, or two."""

_TIMEOUT = 10.0
"""Seconds for all requests to LiveKit that making or deleting one takes."""
_REFRESH_TIMEOUT = 1.0
"""Seconds for which a list waits for LiveKit's view of the states."""

Kind = Literal["rtmp", "whip"]

_INPUT = {"rtmp": api.IngressInput.RTMP_INPUT, "whip": api.IngressInput.WHIP_INPUT}
_STATES = {
    api.IngressState.Status.ENDPOINT_BUFFERING: IngressState.BUFFERING,
    api.IngressState.Status.ENDPOINT_PUBLISHING: IngressState.PUBLISHING,
    api.IngressState.Status.ENDPOINT_ERROR: IngressState.ERROR,
    api.IngressState.Status.ENDPOINT_COMPLETE: IngressState.ENDED,
}


@dataclass(slots=True)
class _Attempt:
    """The progress of making an ingress. `sent`: the request to LiveKit may have been sent."""

    sent: bool = False
    made: api.IngressInfo | None = None


async def create(
    stage: Stage, caller: Caller, origin: Origin, room_id: str, *, kind: Kind, name: str, identity: str | None
) -> tuple[Ingress, str]:
    """Makes an ingress. Returns it with its stream key, which cannot be read again.

    Raises `NotHost`, `RoomClosed`, `Conflict` beyond `MOST`, `LiveKitUnreachable`, `LiveKitUnauthorized`, `IngressUnavailable`,
    `LiveKitNotConfigured`; `InvalidRequest` for an identity that engines have.
    """
    if identity is not None and is_engines(identity):
        raise InvalidRequest("Identities like this one are the engines'")
    async with audit.refusal(stage.database, origin, "live.ingress_made", room_id):
        row = await _reserve(stage, caller, room_id, kind, name, identity)
    attempt = _Attempt()
    try:
        made = await _make(stage, row, attempt)
        return await _fill(stage, origin, row.id, made), made.stream_key
    except BaseException as error:
        await asyncio.shield(_give_up(stage, origin, row, attempt, error))
        if isinstance(error, IllegalIngressTransition):
            # `sweep` took the row for that of a dead process.
            raise LiveKitUnreachable from None
        raise


async def listed(stage: Stage, caller: Caller, room_id: str) -> Sequence[Ingress]:
    """The ingresses of a room, oldest first, with the states that LiveKit reports now, if it answers. Raises
    `NotHost`."""
    async with stage.database.transaction() as session:
        room = await hosted_room(session, caller, room_id)
        found = await _visible(session, room_id)
    if found and await _refresh(stage, room.livekit_project, found):
        async with stage.database.transaction() as session:
            found = await _visible(session, room_id)
    return found


async def delete(stage: Stage, caller: Caller, origin: Origin, room_id: str, ingress_id: str) -> None:
    """Ends an ingress, at LiveKit and here. Idempotent. Raises as `create`, and `IngressNotFound`."""
    async with audit.refusal(stage.database, origin, "live.ingress_deleted", room_id):
        async with stage.database.transaction() as session:
            room = await hosted_room(session, caller, room_id)
            found = await session.scalar(select(Ingress).where(Ingress.ingress_id == ingress_id))
            if found is None or found.room_id != room_id:
                raise IngressNotFound
            if found.deleted_at is not None:
                return
        # LiveKit first: without its row an ingress would be open and hidden.
        async with _as_ours():
            await _delete_at_livekit(stage, room.livekit_project, ingress_id)
        async with stage.database.transaction() as session:
            row = await locked(session, found.id)
            if row is None or row.state == IngressState.DELETED:
                return
            await move(
                session,
                row,
                IngressTrigger.DELETED,
                event="ingress.deleted",
                actor=origin.actor,
                deleted_at=func.now(),
            )
            audit.record(session, origin, "live.ingress_deleted", room_id, ingress_id=ingress_id)


async def _visible(session: AsyncSession, room_id: str) -> Sequence[Ingress]:
    query = select(Ingress).where(Ingress.room_id == room_id, Ingress.state.in_(REPORTS))
    return (await session.scalars(query.order_by(Ingress.created_at, Ingress.id))).all()


async def _reserve(stage: Stage, caller: Caller, room_id: str, kind: Kind, name: str, identity: str | None) -> Ingress:
    """A committed row in state `making`. Raises `NotHost`, `RoomClosed`, `Conflict` beyond `MOST`."""
    async with stage.database.transaction() as session:
        # The lock makes requests for one room take turns at the count.
        room = await hosted_open_room(session, caller, room_id, lock=True)
        open_states = (IngressState.MAKING, *REPORTS)
        count = select(func.count()).where(Ingress.room_id == room_id, Ingress.state.in_(open_states))
        if (await session.scalar(count) or 0) >= MOST:
            raise Conflict(f"A room has at most {MOST} ingresses; delete one first")
        generation = caller.room_generation if caller.kind == "host_token" else None
        return await reserve(session, room, kind, name, identity or room.host_identity, generation)


async def _make(stage: Stage, row: Ingress, attempt: _Attempt) -> api.IngressInfo:
    """Makes the ingress at LiveKit, after ending the room's ingresses that have no row."""
    wanted = api.CreateIngressRequest(
        input_type=_INPUT["rtmp" if row.kind == "rtmp" else "whip"],
        name=name_of(row),
        room_name=row.room_id,
        participant_identity=row.identity,
        participant_name=row.name or "OBS",
        enable_transcoding=row.kind == "rtmp",
    )
    async with _as_ours(), livekit_client(stage.projects, row.project, _TIMEOUT) as livekit:
        await end_unknown(stage.database, livekit, row.room_id)
        attempt.sent = True
        attempt.made = await livekit.ingress.create_ingress(wanted)
        return attempt.made


async def _fill(stage: Stage, origin: Origin, row_id: UUID, made: api.IngressInfo) -> Ingress:
    """Writes LiveKit's answer into the row. Raises `IllegalIngressTransition` when the row was given up meanwhile."""
    async with stage.database.transaction() as session:
        row = await locked(session, row_id)
        assert row is not None, "rows of ingresses are never deleted"
        row.ingress_id = made.ingress_id
        await move(
            session,
            row,
            IngressTrigger.MADE,
            event="ingress.made",
            actor=origin.actor,
            identity=made.participant_identity,
            url=made.url,
            sealed_key=stage.sealer.seal(made.stream_key, subject_of(made.ingress_id)),
            key_fingerprint=stage.sealer.fingerprint(made.stream_key),
        )
        audit.record(session, origin, "live.ingress_made", row.room_id, ingress_id=made.ingress_id, kind=row.kind)
        await session.flush()
        await session.refresh(row)
        return row


async def _give_up(stage: Stage, origin: Origin, row: Ingress, attempt: _Attempt, error: BaseException) -> None:
    """Moves a row that was not filled to `failed`, or to `abandoned` where LiveKit may have made an ingress for it.

    Best effort: `sweep` does the same for a row that is left in `making`.
    """
    nothing_left = not attempt.sent
    if attempt.made is not None:
        with contextlib.suppress(Exception):
            await _delete_at_livekit(stage, row.project, attempt.made.ingress_id)
            nothing_left = True
    with contextlib.suppress(Exception):
        async with stage.database.transaction() as session:
            found = await locked(session, row.id)
            if found is None or found.state != IngressState.MAKING:
                return
            code = error.code if isinstance(error, ButaiError) else None
            await move(session, found, IngressTrigger.REFUSED if nothing_left else IngressTrigger.UNANSWERED)
            audit.record(
                session, origin, "live.ingress_made", row.room_id, result="failed", error_code=code, kind=row.kind
            )


async def _delete_at_livekit(stage: Stage, project: str, ingress_id: str) -> None:
    async with livekit_client(stage.projects, project, _TIMEOUT) as livekit:
        await delete_at_livekit(livekit, ingress_id)


async def _refresh(stage: Stage, project: str, found: Sequence[Ingress]) -> bool:
    """Copies the states that LiveKit reports now, which covers lost webhooks. Returns whether any changed.

    Without an answer the rows stay as they are.
    """
    room_id = found[0].room_id
    try:
        async with livekit_client(stage.projects, project, _REFRESH_TIMEOUT) as livekit:
            answer = await livekit.ingress.list_ingress(api.ListIngressRequest(room_name=room_id))
    except LIVEKIT_ERRORS as error:
        log.info("ingress.not_looked_up", room_id=room_id, reason=type(error).__name__)
        return False
    reports = {info.ingress_id: info.state for info in answer.items}
    newer = [row.id for row in found if _is_newer(row, reports.get(row.ingress_id or ""))]
    if not newer:
        return False
    async with stage.database.transaction() as session:
        for row_id in sorted(newer):
            row = await locked(session, row_id)
            report = reports.get((row and row.ingress_id) or "")
            if row is not None and report is not None and _is_newer(row, report):
                at = datetime.fromtimestamp(report.updated_at / 1e9, UTC)
                await move(session, row, REPORTS[_state(report)], state_at=at, reported_at=at)
    return True


def _is_newer(row: Ingress, report: api.IngressState | None) -> bool:
    """Whether a report is newer than the last one of the row, and has another state."""
    if report is None or not report.updated_at or row.state not in REPORTS:
        return False
    fresh = row.reported_at is None or report.updated_at / 1e9 > row.reported_at.timestamp() + 0.001
    return fresh and _state(report) != row.state


def _state(report: api.IngressState) -> IngressState:
    return _STATES.get(report.status, IngressState.ENDED if report.ended_at else IngressState.IDLE)


def subject_of(ingress_id: str) -> UUID:
    """The subject that a stream key is sealed for."""
    return uuid5(NAMESPACE_OID, f"ingress:{ingress_id}")


@contextlib.asynccontextmanager
async def _as_ours() -> AsyncGenerator[None]:
    """Raises LiveKit's failures as Butai's errors, without LiveKit's texts, which may hold the key."""
    try:
        yield
    except api.TwirpError as error:
        if error.status in (401, 403):
            raise LiveKitUnauthorized from None
        if error.status < 500:
            log.error("ingress.refused", status=error.status, reason=error.code)
        # 5xx: "ingress not connected (redis required)" of a LiveKit without the service.
        raise IngressUnavailable from None
    except (TimeoutError, aiohttp.ClientError, OSError):
        raise LiveKitUnreachable from None
