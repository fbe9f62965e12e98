"""The library's background jobs. `butai.worker` registers and runs them; nobody imports this to enqueue (see `jobs`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from procrastinate import App, JobContext, RetryStrategy
from sqlalchemy import select
from sqlalchemy.orm.attributes import set_committed_value

from butai.assets import ledger
from butai.assets import purge as purging
from butai.assets.contents import decode_tasks, tasks
from butai.assets.ledger import REMOVE_MOVED, REMOVE_OBJECTS
from butai.assets.library import Library
from butai.assets.models import Asset, AssetObject
from butai.assets.object_states import ObjectState
from butai.assets.storage.client import ObjectAbsent
from butai.assets.uploads import signed
from butai.assets.uploads.attempts import UploadAttempt, fail
from butai.errors import Unavailable, UploadInterrupted, UploadRefused

log = structlog.get_logger(__name__)

SWEEP_BATCH = 100
CLAIM = timedelta(seconds=60)
"""How long a sweeper has one leftover to itself; another takes it over after."""

LOOK_AGAIN = timedelta(seconds=30)
"""A signed upload may arrive at any moment; it is looked for so often while its URL is good."""

PURGE_BATCH = 500

# Half a minute at first, then doubling: a store that is being restarted, up to one that is down for a night.
_PERSISTENT = RetryStrategy(max_attempts=12, exponential_wait=2, retry_exceptions={Unavailable})


def library_of(context: JobContext) -> Library:
    """The worker's library."""
    return context.additional_context["library"]


async def remove_objects(context: JobContext, object_keys: list[str]) -> None:
    """Takes condemned objects out of the store, parts of unfinished uploads too. Again is fine."""
    library = library_of(context)
    for object_key in object_keys:
        async with library.database.transaction() as session:
            row = await session.get(AssetObject, object_key)
        if row is None or row.state != ObjectState.CONDEMNED:
            continue
        if row.upload_id is not None:
            await library.store.abort_multipart(object_key, row.upload_id)
        await library.store.delete(object_key)
        async with library.database.transaction() as session:
            removed = await ledger.mark_removed(session, object_key, row.settled_at)
        log.info("object.removed" if removed else "object.condemned_again", object_key=object_key)


async def remove_moved(context: JobContext, object_key: str, size: int, etag: str, kept_as: str) -> None:
    """Takes away an object that was nobody's, when it still is what the trash has a copy of. Again is fine.

    What was written there anew since is left, and the ledger forgets it: the next listing finds it as any other.
    """
    library = library_of(context)
    async with library.database.transaction() as session:
        row = await session.get(AssetObject, object_key)
    if row is None or row.state != ObjectState.CONDEMNED or row.origin != "trash":
        return
    why = None
    try:
        facts = await library.store.head(object_key)
        if (facts.size, facts.etag) != (size, etag):
            why = "written anew"
        elif (await library.store.head(kept_as)).size != size:
            why = "the copy is another"
    except ObjectAbsent as error:
        # The original, and all is well; or the copy, and nothing may go.
        why = f"absent: {error}"
    if why is None:
        await remove_objects(context, [object_key])
        return
    async with library.database.transaction() as session:
        await ledger.release(session, object_key)
    log.warning("object.kept", object_key=object_key, why=why)


async def sweep_uploads(context: JobContext, timestamp: int) -> None:
    """Settles uploads that nobody is working on: whose process died, or whose client was given a URL and fell silent."""
    library = library_of(context)
    for row in await _claim(library):
        asset = None
        if row.asset_id is not None:
            async with library.database.transaction() as session:
                asset = await session.get(Asset, row.asset_id)
        try:
            if row.origin == "signed" and asset is not None:
                await _sweep_signed(library, row, asset)
            else:
                await _give_up(library, row)
        except Unavailable as error:
            # Left claimed; the next sweep after the claim tries again.
            log.warning("sweep.postponed", object_key=row.object_key, error_code=error.code)


async def _claim(library: Library) -> Sequence[AssetObject]:
    now = datetime.now(UTC)
    async with library.database.transaction() as session:
        rows = (
            await session.scalars(
                select(AssetObject)
                .where(
                    AssetObject.state == ObjectState.WRITING,
                    (AssetObject.lease_until < now)
                    | ((AssetObject.origin == "signed") & (AssetObject.next_look_at < now)),
                )
                .order_by(AssetObject.lease_until)
                .limit(SWEEP_BATCH)
                .with_for_update(skip_locked=True)
            )
        ).all()
        for row in rows:
            # What was true before the claim is what decides below.
            row.next_look_at = now + LOOK_AGAIN
            expired = row.lease_until is not None and row.lease_until < now
            if expired:
                row.lease_until = now + CLAIM
                await session.flush()
                set_committed_value(row, "lease_until", None)
    return rows


async def _sweep_signed(library: Library, row: AssetObject, asset: Asset) -> None:
    try:
        if await signed.settle(library.uploads, row, asset, "worker", None):
            log.info("upload.completed_by_sweep", asset_id=str(asset.id))
            return
    except UploadRefused as error:
        log.info("upload.refused_by_sweep", asset_id=str(asset.id), error_code=error.code)
        return
    except UploadInterrupted:
        return
    if row.lease_until is None:
        await _give_up(library, row)


async def _give_up(library: Library, row: AssetObject) -> None:
    error = UploadInterrupted("The upload was not finished in time")
    async with library.database.transaction() as session:
        await fail(session, UploadAttempt(row.object_key, row.asset_id, row.attempt), error, actor="worker")
    log.info("upload.given_up", asset_id=str(row.asset_id), object_key=row.object_key)


async def hash_object(context: JobContext, asset_id: str, object_key: str) -> None:
    """Reads an object once and keeps its SHA-256: for bytes that went past us."""
    library = library_of(context)
    digest = hashlib.sha256()
    try:
        async with library.store.open(object_key) as body:
            async for chunk in body.chunks():
                digest.update(chunk)
    except ObjectAbsent:
        return
    async with library.database.transaction() as session:
        await signed.write_hash(session, UUID(asset_id), object_key, digest.hexdigest())


async def purge_trash(context: JobContext, timestamp: int) -> None:
    """Purges what has been in the trash for too long."""
    library = library_of(context)
    before = datetime.now(UTC) - timedelta(days=library.settings.trash_days)
    async with library.database.transaction() as session:
        found = await purging.overdue(session, before, PURGE_BATCH)
    for asset_id in found:
        async with library.database.transaction() as session:
            if await purging.purge(session, asset_id, before):
                log.info("asset.purged", asset_id=str(asset_id))


def register(app: App) -> None:
    """Makes the tasks known to a procrastinate app."""
    app.task(name=REMOVE_OBJECTS, pass_context=True, retry=_PERSISTENT)(remove_objects)
    app.task(name=REMOVE_MOVED, pass_context=True, retry=_PERSISTENT)(remove_moved)
    app.task(name=signed.HASH_OBJECT, pass_context=True, retry=_PERSISTENT)(hash_object)
    sweep = app.task(name="assets.sweep_uploads", pass_context=True, queueing_lock="assets.sweep_uploads")(
        sweep_uploads
    )
    # Six fields: the last is seconds.
    app.periodic(cron="* * * * * */10")(sweep)
    purge = app.task(name="assets.purge_trash", pass_context=True, queueing_lock="assets.purge_trash")(purge_trash)
    app.periodic(cron="7 * * * *")(purge)
    tasks.register(app)
    decode_tasks.register(app)
