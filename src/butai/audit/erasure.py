"""Takes a user's name out of the audit trail and the timelines, and keeps names that were given out from being given again.

The trail is append-only; the functions `audit_forget` and `audit_erase` of the migrations are the one way past that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit.actors import user
from butai.audit.models import AuditCount, AuditEntry, RetiredName


def _digest(kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{kind}:{name}".encode()).digest()


async def retire(session: AsyncSession, kind: str, names: Sequence[str]) -> None:
    """Retires names of a kind (`asset`, `room`). Idempotent."""
    if names:
        rows = [{"name_sha256": _digest(kind, name)} for name in names]
        await session.execute(insert(RetiredName).values(rows).on_conflict_do_nothing())


async def is_retired(session: AsyncSession, kind: str, name: str) -> bool:
    """Whether a name was retired."""
    return await session.get(RetiredName, _digest(kind, name)) is not None


async def forget(session: AsyncSession, user_id: str, pseudonym: str) -> int:
    """Replaces the user's name and those of their rooms in the trail and the timelines, and removes the details of
    entries about them. What is theirs is read from the tables, whose rows are deleted afterwards. Returns the number of
    entries with the pseudonym. The database refuses it unless the user's suspension has this pseudonym."""
    values = {"user": user_id, "pseudonym": pseudonym}
    return (await session.execute(text("SELECT audit_erase(:user, :pseudonym)"), values)).scalar_one()


async def is_known(session: AsyncSession, user_id: str) -> bool:
    """Whether the trail has acts of the user or on the user."""
    name = user(user_id)
    for trail in (AuditEntry, AuditCount):
        query = select(trail.id).where(trail.actor.in_((name, user_id)) | (trail.subject == name))
        if await session.scalar(query.limit(1)) is not None:
            return True
    return False
