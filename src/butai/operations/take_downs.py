"""Taking files down, and putting them back: acts of operators on single files."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import moderation, transitions
from butai.assets.models import Asset
from butai.audit import Origin
from butai.database import Database
from butai.errors import AssetNotFound, InvalidRequest
from butai.identity.suspensions import hold_suspension

_FILES = 500
"""Files that are made public again in one transaction."""


async def take_down(database: Database, origin: Origin, asset_id: UUID, reason: str) -> None:
    """Takes a file down, and the same owner's public copies of its bytes; its thumbnail and `_meta.json` follow it. A second
    time it changes the reason. Raises `AssetNotFound`, and `InvalidRequest` for a sidecar."""
    async with database.transaction() as session:
        asset = await _take_down(session, origin, asset_id, reason)
        copies = await moderation.copies(session, asset, down=False)
    for copy in copies:
        async with database.transaction() as session:
            await _take_down(session, origin, copy, reason)


async def _take_down(session: AsyncSession, origin: Origin, asset_id: UUID, reason: str) -> Asset:
    asset = await lock_main(session, asset_id)
    await moderation.take_down(session, asset, reason, origin.actor)
    audit.record(session, origin, "asset.take_down", f"asset:{asset.id}", detail={"reason": reason})
    return asset


async def put_back(database: Database, origin: Origin, asset_id: UUID) -> None:
    """Puts a file back, and the copies that were taken down with it. What was public is public again, unless its owner is
    suspended. Idempotent. Raises `AssetNotFound`."""
    async with database.transaction() as session:
        asset = await lock_main(session, asset_id)
        copies = await moderation.copies(session, asset, down=True)
    for each in (asset_id, *copies):
        async with database.transaction() as session:
            asset = await lock_main(session, each)
            if asset.taken_down_at is None:
                continue
            await moderation.put_back(session, asset, origin.actor)
            audit.record(session, origin, "asset.put_back", f"asset:{asset.id}")
    owner, changed = asset.owner_user_id, _FILES
    while owner is not None and changed == _FILES:
        async with database.transaction() as session:
            if await hold_suspension(session, owner) is not None:
                return
            changed = await moderation.show_of(session, owner, _FILES, origin.actor)


async def lock_main(session: AsyncSession, asset_id: UUID) -> Asset:
    """Returns the row of a file that is to be taken down or put back, locked. Raises `AssetNotFound`, and `InvalidRequest` for
    a sidecar."""
    await moderation.lock_owner(session, asset_id, exclusive=True)
    asset = await transitions.lock(session, asset_id)
    if asset is None:
        raise AssetNotFound
    if asset.sidecar is not None:
        raise InvalidRequest("A thumbnail or _meta.json goes with its file: take that down")
    return asset


async def listed(database: Database, limit: int) -> list[Asset]:
    """Up to `limit` files that are down, the newest first."""
    async with database.transaction() as session:
        query = select(Asset).where(Asset.taken_down_at.is_not(None)).order_by(Asset.taken_down_at.desc())
        return list(await session.scalars(query.limit(limit)))
