"""Purges assets from the trash when their time in it is over, and the rows of failed uploads after the same time."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import ledger, transitions
from butai.assets.models import Asset, AssetTombstone
from butai.assets.states import AssetStatus, AssetTrigger
from butai.audit import Origin, actors


async def overdue(session: AsyncSession, before: datetime, limit: int) -> list[UUID]:
    """Returns assets that have been in the trash since `before`, the oldest first, and then rows without bytes whose
    upload had failed by then. What an operator has taken down stays, so that it stays known by its bytes."""
    trashed = await session.scalars(
        select(Asset.id)
        .where(Asset.deleted_at < before, Asset.taken_down_at.is_(None))
        .order_by(Asset.deleted_at)
        .limit(limit)
    )
    found = list(trashed)
    failed = await session.scalars(
        select(Asset.id)
        .where(Asset.status == AssetStatus.FAILED, Asset.size_bytes.is_(None), Asset.updated_at < before)
        .order_by(Asset.created_at, Asset.id)
        .limit(limit - len(found))
    )
    return list(dict.fromkeys([*found, *failed]))


async def purge(session: AsyncSession, asset_id: UUID, before: datetime) -> bool:
    """Deletes a row that is overdue since `before`, leaving a tombstone; its objects are removed by jobs.

    Checks again under the lock: a restore or a new upload in between wins. Returns whether it purged.
    """
    asset = await transitions.lock(session, asset_id)
    if asset is None or asset.taken_down_at is not None:
        return False
    never = asset.status == AssetStatus.FAILED and asset.size_bytes is None and asset.updated_at < before
    if not never and (asset.deleted_at is None or asset.deleted_at >= before):
        return False
    await ledger.condemn_all(session, asset_id)
    await transitions.move(session, asset, AssetTrigger.PURGED, actor=None)
    session.add(
        AssetTombstone(
            id=asset.id,
            type=asset.type,
            owner_user_id=asset.owner_user_id,
            ever_public=asset.ever_public,
            change_seq=asset.change_seq,
        )
    )
    await session.flush()
    await session.delete(asset)
    audit.record(session, Origin(actors.WORKER), "asset.purge", f"asset:{asset_id}")
    return True
