"""Purges assets from the trash: when their time in it is over, as the rows of failed uploads are after the same time; or at
once, when their owner requests it."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit
from butai.assets import ledger, transitions
from butai.assets.access import editable
from butai.assets.models import Asset, AssetTombstone
from butai.assets.states import AssetStatus, AssetTrigger
from butai.audit import Origin, actors
from butai.audit.erasure import retire
from butai.database import Database
from butai.errors import Conflict, TakenDown
from butai.identity import Caller


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
    await _purge(session, asset, Origin(actors.WORKER))
    return True


async def purge_now(database: Database, caller: Caller, origin: Origin, asset_id: UUID) -> None:
    """Purges an asset that lies in the trash, before its time is over. Raises `AssetNotFound`, `Forbidden`; `Conflict` for
    an asset that is not in the trash, and `TakenDown`."""
    async with database.transaction() as session:
        asset = await editable(session, caller, asset_id)
        if asset.taken_down_at is not None:
            raise TakenDown
        if asset.deleted_at is None:
            raise Conflict("The asset is not in the trash")
        await _purge(session, asset, origin)


async def _purge(session: AsyncSession, asset: Asset, origin: Origin) -> None:
    """Purges a locked row, and the sidecars that belong to it. Its names are given to no other asset. Beside a file that never
    came they stay, and wait for it."""
    if asset.deleted_at is not None:
        beside = await session.scalars(
            select(Asset).where(Asset.main_id == asset.id).order_by(Asset.id).with_for_update(key_share=True)
        )
        for sidecar in beside.all():
            await _purge(session, sidecar, origin)
    await retire(session, "asset", [asset.s3_key])
    await ledger.condemn_all(session, asset.id)
    await transitions.move(session, asset, AssetTrigger.PURGED, actor=origin.actor)
    session.add(
        AssetTombstone(
            id=asset.id,
            type=asset.type,
            owner_user_id=asset.owner_user_id,
            ever_public=asset.ever_public,
            change_seq=asset.change_seq,
        )
    )
    audit.record(session, origin, "asset.purge", f"asset:{asset.id}")
    await session.flush()
    await session.delete(asset)
