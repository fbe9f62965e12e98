"""The steps of an upload in the index, one transaction each: begin, finish, fail.

An upload is an *attempt* on an asset. It writes a new object that no reader knows; when that is whole, one
transaction points the row at it. So a reader never meets half a file, and a crash at any moment leaves either the old
state or a row in the ledger (`asset_objects`) that says what to clean up.

Called by `uploads` (bytes through us), `signed` (bytes past us), `derived` (bytes that we make) and `tasks` (what nobody
finished).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import uuid_utils.compat as uuid
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.assets import keys, ledger, transitions
from butai.assets.keys import AssetKey
from butai.assets.kinds import Sidecar
from butai.assets.models import Asset
from butai.assets.object_states import IllegalObjectMove, ObjectState, ObjectTrigger
from butai.assets.states import AssetStatus, AssetTrigger
from butai.audit import Origin
from butai.config import AssetSettings
from butai.errors import (
    ButaiError,
    ChecksumMismatch,
    FileTooLarge,
    SignatureMismatch,
    SizeMismatch,
    UploadInterrupted,
)

INSPECT = "assets.inspect"
"""The task that looks into a file's content; its body is in `inspection`, which sits above."""


@dataclass(slots=True)
class UploadAttempt:
    """One try to write an asset's bytes. `asset_id` is None while the form has not yet said which key it is for."""

    object_key: str
    asset_id: UUID | None = None
    number: int = 0
    key: AssetKey | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Bytes that are whole in the store. `head` is the file's beginning; `meta` the whole of a `_meta.json`."""

    size: int
    sha256: str | None
    etag: str
    head: bytes
    meta: dict[str, Any] | None = None


async def begin(
    session: AsyncSession,
    user_id: str | None,
    key: AssetKey,
    attempt: UploadAttempt,
    settings: AssetSettings,
    origin: Origin,
) -> Asset:
    """A user's row for a key: the one there is, locked, with one attempt more; or a new one. Nobody's rows are for
    `derived` alone, which calls this under a lock of its own: no constraint keeps two of them apart.

    Fills `attempt`. Another user's key is none of ours: the row gets a public key of its own then.
    """
    asset, event = await _own(session, user_id, key), AssetTrigger.RETRIED
    if asset is None:
        asset, created = await _create(session, user_id, key, settings)
        event = AssetTrigger.CREATED if created else event
    if event is not AssetTrigger.CREATED and asset.status in (AssetStatus.READY, AssetStatus.MISSING):
        event = AssetTrigger.REPLACING
    asset.attempts += 1
    attempt.asset_id, attempt.number, attempt.key = asset.id, asset.attempts, key
    await transitions.move(session, asset, event, actor=origin.actor, new=event is AssetTrigger.CREATED)
    audit.record(
        session, origin, "asset.upload", f"asset:{asset.id}", detail={"key": key.text, "attempt": attempt.number}
    )
    return asset


async def _own(session: AsyncSession, user_id: str | None, key: AssetKey) -> Asset | None:
    return await session.scalar(
        select(Asset)
        .where(Asset.owner_user_id == user_id, Asset.wanted_key == key.text)
        .with_for_update(key_share=True)
    )


async def _create(
    session: AsyncSession, user_id: str | None, key: AssetKey, settings: AssetSettings
) -> tuple[Asset, bool]:
    public_key = await _public_key(session, user_id, key)
    while True:
        asset_id = uuid.uuid7()
        made = await session.execute(
            insert(Asset)
            .values(
                id=asset_id,
                type=key.kind,
                sidecar=key.sidecar,
                s3_key=public_key,
                wanted_key=key.text,
                stem=key.stem,
                display_name=key.name,
                mime_type=key.format.mime,
                status=AssetStatus.UPLOADING,
                owner_user_id=user_id,
                visibility=settings.default_visibility,
                ever_public=settings.default_visibility == "public",
                change_seq=0,
            )
            .on_conflict_do_nothing()
            .returning(Asset.id)
        )
        if made.scalar_one_or_none():
            asset = await transitions.lock(session, asset_id)
            assert asset is not None
            return asset, True
        # Either this user began the same key at the same moment, or somebody holds the public key.
        if (own := await _own(session, user_id, key)) is not None:
            return own, False
        public_key = keys.another(key)


async def _public_key(session: AsyncSession, user_id: str | None, key: AssetKey) -> str:
    """The public key to try first. A sidecar is named after its asset's public key, so that clients find it there."""
    if key.sidecar is None:
        return key.text
    same_name = select(Asset.s3_key, Asset.owner_user_id).where(
        Asset.stem == key.stem, Asset.type == key.kind, Asset.sidecar.is_(None)
    )
    taken = False
    for s3_key, owner in await session.execute(same_name):
        if owner == user_id:
            return s3_key.rpartition(".")[0] + key.text[len(key.stem) :]
        taken = True
    return keys.another(key) if taken else key.text


async def finish(
    session: AsyncSession,
    attempt: UploadAttempt,
    stored: StoredObject,
    *,
    actor: str | None,
    origin: Origin | None = None,
) -> Asset:
    """Points the asset at the new object. Raises `UploadInterrupted` when the attempt was given up meanwhile.

    May be called again when its answer was lost.
    """
    assert attempt.asset_id is not None and attempt.key is not None
    line = await ledger.lock(session, attempt.object_key)
    asset = await transitions.lock(session, attempt.asset_id)
    if line is None or asset is None:
        raise UploadInterrupted
    try:
        if not ledger.move(line, ObjectTrigger.STORED):
            return asset
    except IllegalObjectMove as given_up:
        raise UploadInterrupted from given_up
    line.asset_id, line.attempt = asset.id, attempt.number
    if asset.object_key is not None:
        await ledger.condemn(session, asset.object_key, ObjectTrigger.REPLACED, after=ledger.READERS_GRACE)
    asset.object_key = attempt.object_key
    asset.size_bytes, asset.sha256, asset.etag = stored.size, stored.sha256, stored.etag
    asset.mime_type = attempt.key.format.mime
    asset.last_checked_at = datetime.now(UTC)
    if stored.meta is not None:
        asset.meta = stored.meta
    if asset.deleted_at is not None:
        asset.deleted_at = None
        await transitions.move(session, asset, AssetTrigger.RESTORED, actor=actor)
    if asset.sidecar is None:
        await transitions.attach_sidecars(session, asset)
        await jobs.enqueue(session, INSPECT, {"asset_id": str(asset.id), "object_key": attempt.object_key})
    await transitions.move(
        session, asset, AssetTrigger.COMPLETED, actor=actor, attempt=attempt.number, detail={"size": stored.size}
    )
    if asset.sidecar is not None:
        await session.flush()
        await transitions.refresh_owners(session, asset, actor)
    if origin is not None:
        audit.record(session, origin, "asset.uploaded", f"asset:{asset.id}", detail={"size": stored.size})
    return asset


async def fail(
    session: AsyncSession, attempt: UploadAttempt, error: ButaiError, *, actor: str | None, origin: Origin | None = None
) -> None:
    """Writes down why an attempt ended, and has its object removed. An attempt that succeeded stays as it is."""
    before = await ledger.condemn(session, attempt.object_key, ObjectTrigger.GIVEN_UP)
    if attempt.asset_id is None or before is not ObjectState.WRITING:
        return
    asset = await transitions.lock(session, attempt.asset_id)
    if asset is None:
        return
    await transitions.move(
        session,
        asset,
        AssetTrigger.UPLOAD_FAILED,
        actor=actor,
        attempt=attempt.number,
        error_code=error.code,
        error_detail=error.detail,
    )
    if origin is not None:
        audit.record(session, origin, "asset.upload", f"asset:{asset.id}", result="refused", error_code=error.code)


def checked(
    stored: StoredObject, key: AssetKey, limit: int, declared_sha256: str | None, declared_size: int | None = None
) -> StoredObject:
    """The bytes, held against what their key and their sender say. Raises `UploadRefused` of the kind that fits."""
    if stored.size > limit:
        raise FileTooLarge(f"The file has {stored.size} bytes; {limit} is the most for this kind")
    if stored.size == 0:
        raise SignatureMismatch("The file is empty")
    if declared_size is not None and declared_size != stored.size:
        raise SizeMismatch(f"{declared_size} bytes were declared, {stored.size} came")
    key.format.check(stored.head, stored.size)
    if declared_sha256 and stored.sha256 and declared_sha256.lower() != stored.sha256:
        raise ChecksumMismatch
    if key.sidecar is Sidecar.META and stored.meta is None:
        raise SignatureMismatch("The file is not a JSON object")
    return stored
