"""Ingresses: ways into a room for hosts who stream from OBS, over RTMP or WHIP. Called by `ingress_routes`.

LiveKit's Ingress service carries them. It joins the room as the host, so that what comes in goes on air like what a browser
publishes. The key is shown once, in the answer to its making; what is kept is sealed. State comes with LiveKit's webhooks
(`webhook_batch`), and from LiveKit itself when somebody asks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import NAMESPACE_OID, UUID, uuid5

import aiohttp
import structlog
from livekit import api
from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin
from butai.errors import (
    Conflict,
    IngressNotFound,
    IngressUnavailable,
    LiveKitUnauthorized,
    LiveKitUnreachable,
)
from butai.identity import Caller
from butai.live import audit
from butai.live.access import active, hosted_room
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.models import Ingress, LiveEvent, Room
from butai.live.stage import Stage

log = structlog.get_logger(__name__)

MOST = 4
"""Of one room: a host has one program, or two."""

PREFIX = "butai-"
"""Of the names that ours have at LiveKit: what has another is somebody else's."""

_PATIENCE = 10.0
_LOOK_PATIENCE = 1.0

Kind = Literal["rtmp", "whip"]

_INPUT = {"rtmp": api.IngressInput.RTMP_INPUT, "whip": api.IngressInput.WHIP_INPUT}
_STATES = {
    api.IngressState.Status.ENDPOINT_BUFFERING: "buffering",
    api.IngressState.Status.ENDPOINT_PUBLISHING: "publishing",
    api.IngressState.Status.ENDPOINT_ERROR: "error",
    api.IngressState.Status.ENDPOINT_COMPLETE: "ended",
}


async def create(
    stage: Stage, caller: Caller, origin: Origin, room_id: str, kind: Kind, name: str, identity: str | None
) -> tuple[Ingress, str]:
    """A new one, and its key, which nobody is shown again.

    Raises `NotHost`, `Conflict` beyond the most, `LiveKitUnreachable`, `LiveKitUnauthorized`, `IngressUnavailable`.
    """
    made: api.IngressInfo | None = None
    project = ""
    async with audit.refusal(stage.database, origin, "live.ingress_made", room_id):
        try:
            async with stage.database.transaction() as session:
                # Locked while LiveKit is asked, too: another one's, not written yet, must not look like nobody's.
                room = await hosted_room(session, caller, room_id, lock=True)
                if len(await _of(session, room_id)) >= MOST:
                    raise Conflict(f"A room has at most {MOST} ingresses; delete one first")
                project = room.livekit_project
                made = await _make(stage, session, room, kind, name, identity or room.host_identity)
                return await _keep(stage, session, origin, room, kind, name, made), made.stream_key
        except BaseException:
            if made is not None:
                # It works, and nobody knows it.
                with contextlib.suppress(Exception):
                    await asyncio.shield(_delete(stage, project, made.ingress_id))
            raise


async def listed(stage: Stage, caller: Caller, room_id: str) -> Sequence[Ingress]:
    """Those of a room, oldest first, with what LiveKit says of them now, if it does. Raises `NotHost`."""
    async with stage.database.transaction() as session:
        room = await hosted_room(session, caller, room_id)
        found = await _of(session, room_id)
    if found:
        await _refresh(stage, room, found)
    return found


async def delete(stage: Stage, caller: Caller, origin: Origin, room_id: str, ingress_id: str) -> None:
    """Ends it, here and at LiveKit. Again is fine. Raises as `create`, and `IngressNotFound`."""
    async with audit.refusal(stage.database, origin, "live.ingress_deleted", room_id):
        async with stage.database.transaction() as session:
            room = await hosted_room(session, caller, room_id)
            found = await session.get(Ingress, ingress_id)
            if found is None or found.room_id != room_id:
                raise IngressNotFound
            if found.deleted_at is not None:
                return
        # LiveKit first: a row that is gone would leave a way in that nobody sees.
        async with _answers():
            await _delete(stage, room.livekit_project, ingress_id)
        async with stage.database.transaction() as session:
            gone = update(Ingress).where(Ingress.ingress_id == ingress_id, Ingress.deleted_at.is_(None))
            gone = gone.values(deleted_at=func.now()).returning(Ingress)
            ended = await session.scalar(gone)
            if ended is not None:
                await _tell(session, origin, "ingress.deleted", ended)
                audit.record(session, origin, "live.ingress_deleted", room_id, ingress_id=ingress_id)


async def _of(session: AsyncSession, room_id: str) -> Sequence[Ingress]:
    query = select(Ingress).where(Ingress.room_id == room_id, Ingress.deleted_at.is_(None))
    return (await session.scalars(query.order_by(Ingress.created_at, Ingress.ingress_id))).all()


async def _make(
    stage: Stage, session: AsyncSession, room: Room, kind: Kind, name: str, identity: str
) -> api.IngressInfo:
    wanted = api.CreateIngressRequest(
        input_type=_INPUT[kind],
        name=PREFIX + (name or kind),
        room_name=room.room_id,
        participant_identity=identity,
        participant_name=name or "OBS",
        enable_transcoding=kind == "rtmp",
    )
    async with _answers(), livekit_client(stage, room.livekit_project, _PATIENCE) as livekit:
        await _sweep(session, livekit, room.room_id)
        return await livekit.ingress.create_ingress(wanted)


async def _sweep(session: AsyncSession, livekit: api.LiveKitAPI, room_id: str) -> None:
    """What we made and never kept: the process died between the two."""
    there = await livekit.ingress.list_ingress(api.ListIngressRequest(room_name=room_id))
    ours = [one.ingress_id for one in there.items if one.name.startswith(PREFIX)]
    if not ours:
        return
    kept = select(Ingress.ingress_id).where(Ingress.ingress_id.in_(ours), Ingress.deleted_at.is_(None))
    known = set((await session.scalars(kept)).all())
    for ingress_id in set(ours) - known:
        log.warning("ingress.unknown_ended", ingress_id=ingress_id, room_id=room_id)
        await livekit.ingress.delete_ingress(api.DeleteIngressRequest(ingress_id=ingress_id))


async def _keep(
    stage: Stage, session: AsyncSession, origin: Origin, room: Room, kind: Kind, name: str, made: api.IngressInfo
) -> Ingress:
    row = Ingress(
        ingress_id=made.ingress_id,
        room_id=room.room_id,
        project=room.livekit_project,
        kind=kind,
        name=name,
        identity=made.participant_identity,
        url=made.url,
        sealed_key=stage.sealer.seal(made.stream_key, subject_of(made.ingress_id)),
        key_fingerprint=stage.sealer.fingerprint(made.stream_key),
    )
    session.add(row)
    await _tell(session, origin, "ingress.made", row)
    audit.record(session, origin, "live.ingress_made", room.room_id, ingress_id=made.ingress_id, kind=kind)
    await session.flush()
    await session.refresh(row)
    return row


async def _tell(session: AsyncSession, origin: Origin, event: str, row: Ingress) -> None:
    """In the room's timeline, and in that of the show that is on air in it."""
    running = await active(session, row.room_id)
    detail: dict[str, Any] = {"ingress_id": row.ingress_id, "kind": row.kind}
    session.add(
        LiveEvent(
            room_id=row.room_id,
            broadcast_id=running.id if running else None,
            event=event,
            actor=origin.actor,
            detail=detail,
        )
    )


async def _delete(stage: Stage, project: str, ingress_id: str) -> None:
    async with livekit_client(stage, project, _PATIENCE) as livekit:
        try:
            await livekit.ingress.delete_ingress(api.DeleteIngressRequest(ingress_id=ingress_id))
        except api.TwirpError as error:
            if error.status != 404:
                raise


async def _refresh(stage: Stage, room: Room, found: Sequence[Ingress]) -> None:
    """LiveKit's own word, where webhooks may have been lost. Without an answer the rows stand."""
    try:
        async with livekit_client(stage, room.livekit_project, _LOOK_PATIENCE) as livekit:
            there = await livekit.ingress.list_ingress(api.ListIngressRequest(room_name=room.room_id))
    except LIVEKIT_ERRORS as error:
        log.info("ingress.not_looked_up", room_id=room.room_id, reason=type(error).__name__)
        return
    said = {info.ingress_id: info.state for info in there.items}
    newer = {row.ingress_id: said[row.ingress_id] for row in found if _is_newer(row, said.get(row.ingress_id))}
    if not newer:
        return
    async with stage.database.transaction() as session:
        for row in found:
            if row.ingress_id in newer:
                state = newer[row.ingress_id]
                row.state, row.state_at = _state(state), datetime.fromtimestamp(state.updated_at / 1e9, UTC)
                values = {"state": row.state, "state_at": row.state_at}
                await session.execute(update(Ingress).where(Ingress.ingress_id == row.ingress_id).values(**values))


def _is_newer(row: Ingress, said: api.IngressState | None) -> bool:
    if said is None or not said.updated_at:
        return False
    fresh = row.state_at == row.created_at or said.updated_at / 1e9 > row.state_at.timestamp() + 0.001
    return fresh and _state(said) != row.state


def _state(said: api.IngressState) -> str:
    return _STATES.get(said.status, "ended" if said.ended_at else "idle")


def subject_of(ingress_id: str) -> UUID:
    """What the key is sealed for."""
    return uuid5(NAMESPACE_OID, f"ingress:{ingress_id}")


@contextlib.asynccontextmanager
async def _answers() -> AsyncIterator[None]:
    """LiveKit's failures as ours. None of its words goes on: they may hold the key."""
    try:
        yield
    except api.TwirpError as error:
        if error.status in (401, 403):
            raise LiveKitUnauthorized from None
        if error.status >= 500:
            # "ingress not connected (redis required)" of a LiveKit without the service.
            raise IngressUnavailable from None
        log.error("ingress.refused", status=error.status, reason=error.code)
        raise IngressUnavailable from None
    except (TimeoutError, aiohttp.ClientError, OSError):
        raise LiveKitUnreachable from None
