"""What an operator does about a finding: adopt, trash, ignore. Called by `butai reconcile` and by the patrol's routes.

Nothing is deleted on the word of a listing: row and object are asked for again, an object is copied into the trash first,
and the original goes by a job (`tasks.remove_moved`) that looks at row, object and copy once more. A crash at any point
leaves the finding open, and the same act again completes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any

import structlog
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.assets import keys, ledger, transitions
from butai.assets.imports.importer import Importer, ImportOptions, ImportVerdict, Outcome
from butai.assets.imports.listing_formats import ListedObject
from butai.assets.object_states import ObjectTrigger
from butai.assets.patrol.models import Finding
from butai.assets.states import AssetTrigger
from butai.assets.storage.answers import HeadKind
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.assets.storage.client import ObjectAbsent, Store
from butai.assets.storage.heads import StoreHeads
from butai.audit import Origin
from butai.config import AssetSettings
from butai.database import Database
from butai.errors import Conflict, NotFound, StoreUnavailable

log = structlog.get_logger(__name__)

LEASE = timedelta(hours=1)
"""A copy within the store takes seconds; after this its maker is taken for dead, and the copy removed."""


class Action(StrEnum):
    """What can be done."""

    ADOPT = "adopt"
    TRASH = "trash"
    IGNORE = "ignore"


FITS = {
    "object_without_row": {Action.ADOPT, Action.TRASH, Action.IGNORE},
    "row_without_object": {Action.TRASH, Action.IGNORE},
    "missing": {Action.TRASH, Action.IGNORE},
    "mismatch": {Action.IGNORE},
}


async def act(
    database: Database, store: Store, settings: AssetSettings, finding_id: int, action: Action, origin: Origin
) -> str:
    """Does it; returns the resolution. Raises `NotFound`, `Conflict` when the finding is closed, the act does not fit it, or
    the store or the index is not as the finding says; `Unavailable`, with the finding still open."""
    async with database.transaction() as session:
        finding = await session.get(Finding, finding_id)
    if finding is None:
        raise NotFound("There is no such finding")
    if finding.resolved_at is not None:
        raise Conflict(f"The finding is closed: {finding.resolution}")
    if action not in FITS[finding.kind]:
        raise Conflict(f"{action} does not fit a finding of the kind {finding.kind}")
    if action is Action.ADOPT:
        await _adopt(database, store, settings, finding)
        resolution = "adopted"
    elif action is Action.IGNORE:
        resolution = "ignored"
    elif finding.kind == "object_without_row":
        await _trash_object(database, store, settings, finding)
        resolution = "trashed"
    else:
        await _trash_row(database, store, finding, origin)
        resolution = "trashed"
    async with database.transaction() as session:
        await session.execute(
            update(Finding)
            .where(Finding.id == finding_id, Finding.resolved_at.is_(None))
            .values(resolved_at=func.now(), resolution=resolution, resolved_by=origin.actor)
        )
        detail = {"finding": finding_id, "object_key": finding.object_key}
        audit.record(session, origin, f"finding.{action}", f"finding:{finding_id}", detail=detail)
    return resolution


async def _adopt(database: Database, store: Store, settings: AssetSettings, finding: Finding) -> None:
    """Through the import, which asks for the object and decides as ever."""
    if not finding.detail.get("adoptable"):
        raise Conflict("The object's key is none that the library keeps")
    said: list[ImportVerdict] = []
    options = ImportOptions(visibility=settings.default_visibility, strip_prefix=finding.detail.get("strip_prefix", ""))

    async def one() -> AsyncIterator[list[ListedObject]]:
        yield [ListedObject(finding.object_key)]

    await Importer(database, store, options, said.append).run(one(), lambda _tally: None)
    # Unchanged: it was adopted before, and the finding's end was not written.
    if not said or (said[0].outcome not in (Outcome.ADDED, Outcome.UPDATED) and said[0].reason != "unchanged"):
        raise Conflict(f"It cannot be adopted: {said[0].reason if said else 'nothing is known of it'}")


async def _trash_object(database: Database, store: Store, settings: AssetSettings, finding: Finding) -> None:
    original = finding.object_key
    kept = keys.mint_object_key(store.prefix)
    async with database.transaction() as session:
        await _claim(session, original)
        await ledger.open_object(session, kept, "trash", LEASE)
    try:
        facts = await store.head(original)
        if (facts.size, facts.etag) != (finding.detail.get("size"), finding.detail.get("etag")):
            raise Conflict("The object has changed since it was found")
        await store.copy(original, kept)
        copied = await store.head(kept)
        if copied.size != facts.size:
            raise Conflict("The copy is not as large as its original")
    except (ObjectAbsent, Conflict) as error:
        async with database.transaction() as session:
            await ledger.release(session, original)
            await ledger.condemn(session, kept, ObjectTrigger.GIVEN_UP)
        raise error if isinstance(error, Conflict) else Conflict("The object is gone already") from error
    async with database.transaction() as session:
        # First it is kept elsewhere for as long as any trash, then it goes.
        await ledger.condemn(session, kept, ObjectTrigger.TRASHED, after=timedelta(days=settings.trash_days))
        await jobs.enqueue(
            session,
            ledger.REMOVE_MOVED,
            {"object_key": original, "size": facts.size, "etag": facts.etag, "kept_as": kept},
        )
    log.info("finding.object_trashed", object_key=original, kept_as=kept)


async def _claim(session: AsyncSession, object_key: str) -> None:
    """Has the ledger say that this object is to go, so that nobody adopts it meanwhile. Raises `Conflict` when it is known."""
    claimed = await ledger.claim(session, object_key)
    used = await session.scalar(text("SELECT 1 FROM assets WHERE object_key = :key LIMIT 1"), {"key": object_key})
    if not claimed or used is not None:
        raise Conflict("The object has a row by now")


async def _trash_row(database: Database, store: Store, finding: Finding, origin: Origin) -> None:
    assert finding.asset_id is not None
    if not await _absent(store, finding.object_key):
        raise Conflict("The object is there by now")
    async with database.transaction() as session:
        asset = await transitions.lock(session, finding.asset_id)
        if asset is None or asset.object_key != finding.object_key or asset.deleted_at is not None:
            raise Conflict("The asset has another object by now, or is in the trash")
        asset.deleted_at = datetime.now(UTC)
        await transitions.move(session, asset, AssetTrigger.TRASHED, actor=origin.actor)


async def _absent(store: Store, object_key: str) -> bool:
    """Also at a store that says 403 of what is absent: then our own object must be there, and a key that cannot be, denied.
    Raises `Unavailable`."""
    heads = StoreHeads(store, rate=50)
    try:
        hides_absence = await Canary(heads, store.prefix).probe()
    except StoreUnreliable as stopped:
        raise StoreUnavailable(str(stopped)) from stopped
    answer = await heads.head(object_key)
    if answer.kind is HeadKind.PRESENT:
        return False
    if answer.kind is HeadKind.ABSENT or (answer.kind is HeadKind.DENIED and hides_absence):
        return True
    raise StoreUnavailable("The store gives no clear answer about the object")


async def open_ids(database: Database, kinds: tuple[str, ...], limit: int) -> list[tuple[int, dict[str, Any]]]:
    """Open findings, oldest first, for an act on many."""
    async with database.transaction() as session:
        rows = await session.execute(
            select(Finding.id, Finding.detail)
            .where(Finding.kind.in_(kinds), Finding.resolved_at.is_(None))
            .order_by(Finding.id)
            .limit(limit)
        )
        return [(row.id, row.detail) for row in rows]
