"""The library's background jobs. Enqueued by name (`butai.jobs`), so that no module imports this one for that."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from procrastinate import App, JobContext, RetryStrategy

from butai.assets import ledger, moderation
from butai.assets import purge as purging
from butai.assets.contents import decode_tasks, tasks
from butai.assets.ledger import REMOVE_MOVED, REMOVE_OBJECTS
from butai.assets.library import Library
from butai.assets.models import AssetObject
from butai.assets.object_states import ObjectState
from butai.assets.storage.client import ObjectAbsent
from butai.assets.uploads import signed, sweep
from butai.errors import Unavailable
from butai.jobs.retries import AtEndOfTurn

log = structlog.get_logger(__name__)

PURGE_BATCH = 500

# Half a minute at first, then doubling: for a store that restarts, up to one that is down for a night.
_PERSISTENT = RetryStrategy(max_attempts=12, exponential_wait=2, retry_exceptions={Unavailable})
_PERSISTENT_IN_TURN = AtEndOfTurn(max_attempts=12, exponential_wait=2, retry_exceptions={Unavailable})


def library_of(context: JobContext) -> Library:
    """Returns the worker's library."""
    return context.additional_context["library"]


async def remove_objects(context: JobContext, object_keys: list[str]) -> None:
    """Removes condemned objects from the store, with the parts of unfinished uploads. Idempotent."""
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
    """Removes an orphan of which the trash has a copy (`kept_as`), unless it changed since it was copied. Idempotent.

    An object that was written again since stays, and the ledger forgets it: the next listing finds it like any other.
    `size` in bytes.
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
            why = "the copy differs"
    except ObjectAbsent as error:
        # Either the original is gone, which is the aim; or the copy is, and the original must stay.
        why = f"absent: {error}"
    if why is None:
        await remove_objects(context, [object_key])
        return
    async with library.database.transaction() as session:
        await ledger.release(session, object_key)
    log.warning("object.kept", object_key=object_key, why=why)


async def sweep_uploads(context: JobContext, timestamp: int) -> None:
    """Settles uploads whose process has ended."""
    await sweep.sweep(library_of(context).uploads)


async def hash_object(context: JobContext, asset_id: str, object_key: str) -> None:
    """Reads an object once and writes its SHA-256, for bytes that did not come through this service."""
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
    """Purges assets that have been in the trash, or have failed, for `trash_days`."""
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
    app.task(name=moderation.HASH_OBJECT, pass_context=True, retry=_PERSISTENT_IN_TURN)(hash_object)
    # `lock`: a sweep of a store that answers slowly takes longer than the next one's turn.
    name = "assets.sweep_uploads"
    sweeping = app.task(name=name, pass_context=True, lock=name, queueing_lock=name)(sweep_uploads)
    # Six fields: the last is seconds.
    app.periodic(cron="* * * * * */10")(sweeping)
    purge = app.task(name="assets.purge_trash", pass_context=True, queueing_lock="assets.purge_trash")(purge_trash)
    app.periodic(cron="7 * * * *")(purge)
    tasks.register(app)
    decode_tasks.register(app)
