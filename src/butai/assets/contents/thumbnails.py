"""Thumbnails derived from a file's own content: a VRM's embedded picture, the preview of a sky.

They are stored as the sidecars that an owner would upload, so they are served, listed, hidden, trashed and removed
like those. Uploaded thumbnails are never changed: derived ones are those whose objects are all
`derived` in the ledger.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import keys, ledger, transitions
from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, Sidecar, size_limit
from butai.assets.library import Library
from butai.assets.models import Asset, AssetObject
from butai.assets.object_states import ObjectTrigger
from butai.assets.states import AssetStatus, AssetTrigger
from butai.assets.storage.client import BytesPayload
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, checked, fail, finish
from butai.assets.uploads.opening import Source, begin, write_down
from butai.assets.uploads.targets import sidecar_target
from butai.audit import Origin, actors
from butai.errors import ButaiError, UploadCancelled, UploadRefused

log = structlog.get_logger(__name__)


LEASE = timedelta(minutes=2)
"""Longer than the store may take for 10 MiB at its slowest; after it the sweep counts the writer as dead."""

EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp"}
"""MIME types that a thumbnail may have, and the extension of each."""

_LOCK = 0x6275_7461_6902
"""Seed of the hash for a name's advisory lock. Rows without an owner have no unique constraint, so this
lock keeps two jobs from making two thumbnails."""


class _Overtaken(Exception):
    """The owner began to upload a thumbnail at the same moment."""


async def wants_thumbnail(library: Library, asset_id: UUID, object_key: str) -> bool:
    """Whether a thumbnail derived from this object would be kept: it is still the asset's, and none was uploaded."""
    async with library.database.transaction() as session:
        asset = await _current(session, asset_id, object_key)
        return asset is not None and await _derived(session, await _thumbnails(session, asset), asset) is not None


async def store_thumbnail(library: Library, asset_id: UUID, object_key: str, body: bytes, mime: str) -> None:
    """Stores a picture as the asset's derived thumbnail, in place of one of an earlier version. Idempotent.

    Does nothing when the asset has another object by now, or an uploaded thumbnail. Raises `UploadRefused` for
    content that is not a picture, `Unavailable` as store and database do.
    """
    stored = StoredObject(len(body), hashlib.sha256(body).hexdigest(), "", body[:HEAD_BYTES])
    attempt = UploadAttempt(keys.mint_object_key(library.store.prefix))
    try:
        key = await _begin(library, asset_id, object_key, attempt, stored, mime)
    except _Overtaken:
        return
    if key is None:
        return
    try:
        stored = StoredObject(
            stored.size,
            stored.sha256,
            await library.store.put(attempt.object_key, BytesPayload(body), key.format.mime),
            stored.head,
        )
        if await _finish(library, asset_id, object_key, attempt, stored):
            log.info("thumbnail.derived", asset_id=str(asset_id), object_key=attempt.object_key)
    except ButaiError as error:
        async with library.database.transaction() as session:
            await fail(session, attempt, error, actor=actors.WORKER)
        raise


async def _begin(
    library: Library, asset_id: UUID, object_key: str, attempt: UploadAttempt, stored: StoredObject, mime: str
) -> AssetKey | None:
    """Writes the row and the ledger's line before the first byte is stored. Returns its key; None when there is nothing
    to do. Raises `_Overtaken`."""
    async with library.database.transaction() as session:
        asset = await _current(session, asset_id, object_key)
        if asset is None:
            return None
        if (key := _key(asset, mime)) is None:
            return None
        checked(stored, key, size_limit(library.settings, key.kind, key.sidecar), None)
        name = f"{asset.owner_user_id or ''}\n{asset.type}\n{asset.stem}"
        await session.execute(select(func.pg_advisory_xact_lock(func.hashtextextended(name, _LOCK))))
        known = await _thumbnails(session, asset)
        derived = await _derived(session, known, asset)
        if derived is None:
            return None
        target = await sidecar_target(session, asset, key, by_tag=True)
        for row in derived:
            if row.wanted_key != target.key.text and row.deleted_at is None:
                # Derived from an earlier version, in another format.
                await _trash(session, row.id)
        await begin(session, target, attempt, library.settings, Origin(actors.WORKER))
        if attempt.number != 1 and attempt.asset_id not in {row.id for row in known}:
            # Another transaction has inserted the row since it was looked for, and only uploads do.
            raise _Overtaken
        await write_down(session, attempt, Source("derived", LEASE, size=stored.size, sha256=stored.sha256))
        return key


def _key(asset: Asset, mime: str) -> AssetKey | None:
    if mime not in EXTENSIONS:
        raise UploadRefused(f"{mime} is not a picture")
    try:
        key = keys.parse(f"{asset.stem}_thumb.{EXTENSIONS[mime]}")
    except ButaiError:
        # The asset's key is too long for a suffix.
        return None
    return key if (key.stem, key.kind, key.sidecar) == (asset.stem, asset.type, Sidecar.THUMB) else None


async def _current(session: AsyncSession, asset_id: UUID, object_key: str) -> Asset | None:
    asset = await session.get(Asset, asset_id)
    if asset is None or asset.object_key != object_key or asset.sidecar is not None or asset.deleted_at is not None:
        return None
    return asset


def _mark(asset: Asset) -> dict[str, Any]:
    """The facts of a derived thumbnail: its source. With the ETag, since another program may overwrite an imported
    object."""
    return {"derived_from": asset.object_key, "derived_etag": asset.etag}


async def _thumbnails(session: AsyncSession, asset: Asset) -> list[Asset]:
    """All thumbnails of the asset, uploaded and derived, those in the trash too."""
    return list(await session.scalars(select(Asset).where(Asset.main_id == asset.id, Asset.sidecar == Sidecar.THUMB)))


async def _derived(session: AsyncSession, found: list[Asset], asset: Asset) -> list[Asset] | None:
    """The derived ones of these thumbnails of the asset; None when one was uploaded, or when one is of this object already,
    even in the trash."""
    origins = (
        await session.execute(
            select(AssetObject.asset_id, AssetObject.origin).where(AssetObject.asset_id.in_([row.id for row in found]))
        )
    ).all()
    for row in found:
        made_here = {origin for owner, origin in origins if owner == row.id} == {"derived"}
        if not made_here and row.deleted_at is None:
            return None
        if made_here and row.status != AssetStatus.FAILED and row.facts == _mark(asset):
            return None
    return [row for row in found if {origin for owner, origin in origins if owner == row.id} == {"derived"}]


async def _trash(session: AsyncSession, thumbnail_id: UUID) -> None:
    row = await transitions.lock(session, thumbnail_id)
    if row is not None and row.deleted_at is None:
        row.deleted_at = (await session.execute(select(func.now()))).scalar_one()
        await transitions.move(session, row, AssetTrigger.TRASHED, actor=actors.WORKER)
        await session.flush()


async def _finish(
    library: Library, asset_id: UUID, object_key: str, attempt: UploadAttempt, stored: StoredObject
) -> bool:
    """Points the sidecar at the picture. Returns False, having given up the attempt, when the asset has another object or
    the sidecar a newer attempt by now."""
    assert attempt.asset_id is not None
    async with library.database.transaction() as session:
        # Locked in the order in which each end of an attempt locks them.
        await session.get(AssetObject, attempt.object_key, with_for_update=True)
        row = await transitions.lock(session, attempt.asset_id)
        overtaken = row is None or row.attempts != attempt.number
        asset = await _current(session, asset_id, object_key)
        if overtaken:
            # The newer attempt decides what becomes of the row: this one leaves nothing but an object to remove.
            await ledger.condemn(session, attempt.object_key, ObjectTrigger.GIVEN_UP)
            return False
        if asset is None:
            await fail(session, attempt, UploadCancelled("The file has other bytes by now"), actor=actors.WORKER)
            return False
        thumbnail = await finish(session, attempt, stored, actor=actors.WORKER)
        thumbnail.facts = _mark(asset)
    return True
