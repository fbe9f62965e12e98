"""Deletes at LiveKit the rooms of ours in which nothing has happened for a while.

LiveKit keeps them for hours after the last participant has left (`tokens.STAY_SECONDS`), so that a host who is away for
long returns to the same room. The row stays: the next to join makes the room again. Claimed rooms are left alone.
"""

from __future__ import annotations

from datetime import timedelta

import structlog
from livekit import api
from sqlalchemy import exists, func, select, update

from butai.database import Database
from butai.errors import ButaiError
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.models import Broadcast, Room
from butai.live.projects import Projects

log = structlog.get_logger(__name__)

IDLE_AFTER = timedelta(hours=1)
"""How long a room has been idle when it is deleted."""

_TIMEOUT = 10.0
"""Seconds for the requests to LiveKit about one project, or about one room."""

_AT_ONCE = 50
"""Rooms that are deleted in one sweep."""

_ON_AIR = exists().where(Broadcast.room_id == Room.room_id, Broadcast.ended_at.is_(None))


async def sweep_idle(database: Database, projects: Projects) -> int:
    """Notes since when rooms are idle, and deletes those that have been so for long. Returns the number of the deleted.

    A project whose LiveKit does not answer is left for the next time.
    """
    deleted = 0
    for project in projects.names:
        try:
            async with livekit_client(projects, project, _TIMEOUT) as livekit:
                found = (await livekit.room.list_rooms(api.ListRoomsRequest())).rooms
            empty = [one.name for one in found if not one.num_participants]
            for room_id in await _note(database, project, empty):
                deleted += await _delete(database, projects, project, room_id)
        except (ButaiError, *LIVEKIT_ERRORS) as error:
            log.info("rooms.idle_not_swept", project=project, reason=type(error).__name__)
    return deleted


async def _note(database: Database, project: str, empty: list[str]) -> list[str]:
    """Writes since when rooms are idle. Returns those that have been so for `IDLE_AFTER`."""
    ours = (Room.livekit_project == project, Room.origin == "made")
    async with database.transaction() as session:
        idle = (*ours, Room.room_id.in_(empty), ~_ON_AIR)
        busy = (*ours, Room.idle_since.is_not(None), Room.room_id.not_in(empty) | _ON_AIR)
        await session.execute(
            update(Room).where(*idle, Room.idle_since.is_(None)).values(idle_since=func.now()),
            execution_options={"synchronize_session": False},
        )
        await session.execute(
            update(Room).where(*busy).values(idle_since=None), execution_options={"synchronize_session": False}
        )
        due = select(Room.room_id).where(*idle, Room.idle_since < func.now() - IDLE_AFTER)
        return list(await session.scalars(due.order_by(Room.idle_since).limit(_AT_ONCE)))


async def _delete(database: Database, projects: Projects, project: str, room_id: str) -> bool:
    """Deletes one room unless it is used by now. A broadcast whose engine joins after that has it made again."""
    async with database.transaction() as session:
        room = await session.get(Room, room_id, with_for_update=True)
        if room is None or room.idle_since is None:
            return False
        room.idle_since = None
        if await session.scalar(select(_ON_AIR.where(Room.room_id == room_id))):
            return False
    async with livekit_client(projects, project, _TIMEOUT) as livekit:
        try:
            # LiveKit's list may say that no participant is there (seen after its Redis had lost its data), and leaves out
            # engines, whose broadcast may just have begun.
            present = await livekit.room.list_participants(api.ListParticipantsRequest(room=room_id))
            if present.participants:
                return False
            await livekit.room.delete_room(api.DeleteRoomRequest(room=room_id))
        except api.TwirpError as error:
            if error.status != 404:
                raise
            return False
    log.info("room.idle_deleted", room_id=room_id)
    return True
