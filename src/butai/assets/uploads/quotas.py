"""Quotas: the limits of one user's bytes and files.

All that counts is in the tables already: the sizes of the user's assets, the trash included, and the declared sizes of
uploads under way (`asset_objects.declared_size` of objects still `writing`). So the end of an upload settles its
reservation, and after a crash the sweep does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import ledger
from butai.assets.object_states import ObjectState
from butai.config import AssetSettings
from butai.database import Database
from butai.errors import QuotaExceeded

_USAGE = text(
    f"""
    SELECT coalesce(sum(size_bytes), 0), count(*) FILTER (WHERE size_bytes IS NOT NULL),
           (SELECT coalesce(sum(greatest(o.declared_size - coalesce(a.size_bytes, 0), 0)), 0)
            FROM asset_objects o JOIN assets a ON a.id = o.asset_id
            WHERE o.state = '{ObjectState.WRITING}' AND a.owner_user_id = :user),
           count(*) FILTER (WHERE size_bytes IS NULL AND status = 'uploading')
    FROM assets WHERE owner_user_id = :user
    """
)


@dataclass(frozen=True, slots=True)
class Usage:
    """A user's usage: bytes and files that are stored, and those that are being uploaded."""

    bytes: int
    files: int
    reserved_bytes: int
    reserved_files: int


async def usage(session: AsyncSession, user_id: str) -> Usage:
    """Returns a user's current usage."""
    kept, files, reserved, coming = (await session.execute(_USAGE, {"user": user_id})).one()
    return Usage(int(kept), int(files), int(reserved), int(coming))


async def hold(session: AsyncSession, settings: AssetSettings, user_id: str) -> None:
    """Takes the user's advisory lock until the transaction ends; no-op without a quota."""
    if settings.quota_bytes or settings.quota_files:
        number = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8], "big", signed=True)
        await session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


async def settle(database: Database, settings: AssetSettings, user_id: str, object_key: str, size: int) -> None:
    """Replaces an upload's declared size, in bytes, by its real one; no-op without a quota. Raises `QuotaExceeded`."""
    if not settings.quota_bytes and not settings.quota_files:
        return
    async with database.transaction() as session:
        await hold(session, settings, user_id)
        await ledger.declare_size(session, object_key, size)
        await check(session, settings, user_id)


async def check(session: AsyncSession, settings: AssetSettings, user_id: str) -> None:
    """Checks the quota, with the new upload's own rows; the caller has called `hold`. Raises `QuotaExceeded`."""
    if not settings.quota_bytes and not settings.quota_files:
        return
    now = await usage(session, user_id)
    wanted = now.bytes + now.reserved_bytes
    if settings.quota_bytes and wanted > settings.quota_bytes:
        raise QuotaExceeded(
            f"You would have {wanted} bytes, including uploads under way; the limit is {settings.quota_bytes}"
        )
    if settings.quota_files and now.files + now.reserved_files > settings.quota_files:
        raise QuotaExceeded(
            f"You would have {now.files + now.reserved_files} files; the limit is {settings.quota_files}"
        )
