"""Takes a user's name out of the audit trail and the timelines, and keeps names that were given out from being given again.

The trail is append-only; the functions `audit_forget` and `audit_erase` of the migrations are the one way past that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sqlalchemy import ARRAY, LargeBinary, func, literal, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit.actors import host, user
from butai.audit.models import AuditCount, AuditEntry, RetiredName


def _digest(kind: str, name: str) -> bytes:
    return hashlib.sha256(f"{kind}:{name}".encode()).digest()


async def retire(session: AsyncSession, kind: str, names: Sequence[str]) -> None:
    """Retires names of a kind (`asset`, `room`). Idempotent."""
    # One parameter, however many names: a statement takes 65,535.
    digests = func.unnest(literal([_digest(kind, name) for name in names], ARRAY(LargeBinary)))
    await session.execute(insert(RetiredName).from_select(["name_sha256"], select(digests)).on_conflict_do_nothing())


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
    """Whether the trail has acts of the user or on the user. As a host as well: the identity in a host token may be a user's
    id, as `audit_erase` reads it."""
    name = user(user_id)
    names = (name, user_id, host(user_id), f"host_token:{user_id}")
    for trail in (AuditEntry, AuditCount):
        query = select(trail.id).where(trail.actor.in_(names) | (trail.subject == name))
        if await session.scalar(query.limit(1)) is not None:
            return True
    return False
