"""An operator's actions on a finding: adopt, trash, ignore.

A listing alone is never a reason to delete: row and object are checked again, an object is copied into the trash first,
and the original is removed by a job (`assets.remove_moved`) that checks row, object and copy once more. A crash at any
point leaves the finding open, and the same action again completes it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.assets import keys, ledger, transitions
from butai.assets.imports.importer import Importer
from butai.assets.imports.listing_formats import ListedObject
from butai.assets.imports.outcomes import ImportOptions, ImportVerdict, Outcome
from butai.assets.object_states import ObjectTrigger
from butai.assets.patrol import finding_writer, queries
from butai.assets.patrol.finding_states import TRIGGERS, FindingAction, FindingKind, FindingState
from butai.assets.patrol.schemas import FindingOut
from butai.assets.states import AssetTrigger
from butai.assets.storage.answers import HeadKind
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.assets.storage.client import ObjectAbsent, Store
from butai.assets.storage.heads import StoreHeads
from butai.audit import Origin
from butai.config import AssetSettings
from butai.database import Connection, Database
from butai.errors import Code, Conflict, NotFound, StoreUnavailable

log = structlog.get_logger(__name__)

Resolve = Callable[[AsyncSession], Awaitable[FindingState]]
"""Resolves the finding in the transaction that completes the action."""

LEASE = timedelta(hours=1)
"""A copy within the store takes seconds; after this time its writer counts as dead, and the copy is removed."""


async def act(
    database: Database, store: Store, settings: AssetSettings, finding_id: int, action: FindingAction, origin: Origin
) -> FindingState:
    """Carries out the action, and returns the resolution. Raises `NotFound`; `Conflict` when the finding is resolved,
    the action does not apply, or store or index differ from the finding by now; `Unavailable`, with the finding still
    open."""
    found = await queries.finding(database, finding_id)
    if found is None:
        raise NotFound("There is no such finding")
    if found.resolution is not None and found.resolved_at is not None:
        raise Conflict(f"The finding is resolved: {found.resolution}")
    if action not in found.actions:
        applicable = ", ".join(found.actions)
        raise Conflict(f"{action} does not apply to this finding of the kind {found.kind}; these do: {applicable}")

    async def resolve(session: AsyncSession) -> FindingState:
        return await _resolve(session, finding_id, action, origin)

    if action is FindingAction.TRASH and found.kind is FindingKind.OBJECT_WITHOUT_ROW:
        return await _trash_object(database, store, settings, found, resolve)
    if action is FindingAction.TRASH:
        return await _trash_row(database, store, found, origin, resolve)
    if action is FindingAction.ADOPT:
        await _adopt(database, store, settings, found)
    async with database.transaction() as session:
        return await resolve(session)


async def _resolve(session: AsyncSession, finding_id: int, action: FindingAction, origin: Origin) -> FindingState:
    finding = await finding_writer.lock(session, finding_id)
    if finding is None:
        raise NotFound("There is no such finding")
    trigger = TRIGGERS[action]
    finding_writer.move(finding, trigger, origin.actor)
    detail = {"finding": finding_id, "object_key": finding.object_key}
    audit.record(session, origin, f"finding.{action}", f"finding:{finding_id}", detail=detail)
    return FindingState(trigger)


async def _adopt(database: Database, store: Store, settings: AssetSettings, finding: FindingOut) -> None:
    """Imports the object, by the rules of any import. Raises `Conflict` when it cannot be imported."""
    if not finding.detail.get("adoptable"):
        raise Conflict("The object's key is not a valid key of the library")
    verdicts: list[ImportVerdict] = []
    options = ImportOptions(visibility=settings.default_visibility, strip_prefix=finding.detail.get("strip_prefix", ""))

    async def one() -> AsyncIterator[list[ListedObject]]:
        yield [ListedObject(finding.object_key)]

    await Importer(database, store, options, verdicts.append).run(one(), lambda _tally: None)
    # `unchanged`: an earlier action adopted it, and ended before it resolved the finding.
    if verdicts and (verdicts[0].outcome in (Outcome.ADDED, Outcome.UPDATED) or verdicts[0].reason == Code.UNCHANGED):
        return
    raise Conflict(f"It cannot be adopted: {verdicts[0].reason if verdicts else 'no result'}")


async def _trash_object(
    database: Database, store: Store, settings: AssetSettings, finding: FindingOut, resolve: Resolve
) -> FindingState:
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
            raise Conflict("The copy's size differs from the original's")
    except (ObjectAbsent, Conflict) as error:
        async with database.transaction() as session:
            await ledger.release(session, original)
            await ledger.condemn(session, kept, ObjectTrigger.GIVEN_UP)
        raise error if isinstance(error, Conflict) else Conflict("The object no longer exists") from error
    async with database.transaction() as session:
        # The copy is kept for the time of the trash.
        await ledger.condemn(session, kept, ObjectTrigger.TRASHED, after=timedelta(days=settings.trash_days))
        await jobs.enqueue(
            session,
            ledger.REMOVE_MOVED,
            {"object_key": original, "size": facts.size, "etag": facts.etag, "kept_as": kept},
        )
        resolution = await resolve(session)
    log.info("finding.object_trashed", object_key=original, kept_as=kept)
    return resolution


async def _claim(session: AsyncSession, object_key: str) -> None:
    """Marks the object in the ledger as condemned, so that no import adopts it meanwhile. Raises `Conflict` when it has
    a row."""
    claimed = await ledger.claim(session, object_key)
    used = await session.scalar(text("SELECT 1 FROM assets WHERE object_key = :key LIMIT 1"), {"key": object_key})
    if not claimed or used is not None:
        raise Conflict("The object has a row by now")


async def _trash_row(
    database: Database, store: Store, finding: FindingOut, origin: Origin, resolve: Resolve
) -> FindingState:
    assert finding.asset_id is not None
    if not await _absent(store, finding.object_key):
        raise Conflict("The object is back in the store")
    async with database.transaction() as session:
        asset = await transitions.lock(session, finding.asset_id)
        if asset is None or asset.object_key != finding.object_key or asset.deleted_at is not None:
            raise Conflict("The asset has another object by now, or is in the trash")
        asset.deleted_at = datetime.now(UTC)
        await transitions.move(session, asset, AssetTrigger.TRASHED, actor=origin.actor)
        return await resolve(session)


async def _absent(store: Store, object_key: str) -> bool:
    """Whether the object is gone. At a store that hides absence, 403 counts after both canaries gave the expected
    answers. Raises `Unavailable` without a clear answer."""
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


async def open_ids(database: Database, kinds: tuple[FindingKind, ...], limit: int) -> list[int]:
    """Ids of open findings, oldest first, at most `limit`."""

    async def ask(connection: Connection) -> list[int]:
        cursor = await connection.execute(
            "SELECT id FROM findings WHERE kind = ANY(%s) AND resolved_at IS NULL ORDER BY id LIMIT %s",
            ([kind.value for kind in kinds], limit),
        )
        return [row[0] for row in await cursor.fetchall()]

    return await database.query(ask)
