"""Writes the results of a batch's probe: changed assets, their findings, and when each object is due again.

One short transaction for each part of a batch: readers of the change feed wait for it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import transitions
from butai.assets.models import Asset
from butai.assets.moderation import ask_for_hash
from butai.assets.patrol.finding_states import FindingKind, FindingTrigger
from butai.assets.patrol.finding_writer import PATROL_ACTOR, open_finding, resolve_findings
from butai.assets.patrol.probe import ProbedObject
from butai.assets.patrol.verdicts import IndexedObject, Verdict
from butai.assets.states import AssetStatus, AssetTrigger
from butai.config import PatrolSettings

IN_USE = timedelta(days=1)
"""Time since the last read within which a file is checked at every run; other files every `cold_hours`."""

_CHECKED = text(
    """
    INSERT INTO asset_checks (asset_id, object_key, checked_at, due_at, suspected_at)
    SELECT checked.id, checked.key, now(), checked.due, checked.suspected
    FROM unnest(CAST(:ids AS uuid[]), CAST(:keys AS text[]), CAST(:due AS timestamptz[]),
                CAST(:suspected AS timestamptz[])) AS checked (id, key, due, suspected)
    -- Without those that were purged meanwhile.
    WHERE EXISTS (SELECT 1 FROM assets WHERE assets.id = checked.id)
    ORDER BY checked.id
    ON CONFLICT (asset_id) DO UPDATE
    SET object_key = excluded.object_key, checked_at = excluded.checked_at, due_at = excluded.due_at,
        suspected_at = excluded.suspected_at
    """
)


async def record_checks(
    session: AsyncSession, probed: Iterable[ProbedObject], settings: PatrolSettings, now: datetime
) -> None:
    """Writes when each object was checked, since when it is suspect, and when it is due again."""
    ids: list[UUID] = []
    keys: list[str] = []
    due: list[datetime] = []
    suspected: list[datetime | None] = []
    for row, verdict, _ in probed:
        since = (row.suspected_at or now) if verdict is Verdict.SUSPECT else None
        if verdict is Verdict.UNDECIDED:
            since = row.suspected_at
        ids.append(row.id)
        keys.append(row.object_key)
        due.append(_due(row, verdict, settings, now))
        suspected.append(since)
    await session.execute(_CHECKED, {"ids": ids, "keys": keys, "due": due, "suspected": suspected})


def _due(row: IndexedObject, verdict: Verdict, settings: PatrolSettings, now: datetime) -> datetime:
    if verdict is Verdict.UNDECIDED:
        return now
    if verdict is Verdict.SUSPECT:
        return (row.suspected_at or now) + timedelta(minutes=settings.recheck_minutes)
    # A little earlier than the next run, which never begins on the second.
    soon = timedelta(minutes=settings.minutes) * 0.9
    if verdict is not Verdict.FOUND or (row.used_at is not None and row.used_at > now - IN_USE):
        return now + soon
    # Spread at random, so that a library that was imported at once is not due at once for ever.
    return now + max(soon, timedelta(hours=settings.cold_hours) * random.uniform(0.75, 1))  # noqa: S311 - spreads load, keeps no secret


async def apply_verdicts(session: AsyncSession, probed: Sequence[ProbedObject], run_id: int | None) -> list[str]:
    """Moves the assets whose state changes, each under its lock and only if it still has the object that was probed.
    Returns the wanted keys of those that were marked missing."""
    lost: list[str] = []
    refresh: list[Asset] = []
    for each in sorted(probed, key=lambda each: each.row.id):
        asset = await transitions.lock(session, each.row.id)
        if asset is None or asset.object_key != each.row.object_key or asset.deleted_at is not None:
            continue
        moved = await _apply(session, asset, each, run_id)
        if moved is AssetTrigger.LOST:
            lost.append(asset.wanted_key)
        if moved is not None and asset.sidecar is not None:
            refresh.append(asset)
    if refresh:
        await session.flush()
        for asset in refresh:
            await transitions.refresh_main(session, asset, PATROL_ACTOR)
    return lost


async def _apply(session: AsyncSession, asset: Asset, each: ProbedObject, run_id: int | None) -> AssetTrigger | None:
    """Applies one verdict to a locked asset. Returns its transition, None without one."""
    assert asset.object_key is not None
    detail = {"s3_key": asset.wanted_key, "size": asset.size_bytes, "etag": asset.etag}
    if each.verdict is Verdict.LOST and asset.status == AssetStatus.READY:
        await transitions.move(session, asset, AssetTrigger.LOST, actor=PATROL_ACTOR)
        await open_finding(session, FindingKind.MISSING, asset.object_key, asset.id, run_id, detail)
        return AssetTrigger.LOST
    if each.verdict is Verdict.RECOVERED and asset.status == AssetStatus.MISSING:
        await transitions.move(session, asset, AssetTrigger.RECOVERED, actor=PATROL_ACTOR)
        if asset.public_again or asset.taken_down_at is not None:
            # What may have the bytes of a file that was taken down stays hidden until both are known.
            await ask_for_hash(session, asset)
        await resolve_findings(
            session, (FindingKind.MISSING, FindingKind.MISMATCH), [asset.object_key], FindingTrigger.RECOVERED
        )
        return AssetTrigger.RECOVERED
    if each.verdict is Verdict.MISMATCH:
        detail |= {"store_size": each.answer.size, "store_etag": each.answer.etag}
        if await open_finding(session, FindingKind.MISMATCH, asset.object_key, asset.id, run_id, detail):
            await transitions.move(session, asset, AssetTrigger.MISMATCH, actor=PATROL_ACTOR, detail=detail)
    elif each.verdict is Verdict.STILL_MISSING:
        await open_finding(session, FindingKind.MISSING, asset.object_key, asset.id, run_id, detail)
    return None
