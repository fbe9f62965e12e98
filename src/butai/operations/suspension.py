"""The suspension of a user, and its end.

The row in `suspended_users` refuses the user at once: every credential, and in its own transaction everything that would make
something of theirs. What was there before is brought down afterwards, room by room and file by file, by the request and, in case
its process dies, by a job.
"""

from __future__ import annotations

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.assets import moderation
from butai.audit import Origin, actors
from butai.config import LiveSettings
from butai.database import Database
from butai.errors import Code, Conflict, InvalidRequest, NotFound
from butai.identity.suspensions import SuspendedUser, hold_suspension, lock_out
from butai.live import audit as live_audit
from butai.live.access import outputs_of, running
from butai.live.broadcasts.wanted import want_stopped
from butai.live.models import Room
from butai.live.projects import Projects
from butai.live.rooms.removal import remove_now
from butai.live.rooms.service import raise_generation

log = structlog.get_logger(__name__)

APPLY = "operations.apply_suspension"
"""The task that brings down what a suspended user has, or back what a restored one had. Argument: `user_id`."""

_FILES = 500
"""Files that are hidden or shown in one transaction."""


def subject_of(user_id: str) -> str:
    """The subject of acts on a user."""
    return actors.user(user_id)


async def suspend(database: Database, origin: Origin, user_id: str, reason: str) -> SuspendedUser:
    """Suspends a user; a second time it changes the reason. `apply` does the rest. Raises `InvalidRequest` for oneself."""
    if origin.actor == actors.user(user_id):
        raise InvalidRequest("You cannot suspend yourself")
    async with database.transaction() as session:
        await lock_out(session, user_id)
        # Locked: one that is being restored is either there until the end, or a new row is written.
        row = await session.get(SuspendedUser, user_id, with_for_update=True)
        if row is None:
            row = SuspendedUser(user_id=user_id, reason=reason, suspended_by=origin.actor)
            session.add(row)
        row.reason = reason
        await jobs.enqueue(session, APPLY, {"user_id": user_id}, priority=10)
        audit.record(session, origin, "user.suspend", subject_of(user_id), detail={"reason": reason})
        await session.flush()
        await session.refresh(row)
    log.info("user.suspended")
    return row


async def restore(database: Database, origin: Origin, user_id: str) -> None:
    """Ends a suspension; `apply` brings the files back. Raises `NotFound` for a user who is not suspended,
    `Conflict` for one who is being erased."""
    async with database.transaction() as session:
        row = await session.get(SuspendedUser, user_id, with_for_update=True)
        if row is None:
            raise NotFound("This user is not suspended")
        if row.erased_as is not None:
            raise Conflict("This user is being erased; run butai erase-user again")
        await session.delete(row)
        await jobs.enqueue(session, APPLY, {"user_id": user_id}, priority=10)
        audit.record(session, origin, "user.restore", subject_of(user_id))
    log.info("user.restored")


async def suspended(database: Database) -> list[SuspendedUser]:
    """All suspended users, the newest first."""
    async with database.transaction() as session:
        query = select(SuspendedUser).order_by(SuspendedUser.suspended_at.desc(), SuspendedUser.user_id)
        return list(await session.scalars(query))


async def apply(
    database: Database, projects: Projects, settings: LiveSettings, user_id: str, origin: Origin | None = None
) -> None:
    """Brings rooms and files to what the user's suspension, or its end, says. Idempotent.

    What LiveKit does not confirm at once is done by jobs, as after the closing of a room.
    """
    origin = origin or Origin(actors.WORKER)
    rooms = await _bring_down_rooms(database, settings, user_id, origin)
    while await _change_files(database, user_id, origin):
        pass
    for room_id in rooms:
        await remove_now(database, projects, room_id)


async def _bring_down_rooms(database: Database, settings: LiveSettings, user_id: str, origin: Origin) -> list[str]:
    """Ends the broadcasts of a suspended user's rooms and revokes their tokens; a room in which that was done since the
    suspension is left alone. Returns the rooms whose tokens it revoked."""
    async with database.transaction() as session:
        if await hold_suspension(session, user_id) is None:
            return []
        room_ids = await session.scalars(
            select(Room.room_id).where(Room.owner_user_id == user_id).order_by(Room.room_id)
        )
        found = list(room_ids)
    revoked: list[str] = []
    for room_id in found:
        async with database.transaction() as session:
            # The room first, as everywhere.
            room = await session.get(Room, room_id, with_for_update=True)
            suspension = await hold_suspension(session, user_id)
            if suspension is None:
                break
            if room is not None and await _bring_down(session, settings, suspension, room, origin):
                revoked.append(room_id)
    return revoked


async def _bring_down(
    session: AsyncSession, settings: LiveSettings, suspension: SuspendedUser, room: Room, origin: Origin
) -> bool:
    """Returns whether tokens were revoked."""
    broadcast = await running(session, room.room_id)
    if broadcast is not None and want_stopped(broadcast, await outputs_of(session, broadcast)):
        live_audit.add_event(session, broadcast, "broadcast.stop_asked", origin)
        live_audit.record(
            session, origin, "live.stop", room.room_id, session_id=broadcast.id, reason=Code.USER_SUSPENDED
        )
    if room.tokens_revoked_at is not None and room.tokens_revoked_at >= suspension.suspended_at:
        return False
    live_audit.add_room_event(session, room.room_id, broadcast, "tokens.revoked", origin)
    await raise_generation(session, settings, room)
    return True


async def _change_files(database: Database, user_id: str, origin: Origin) -> bool:
    """Hides or shows some files. Returns whether there may be more."""
    async with database.transaction() as session:
        change = moderation.show_of if await hold_suspension(session, user_id) is None else moderation.hide_of
        return await change(session, user_id, _FILES, origin.actor) == _FILES
