"""Opens and resolves findings: the only writer of their table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets.patrol.models import Finding

PATROL_ACTOR = "patrol"
"""Who resolved a finding that no person did."""


async def open_finding(
    session: AsyncSession, kind: str, object_key: str, asset_id: UUID | None, run_id: int | None, detail: dict[str, Any]
) -> bool:
    """Opens a finding, or notes that the open one of this kind and object was seen again. Returns whether it is new."""
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


async def resolve_findings(
    session: AsyncSession, kinds: Sequence[str], object_keys: Sequence[str], resolution: str, by: str = PATROL_ACTOR
) -> None:
    """Resolves the open findings of these kinds and objects. Idempotent."""
    await session.execute(
        update(Finding)
        .where(Finding.kind.in_(kinds), Finding.object_key.in_(object_keys), Finding.resolved_at.is_(None))
        .values(resolved_at=func.now(), resolution=resolution, resolved_by=by)
    )


async def resolve_replaced(session: AsyncSession) -> None:
    """Resolves findings of objects that no asset has any more: replaced by a new upload, or gone with their asset."""
    await session.execute(
        update(Finding)
        .where(
            Finding.kind.in_(("missing", "mismatch")),
            Finding.resolved_at.is_(None),
            text(
                "NOT EXISTS (SELECT 1 FROM assets WHERE assets.id = findings.asset_id "
                "AND assets.object_key = findings.object_key AND assets.deleted_at IS NULL)"
            ),
        )
        .values(resolved_at=func.now(), resolution="replaced", resolved_by=PATROL_ACTOR)
    )


async def open_mismatches(session: AsyncSession) -> set[str]:
    """Object keys with an open mismatch. They are few, so one read saves a query for each batch."""
    keys = await session.scalars(
        select(Finding.object_key).where(Finding.kind == "mismatch", Finding.resolved_at.is_(None))
    )
    return set(keys)


async def any_missing(session: AsyncSession) -> bool:
    """Whether a finding of a missing file is open."""
    found = await session.scalar(
        select(Finding.id).where(Finding.kind == "missing", Finding.resolved_at.is_(None)).limit(1)
    )
    return found is not None


async def count_missing_within(session: AsyncSession, period: timedelta) -> int:
    """How many files were found missing within `period` from now back, whatever became of them."""
    found = await session.scalar(
        select(func.count())
        .select_from(Finding)
        .where(Finding.kind == "missing", Finding.found_at > func.now() - period)
    )
    return found or 0
