"""Opens and resolves findings: the only writer of their table. Findings are resolved by `move` alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, ColumnElement, Text, any_, delete, func, literal, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.patrol.finding_states import FINDING_TABLES, FindingKind, FindingState, FindingTrigger
from butai.assets.patrol.models import Finding
from butai.audit import actors

PATROL_ACTOR = actors.service("patrol")
"""The resolver of findings that the patrol resolved by itself."""


def state_of(finding: Finding) -> FindingState:
    """Open, or how the finding was resolved."""
    return FindingState.OPEN if finding.resolved_at is None else FindingState(finding.resolution or "")


def move(finding: Finding, trigger: FindingTrigger, by: str | None) -> bool:
    """Moves a locked finding by the table. Returns False where it was resolved before and stays as it is. Raises
    `IllegalFindingMove`, having changed nothing."""
    before = state_of(finding)
    after = FINDING_TABLES[FindingKind(finding.kind)].after(before, trigger)
    if after is before:
        return False
    finding.resolution, finding.resolved_at, finding.resolved_by = after, func.now(), by
    return True


async def open_finding(
    session: AsyncSession,
    kind: FindingKind,
    object_key: str,
    asset_id: UUID | None,
    run_id: int | None,
    detail: dict[str, Any],
) -> bool:
    """Opens a finding, or records that the open one of this kind and object was seen again. Returns whether it is
    new."""
    statement = insert(Finding).values(
        kind=kind, object_key=object_key, asset_id=asset_id, run_id=run_id, detail=detail
    )
    statement = statement.on_conflict_do_update(
        index_elements=["kind", "object_key"],
        index_where=text("resolved_at IS NULL"),
        # `run_id` stays that of the run that saw it first and whose digest named it.
        set_={"seen_at": func.now(), "detail": statement.excluded.detail},
    ).returning(text("(xmax = 0)"))
    return bool(await session.scalar(statement))


async def lock(session: AsyncSession, finding_id: int) -> Finding | None:
    """The finding, locked until the transaction ends."""
    return await session.get(Finding, finding_id, with_for_update=True, populate_existing=True)


async def resolve_findings(
    session: AsyncSession,
    kinds: Sequence[FindingKind],
    object_keys: Sequence[str],
    trigger: FindingTrigger,
    by: str = PATROL_ACTOR,
) -> None:
    """Resolves the open findings of these kinds and objects. Idempotent."""
    if object_keys:
        await _resolve(session, trigger, by, Finding.kind.in_(kinds), Finding.object_key.in_(object_keys))


async def resolve_replaced(session: AsyncSession) -> None:
    """Resolves findings of objects that no asset has any more: replaced by a new upload, or gone with their asset."""
    of_no_asset = text(
        "NOT EXISTS (SELECT 1 FROM assets WHERE assets.id = findings.asset_id "
        "AND assets.object_key = findings.object_key AND assets.deleted_at IS NULL)"
    )
    kinds = (FindingKind.MISSING, FindingKind.MISMATCH)
    await _resolve(session, FindingTrigger.REPLACED, PATROL_ACTOR, Finding.kind.in_(kinds), of_no_asset)


async def _resolve(
    session: AsyncSession, trigger: FindingTrigger, by: str, *conditions: ColumnElement[bool] | Any
) -> None:
    # All callers lock in the order of ids, so that no two deadlock.
    found = select(Finding).where(Finding.resolved_at.is_(None), *conditions).order_by(Finding.id).with_for_update()
    for finding in await session.scalars(found.execution_options(populate_existing=True)):
        move(finding, trigger, by)


async def open_mismatches(session: AsyncSession) -> set[str]:
    """Object keys with an open mismatch. They are few, so one read saves a query for each batch."""
    keys = await session.scalars(
        select(Finding.object_key).where(Finding.kind == FindingKind.MISMATCH, Finding.resolved_at.is_(None))
    )
    return set(keys)


async def any_missing(session: AsyncSession) -> bool:
    """Whether a finding of a missing file is open."""
    missing = select(Finding.id).where(Finding.kind == FindingKind.MISSING, Finding.resolved_at.is_(None))
    return await session.scalar(missing.limit(1)) is not None


async def count_missing_within(session: AsyncSession, period: timedelta) -> int:
    """How many files were found missing within the last `period`, including those that were resolved since."""
    found = await session.scalar(
        select(func.count())
        .select_from(Finding)
        .where(Finding.kind == FindingKind.MISSING, Finding.found_at > func.now() - period)
    )
    return found or 0


async def erase(session: AsyncSession, asset_ids: Sequence[UUID], object_keys: Sequence[str]) -> None:
    """Deletes the findings about assets and objects of an erased user."""
    about = Finding.asset_id.in_(asset_ids) | (Finding.object_key == any_(literal(object_keys, ARRAY(Text))))
    await session.execute(delete(Finding).where(about))


async def rename(session: AsyncSession, names: Sequence[str], pseudonym: str) -> None:
    """Replaces the names of an erased operator."""
    await session.execute(update(Finding).where(Finding.resolved_by.in_(names)).values(resolved_by=pseudonym))
