"""Removes from LiveKit's rooms the participants whose tokens were revoked, and closed rooms.

LiveKit asks for a token when a participant joins, and knows of no revocation: a revoked token still lets its holder in,
who then gets a renewed one. So a room is looked at when its tokens are revoked, when LiveKit's webhook says that a
participant has joined, and each minute, until no revoked token can be valid at LiveKit.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from livekit import api
from livekit.protocol.models import ParticipantInfo
from sqlalchemy import case, exists, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.config import LiveSettings
from butai.database import Database
from butai.errors import ButaiError, LiveKitUnauthorized, LiveKitUnreachable, Unavailable
from butai.identity.suspensions import SuspendedUser
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.models import Broadcast, Room, RoomInvitation
from butai.live.projects import Projects
from butai.live.tokens import GUEST_HOURS, Tokens, is_engines

log = structlog.get_logger(__name__)

REMOVE_REVOKED = "live.remove_revoked"
"""The task that looks at one room. Argument: `room_id`."""

RENEWED_FOR = timedelta(hours=7)
"""How long a token that LiveKit renewed may let its holder in: six hours (livekit-server 1.13), and an hour for a
LiveKit that does not answer."""

REMOVAL_SECONDS = 3.0
"""Seconds for which a request waits for LiveKit to remove participants; a job does what is left."""

_TIMEOUT = 10.0
"""Seconds for all requests to LiveKit about one room."""

_BATCH = 1000
"""Rooms of one project that one request of the sweep asks for."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What decides who is removed from a room."""

    room_id: str
    project: str
    generation: int
    claimed: bool
    closed: bool
    """Or its owner is suspended."""
    on_air: bool
    revoked_at: datetime | None
    taken_back: frozenset[str]
    """Ids of invitations."""


def watch_from_now(settings: LiveSettings) -> timedelta:
    """How long after a revocation a revoked token may let its holder in."""
    return timedelta(hours=max(settings.host_token_hours, GUEST_HOURS)) + RENEWED_FOR


async def request_removal(session: AsyncSession, room_id: str) -> None:
    """Enqueues a look at the room, in the session's transaction."""
    # Without a lock: a look that waits for its next try would hold back the next one.
    await jobs.enqueue(session, REMOVE_REVOKED, {"room_id": room_id}, priority=10)


async def remove_revoked(database: Database, projects: Projects, room_id: str, seconds: float = _TIMEOUT) -> int:
    """Removes the participants whose tokens were revoked, within `seconds`. Returns their number.

    A closed room is deleted at LiveKit once its broadcast is over.

    Idempotent. Raises `LiveKitUnreachable`, `LiveKitUnauthorized`, `LiveKitNotConfigured`; then some may be left.
    """
    look = await _read(database, room_id)
    if look is None:
        return 0
    removed = 0
    try:
        async with livekit_client(projects, look.project, seconds) as livekit:
            present = await _participants(livekit, room_id)
            # Again, since LiveKit may have been slow: all who are present joined by what was true by now.
            look = await _read(database, room_id)
            if look is None:
                return 0
            tokens = Tokens(projects)
            for one in present:
                if _is_revoked(one, tokens, look):
                    log.info("room.participant_removed", room_id=room_id, identity=one.identity)
                    removed += await _remove(livekit, room_id, one.identity)
            if look.closed and not look.on_air:
                # Not before: the relay publishes the end of the broadcast, and is in the room.
                await _delete(livekit, room_id)
    except api.TwirpError as error:
        raise (LiveKitUnauthorized if error.status in (401, 403) else LiveKitUnreachable) from None
    except LIVEKIT_ERRORS:
        raise LiveKitUnreachable from None
    await _note(database, room_id, removed)
    return removed


async def _read(database: Database, room_id: str) -> _Look | None:
    """What decides now; None for a room in which no holder of a revoked token can be."""
    async with database.transaction() as session:
        room = await session.get(Room, room_id)
        on_air = exists().where(Broadcast.room_id == room_id, Broadcast.ended_at.is_(None))
        taken_back = await session.scalars(
            select(RoomInvitation.id).where(
                RoomInvitation.room_id == room_id, RoomInvitation.taken_back_at.is_not(None)
            )
        )
        invitations = frozenset(map(str, taken_back))
        is_on_air = bool(await session.scalar(select(on_air)))
        suspended = room is not None and await session.get(SuspendedUser, room.owner_user_id) is not None
    if room is None or room.removal_until is None:
        return None
    return _Look(
        room_id=room_id,
        project=room.livekit_project,
        generation=room.token_generation,
        claimed=room.origin == "claimed",
        closed=room.closed_at is not None or suspended,
        on_air=is_on_air,
        revoked_at=room.tokens_revoked_at,
        taken_back=invitations,
    )


async def remove_now(database: Database, projects: Projects, room_id: str) -> int | None:
    """As `remove_revoked`, within `REMOVAL_SECONDS`; None if LiveKit does not confirm the removal in time."""
    try:
        return await remove_revoked(database, projects, room_id, REMOVAL_SECONDS)
    except Unavailable as error:
        log.warning("room.removal_pending", room_id=room_id, reason=error.code)
        return None


async def sweep(database: Database, projects: Projects) -> int:
    """Looks at all rooms in which holders of revoked tokens may be. Returns the number of the removed.

    A room or project whose LiveKit does not answer is left for the next time, however long that takes.
    """
    async with database.transaction() as session:
        found = await session.execute(
            select(Room.livekit_project, Room.room_id).where(Room.removal_until.is_not(None)).order_by(Room.room_id)
        )
        rooms: dict[str, list[str]] = {}
        for project, room_id in found:
            rooms.setdefault(project, []).append(room_id)
    removed = 0
    for project, room_ids in rooms.items():
        for start in range(0, len(room_ids), _BATCH):
            batch = room_ids[start : start + _BATCH]
            try:
                async with livekit_client(projects, project, _TIMEOUT) as livekit:
                    answer = await livekit.room.list_rooms(api.ListRoomsRequest(names=batch))
            except (ButaiError, *LIVEKIT_ERRORS) as error:
                log.info("room.not_looked_at", project=project, reason=type(error).__name__)
                break
            await _forget(database, set(batch) - {one.name for one in answer.rooms})
            for one in answer.rooms:
                try:
                    removed += await remove_revoked(database, projects, one.name)
                except (LiveKitUnreachable, LiveKitUnauthorized) as error:
                    # The next room may be well.
                    log.info("room.not_looked_at", project=project, room_id=one.name, reason=error.code)
    return removed


async def _participants(livekit: api.LiveKitAPI, room_id: str) -> list[ParticipantInfo]:
    try:
        found = await livekit.room.list_participants(api.ListParticipantsRequest(room=room_id))
    except api.TwirpError as error:
        if error.status == 404:
            return []
        raise
    return list(found.participants)


def _is_revoked(one: ParticipantInfo, tokens: Tokens, look: _Look) -> bool:
    # Kinds other than the standard are in tokens that only the holder of the API secret makes. No token is made here
    # with an engine's identity but an engine's.
    if one.kind != ParticipantInfo.Kind.STANDARD or is_engines(one.identity):
        return False
    if look.closed:
        return True
    stamp = tokens.stamp_of(look.project, look.room_id, one.identity, one.attributes)
    if stamp is not None:
        return stamp.generation < look.generation or stamp.invitation in look.taken_back
    if look.claimed:
        # The program whose room it was makes tokens, too: those that it makes after the revocation are its decision.
        return look.revoked_at is not None and one.joined_at <= look.revoked_at.timestamp()
    # A token of a version without stamps, or a host who has removed the stamp.
    return look.generation > 1


async def _remove(livekit: api.LiveKitAPI, room_id: str, identity: str) -> int:
    try:
        await livekit.room.remove_participant(api.RoomParticipantIdentity(room=room_id, identity=identity))
    except api.TwirpError as error:
        if error.status == 404:
            return 0
        raise
    return 1


async def _delete(livekit: api.LiveKitAPI, room_id: str) -> None:
    try:
        await livekit.room.delete_room(api.DeleteRoomRequest(room=room_id))
    except api.TwirpError as error:
        if error.status != 404:
            raise


async def _note(database: Database, room_id: str, removed: int) -> None:
    """Looks longer at a room that holders of revoked tokens return to, and no longer at one that none can return to."""
    again = func.greatest(Room.removal_until, func.now() + RENEWED_FOR)
    over = case((Room.removal_until < func.now(), None), else_=Room.removal_until)
    async with database.transaction() as session:
        await session.execute(
            update(Room).where(Room.room_id == room_id).values(removal_until=again if removed else over)
        )


async def _forget(database: Database, room_ids: set[str]) -> None:
    """Rooms that LiveKit does not have, after the last token may have let its holder in."""
    over = (Room.room_id.in_(sorted(room_ids)), Room.removal_until < func.now())
    async with database.transaction() as session:
        await session.execute(update(Room).where(*over).values(removal_until=None))
