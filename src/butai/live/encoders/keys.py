"""Keys of encoders: made, renewed, revoked, and recognised when an encoder comes.

A key has 256 random bits, so its plain SHA-256 reveals nothing of it. It is shown once, when it is made.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, not_, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from uuid_utils.compat import uuid7

from butai.audit import Origin
from butai.database import Database
from butai.errors import QuotaExceeded
from butai.identity.suspensions import SuspendedUser
from butai.live.encoders.models import EncoderKey
from butai.live.models import Room

MOST = 8
"""Valid keys of one room: a host has a few programs and machines."""
MOST_INVALID = 200
"""Keys of one room that are not valid any more, whose rows stay to say when and from where they were used."""
KEPT = timedelta(days=90)
"""Time for which they stay."""
CHANGED = "butai_encoders"
"""The channel on which Postgres notifies of a key that was renewed or revoked, or whose encoder has connected or left. The
payload is the key's id."""
_PREFIX = "live_"
"""By which people, and programs that look for leaked secrets, see that it is a key."""
_FINGERPRINT = 12
_LENGTH = len(_PREFIX) + 43


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made, and what is stored of it."""

    text: str = field(repr=False)
    hash: bytes
    fingerprint: str


@dataclass(frozen=True, slots=True)
class AcceptedKey:
    """The key of an encoder that may publish: its row's id, the room, and what hosts know it by."""

    id: UUID
    room_id: str
    label: str = field(default="", compare=False)
    fingerprint: str = field(default="", compare=False)


def new_key() -> NewKey:
    """Makes a key: 43 letters behind a prefix."""
    key = _PREFIX + secrets.token_urlsafe(32)
    digest = _hash(key)
    return NewKey(key, digest, _fingerprint(digest))


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _fingerprint(digest: bytes) -> str:
    return digest.hex()[:_FINGERPRINT]


async def add(
    session: AsyncSession, room: Room, origin: Origin, label: str, *, token_generation: int | None
) -> tuple[EncoderKey, NewKey]:
    """Adds a key to a locked, open room, and deletes old rows of keys that are not valid any more. `token_generation`: that of
    the caller's host token, None for a signed-in user. Raises `QuotaExceeded` beyond `MOST`."""
    await _delete_old(session, room)
    valid = select(func.count()).select_from(EncoderKey).where(EncoderKey.room_id == room.room_id, *_valid(room))
    if (await session.scalar(valid) or 0) >= MOST:
        raise QuotaExceeded(f"A room has at most {MOST} keys for encoders at a time: renew or revoke one")
    made = new_key()
    row = EncoderKey(
        id=uuid7(),
        room_id=room.room_id,
        label=label,
        key_hash=made.hash,
        key_fingerprint=made.fingerprint,
        token_generation=token_generation,
        created_by=origin.actor,
    )
    session.add(row)
    await session.flush()
    await session.refresh(row)
    return row, made


async def listed(session: AsyncSession, room: Room) -> Sequence[EncoderKey]:
    """The room's keys that are valid, oldest first."""
    query = select(EncoderKey).where(EncoderKey.room_id == room.room_id, *_valid(room))
    return (await session.scalars(query.order_by(EncoderKey.created_at, EncoderKey.id))).all()


async def renew(session: AsyncSession, room: Room, key_id: UUID, *, token_generation: int | None) -> NewKey | None:
    """Replaces a key: the old one is refused from now on, and the encoder needs the new one. None where the room has no such key
    that is valid. `token_generation`: that of the caller's host token, with which the new key ends, also where a user made the
    old one; None for a signed-in user, which changes nothing of when the key ends."""
    row = await _locked(session, room, key_id)
    if row is None:
        return None
    made = new_key()
    row.key_hash, row.key_fingerprint, row.renewed_at = made.hash, made.fingerprint, func.now()
    if token_generation is not None:
        row.token_generation = token_generation
    await _notify(session, key_id)
    return made


async def revoke(session: AsyncSession, room: Room, key_id: UUID) -> bool:
    """Refuses a key from now on. False where the room has no such key that is valid."""
    row = await _locked(session, room, key_id)
    if row is None:
        return False
    row.revoked_at = func.now()
    await _notify(session, key_id)
    return True


async def accepted(database: Database, candidates: Sequence[str], address: str) -> AcceptedKey | None:
    """The key that is among these texts, if its room is open and its owner not suspended; writes when and from where it was used.
    None for all other texts, whatever is wrong with them."""
    # What cannot be a key costs Postgres nothing.
    digests = [_hash(one) for one in candidates if len(one) == _LENGTH and one.startswith(_PREFIX)]
    if not digests:
        return None
    fingerprints = [_fingerprint(digest) for digest in digests]
    suspended = select(SuspendedUser.user_id).where(SuspendedUser.user_id == Room.owner_user_id)
    query = (
        select(EncoderKey.id, EncoderKey.room_id, EncoderKey.label, EncoderKey.key_fingerprint, EncoderKey.key_hash)
        .join(Room, Room.room_id == EncoderKey.room_id)
        .where(
            EncoderKey.key_fingerprint.in_(fingerprints),
            EncoderKey.revoked_at.is_(None),
            or_(EncoderKey.token_generation.is_(None), EncoderKey.token_generation == Room.token_generation),
            Room.closed_at.is_(None),
            ~suspended.exists(),
        )
    )
    async with database.transaction() as session:
        for row in await session.execute(query):
            # Postgres has compared a part of the hash; what is left is compared in constant time.
            if any(hmac.compare_digest(row.key_hash, digest) for digest in digests):
                # The key may have been renewed or revoked since it was read.
                same = (EncoderKey.id == row.id, EncoderKey.key_hash == row.key_hash, EncoderKey.revoked_at.is_(None))
                used = update(EncoderKey).where(*same).values(last_used_at=func.now(), last_used_from=address)
                if await session.scalar(used.returning(EncoderKey.id)) is not None:
                    return AcceptedKey(row.id, row.room_id, row.label, row.key_fingerprint)
    return None


async def _delete_old(session: AsyncSession, room: Room) -> None:
    """Deletes rows of keys that are not valid any more: all but the last `MOST_INVALID`, and those without a sign of life for
    `KEPT`. When a host token ended is written nowhere: for its keys it counts when they were used or made last."""
    last = func.coalesce(EncoderKey.revoked_at, EncoderKey.last_used_at, EncoderKey.renewed_at)
    invalid = (EncoderKey.room_id == room.room_id, not_(and_(*_valid(room))))
    more = select(EncoderKey.id).where(*invalid).order_by(last.desc(), EncoderKey.id.desc()).offset(MOST_INVALID)
    await session.execute(delete(EncoderKey).where(*invalid, or_(last < func.now() - KEPT, EncoderKey.id.in_(more))))


async def _locked(session: AsyncSession, room: Room, key_id: UUID) -> EncoderKey | None:
    query = select(EncoderKey).where(EncoderKey.id == key_id, EncoderKey.room_id == room.room_id, *_valid(room))
    return await session.scalar(query.with_for_update())


async def _notify(session: AsyncSession, key_id: UUID) -> None:
    await session.execute(select(func.pg_notify(CHANGED, str(key_id))))


def _valid(room: Room) -> tuple[ColumnElement[bool], ...]:
    generation = EncoderKey.token_generation
    return EncoderKey.revoked_at.is_(None), or_(generation.is_(None), generation == room.token_generation)
