"""Closes a room, gives it up, and opens it again: its broadcast ends, all participants are removed, no token is made.

A room that was given up stays closed, and its row stays: the name is never given to another user, because old links and
tokens lead there.
"""

from __future__ import annotations

from sqlalchemy import func

from butai.audit import Origin
from butai.errors import RoomClosed
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended
from butai.live import audit
from butai.live.access import hosted_room, operator_detail, outputs_of, running
from butai.live.broadcasts.wanted import want_stopped
from butai.live.models import Room
from butai.live.rooms.removal import remove_now
from butai.live.rooms.service import Revoked, check_rooms_of, raise_generation
from butai.live.stage import Stage


async def close_room(stage: Stage, caller: Caller, origin: Origin, room_id: str, *, give_up: bool = False) -> Revoked:
    """Closes a room, for good with `give_up`. Idempotent.

    What LiveKit does not confirm at once is done by a job. Raises `NotHost`, `RoomNotFound`.
    """
    action = "live.room_given_up" if give_up else "live.room_closed"
    async with audit.refusal(stage.database, origin, action, room_id), stage.database.transaction() as session:
        room = await hosted_room(session, caller, room_id, lock=True)
        broadcast = await running(session, room_id)
        if broadcast is not None and want_stopped(broadcast, await outputs_of(session, broadcast)):
            audit.add_event(session, broadcast, "broadcast.stop_asked", origin)
        changed = room.closed_at is None or (give_up and room.given_up_at is None)
        if room.closed_at is None:
            room.closed_at = func.now()
            audit.add_room_event(session, room_id, broadcast, "room.closed", origin)
            await raise_generation(session, stage.settings, room)
        if give_up and room.given_up_at is None:
            room.given_up_at = func.now()
        if changed:
            audit.record(session, origin, action, room_id, **operator_detail(caller, room))
        await session.flush()
        await session.refresh(room)
    return Revoked(room, await remove_now(stage.database, stage.projects, room_id))


async def open_room(stage: Stage, caller: Caller, origin: Origin, room_id: str) -> Room:
    """Opens a closed room; tokens of before stay revoked. Idempotent.

    Raises `NotHost`, `RoomNotFound`, `RoomClosed` for a room that was given up, `QuotaExceeded`.
    """
    async with (
        audit.refusal(stage.database, origin, "live.room_opened", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_room(session, caller, room_id, lock=True)
        if room.given_up_at is not None:
            raise RoomClosed("This room was given up, for good")
        if room.closed_at is not None:
            await check_not_suspended(session, room.owner_user_id)
            room.closed_at = None
            await session.flush()
            await check_rooms_of(session, room.owner_user_id, stage.settings.max_rooms)
            audit.add_room_event(session, room_id, await running(session, room_id), "room.opened", origin)
            audit.record(session, origin, "live.room_opened", room_id, **operator_detail(caller, room))
        return room
