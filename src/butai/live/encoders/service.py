"""The requests of hosts for keys of encoders, with their events and audit entries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin
from butai.errors import EncoderNotFound, IngestNotConfigured
from butai.identity import Caller
from butai.live import audit
from butai.live.access import hosted_open_room, hosted_room, operator_detail, running
from butai.live.encoders import keys
from butai.live.encoders.keys import NewKey
from butai.live.encoders.models import EncoderKey
from butai.live.models import Room
from butai.live.stage import Stage


async def make(stage: Stage, caller: Caller, origin: Origin, room_id: str, label: str) -> tuple[EncoderKey, NewKey]:
    """Makes a key. Returns its row and the key, which cannot be read again. Raises `NotHost`, `RoomClosed`, `UserSuspended`,
    `QuotaExceeded` beyond `keys.MOST`, `IngestNotConfigured`."""
    async with (
        audit.refusal(stage.database, origin, "live.encoder_made", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_open_room(session, caller, room_id, lock=True)
        _check_configured(stage)
        row, made = await keys.add(session, room, origin, label, token_generation=_generation(caller))
        await _record(session, caller, origin, room, "made", row.id)
        return row, made


async def listed(stage: Stage, caller: Caller, room_id: str) -> Sequence[EncoderKey]:
    """The room's keys that are valid, oldest first. Raises `NotHost`."""
    async with stage.database.transaction() as session:
        return await keys.listed(session, await hosted_room(session, caller, room_id))


async def renew(
    stage: Stage, caller: Caller, origin: Origin, room_id: str, encoder_id: UUID
) -> tuple[EncoderKey, NewKey]:
    """Replaces a key: the old one is refused from now on. Raises as `make` does, and `EncoderNotFound`."""
    async with (
        audit.refusal(stage.database, origin, "live.encoder_renewed", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_open_room(session, caller, room_id, lock=True)
        _check_configured(stage)
        made = await keys.renew(session, room, encoder_id, token_generation=_generation(caller))
        if made is None:
            raise EncoderNotFound
        await _record(session, caller, origin, room, "renewed", encoder_id)
        await session.flush()
        row = await session.get_one(EncoderKey, encoder_id)
        await session.refresh(row)
        return row, made


async def revoke(stage: Stage, caller: Caller, origin: Origin, room_id: str, encoder_id: UUID) -> None:
    """Refuses a key from now on. Raises `NotHost`, and `EncoderNotFound` also for one that is not valid any more."""
    async with (
        audit.refusal(stage.database, origin, "live.encoder_revoked", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_room(session, caller, room_id, lock=True)
        if not await keys.revoke(session, room, encoder_id):
            raise EncoderNotFound
        await _record(session, caller, origin, room, "revoked", encoder_id)


def _check_configured(stage: Stage) -> None:
    if not stage.ingest.url:
        raise IngestNotConfigured


def _generation(caller: Caller) -> int | None:
    return caller.room_generation if caller.kind == "host_token" else None


async def _record(
    session: AsyncSession, caller: Caller, origin: Origin, room: Room, what: str, encoder_id: UUID
) -> None:
    """Adds the event, and the entry of the audit trail. Neither has the label, which may say anything."""
    detail: dict[str, Any] = {"encoder_id": str(encoder_id)}
    broadcast = await running(session, room.room_id)
    audit.add_room_event(session, room.room_id, broadcast, f"encoder.{what}", origin, **detail)
    audit.record(session, origin, f"live.encoder_{what}", room.room_id, **detail, **operator_detail(caller, room))
