"""Rooms and their tokens. Called by `room_routes`.

A room is LiveKit's; what we keep is who owns it. Making one here is idempotent for its owner. One that was made elsewhere
is claimed by a signed-in user who shows a token that may administer it; without one, what runs at LiveKit already is not
given away, since our host token would rule it.
"""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

import aiohttp
import structlog
from livekit import api
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from butai.audit import Origin
from butai.errors import InvalidRequest, NotHost, RoomTaken, Unauthenticated
from butai.identity import Caller
from butai.live import journal
from butai.live.access import hosted_room
from butai.live.models import Room
from butai.live.tokens import EMPTY_SECONDS, STAY_SECONDS, HostClaims, Role
from butai.live.wiring import Stage

log = structlog.get_logger(__name__)

GUEST_HOURS = 12.0
_PATIENCE = 1.0
"""Seconds for each of the two things that LiveKit is asked when a room is made."""

LONGEST_ROOM_ID = 128
ROOM_ID = r"^[^\x00-\x1f\x7f-\x9f/\\?#%]+$"
"""What a room may be called: LiveKit takes nearly anything, we leave out what cannot stand in a path."""


@dataclass(frozen=True, slots=True)
class Made:
    """A room and the token that rules it."""

    room: Room
    host_token: str
    livekit_url: str


def livekit_url(stage: Stage) -> str:
    """LiveKit's address for browsers."""
    return stage.settings.livekit_public_url or stage.livekit.url


async def make_room(stage: Stage, caller: Caller, origin: Origin, room_id: str | None, shown_token: str | None) -> Made:
    """A new room, the caller's own again, or one that the shown host token rules.

    Raises `Unauthenticated` for a token that is none, `RoomTaken` for another owner's or one that runs at LiveKit and was
    never claimed, `InvalidRequest` for a claimed name that cannot be used here, `LiveKitNotConfigured`.
    """
    assert caller.user_id is not None
    action = "live.room_made" if shown_token is None else "live.room_claimed"
    claims = None if shown_token is None else stage.tokens.read_host(shown_token)
    if claims is not None and not (_usable(claims.room) and claims.identity.isprintable()):
        raise InvalidRequest("The token's room or identity cannot be used here")
    named = room_id or (claims.room if claims else None)
    async with journal.refusal(stage.database, origin, action, named):
        if shown_token is not None and (claims is None or named != claims.room):
            raise Unauthenticated("The host token rules no such room")
        room = await _kept(stage, caller, origin, action, named or f"room-{secrets.token_urlsafe(12)}", claims)
    await _open_at_livekit(stage, room.room_id)
    return Made(room, _host_token(stage, room, caller), livekit_url(stage))


async def listed(stage: Stage, caller: Caller, before: datetime | None, limit: int) -> tuple[Sequence[Room], bool]:
    """The caller's own rooms, newest first, and whether there are more."""
    query = select(Room).where(Room.owner_user_id == caller.user_id)
    if before is not None:
        query = query.where(Room.created_at < before)
    async with stage.database.transaction() as session:
        found = (await session.scalars(query.order_by(Room.created_at.desc()).limit(limit + 1))).all()
    return found[:limit], len(found) > limit


async def _kept(
    stage: Stage, caller: Caller, origin: Origin, action: str, room_id: str, claims: HostClaims | None
) -> Room:
    """The room's row, made now if need be."""
    identity = claims.identity if claims else f"host-{secrets.token_hex(6)}"
    # Before the row: a room that nobody can join helps nobody.
    stage.tokens.make("host", room_id, identity, "", stage.settings.host_token_hours)
    async with stage.database.transaction() as session:
        known = await session.get(Room, room_id)
    if known is None and claims is None and await _runs_at_livekit(stage, room_id):
        raise RoomTaken("This room runs already; show a token that may administer it as host_token to claim it")
    async with stage.database.transaction() as session:
        made = await session.scalar(
            insert(Room)
            .values(
                room_id=room_id,
                owner_user_id=caller.user_id,
                host_identity=identity,
                origin="claimed" if claims else "made",
            )
            .on_conflict_do_nothing()
            .returning(Room)
        )
        room = made or await session.scalar(select(Room).where(Room.room_id == room_id))
        assert room is not None
        if room.owner_user_id != caller.user_id:
            raise RoomTaken
        if made is not None:
            journal.record(session, origin, action, room_id)
    return room


async def make_token(
    stage: Stage, caller: Caller, origin: Origin, room_id: str, role: Role, identity: str | None, name: str
) -> tuple[str, str]:
    """A token for a room by its host, and the identity in it. Raises `NotHost`."""
    async with journal.refusal(stage.database, origin, "live.token_made", room_id):
        async with stage.database.transaction() as session:
            room = await hosted_room(session, caller, room_id)
            if role == "host" and caller.kind == "host_token":
                # A token that is about to end must not make itself another: its owner can.
                raise NotHost("Only the room's owner, signed in, gets another host token")
            if role == "host":
                identity = room.host_identity
            elif identity is None or identity == room.host_identity:
                identity = f"{role}-{secrets.token_hex(6)}"
            journal.record(session, origin, "live.token_made", room_id, role=role, identity=identity)
        hours = stage.settings.host_token_hours if role == "host" else GUEST_HOURS
        return stage.tokens.make(role, room_id, identity, name, hours), identity


def _usable(room_id: str) -> bool:
    return len(room_id) <= LONGEST_ROOM_ID and re.fullmatch(ROOM_ID, room_id) is not None


def _host_token(stage: Stage, room: Room, caller: Caller) -> str:
    return stage.tokens.make(
        "host", room.room_id, room.host_identity, caller.name or "", stage.settings.host_token_hours
    )


async def _open_at_livekit(stage: Stage, room_id: str) -> None:
    """Has LiveKit keep an empty room for longer than its 20 s: a host who reloads comes back to the same one.

    Best effort: a room that is not there yet is made by the first to join, as its token says.
    """
    wanted = api.CreateRoomRequest(
        name=room_id,
        empty_timeout=EMPTY_SECONDS,
        departure_timeout=max(STAY_SECONDS, int(stage.settings.source_grace) + 30),
        sync_streams=True,
    )
    try:
        async with _asking(stage) as livekit:
            await livekit.room.create_room(wanted)
    except _NO_ANSWER as error:
        log.warning("room.not_opened_at_livekit", room_id=room_id, reason=type(error).__name__)


async def _runs_at_livekit(stage: Stage, room_id: str) -> bool:
    """Whether LiveKit has such a room. One that does not answer has no rooms to take."""
    try:
        async with _asking(stage) as livekit:
            return bool((await livekit.room.list_rooms(api.ListRoomsRequest(names=[room_id]))).rooms)
    except _NO_ANSWER as error:
        log.warning("room.not_looked_up_at_livekit", room_id=room_id, reason=type(error).__name__)
        return False


_NO_ANSWER = (TimeoutError, aiohttp.ClientError, api.TwirpError, OSError)


@asynccontextmanager
async def _asking(stage: Stage) -> AsyncIterator[api.LiveKitAPI]:
    livekit = stage.livekit
    async with asyncio.timeout(_PATIENCE):
        async with api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret.get_secret_value()) as asked:
            yield asked
