"""Rooms, their owners, and the tokens to join them with.

LiveKit has the rooms; Butai stores who owns each. Making a room is idempotent for its owner. A room made elsewhere is
claimed by a signed-in user with a token that may administer it. Without such a token a room that exists at LiveKit
already is refused, because the host token given out here could administer it; so is a new room of a chosen name while
LiveKit does not say whether it has one.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import structlog
from livekit import api
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit import Origin
from butai.audit.erasure import is_retired
from butai.config import LiveSettings
from butai.errors import (
    InvalidRequest,
    InvitationInvalid,
    LiveKitUnauthorized,
    LiveKitUnreachable,
    NotHost,
    ProjectUnknown,
    QuotaExceeded,
    RoomClosed,
    RoomTaken,
    Unauthenticated,
    UserSuspended,
)
from butai.identity import Caller
from butai.identity.suspensions import check_not_suspended
from butai.live import audit
from butai.live.access import hosted_open_room, hosted_room, operator_detail, running
from butai.live.expected import expect_broadcast
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client, open_room
from butai.live.models import Room, RoomInvitation
from butai.live.projects import DEFAULT
from butai.live.rooms import invitations
from butai.live.rooms.removal import remove_now, request_removal, watch_from_now
from butai.live.stage import Stage
from butai.live.stamps import Stamp, StampRole
from butai.live.states import LONGEST_ROOM_ID, ROOM_ID
from butai.live.tokens import GUEST_HOURS, AdminClaims, Role, is_engines

log = structlog.get_logger(__name__)

_TIMEOUT = 1.0
"""Seconds for each of the two requests to LiveKit that making a room takes."""


@dataclass(frozen=True, slots=True)
class JoinGrant:
    """The URL and token with which a participant joins a room."""

    token: str
    identity: str
    livekit_url: str
    room_id: str
    host_identity: str
    invitation: RoomInvitation | None = None
    """The row of an invitation that was made."""


@dataclass(frozen=True, slots=True)
class Made:
    """A room, its host token, and the URL to join it at."""

    room: Room
    host_token: str
    livekit_url: str


@dataclass(frozen=True, slots=True)
class Revoked:
    """A room after a revocation. `removed`: the number of participants; None while LiveKit does not confirm it."""

    room: Room
    removed: int | None


async def make_room(
    stage: Stage,
    caller: Caller,
    origin: Origin,
    room_id: str | None,
    shown_token: str | None,
    project: str | None = None,
) -> Made:
    """Makes a room, or returns the caller's own again; with `shown_token` claims the room that this token may
    administer.

    `project`: the LiveKit project of a new room; a claimed room is in its token's project. Raises `Unauthenticated` for
    an invalid token, `RoomTaken` for a room of another owner or one that exists at LiveKit unclaimed, `RoomClosed`,
    `InvalidRequest` for a claimed name that cannot be used here, `ProjectUnknown`, `LiveKitNotConfigured`;
    `LiveKitUnreachable` and `LiveKitUnauthorized` where LiveKit does not say whether a room of the chosen name exists.
    """
    assert caller.user_id is not None
    action = "live.room_made" if shown_token is None else "live.room_claimed"
    claims = None if shown_token is None else stage.tokens.read_admin(shown_token)
    if claims is not None and (
        not (_usable(claims.room) and claims.identity.isprintable()) or is_engines(claims.identity)
    ):
        raise InvalidRequest("The token's room or identity cannot be used here")
    named = room_id or (claims.room if claims else None)
    async with audit.refusal(stage.database, origin, action, named):
        if shown_token is not None and (claims is None or named != claims.room):
            raise Unauthenticated("The host token is for another room")
        new_id = named or f"room-{secrets.token_urlsafe(12)}"
        async with stage.database.transaction() as session:
            known = await session.get(Room, new_id)
        found = _project(stage, project, claims, known)
        room = await _stored(
            stage,
            caller,
            origin,
            action,
            new_id,
            claims=claims,
            project=found,
            known=known,
            chosen=named is not None,
        )
        if project is not None and project != room.livekit_project:
            raise RoomTaken(f"This room is in the LiveKit project {room.livekit_project}, which cannot be changed")
    await _open_at_livekit(stage, room)
    return Made(room, _host_token(stage, room, caller), stage.projects.get(room.livekit_project).public_url)


def _project(stage: Stage, wanted: str | None, claims: AdminClaims | None, known: Room | None) -> str:
    names = stage.projects.names
    if wanted is not None and wanted not in names:
        raise ProjectUnknown(f"There is no LiveKit project {wanted}")
    if claims is not None:
        if wanted not in (None, claims.project):
            raise InvalidRequest(f"The host token belongs to the LiveKit project {claims.project}")
        return claims.project
    if known is not None:
        return known.livekit_project
    if wanted is not None or DEFAULT in names:
        return wanted or DEFAULT
    if len(names) > 1:
        raise ProjectUnknown("There are several LiveKit projects: name one in project")
    return names[0] if names else DEFAULT


async def listed(stage: Stage, caller: Caller, before: datetime | None, limit: int) -> Sequence[Room]:
    """Up to `limit` of the caller's rooms that were made before `before`, newest first, without those given up."""
    query = select(Room).where(Room.owner_user_id == caller.user_id, Room.given_up_at.is_(None))
    if before is not None:
        query = query.where(Room.created_at < before)
    async with stage.database.transaction() as session:
        return (await session.scalars(query.order_by(Room.created_at.desc()).limit(limit))).all()


async def _stored(
    stage: Stage,
    caller: Caller,
    origin: Origin,
    action: str,
    room_id: str,
    *,
    claims: AdminClaims | None,
    project: str,
    known: Room | None,
    chosen: bool,
) -> Room:
    """The room's row, inserted if it is missing. `known`: the row that was read just before. `chosen`: the name is the
    caller's choice; LiveKit has no room under a random one."""
    identity = claims.identity if claims else f"host-{secrets.token_hex(6)}"
    # Raises before the row is written: without a token the room could not be joined.
    stage.projects.get(project)
    if known is None and claims is None and chosen and await _runs_at_livekit(stage, project, room_id):
        raise RoomTaken("This room exists already; send a token that may administer it as host_token to claim it")
    async with stage.database.transaction() as session:
        await check_not_suspended(session, caller.user_id)
        if await is_retired(session, "room", room_id):
            raise RoomTaken
        made = await session.scalar(
            insert(Room)
            .values(
                room_id=room_id,
                owner_user_id=caller.user_id,
                host_identity=identity,
                origin="claimed" if claims else "made",
                livekit_project=project,
            )
            .on_conflict_do_nothing()
            .returning(Room)
        )
        room = made or await session.scalar(select(Room).where(Room.room_id == room_id))
        assert room is not None
        if room.owner_user_id != caller.user_id or (claims and claims.project != room.livekit_project):
            raise RoomTaken
        if room.closed_at is not None:
            raise RoomClosed
        if made is not None:
            await check_rooms_of(session, room.owner_user_id, stage.settings.max_rooms)
            audit.record(session, origin, action, room_id)
        # Its host token is handed out next.
        await expect_broadcast(session)
    return room


async def check_rooms_of(session: AsyncSession, user_id: str, most: int) -> None:
    """Raises `QuotaExceeded` when a user has more than `most` open rooms, counted with the transaction's changes.

    Transactions that open rooms of one user take turns here until they end, so that each counts those before it.
    """
    await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(f"butai rooms {user_id}", 0))))
    mine = select(func.count()).where(Room.owner_user_id == user_id, Room.closed_at.is_(None))
    if (await session.scalar(mine) or 0) > most:
        raise QuotaExceeded(f"A user has at most {most} open rooms; close or give up one first")


async def make_token(
    stage: Stage, caller: Caller, origin: Origin, room_id: str, *, role: Role, identity: str | None, name: str
) -> JoinGrant:
    """A token for a room, given by its host.

    Raises `NotHost`, `RoomClosed`, `QuotaExceeded` beyond `max_invitations` for viewers, and `InvalidRequest` for an identity
    that engines have.
    """
    if identity is not None and is_engines(identity):
        raise InvalidRequest("Identities like this one are the engines'")
    async with (
        audit.refusal(stage.database, origin, "live.token_made", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_open_room(session, caller, room_id, lock=role == "viewer")
        if role == "host" and caller.kind == "host_token":
            # A host token must not extend its own life; the signed-in owner can get another.
            raise NotHost("Only the room's owner, signed in, gets another host token")
        if role == "host":
            await expect_broadcast(session)
            identity = room.host_identity
        elif identity is None or identity == room.host_identity:
            identity = f"{role}-{secrets.token_hex(6)}"
        audit.record(session, origin, "live.token_made", room_id, role=role, identity=identity)
        end = time.time() + 3600 * (stage.settings.host_token_hours if role == "host" else GUEST_HOURS)
        if caller.rights_end is not None:
            # What a host token makes does not outlive it.
            end = min(end, caller.rights_end)
        if role != "viewer":
            return _grant(stage, room, _stamp(room, role, identity, end), name)
        invitation = await invitations.add(session, room, origin, name, end, stage.settings.max_invitations)
        stamp = _stamp(room, "invitation", identity, end, str(invitation.id))
        return replace(_grant(stage, room, stamp, name), invitation=invitation)


async def revoke_tokens(stage: Stage, caller: Caller, origin: Origin, room_id: str) -> Revoked:
    """Revokes all tokens of a room: of hosts, guests and viewers, and all invitations. Their holders are removed.

    A removal that LiveKit does not confirm at once is done by a job. Raises `NotHost`, `RoomNotFound`.
    """
    async with (
        audit.refusal(stage.database, origin, "live.tokens_revoked", room_id),
        stage.database.transaction() as session,
    ):
        room = await hosted_room(session, caller, room_id, lock=True)
        await raise_generation(session, stage.settings, room)
        audit.add_room_event(session, room_id, await running(session, room_id), "tokens.revoked", origin)
        audit.record(session, origin, "live.tokens_revoked", room_id, **operator_detail(caller, room))
    return Revoked(room, await remove_now(stage.database, stage.projects, room_id))


async def raise_generation(session: AsyncSession, settings: LiveSettings, room: Room) -> None:
    """Makes all tokens of a locked room invalid, and enqueues the removal of their holders."""
    room.token_generation += 1
    room.tokens_revoked_at = func.now()
    room.removal_until = func.now() + watch_from_now(settings)
    await request_removal(session, room.room_id)
    await session.flush()
    await session.refresh(room)


async def watch(stage: Stage, shown: str) -> JoinGrant:
    """A new viewer token in exchange for an invitation, which is a viewer token made by the host.

    Many people use one invitation and LiveKit admits one participant for each identity, so each viewer gets a token
    with an identity of its own. It expires with the invitation or after `GUEST_HOURS`. Raises `InvitationInvalid`.
    """
    invitation = stage.tokens.read_invitation(shown)
    if invitation is None or invitation.seconds < 1:
        raise InvitationInvalid
    stamp = invitation.stamp
    async with stage.database.transaction() as session:
        room = await session.get(Room, stamp.room)
        is_good = await invitations.is_good(session, stamp.invitation)
        if room is not None:
            try:
                await check_not_suspended(session, room.owner_user_id)
            except UserSuspended:
                # A viewer is told no more than of any other invitation that is not good.
                raise InvitationInvalid from None
    if (
        not is_good
        or room is None
        or (room.livekit_project, room.token_generation) != (invitation.project, stamp.generation)
    ):
        raise InvitationInvalid
    end = min(stamp.end, time.time() + 3600 * GUEST_HOURS)
    return _grant(stage, room, _stamp(room, "viewer", f"viewer-{secrets.token_hex(6)}", end, stamp.invitation))


def _usable(room_id: str) -> bool:
    return len(room_id) <= LONGEST_ROOM_ID and re.fullmatch(ROOM_ID, room_id) is not None


def _host_token(stage: Stage, room: Room, caller: Caller) -> str:
    end = time.time() + 3600 * stage.settings.host_token_hours
    stamp = _stamp(room, "host", room.host_identity, end)
    return stage.tokens.make(room.livekit_project, stamp, caller.name or "")


def _stamp(room: Room, role: StampRole, identity: str, end: float, invitation: str | None = None) -> Stamp:
    return Stamp(role, room.room_id, identity, room.token_generation, end, invitation)


def _grant(stage: Stage, room: Room, stamp: Stamp, name: str = "") -> JoinGrant:
    return JoinGrant(
        stage.tokens.make(room.livekit_project, stamp, name),
        stamp.identity,
        stage.projects.get(room.livekit_project).public_url,
        room.room_id,
        room.host_identity,
    )


async def _open_at_livekit(stage: Stage, room: Room) -> None:
    """Creates the room at LiveKit with longer time-outs than its own 20 s, so that a host returns to it.

    Best effort: otherwise the first to join creates it, with the settings in its token.
    """
    try:
        await open_room(stage.projects, room.livekit_project, room.room_id, _TIMEOUT)
    except LIVEKIT_ERRORS as error:
        log.warning("room.not_opened_at_livekit", room_id=room.room_id, reason=type(error).__name__)


async def _runs_at_livekit(stage: Stage, project: str, room_id: str) -> bool:
    """Whether the room exists at LiveKit. Raises `LiveKitUnauthorized`, and `LiveKitUnreachable` without an answer:
    an unknown room may be in use, and its host token would be given to a stranger."""
    try:
        async with livekit_client(stage.projects, project, _TIMEOUT) as livekit:
            return bool((await livekit.room.list_rooms(api.ListRoomsRequest(names=[room_id]))).rooms)
    except api.TwirpError as error:
        log.warning("room.not_looked_up_at_livekit", room_id=room_id, reason=error.code)
        raise (LiveKitUnauthorized if error.status in (401, 403) else LiveKitUnreachable) from None
    except LIVEKIT_ERRORS as error:
        log.warning("room.not_looked_up_at_livekit", room_id=room_id, reason=type(error).__name__)
        raise LiveKitUnreachable from None
