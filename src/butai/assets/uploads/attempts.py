"""The end of an upload in the index: an attempt's object becomes the asset's, or is given up. Each in one
transaction."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.assets import ledger, moderation, transitions
from butai.assets.keys import AssetKey
from butai.assets.kinds import Sidecar
from butai.assets.models import Asset
from butai.assets.object_states import IllegalObjectMove, ObjectState, ObjectTrigger
from butai.assets.states import AssetTrigger
from butai.audit import Origin
from butai.errors import (
    ButaiError,
    ChecksumMismatch,
    FileTooLarge,
    SignatureMismatch,
    SizeMismatch,
    UploadCancelled,
    UploadInterrupted,
)

INSPECT = "assets.inspect"
"""The task that reads facts from inside a file; its body is in `contents`, a layer above."""


@dataclass(slots=True)
class UploadAttempt:
    """One attempt to write an asset's bytes, the `number`th of it. `asset_id` is None while the key is unknown."""

    object_key: str
    asset_id: UUID | None = None
    number: int = 0
    key: AssetKey | None = None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Complete bytes in the store. `size` in bytes; `sha256` in hexadecimal, None where it is made later; `head` the
    file's beginning; `meta` the parsed `_meta.json`."""

    size: int
    sha256: str | None
    etag: str
    head: bytes
    meta: dict[str, Any] | None = None


async def finish(
    session: AsyncSession,
    attempt: UploadAttempt,
    stored: StoredObject,
    *,
    actor: str | None,
    origin: Origin | None = None,
) -> Asset:
    """Points the asset at the new object. Idempotent. Raises `UploadInterrupted` when the attempt was given up
    meanwhile, `UploadCancelled` when the asset was put into the trash after the attempt had begun, `TakenDown` for a file
    or public bytes that an operator has taken down.
    A user's upload calls `quotas.settle` before it, in the same transaction."""
    assert attempt.asset_id is not None
    assert attempt.key is not None
    line = await ledger.lock(session, attempt.object_key)
    if attempt.key.sidecar is None:
        await moderation.lock_owner(session, attempt.asset_id)
    asset = await transitions.lock(session, attempt.asset_id)
    if line is None or asset is None:
        raise UploadInterrupted
    try:
        if not ledger.move(line, ObjectTrigger.STORED):
            return asset
    except IllegalObjectMove as given_up:
        raise UploadInterrupted from given_up
    if asset.deleted_at is not None and attempt.number <= await transitions.trashed_after(session, asset):
        raise UploadCancelled("The file was deleted while it was being uploaded")
    line.asset_id, line.attempt = asset.id, attempt.number
    if asset.object_key is not None:
        await ledger.condemn(
            session, asset.object_key, ObjectTrigger.REPLACED, after=ledger.READERS_GRACE, held=asset.size_bytes
        )
    asset.object_key = attempt.object_key
    asset.size_bytes, asset.sha256, asset.etag = stored.size, stored.sha256, stored.etag
    await moderation.check_public(session, asset)
    asset.mime_type = attempt.key.format.mime_of(stored.head)
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
        await transitions.refresh_main(session, asset, actor)
    if origin is not None:
        audit.record(session, origin, "asset.uploaded", f"asset:{asset.id}", detail={"size": stored.size})
    return asset


async def fail(
    session: AsyncSession, attempt: UploadAttempt, error: ButaiError, *, actor: str | None, origin: Origin | None = None
) -> None:
    """Records why an attempt ended, and condemns its object. No-op for an attempt that succeeded. Idempotent."""
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
        # The asset's own events have each attempt.
        detail = {"asset": str(asset.id), "key": asset.wanted_key, "attempt": attempt.number}
        await audit.count(session, origin, "asset.upload", None, result="refused", error_code=error.code, detail=detail)


def checked(
    stored: StoredObject, key: AssetKey, limit: int, declared_sha256: str | None, declared_size: int | None = None
) -> StoredObject:
    """Checks bytes against their key and their sender's declaration; returns them. Raises the `UploadRefused` that
    fits."""
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
