"""Who may do what with a room. Called by every service of `butai.live` before anything else.

A room's host is whoever shows its host token, its owner when signed in, or an operator. To everybody else a room that
exists looks like one that does not.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.errors import NotHost, RoomNotFound
from butai.identity import Caller
from butai.live.models import Broadcast, Output, Room


def is_host(caller: Caller, room: Room) -> bool:
    """Whether the caller is this room's host."""
    owner = caller.user_id is not None and caller.user_id == room.owner_user_id
    return owner or caller.is_operator or rules(caller, room.room_id, room.livekit_project)


def rules(caller: Caller, room_id: str, project: str) -> bool:
    """Whether the caller shows a host token of this room: of one of that name in its own LiveKit project."""
    return room_id in caller.rooms and caller.livekit_project == project


def capacity(caller: Caller, room: Room) -> dict[str, Any]:
    """What the audit trail says of an act beside who did it: that it was an operator's, on somebody else's room."""
    own = caller.user_id == room.owner_user_id or rules(caller, room.room_id, room.livekit_project)
    return {} if own or not caller.is_operator else {"as_operator": True}


async def hosted_room(session: AsyncSession, caller: Caller, room_id: str, *, lock: bool = False) -> Room:
    """The room, if the caller is its host. Raises `NotHost`, and `RoomNotFound` only to those who could know."""
    query = select(Room).where(Room.room_id == room_id)
    room = await session.scalar(query.with_for_update() if lock else query)
    if room is None:
        if caller.is_operator or room_id in caller.rooms:
            raise RoomNotFound(f"No room {room_id} is known here; claim it with POST /api/live/rooms")
        raise NotHost
    if not is_host(caller, room):
        raise NotHost
    return room


async def hosted_broadcast(session: AsyncSession, caller: Caller, broadcast: Broadcast | None) -> Room:
    """The room of a broadcast that somebody asked for by its id. Raises `NotHost`, also when there is no broadcast."""
    if broadcast is None:
        raise NotHost
    return await hosted_room(session, caller, broadcast.room_id)


async def active(session: AsyncSession, room_id: str) -> Broadcast | None:
    """The broadcast that goes on in a room."""
    return await session.scalar(select(Broadcast).where(Broadcast.room_id == room_id, Broadcast.ended_at.is_(None)))


async def outputs_of(session: AsyncSession, broadcast: Broadcast) -> list[Output]:
    """All outputs, in the order of their making."""
    found = await session.scalars(select(Output).where(Output.broadcast_id == broadcast.id).order_by(Output.id))
    return list(found)
