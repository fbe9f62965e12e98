"""Quotas: the limits of one user's bytes and files.

All that counts is in the tables already: the sizes of the user's assets, the trash included; the declared sizes of
uploads under way (`asset_objects.declared_size` of objects still `writing`); and what is being removed but is still
stored, or can still be written by a signed URL (`asset_objects.held_bytes`). So the end of an upload settles its
reservation, and after a crash the sweep does. A failed upload's row counts as a file until it is purged.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import ledger
from butai.assets.models import Asset
from butai.assets.object_states import ObjectState
from butai.assets.states import AssetStatus
from butai.config import AssetSettings
from butai.errors import QuotaExceeded

_USAGE = text(
    f"""
    SELECT coalesce(sum(size_bytes), 0), count(*) FILTER (WHERE size_bytes IS NOT NULL),
           (SELECT coalesce(sum(CASE o.state
                WHEN '{ObjectState.WRITING}' THEN greatest(o.declared_size - coalesce(a.size_bytes, 0), 0)
                ELSE o.held_bytes
            END), 0)
            FROM asset_objects o JOIN assets a ON a.id = o.asset_id
            WHERE a.owner_user_id = :user AND (
                o.state = '{ObjectState.WRITING}'
                OR o.state = '{ObjectState.CONDEMNED}' AND coalesce(o.writable_until > now(), true)
            )),
           count(*) FILTER (WHERE size_bytes IS NULL AND status IN ('{AssetStatus.UPLOADING}', '{AssetStatus.FAILED}'))
    FROM assets WHERE owner_user_id = :user
    """
)


_OPEN = text(
    f"""
    SELECT count(*) FROM asset_objects o JOIN assets a ON a.id = o.asset_id
    WHERE o.state = '{ObjectState.WRITING}' AND o.origin IN ('upload', 'signed', 'resumable') AND a.owner_user_id = :user
    """
)


@dataclass(frozen=True, slots=True)
class Usage:
    """A user's usage: bytes and files that are stored; and as reserved, those that are being uploaded or removed, and the
    rows of failed uploads."""

    bytes: int
    files: int
    reserved_bytes: int
    reserved_files: int


async def usage(session: AsyncSession, user_id: str) -> Usage:
    """Returns a user's current usage."""
    kept, files, reserved, coming = (await session.execute(_USAGE, {"user": user_id})).one()
    return Usage(int(kept), int(files), int(reserved), int(coming))


async def hold(session: AsyncSession, settings: AssetSettings, user_id: str) -> None:
    """Takes the user's advisory lock until the transaction ends; no-op without any limit."""
    if settings.quota_bytes or settings.quota_files or settings.open_uploads:
        number = int.from_bytes(hashlib.sha256(user_id.encode()).digest()[:8], "big", signed=True)
        await session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


async def room(session: AsyncSession, settings: AssetSettings, user_id: str, asset: Asset, most: int) -> int:
    """Returns the bytes to reserve for new bytes of `asset` whose size is unknown: `most`, or what is left of the quota.
    The caller has called `hold`. Raises `QuotaExceeded` when nothing is left."""
    if not settings.quota_bytes:
        return most
    now = await usage(session, user_id)
    left = settings.quota_bytes - now.bytes - now.reserved_bytes + (asset.size_bytes or 0)
    if left <= 0:
        raise QuotaExceeded(
            f"Nothing is left of the limit of {settings.quota_bytes} bytes: delete files, or wait for uploads under way"
        )
    return min(most, left)


async def settle(session: AsyncSession, settings: AssetSettings, user_id: str, object_key: str, size: int) -> None:
    """Replaces an upload's declared size, in bytes, by its real one; no-op without a quota, and for an upload that has
    ended. It takes the user's lock, so it comes before every other lock of the transaction. Raises `QuotaExceeded`."""
    if not settings.quota_bytes and not settings.quota_files:
        return
    await hold(session, settings, user_id)
    if await ledger.declare_size(session, object_key, size):
        await check(session, settings, user_id)


async def check_open(session: AsyncSession, settings: AssetSettings, user_id: str) -> None:
    """Checks the number of a user's open uploads, the new one included; the caller has called `hold`. Raises
    `QuotaExceeded`."""
    if settings.open_uploads and (await session.execute(_OPEN, {"user": user_id})).scalar_one() > settings.open_uploads:
        raise QuotaExceeded(
            f"You have {settings.open_uploads} uploads under way: finish or cancel one, or wait; a signed URL that is not "
            "used counts for half an hour"
        )


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
