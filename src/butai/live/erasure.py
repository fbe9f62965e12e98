"""Erases what one user has of going live: rooms with their broadcasts, invitations, ingresses and keys of encoders,
destinations."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import actors
from butai.audit.erasure import retire
from butai.live.egress.livekit.models import LiveKitEgress
from butai.live.encoders.models import ConnectedEncoder, EncoderKey
from butai.live.models import (
    Broadcast,
    Destination,
    IdempotencyKey,
    Ingress,
    LiveKitWebhook,
    Output,
    OutputMetric,
    Room,
    RoomInvitation,
)


async def rooms_of(session: AsyncSession, user_id: str) -> Sequence[str]:
    """The rooms of a user, in a fixed order."""
    query = select(Room.room_id).where(Room.owner_user_id == user_id).order_by(Room.created_at, Room.room_id)
    return (await session.scalars(query)).all()


async def has_any(session: AsyncSession, user_id: str) -> bool:
    """Whether the user has rooms or destinations."""
    mine = select(Destination.id).where(Destination.owner_user_id == user_id).limit(1)
    return bool(await rooms_of(session, user_id)) or await session.scalar(mine) is not None


async def on_air(session: AsyncSession, user_id: str) -> int:
    """The number of broadcasts of the user's rooms that have not ended."""
    running = select(func.count()).select_from(Broadcast).join(Room, Room.room_id == Broadcast.room_id)
    return await session.scalar(running.where(Room.owner_user_id == user_id, Broadcast.ended_at.is_(None))) or 0


async def erase(session: AsyncSession, user_id: str) -> tuple[int, int]:
    """Deletes the user's rooms, whose broadcasts are over, and destinations; the rooms' names are retired. Returns the
    number of both."""
    names = await rooms_of(session, user_id)
    await retire(session, "room", names)
    rooms = select(Room.room_id).where(Room.owner_user_id == user_id)
    broadcasts = select(Broadcast.id).where(Broadcast.room_id.in_(rooms))
    outputs = select(Output.id).where(Output.broadcast_id.in_(broadcasts))
    await session.execute(delete(OutputMetric).where(OutputMetric.output_id.in_(outputs)))
    await session.execute(delete(LiveKitEgress).where(LiveKitEgress.broadcast_id.in_(broadcasts)))
    await session.execute(delete(Output).where(Output.broadcast_id.in_(broadcasts)))
    for model in (Broadcast, Ingress, EncoderKey, RoomInvitation, IdempotencyKey, LiveKitWebhook):
        await session.execute(delete(model).where(model.room_id.in_(rooms)))
    await session.execute(delete(Room).where(Room.owner_user_id == user_id))
    mine = Destination.owner_user_id == user_id
    places = len((await session.scalars(delete(Destination).where(mine).returning(Destination.id))).all())
    return len(names), places


async def forget(session: AsyncSession, user_id: str, pseudonym: str) -> None:
    """Replaces the user's name in what an operator or a former owner has done in rooms of others. Keys of encoders lose their
    label, which the user wrote, and the addresses from which they were used."""
    names = [actors.user(user_id), user_id]
    await session.execute(delete(IdempotencyKey).where(IdempotencyKey.caller.in_(names)))
    await session.execute(update(Broadcast).where(Broadcast.started_by.in_(names)).values(started_by=pseudonym))
    await session.execute(
        update(RoomInvitation).where(RoomInvitation.created_by.in_(names)).values(created_by=pseudonym)
    )
    theirs = select(EncoderKey.id).where(EncoderKey.created_by.in_(names))
    await session.execute(delete(ConnectedEncoder).where(ConnectedEncoder.key_id.in_(theirs)))
    keys = update(EncoderKey).where(EncoderKey.created_by.in_(names))
    await session.execute(keys.values(created_by=pseudonym, label="", last_used_from=None))
