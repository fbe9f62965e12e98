"""Erases the files of one user: rows, objects, uploads under way, and what was written about them."""

from __future__ import annotations

from collections.abc import Sequence

import structlog
from sqlalchemy import delete, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai.alerts import service as alerts
from butai.assets import ledger
from butai.assets.models import Asset, AssetEvent, AssetTombstone, PlainName
from butai.assets.patrol import finding_writer, progress
from butai.assets.storage.client import Store
from butai.assets.transitions import next_change
from butai.assets.tus import transitions as resumables
from butai.audit import actors
from butai.audit.erasure import retire
from butai.database import Database
from butai.jobs import service as jobs

log = structlog.get_logger(__name__)

_FILES = 100
"""Files that are erased in one transaction."""


async def has_any(session: AsyncSession, user_id: str) -> bool:
    """Whether anything in the library is the user's."""
    queries = (
        select(Asset.id).where(Asset.owner_user_id == user_id),
        select(AssetTombstone.id).where(AssetTombstone.owner_user_id == user_id),
        select(PlainName.asset_id).where(PlainName.owner_user_id == user_id),
        resumables.of_user(user_id),
    )
    return any([await session.scalar(query.limit(1)) is not None for query in queries])


async def erase(database: Database, store: Store, user_id: str) -> int:
    """Erases a user's files; the store has removed them when this returns, but for what is being written or a signed URL
    may still write: jobs remove that. Returns their number. Idempotent. Raises the store's errors; then again."""
    erased = 0
    while True:
        async with database.transaction() as session:
            batch = (
                await session.execute(
                    select(Asset.id, Asset.s3_key, Asset.ever_public, Asset.type, Asset.wanted_key)
                    .where(Asset.owner_user_id == user_id)
                    .order_by(Asset.id)
                    .limit(_FILES)
                )
            ).all()
            await resumables.erase(session, user_id)
            objects: list[str] = []
            for asset_id, *_ in batch:
                objects += await ledger.condemn_for_erasure(session, asset_id)
        # The objects first: without its row, an object that is left would be unknown.
        for object_key, upload_id in await _with_uploads(database, objects):
            if upload_id is not None:
                await store.abort_multipart(object_key, upload_id)
            await store.delete(object_key)
        async with database.transaction() as session:
            for asset_id, s3_key, ever_public, kind, _ in batch:
                await retire(session, "asset", [s3_key])
                change = await next_change(session)
                session.add(
                    AssetTombstone(
                        id=asset_id, type=kind, owner_user_id=user_id, ever_public=ever_public, change_seq=change.seq
                    )
                )
            ids = [asset_id for asset_id, *_ in batch]
            await ledger.forget_erased(session, objects)
            await jobs.forget_files(session, [str(one) for one in ids], objects)
            await alerts.forget_files(session, [wanted_key for *_, wanted_key in batch])
            await finding_writer.erase(session, ids, objects)
            await session.execute(delete(AssetEvent).where(AssetEvent.asset_id.in_(ids)))
            await session.execute(delete(Asset).where(Asset.id.in_(ids)))
        erased += len(batch)
        if len(batch) < _FILES:
            break
    async with database.transaction() as session:
        held = (await session.scalars(select(PlainName.name).where(PlainName.owner_user_id == user_id))).all()
        await retire(session, "asset", held)
        await session.execute(delete(PlainName).where(PlainName.owner_user_id == user_id))
    return erased


async def _with_uploads(database: Database, objects: Sequence[str]) -> Sequence[tuple[str, str | None]]:
    async with database.transaction() as session:
        return await ledger.uploads_of(session, objects)


async def forget(session: AsyncSession, user_id: str, pseudonym: str) -> None:
    """Replaces the user's name in what is kept: tombstones, and acts on files of others."""
    names = [actors.user(user_id), user_id]
    gone = select(AssetTombstone.id).where(AssetTombstone.owner_user_id == user_id)
    await session.execute(delete(AssetEvent).where(AssetEvent.asset_id.in_(gone)))
    await session.execute(
        update(AssetTombstone).where(AssetTombstone.owner_user_id == user_id).values(owner_user_id=None)
    )
    await session.execute(update(AssetEvent).where(AssetEvent.actor.in_(names)).values(actor=pseudonym))
    await finding_writer.rename(session, names, pseudonym)
    await progress.rename(session, names, pseudonym)
