"""Rooms and their tokens. Called by `room_routes`.

A room is LiveKit's; what we keep is who owns it. Making one here is idempotent for its owner. One that was made elsewhere
is claimed by a signed-in user who shows a token that may administer it.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import dataclass

import aiohttp
import structlog
from livekit import api
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert

from butai.audit import Origin
from butai.errors import NotHost, RoomTaken, Unauthenticated
from butai.identity import Caller
from butai.live import journal
from butai.live.access import hosted_room
from butai.live.models import Room
from butai.live.tokens import HostClaims, Role
from butai.live.wiring import Stage

log = structlog.get_logger(__name__)

GUEST_HOURS = 12.0
_PATIENCE = 2.0
_EMPTY_MINUTES = 10


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

    Raises `Unauthenticated` for a token that is none, `RoomTaken` for another owner's, `LiveKitNotConfigured`.
    """
    assert caller.user_id is not None
    claims: HostClaims | None = None
    if shown_token is not None:
        claims = stage.tokens.read_host(shown_token)
        if claims is None or (room_id is not None and room_id != claims.room):
            raise Unauthenticated("The host token rules no such room")
        room_id = claims.room
    room_id = room_id or f"room-{secrets.token_urlsafe(12)}"
    identity = claims.identity if claims else f"host-{secrets.token_hex(6)}"
    # Before the row: a room that nobody can join helps nobody.
    stage.tokens.make("host", room_id, identity, "", stage.settings.host_token_hours)
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
            journal.record(session, origin, "live.room_claimed" if claims else "live.room_made", room_id)
    await _open_at_livekit(stage, room_id)
    return Made(room, _host_token(stage, room, caller), livekit_url(stage))


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


def _host_token(stage: Stage, room: Room, caller: Caller) -> str:
    return stage.tokens.make(
        "host", room.room_id, room.host_identity, caller.name or "", stage.settings.host_token_hours
    )


async def _open_at_livekit(stage: Stage, room_id: str) -> None:
    """Has LiveKit keep an empty room for longer than its 20 s: a host who reloads comes back to the same one.

    Best effort: a room that is not there yet is made by the first to join, with LiveKit's own times.
    """
    wanted = api.CreateRoomRequest(
        name=room_id,
        empty_timeout=_EMPTY_MINUTES * 60,
        departure_timeout=int(stage.settings.source_grace) + 30,
    )
    url, secret = stage.livekit.url.replace("ws", "http", 1), stage.livekit.api_secret.get_secret_value()
    try:
        async with asyncio.timeout(_PATIENCE):
            async with api.LiveKitAPI(url, stage.livekit.api_key, secret) as livekit:
                await livekit.room.create_room(wanted)
    except (TimeoutError, aiohttp.ClientError, api.TwirpError, OSError) as error:
        log.warning("room.not_opened_at_livekit", room_id=room_id, reason=type(error).__name__)
