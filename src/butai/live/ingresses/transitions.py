"""The only way an ingress changes, except for LiveKit's reports in `webhooks.batch`, which follow the same table in
SQL.

Rows are locked in the order of all code: the room, its running broadcast, the ingress. The event is added under
these locks, so that event ids grow in the order of commits.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from butai.live.ingresses.states import INGRESS_TABLE, IngressTrigger
from butai.live.models import Broadcast, Ingress, LiveEvent, Room
from butai.live.states import IngressState


async def reserve(
    session: AsyncSession, room: Room, kind: str, name: str, identity: str, token_generation: int | None
) -> Ingress:
    """Adds a row in state `making`; its room must be locked. `token_generation`: of the host token that makes it, None
    for a signed-in user."""
    row = Ingress(
        id=uuid7(),
        room_id=room.room_id,
        project=room.livekit_project,
        kind=kind,
        name=name,
        identity=identity,
        token_generation=token_generation,
        state=INGRESS_TABLE.after(None, IngressTrigger.REQUESTED),
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row


async def locked(session: AsyncSession, ingress: UUID) -> Ingress | None:
    """The row, locked until the transaction ends, after its room and the running broadcast. None without a row."""
    room_id = await session.scalar(select(Ingress.room_id).where(Ingress.id == ingress))
    if room_id is None:
        return None
    await session.scalar(select(Room.room_id).where(Room.room_id == room_id).with_for_update(key_share=True))
    await session.scalar(_running(room_id).with_for_update(key_share=True))
    return await session.get(Ingress, ingress, with_for_update={"key_share": True}, populate_existing=True)


async def move(
    session: AsyncSession,
    row: Ingress,
    trigger: IngressTrigger,
    *,
    event: str | None = None,
    actor: str | None = None,
    **columns: Any,
) -> None:
    """Moves a locked row by the table, sets `columns`, and adds `event` to the timelines of room and broadcast.

    Sets `state_at` to now unless it is given. Raises `IllegalIngressTransition`.
    """
    row.state = INGRESS_TABLE.after(IngressState(row.state), trigger)
    for name, value in {"state_at": func.now(), **columns}.items():
        setattr(row, name, value)
    if event is not None:
        session.add(
            LiveEvent(
                room_id=row.room_id,
                broadcast_id=await session.scalar(_running(row.room_id)),
                event=event,
                actor=actor,
                detail={"ingress_id": row.ingress_id, "kind": row.kind},
            )
        )
    await session.flush()


def _running(room_id: str) -> Any:
    return select(Broadcast.id).where(Broadcast.room_id == room_id, Broadcast.ended_at.is_(None))
