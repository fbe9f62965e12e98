"""Uploads whose bytes pass through this process: streamed into the store and hashed on the way, in bounded memory.

The steps in the index are in `opening` and `attempts`.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from butai.assets import ledger
from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, META_LIMIT, AssetType, Sidecar, parse_meta, size_limit
from butai.assets.models import Asset
from butai.assets.uploads import quotas
from butai.assets.uploads.attempts import StoredObject, UploadAttempt, checked, fail, finish
from butai.assets.uploads.multipart_form import UploadForm
from butai.assets.uploads.opening import Source, UploadTools, name_upload, open_upload
from butai.assets.uploads.part_buffers import Part
from butai.audit import Origin
from butai.database import Database
from butai.errors import (
    ButaiError,
    DatabaseUnavailable,
    FileTooLarge,
    SignatureMismatch,
    Unavailable,
    UploadInterrupted,
)

log = structlog.get_logger(__name__)

PARTS_IN_FLIGHT = 2
"""Parts of one upload that are being sent while another fills: this hides the store's pause at the end of a part. With
8 MiB a part, an upload holds at most 24 MiB."""

FINISH_TRIES = 4
"""Tries of the last transaction of an upload, over about 4 s: longer than Postgres takes to restart."""


@dataclass(frozen=True, slots=True)
class Uploaded:
    """A stored and indexed file. `size` in bytes."""

    asset_id: UUID
    wanted_key: str
    mime_type: str
    size: int


async def receive(
    tools: UploadTools,
    user_id: str,
    origin: Origin,
    form: UploadForm,
    expected: int | None = None,
    *,
    operator: bool = False,
) -> Uploaded:
    """Streams the file of a form into the store, and records it in the index.

    The bytes of a form that sends its file before its key are first stored under an object of no asset. `expected`:
    bytes to reserve in the user's quota. Raises any error of an upload; its code is in the row, too.
    """
    lease = timedelta(seconds=tools.settings.upload_lease)
    key = form.early_key
    limit = (
        size_limit(tools.settings, key.kind, key.sidecar)
        if key
        else max(size_limit(tools.settings, kind, None) for kind in AssetType)
    )
    source = Source("upload", lease, size=expected, most=limit)
    async with tools.database.transaction() as session:
        attempt, _ = await open_upload(session, tools, user_id, origin, key, source, operator=operator)

    async def transfer() -> StoredObject:
        stored = await store_chunks(tools, attempt, key, form.chunks(), limit)
        final = await form.key()
        if key is None:
            named = replace(attempt)
            async with tools.database.transaction() as session:
                await name_upload(session, tools, user_id, origin, final, named, size=stored.size, operator=operator)
            # Not before it is committed: an attempt that never began must not be noted as failed.
            attempt.asset_id, attempt.number, attempt.key = named.asset_id, named.number, named.key
        return checked(stored, final, size_limit(tools.settings, final.kind, final.sidecar), form.sha256)

    asset, stored = await carry_out(tools, user_id, origin, attempt, transfer)
    return Uploaded(asset.id, asset.wanted_key, asset.mime_type, stored.size)


async def carry_out(
    tools: UploadTools,
    user_id: str | None,
    origin: Origin,
    attempt: UploadAttempt,
    transfer: Callable[[], Awaitable[StoredObject]],
) -> tuple[Asset, StoredObject]:
    """Keeps an attempt's lease while `transfer` stores and checks its bytes, and finishes it; or records why it failed.
    `user_id`: in whose quota the bytes count; None for a file without an owner.

    Raises whatever `transfer` raises, `QuotaExceeded`, and `UploadInterrupted`.
    """
    log.info("upload.began", asset_id=str(attempt.asset_id), attempt=attempt.number, user_id=user_id)
    try:
        async with _lease(tools, attempt, timedelta(seconds=tools.settings.upload_lease)):
            stored = await transfer()
            asset = await _finish_persistently(tools, user_id, attempt, stored, origin)
    except BaseException as error:
        cause = error if isinstance(error, ButaiError) else UploadInterrupted()
        if isinstance(error, Exception) and not isinstance(error, ButaiError):
            log.exception("upload.crashed", asset_id=str(attempt.asset_id))
        # The cancellation of the request must not cancel the record of it.
        await asyncio.shield(_record_failure(tools.database, attempt, cause, origin))
        raise
    log.info("upload.completed", asset_id=str(asset.id), attempt=attempt.number, size=stored.size)
    return asset, stored


async def _finish_persistently(
    tools: UploadTools, user_id: str | None, attempt: UploadAttempt, stored: StoredObject, origin: Origin
) -> Asset:
    async def settle_and_finish(session: AsyncSession) -> Asset:
        if user_id is not None:
            await quotas.settle(session, tools.settings, user_id, attempt.object_key, stored.size)
        return await finish(session, attempt, stored, actor=origin.actor, origin=origin)

    return await tools.database.persist(settle_and_finish, tries=FINISH_TRIES)


async def _record_failure(database: Database, attempt: UploadAttempt, error: ButaiError, origin: Origin) -> None:
    log.info("upload.failed", asset_id=str(attempt.asset_id), attempt=attempt.number, error_code=error.code)
    try:
        async with database.transaction() as session:
            await fail(session, attempt, error, actor=origin.actor, origin=origin)
    except DatabaseUnavailable:
        # The lease will expire, and the sweep will record it.
        log.warning("upload.failure_not_written", asset_id=str(attempt.asset_id))


@asynccontextmanager
async def _lease(tools: UploadTools, attempt: UploadAttempt, lease: timedelta) -> AsyncGenerator[None]:
    """Renews the attempt's lease until the block ends."""

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease.total_seconds() / 3)
            try:
                async with tools.database.transaction() as session:
                    await ledger.renew_lease(session, attempt.object_key, datetime.now(UTC) + lease)
            except DatabaseUnavailable:
                log.warning("upload.lease_not_renewed", object_key=attempt.object_key)

    task = asyncio.create_task(renew())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def store_chunks(
    tools: UploadTools,
    attempt: UploadAttempt,
    key: AssetKey | None,
    chunks: AsyncIterator[bytes],
    limit: int,
    *,
    why: str = "the most for this kind",
) -> StoredObject:
    """Streams the chunks into the attempt's object. `why`: of the limit, in words. Raises `FileTooLarge`,
    `SignatureMismatch` before all is sent."""
    outgoing = _Outgoing(tools, attempt, key.format.mime if key else "application/octet-stream")
    size, head, head_checked = 0, b"", False
    try:
        async for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise FileTooLarge(f"The file is larger than {limit} bytes, {why}")
            if not head_checked:
                head = (head + chunk[: HEAD_BYTES - len(head)]) if len(head) < HEAD_BYTES else head
                if len(head) == HEAD_BYTES:
                    # A wrong file is refused before the rest of it is transferred.
                    head_checked = True
                    if key is not None:
                        key.format.check(head, None)
            await outgoing.write(chunk)
        # A `_meta.json` is parsed whole; while the key is unknown, any file that is small enough may be one.
        body = outgoing.small_body() if size <= META_LIMIT and (key is None or key.sidecar is Sidecar.META) else None
        meta = None
        if body is not None:
            try:
                meta = parse_meta(body)
            except SignatureMismatch:
                if key is not None:
                    raise
        etag = await outgoing.close()
        return StoredObject(size, outgoing.sha256, etag, head, meta)
    except BaseException:
        await asyncio.shield(outgoing.abort())
        raise
    finally:
        outgoing.release()


class _Outgoing:
    """The object being written: one PUT when it fits a part, else a multipart upload with its id in the ledger."""

    def __init__(self, tools: UploadTools, attempt: UploadAttempt, mime: str) -> None:
        self._tools = tools
        self._attempt = attempt
        self._mime = mime
        self._upload_id: str | None = None
        self._opening: asyncio.Task[str] | None = None
        self._etags: dict[int, str] = {}
        self._filling: Part | None = None
        self._sending: deque[tuple[Part, asyncio.Task[None]]] = deque()
        self._sent = 0
        self._digest = hashlib.sha256()
        self._hashed: asyncio.Task[None] | None = None

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    async def write(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            if self._filling is None:
                self._filling = self._tools.memory.take()
            view = view[self._filling.write(view) :]
            if self._filling.full and view:
                await self._send_filled()

    def small_body(self) -> bytes:
        return b"" if self._filling is None else bytes(self._filling.read(0, len(self._filling)))

    async def close(self) -> str:
        """Sends the rest; returns the object's ETag."""
        store, key = self._tools.store, self._attempt.object_key
        if self._filling is None:
            self._filling = self._tools.memory.take()
        if self._upload_id is None:
            _, etag = await asyncio.gather(
                asyncio.to_thread(self._filling.hash_into, self._digest), store.put(key, self._filling, self._mime)
            )
            return etag
        await self._send_filled()
        while self._sending:
            await self._oldest_sent()
        return await store.complete_multipart(
            key, self._upload_id, [(n + 1, self._etags[n + 1]) for n in range(self._sent)]
        )

    async def abort(self) -> None:
        """Stops sending and removes the parts from the store; while the store is unavailable, the removal job does it
        later."""
        for _, task in self._sending:
            task.cancel()
        await asyncio.gather(*(task for _, task in self._sending), return_exceptions=True)
        try:
            if self._opening is not None:
                # Also when the upload was cancelled while the store was about to answer with the id.
                upload_id = await self._opening
                await self._tools.store.abort_multipart(self._attempt.object_key, upload_id)
        except Unavailable:
            log.warning("upload.abort_left_to_job", object_key=self._attempt.object_key)

    def release(self) -> None:
        """Gives all parts back. No part may be in transfer any more."""
        for part in (self._filling, *(part for part, _ in self._sending)):
            if part is not None:
                self._tools.memory.give(part)
        self._filling = None
        self._sending.clear()

    async def _send_filled(self) -> None:
        if self._upload_id is None:
            self._opening = asyncio.create_task(self._open())
            self._upload_id = await asyncio.shield(self._opening)
        if len(self._sending) == PARTS_IN_FLIGHT:
            await self._oldest_sent()
        part, self._filling = self._filling, None
        assert part is not None
        self._sent += 1
        self._hashed = asyncio.create_task(self._hash(part, self._hashed))
        self._sending.append((part, asyncio.create_task(self._send(part, self._sent, self._hashed))))

    async def _open(self) -> str:
        upload_id = await self._tools.store.create_multipart(self._attempt.object_key, self._mime)
        async with self._tools.database.transaction() as session:
            await ledger.keep_upload_id(session, self._attempt.object_key, upload_id)
        return upload_id

    async def _hash(self, part: Part, before: asyncio.Task[None] | None) -> None:
        """Hashes in a thread while the part is sent, one part after another: hashing releases the interpreter's
        lock."""
        if before is not None:
            await before
        await asyncio.to_thread(part.hash_into, self._digest)

    async def _send(self, part: Part, number: int, hashed: asyncio.Task[None]) -> None:
        assert self._upload_id is not None
        _, self._etags[number] = await asyncio.gather(
            hashed, self._tools.store.upload_part(self._attempt.object_key, self._upload_id, number, part)
        )

    async def _oldest_sent(self) -> None:
        part, task = self._sending[0]
        await task
        self._sending.popleft()
        self._tools.memory.give(part)
