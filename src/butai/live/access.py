"""Who may act on a room, and the rows that such a decision reads.

Three callers count as a room's host: one with a host token of the room's present generation, the room's owner when
signed in, and any operator.
All other callers get `NotHost` whether the room exists or not, so that room names cannot be probed.
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.database import Connection, Database
from butai.errors import NotHost, RoomClosed, RoomNotFound, UserSuspended
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended
from butai.live.models import Broadcast, Output, Room


def is_host(caller: Caller, room: Room) -> bool:
    """Whether the caller is this room's host."""
    owner = caller.user_id is not None and caller.user_id == room.owner_user_id
    return owner or caller.is_operator or _holds_token_of(caller, room)


def _holds_token_of(caller: Caller, room: Room) -> bool:
    """Whether the caller holds a host token of this room that was not revoked."""
    return _holds_token(caller, room.room_id, room.livekit_project, room.token_generation)


def _holds_token(caller: Caller, room_id: str, project: str, generation: int) -> bool:
    """Whether the caller holds a host token of the room with this LiveKit project and token generation."""
    return room_id in caller.rooms and (caller.livekit_project, caller.room_generation) == (project, generation)


def operator_detail(caller: Caller, room: Room) -> dict[str, Any]:
    """Audit detail for an act of this caller: `{"as_operator": True}` on a room of another user, otherwise empty."""
    own = caller.user_id == room.owner_user_id or _holds_token_of(caller, room)
    return {} if own or not caller.is_operator else {"as_operator": True}


async def hosted_room(session: AsyncSession, caller: Caller, room_id: str, *, lock: bool = False) -> Room:
    """The room, if the caller is its host; its row is locked with `lock`.

    Raises `NotHost`; `RoomNotFound` only for an operator, or for a host token of that name.
    """
    query = select(Room).where(Room.room_id == room_id)
    room = await session.scalar(query.with_for_update() if lock else query)
    if room is None:
        if caller.is_operator or room_id in caller.rooms:
            raise RoomNotFound(f"No room {room_id} is known here; claim it with POST /api/live/rooms")
        raise NotHost
    if not is_host(caller, room):
        raise NotHost
    return room


async def hosted_open_room(session: AsyncSession, caller: Caller, room_id: str, *, lock: bool = False) -> Room:
    """As `hosted_room`, for an act that makes something in the room. Raises `RoomClosed`, and `UserSuspended` when the
    room's owner is suspended, too."""
    room = await hosted_room(session, caller, room_id, lock=lock)
    await check_not_suspended(session, room.owner_user_id)
    if room.closed_at is not None:
        raise RoomClosed
    return room


async def hosted_broadcast(session: AsyncSession, caller: Caller, broadcast: Broadcast | None) -> Room:
    """The room of `broadcast`, if the caller is its host. Raises `NotHost`, also for None."""
    if broadcast is None:
        raise NotHost
    return await hosted_room(session, caller, broadcast.room_id)


async def active(session: AsyncSession, room_id: str) -> Broadcast | None:
    """The broadcast of a room that has not ended; a unique index allows one at most."""
    return await session.scalar(select(Broadcast).where(Broadcast.room_id == room_id, Broadcast.ended_at.is_(None)))


async def running(session: AsyncSession, room_id: str) -> Broadcast | None:
    """As `active`, with the row locked: an event of it may be added."""
    query = select(Broadcast).where(Broadcast.room_id == room_id, Broadcast.ended_at.is_(None))
    return await session.scalar(query.with_for_update())


async def outputs_of(session: AsyncSession, broadcast: Broadcast) -> list[Output]:
    """All outputs of a broadcast, ordered by creation."""
    found = await session.scalars(select(Output).where(Output.broadcast_id == broadcast.id).order_by(Output.id))
    return list(found)


async def check_host(database: Database, caller: Caller, room_id: str) -> None:
    """Raises `NotHost` unless the caller is the room's host; `UserSuspended` when its owner is suspended, for all but
    operators; `RoomNotFound` as `hosted_room` does.

    Reads without a transaction, for requests that only read.
    """
    if caller.user_id is None and room_id not in caller.rooms:
        raise NotHost

    async def read(connection: Connection) -> tuple[str, str, int, bool] | None:
        statement = """SELECT owner_user_id, livekit_project, token_generation,
                              EXISTS (SELECT 1 FROM suspended_users s WHERE s.user_id = r.owner_user_id)
                       FROM rooms r WHERE room_id = %s"""
        return await (await connection.execute(statement, [room_id])).fetchone()

    found = await database.query(read)
    if found is None and (caller.is_operator or room_id in caller.rooms):
        raise RoomNotFound
    owner, project, generation, suspended = found or (None, "", 0, False)
    held = _holds_token(caller, room_id, project, generation)
    if not (caller.is_operator or held or (owner and owner == caller.user_id)):
        raise NotHost
    if suspended and not caller.is_operator:
        raise UserSuspended


async def hosted_room_id(database: Database, caller: Caller, session_id: UUID | None, room_id: str | None) -> str:
    """The room of a broadcast, or the room itself, if the caller is its host. Raises `NotHost`, `RoomNotFound`."""

    async def read(connection: Connection) -> str | None:
        row = await (await connection.execute("SELECT room_id FROM broadcasts WHERE id = %s", [session_id])).fetchone()
        return row[0] if row else None

    found = await database.query(read) if session_id is not None else room_id
    if found is None or (room_id is not None and room_id != found):
        raise NotHost
    await check_host(database, caller, found)
    return found
