"""Queries about resumable uploads. No ORM, no writes."""

from __future__ import annotations

from typing import Any

from butai.assets import keys
from butai.assets.tus.schemas import KnownAsset, UsageOut
from butai.assets.uploads import quotas
from butai.config import AssetSettings
from butai.database import Connection, Database

_KNOWN = """
    SELECT id, wanted_key AS s3_key, display_name, size_bytes FROM assets
    WHERE owner_user_id = %s AND sha256 = %s AND status = 'ready' AND deleted_at IS NULL
    ORDER BY created_at LIMIT 1
"""


async def known(database: Database, user_id: str, sha256: str, size: int | None) -> KnownAsset | None:
    """Returns the user's oldest ready asset with these bytes; None without one, or if its size is not `size`."""

    async def ask(connection: Connection) -> tuple[Any, ...] | None:
        return await (await connection.execute(_KNOWN, (user_id, sha256))).fetchone()

    row = await database.query(ask)
    if row is None or size not in (None, row[3]):
        return None
    return KnownAsset(row[0], row[1], row[2], keys.read_url(row[1]))


async def usage(database: Database, settings: AssetSettings, user_id: str) -> UsageOut:
    """Returns a user's usage and quota."""
    async with database.transaction() as session:
        now = await quotas.usage(session, user_id)
    return UsageOut(
        now.bytes,
        now.files,
        now.reserved_bytes,
        now.reserved_files,
        settings.quota_bytes or None,
        settings.quota_files or None,
    )
