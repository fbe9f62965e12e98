"""`Idempotency-Key`: a repeated request gets the first one's answer and has no further effect (IETF httpapi draft).

A key belongs to one caller in one room: hosts of two rooms, whose names may be the same, do not meet. Keys are written
in the transaction of the act, so key and act are committed together or not at all.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, and_, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.errors import IdempotencyMismatch
from butai.live.models import IdempotencyKey

_KEPT = text("interval '1 day'")
"""Time for which a key is kept."""
_SWEPT_AT_ONCE = 20
"""Old keys that each new key deletes."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key that `caller` sent, for an act in `room_id`."""

    room_id: str
    caller: str
    key: str

    @property
    def row(self) -> ColumnElement[bool]:
        """The condition for its row."""
        names = ("room_id", "caller", "key")
        return and_(*(getattr(IdempotencyKey, name) == getattr(self, name) for name in names))


async def earlier(session: AsyncSession, key: Key, request: dict[str, Any]) -> dict[str, Any] | None:
    """The answer given to this key before; None when the key is new, in which case it is reserved.

    Of two requests at the same time the second waits here until the first has committed. Raises `IdempotencyMismatch`
    for a key that belongs to another request.
    """
    await _sweep(session)
    digest = hashlib.sha256(msgspec.json.encode(request, order="sorted", enc_hook=str)).hexdigest()
    taken = await session.scalar(
        insert(IdempotencyKey)
        .values(room_id=key.room_id, caller=key.caller, key=key.key, request_sha256=digest)
        .on_conflict_do_nothing()
        .returning(IdempotencyKey.key)
    )
    if taken is not None:
        return None
    found = await session.scalar(select(IdempotencyKey).where(key.row))
    if found is None or found.request_sha256 != digest or found.answer is None:
        raise IdempotencyMismatch
    return found.answer


async def keep(session: AsyncSession, key: Key, answer: dict[str, Any]) -> None:
    """Stores the answer to a reserved key."""
    await session.execute(update(IdempotencyKey).where(key.row).values(status=201, answer=answer))


async def _sweep(session: AsyncSession) -> None:
    """Deletes some keys of more than a day ago. Each new key does so, which bounds the table without a job."""
    old = (
        select(IdempotencyKey.room_id, IdempotencyKey.caller, IdempotencyKey.key)
        .where(IdempotencyKey.created_at < func.now() - _KEPT)
        .limit(_SWEPT_AT_ONCE)
        .with_for_update(skip_locked=True)
    )
    for found in (await session.execute(old)).all():
        await session.execute(delete(IdempotencyKey).where(Key(*found).row))
