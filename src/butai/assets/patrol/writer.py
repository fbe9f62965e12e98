"""Writes what the patrol found out: rows that change, findings, when each asset is due again. Called by `patrolling`.

One short transaction for each batch: readers of the change feed wait for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import transitions
from butai.assets.models import Asset
from butai.assets.patrol.models import Finding
from butai.assets.patrol.verdicts import Row, Ruling
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.storage.answers import HeadAnswer
from butai.config import PatrolSettings

ACTOR = "patrol"

IN_USE = timedelta(days=1)
"""A file that was read within it is looked for at every run, others at every `cold_hours`."""


@dataclass(slots=True)
class Recorded:
    """Public keys of the assets that were really lost."""

    lost: list[str] = field(default_factory=list)


_LOOKED = text(
    """
    INSERT INTO asset_checks (asset_id, object_key, checked_at, due_at, suspected_at)
    SELECT looked.id, looked.key, now(), looked.due, looked.suspected
    FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[]), CAST(:due AS timestamptz[]),
                CAST(:suspected AS timestamptz[])) AS looked (id, key, due, suspected)
    -- One that was purged meanwhile is nobody's concern.
    WHERE EXISTS (SELECT 1 FROM assets WHERE assets.id = looked.id)
    ORDER BY looked.id
    ON CONFLICT (asset_id) DO UPDATE
    SET object_key = excluded.object_key, checked_at = excluded.checked_at, due_at = excluded.due_at,
        suspected_at = excluded.suspected_at
    """
)


async def note_looks(
    session: AsyncSession, looked: Iterable[tuple[Row, Ruling]], settings: PatrolSettings, now: datetime
) -> None:
    """Writes when each was looked at and is due again."""
    ids: list[UUID] = []
    keys: list[str] = []
    due: list[datetime] = []
    suspected: list[datetime | None] = []
    for row, ruling in looked:
        since = (row.suspected_at or now) if ruling is Ruling.SUSPECT else None
        if ruling is Ruling.UNDECIDED:
            since = row.suspected_at
        ids.append(row.id)
        keys.append(row.object_key)
        due.append(_due(row, ruling, settings, now))
        suspected.append(since)
    await session.execute(_LOOKED, {"ids": ids, "keys": keys, "due": due, "suspected": suspected})


def _due(row: Row, ruling: Ruling, settings: PatrolSettings, now: datetime) -> datetime:
    if ruling is Ruling.UNDECIDED:
        return now
    if ruling is Ruling.SUSPECT:
        return (row.suspected_at or now) + timedelta(minutes=settings.recheck_minutes)
    # A little before the run that is meant, which never comes to the second.
    soon = timedelta(minutes=settings.minutes) * 0.9
    if ruling is not Ruling.FOUND or (row.used_at is not None and row.used_at > now - IN_USE):
        return now + soon
    # Spread, so that a library that came in at once is not due at once for ever.
    return now + max(soon, timedelta(hours=settings.cold_hours) * random.uniform(0.75, 1))


async def change_rows(
    session: AsyncSession, looked: Sequence[tuple[Row, Ruling, HeadAnswer]], run_id: int | None
) -> Recorded:
    """Moves the rows that must move, each under its lock and only if it is still what was looked at."""
    recorded = Recorded()
    refresh: list[Asset] = []
    for row, ruling, answer in sorted(looked, key=lambda one: one[0].id):
        if ruling not in (Ruling.LOST, Ruling.RECOVERED, Ruling.MISMATCH, Ruling.STILL_MISSING):
            continue
        asset = await transitions.lock(session, row.id)
        if asset is None or asset.object_key != row.object_key or asset.deleted_at is not None:
            continue
        changed = await _change(session, asset, ruling, answer, run_id, recorded)
        if changed and asset.sidecar is not None:
            refresh.append(asset)
    if refresh:
        await session.flush()
        for asset in refresh:
            await transitions.refresh_owners(session, asset, ACTOR)
    return recorded


async def _change(
    session: AsyncSession, asset: Asset, ruling: Ruling, answer: HeadAnswer, run_id: int | None, recorded: Recorded
) -> bool:
    assert asset.object_key is not None
    detail = {"s3_key": asset.s3_key, "size": asset.size_bytes, "etag": asset.etag}
    if ruling is Ruling.LOST and asset.status == AssetStatus.READY:
        await transitions.move(session, asset, AssetTrigger.LOST, actor=ACTOR)
        await open_finding(session, "missing", asset.object_key, asset.id, run_id, detail)
        recorded.lost.append(asset.s3_key)
        return True
    if ruling is Ruling.RECOVERED and asset.status == AssetStatus.MISSING:
        await transitions.move(session, asset, AssetTrigger.RECOVERED, actor=ACTOR)
        await resolve_finding(session, ("missing", "mismatch"), asset.object_key, "recovered")
        return True
    if ruling is Ruling.MISMATCH:
        detail |= {"store_size": answer.size, "store_etag": answer.etag}
        if await open_finding(session, "mismatch", asset.object_key, asset.id, run_id, detail):
            await transitions.move(session, asset, AssetTrigger.MISMATCH, actor=ACTOR, detail=detail)
    elif ruling is Ruling.STILL_MISSING:
        await open_finding(session, "missing", asset.object_key, asset.id, run_id, detail)
    return False


async def agrees_again(session: AsyncSession, found: Sequence[str]) -> None:
    """Closes mismatches of objects that are as the index has them."""
    await resolve_finding(session, ("mismatch",), found, "agrees")


async def open_finding(
    session: AsyncSession, kind: str, object_key: str, asset_id: UUID | None, run_id: int | None, detail: dict[str, Any]
) -> bool:
    """Opens a finding, or says of the open one that it was seen again. Returns whether it is new."""
    statement = insert(Finding).values(
        kind=kind, object_key=object_key, asset_id=asset_id, run_id=run_id, detail=detail
    )
    statement = statement.on_conflict_do_update(
        index_elements=["kind", "object_key"],
        index_where=text("resolved_at IS NULL"),
        # It stays that of the run which saw it first, whose digest told of it.
        set_={"seen_at": func.now(), "detail": statement.excluded.detail},
    ).returning(text("(xmax = 0)"))
    return bool(await session.scalar(statement))


async def resolve_finding(
    session: AsyncSession, kinds: Sequence[str], object_keys: str | Sequence[str], resolution: str, by: str = ACTOR
) -> None:
    """Closes open findings of these objects."""
    keys = [object_keys] if isinstance(object_keys, str) else list(object_keys)
    await session.execute(
        update(Finding)
        .where(Finding.kind.in_(kinds), Finding.object_key.in_(keys), Finding.resolved_at.is_(None))
        .values(resolved_at=func.now(), resolution=resolution, resolved_by=by)
    )


async def open_mismatches(session: AsyncSession) -> set[str]:
    """Objects with an open mismatch: few, so that most batches need not ask."""
    keys = await session.scalars(
        select(Finding.object_key).where(Finding.kind == "mismatch", Finding.resolved_at.is_(None))
    )
    return set(keys)
