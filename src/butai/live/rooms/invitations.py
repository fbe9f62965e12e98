"""Invitations to watch a room: listed, and taken back one by one.

An invitation is a viewer's token; its row is what can be taken back. Those who came by it are removed with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from butai.audit import Origin
from butai.database import Database
from butai.errors import InvitationNotFound, QuotaExceeded
from butai.identity import Caller
from butai.live import audit
from butai.live.access import hosted_room, operator_detail
from butai.live.models import Room, RoomInvitation
from butai.live.rooms.removal import remove_now, request_removal, watch_from_now
from butai.live.stage import Stage

_KEPT = timedelta(days=1)
"""How long rows are kept after the end of their invitation."""

BATCH = 1_000
"""Rows that one transaction deletes."""


async def add(session: AsyncSession, room: Room, origin: Origin, name: str, end: float, most: int) -> RoomInvitation:
    """Adds the row of an invitation that ends at `end` (seconds since 1970), for a locked room.

    Raises `QuotaExceeded` when the room has `most` whose time has not passed. Those that were taken back count too, or the table
    would have no bound.
    """
    running = select(RoomInvitation.id).where(
        RoomInvitation.room_id == room.room_id, RoomInvitation.expires_at > func.now()
    )
    if (await session.scalar(select(func.count()).select_from(running.limit(most).subquery())) or 0) >= most:
        raise QuotaExceeded(
            f"A room has at most {most} invitations and viewers' tokens at a time; the first ones end soon"
        )
    row = RoomInvitation(
        id=uuid7(),
        room_id=room.room_id,
        name=name,
        token_generation=room.token_generation,
        created_by=origin.actor,
        expires_at=datetime.fromtimestamp(end, UTC),
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row


async def is_good(session: AsyncSession, invitation: str | None) -> bool:
    """Whether an invitation of this id was made and not taken back. Its end and generation are in its stamp."""
    try:
        found = await session.get(RoomInvitation, UUID(invitation or ""))
    except ValueError:
        return False
    return found is not None and found.taken_back_at is None


async def listed(
    stage: Stage, caller: Caller, room_id: str, before: datetime | None, limit: int
) -> Sequence[RoomInvitation]:
    """Up to `limit` of the room's invitations that are good now, made before `before`, newest first. Raises
    `NotHost`."""
    async with stage.database.transaction() as session:
        room = await hosted_room(session, caller, room_id)
        query = select(RoomInvitation).where(
            RoomInvitation.room_id == room_id,
            RoomInvitation.token_generation == room.token_generation,
            RoomInvitation.taken_back_at.is_(None),
            RoomInvitation.expires_at > func.now(),
        )
        if before is not None:
            query = query.where(RoomInvitation.created_at < before)
        return (await session.scalars(query.order_by(RoomInvitation.created_at.desc()).limit(limit))).all()


async def take_back(stage: Stage, caller: Caller, origin: Origin, room_id: str, invitation_id: UUID) -> None:
    """Makes an invitation invalid, and removes the viewers who came by it. Idempotent.

    A removal that LiveKit does not confirm at once is done by a job. Raises `NotHost`, `InvitationNotFound`.
    """
    async with (
        audit.refusal(stage.database, origin, "live.invitation_taken_back", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_room(session, caller, room_id, lock=True)
        row = await session.get(RoomInvitation, invitation_id, with_for_update=True)
        if row is None or row.room_id != room_id:
            raise InvitationNotFound
        if row.taken_back_at is not None:
            return
        row.taken_back_at = func.now()
        room.removal_until = func.greatest(Room.removal_until, func.now() + watch_from_now(stage.settings))
        await request_removal(session, room_id)
        audit.record(
            session,
            origin,
            "live.invitation_taken_back",
            room_id,
            invitation_id=str(invitation_id),
            **operator_detail(caller, room),
        )
    await remove_now(stage.database, stage.projects, room_id)


async def forget(database: Database) -> int:
    """Deletes the rows of invitations that ended a day ago, but for rooms that are still looked at. Returns their
    number."""
    looked_at = select(Room.room_id).where(Room.removal_until.is_not(None))
    over = (RoomInvitation.expires_at < func.now() - _KEPT, RoomInvitation.room_id.not_in(looked_at))
    batch = select(RoomInvitation.id).where(*over).order_by(RoomInvitation.expires_at).limit(BATCH)
    deleted = 0
    while True:
        async with database.transaction() as session:
            gone = await session.scalars(
                delete(RoomInvitation).where(RoomInvitation.id.in_(batch)).returning(RoomInvitation.id)
            )
            count = len(gone.all())
        deleted += count
        if count < BATCH:
            return deleted
