"""Resumable uploads: created by one process, continued and finished by any.

Requests write an upload one after another, and an earlier one may still hang in a dead connection; the newest wins by
the rules of `transitions`. All bytes before the offset are in the store or in `pieces`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import keys
from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, META_LIMIT, Sidecar, parse_meta, size_limit
from butai.assets.models import AssetObject
from butai.assets.tus import pieces, transitions
from butai.assets.tus.digests import Digests
from butai.assets.tus.models import ResumableUpload
from butai.assets.tus.pace import RequestPace
from butai.assets.tus.protocol import Checksum
from butai.assets.tus.states import ResumableState, ResumableTrigger
from butai.assets.tus.task_names import FINISH_AFTER
from butai.assets.tus.writer import Writer
from butai.assets.uploads import quotas
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, checked, fail, finish
from butai.assets.uploads.opening import Source, UploadTools, open_upload
from butai.audit import Origin, actors
from butai.errors import (
    AssetNotFound,
    ButaiError,
    FileTooLarge,
    QuotaExceeded,
    SignatureMismatch,
    TakenDown,
    UploadCancelled,
    UploadExpired,
    UploadOffsetWrong,
    UploadRefused,
    UploadTaken,
)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Resumables:
    """The dependencies of resumable uploads."""

    tools: UploadTools
    digests: Digests
    pace: RequestPace = field(default_factory=RequestPace)


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """The state of an upload as its client sees it. Sizes are bytes; `metadata` is the header as it was sent."""

    id: UUID
    offset: int
    length: int
    metadata: str
    expires_at: datetime
    asset_id: UUID | None


def _progress(row: ResumableUpload) -> UploadProgress:
    return UploadProgress(
        row.id, row.upload_offset, row.upload_length, row.metadata_header, row.expires_at, row.asset_id
    )


async def create(
    resumables: Resumables,
    user_id: str,
    origin: Origin,
    key: AssetKey,
    *,
    length: int,
    sha256: str | None,
    metadata: str,
    operator: bool = False,
) -> UploadProgress:
    """Begins an upload of `length` bytes. Raises `FileTooLarge`, `QuotaExceeded`, `RateLimited`, and `SignatureMismatch`
    for no bytes."""
    resumables.pace.check(user_id)
    settings = resumables.tools.settings
    limit = size_limit(settings, key.kind, key.sidecar)
    if length == 0:
        raise SignatureMismatch("The file is empty")
    if length > limit:
        raise FileTooLarge(f"{length} bytes were declared; {limit} is the most for this kind")
    lease = timedelta(hours=settings.resumable_hours)
    source = Source("resumable", lease, size=length, sha256=sha256)
    async with resumables.tools.database.transaction() as session:
        attempt, _ = await open_upload(session, resumables.tools, user_id, origin, key, source, operator=operator)
        assert attempt.key is not None
        row = transitions.create(
            session,
            user_id=user_id,
            asset_id=attempt.asset_id,
            object_key=attempt.object_key,
            wanted_key=attempt.key.text,
            upload_length=length,
            declared_sha256=sha256,
            metadata_header=metadata,
            expires_at=datetime.now(UTC) + lease,
        )
    log.info("upload.began", asset_id=str(attempt.asset_id), upload_id=str(row.id), user_id=user_id, size=length)
    return _progress(row)


async def _own(session: AsyncSession, upload_id: UUID, user_id: str | None) -> ResumableUpload:
    """Returns the user's row, locked; any user's with `user_id` None, for the worker. Raises `AssetNotFound`,
    `UploadExpired`."""
    row = await transitions.lock(session, upload_id)
    if row is None or (user_id is not None and row.user_id != user_id):
        raise AssetNotFound("There is no such upload")
    if row.state == ResumableState.REFUSED:
        raise UploadExpired(row.error_detail)
    if row.expires_at < datetime.now(UTC):
        raise UploadExpired("The upload was not finished in time")
    return row


async def look(resumables: Resumables, user_id: str, upload_id: UUID) -> UploadProgress:
    """Returns an upload's progress, after finishing a complete one. Raises `AssetNotFound`, `UploadExpired`, and the
    errors of finishing."""
    async with resumables.tools.database.transaction() as session:
        row = await _own(session, upload_id, user_id)
    while row.state == ResumableState.FINISHING:
        # A client that reads the full offset takes the upload for done, though it may still be refused.
        if row.updated_at + FINISH_AFTER < datetime.now(UTC):
            await finish_left(resumables, upload_id)
        await asyncio.sleep(0.2)
        async with resumables.tools.database.transaction() as session:
            row = await _own(session, upload_id, user_id)
    return _progress(row)


async def append(
    resumables: Resumables,
    user_id: str,
    origin: Origin,
    upload_id: UUID,
    *,
    offset: int,
    chunks: AsyncIterator[bytes],
    declared: Checksum | None,
) -> UploadProgress:
    """Takes one request's bytes. After the last ones the asset is ready.

    What arrived before the client disconnected is kept; with a checksum, all of the request's bytes or none. Raises
    `UploadOffsetWrong`, `UploadTaken`, `UploadChecksumWrong`, `UploadRefused` of any kind, `ClientDisconnected`, and
    `RateLimited` before a byte is taken.
    """
    resumables.pace.check(user_id)
    async with resumables.tools.database.transaction() as session:
        row = await _own(session, upload_id, user_id)
        if row.state == ResumableState.DONE:
            if offset != row.upload_length:
                raise UploadOffsetWrong(f"The upload is complete: {row.upload_length} bytes")
            return _progress(row)
        if row.state == ResumableState.OPEN and offset != row.upload_offset:
            raise UploadOffsetWrong(f"The upload is at {row.upload_offset}, the request at {offset}")
        if row.state == ResumableState.FINISHING and row.updated_at + FINISH_AFTER > datetime.now(UTC):
            raise UploadTaken("The upload is complete, and being finished")
        transitions.take_over(row)
        head = await pieces.read(session, upload_id) if 0 < row.upload_offset < HEAD_BYTES else b""
        upload_id_of_store = await session.scalar(
            select(AssetObject.upload_id).where(AssetObject.object_key == row.object_key)
        )
    writer = Writer(resumables.tools, resumables.digests, row, head, upload_id_of_store, declared)
    if row.state == ResumableState.OPEN:
        key = keys.parse(row.wanted_key)
        try:
            await writer.take(chunks, key)
        except UploadRefused as error:
            await _refuse(resumables, row, error, origin)
            raise
        finally:
            if writer.offset < row.upload_length:
                resumables.pace.count(user_id, writer.taken)
    if writer.offset == row.upload_length:
        await _finish(resumables, row, writer.number, origin, writer.parts)
    row.upload_offset, row.expires_at = writer.offset, writer.expires_at
    return _progress(row)


async def finish_left(resumables: Resumables, upload_id: UUID) -> None:
    """Finishes a complete upload whose process died. Idempotent. Raises as `append` does."""
    async with resumables.tools.database.transaction() as session:
        row = await _own(session, upload_id, None)
        if row.state != ResumableState.FINISHING:
            return
        transitions.take_over(row)
    log.info("upload.finish_taken_over", upload_id=str(upload_id))
    await _finish(resumables, row, row.writer, Origin(actors.user(row.user_id)), row.parts)


async def cancel(resumables: Resumables, user_id: str, origin: Origin, upload_id: UUID) -> None:
    """Cancels an upload: its bytes are removed, its share of the quota is free. No-op for a finished one."""
    async with resumables.tools.database.transaction() as session:
        row = await _own(session, upload_id, user_id)
        if row.state == ResumableState.DONE:
            return
        transitions.take_over(row)
    await _refuse(resumables, row, UploadCancelled(), origin)


async def _refuse(resumables: Resumables, row: ResumableUpload, error: ButaiError, origin: Origin) -> None:
    async with resumables.tools.database.transaction() as session:
        why = {"error_code": error.code, "error_detail": error.detail}
        await transitions.move(session, row.id, row.writer, ResumableTrigger.REFUSED, **why)
        await pieces.forget(session, row.id)
        await fail(session, await _attempt(session, row), error, actor=origin.actor, origin=origin)
    resumables.digests.forget(row.id)
    log.info("upload.failed", asset_id=str(row.asset_id), upload_id=str(row.id), error_code=error.code)


async def _attempt(session: AsyncSession, row: ResumableUpload) -> UploadAttempt:
    number = await session.scalar(select(AssetObject.attempt).where(AssetObject.object_key == row.object_key))
    return UploadAttempt(row.object_key, row.asset_id, number or 0, keys.parse(row.wanted_key))


async def _finish(
    resumables: Resumables, row: ResumableUpload, number: int, origin: Origin, sent: list[list[object]]
) -> None:
    """Joins the parts, checks the file, and points the asset at it."""
    row.writer = number
    key = keys.parse(row.wanted_key)
    try:
        stored = await _joined(resumables, row, key, sent)
        limit = size_limit(resumables.tools.settings, key.kind, key.sidecar)
        stored = checked(stored, key, limit, row.declared_sha256, row.upload_length)
    except UploadRefused as error:
        await _refuse(resumables, row, error, origin)
        raise
    try:
        async with resumables.tools.database.transaction() as session:
            await quotas.settle(session, resumables.tools.settings, row.user_id, row.object_key, stored.size)
            await transitions.move(session, row.id, number, ResumableTrigger.FINISHED)
            await finish(session, await _attempt(session, row), stored, actor=origin.actor, origin=origin)
    except (QuotaExceeded, TakenDown, UploadCancelled) as error:
        await _refuse(resumables, row, error, origin)
        raise
    resumables.digests.forget(row.id)
    log.info("upload.completed", asset_id=str(row.asset_id), upload_id=str(row.id), size=stored.size)


async def _joined(
    resumables: Resumables, row: ResumableUpload, key: AssetKey, sent: list[list[object]]
) -> StoredObject:
    store = resumables.tools.store
    async with resumables.tools.database.transaction() as session:
        upload_id = await session.scalar(select(AssetObject.upload_id).where(AssetObject.object_key == row.object_key))
    assert upload_id is not None
    etag = await store.complete_multipart(row.object_key, upload_id, [(int(str(n)), str(tag)) for n, tag, _ in sent])
    facts = await store.head(row.object_key)
    wanted = META_LIMIT if key.sidecar is Sidecar.META and facts.size <= META_LIMIT else HEAD_BYTES
    head = await store.read(row.object_key, 0, wanted)
    digest = resumables.digests.at(row.id, row.upload_length)
    sha256 = digest.hexdigest() if digest is not None else await _read_back(resumables, row.object_key)
    meta = parse_meta(head) if key.sidecar is Sidecar.META else None
    return StoredObject(facts.size, sha256, etag or facts.etag, head[:HEAD_BYTES], meta)


async def _read_back(resumables: Resumables, object_key: str) -> str:
    """Returns the SHA-256 of a stored object that several processes have written: a digest's state cannot be stored."""
    digest = hashlib.sha256()
    async with resumables.tools.store.open(object_key) as body:
        async for chunk in body.chunks():
            await asyncio.to_thread(digest.update, chunk)
    return digest.hexdigest()
