"""Writes one request's bytes into the store, in parts, or as pieces into the database while they are too few for one;
each step is recorded before the next begins."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.assets import keys, ledger
from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES
from butai.assets.tus import pieces, transitions
from butai.assets.tus.digests import Digests
from butai.assets.tus.models import ResumableUpload
from butai.assets.tus.protocol import Checksum
from butai.assets.tus.states import ResumableTrigger
from butai.assets.tus.task_names import FINISH, FINISH_AFTER
from butai.assets.uploads.opening import UploadTools
from butai.assets.uploads.part_buffers import Digest, Part
from butai.errors import ClientDisconnected, InvalidRequest, Unavailable, UploadChecksumWrong, UploadTaken

log = structlog.get_logger(__name__)

LEAST_PART = 5 * 1024**2
"""S3 takes no smaller part, except as the last."""


class Writer:
    """Writes from `row.upload_offset` on. `offset`: bytes that are durable; `parts`: [number, ETag, bytes] of each.

    `head`: the file's first bytes, while there are fewer than `HEAD_BYTES`.
    """

    def __init__(
        self,
        tools: UploadTools,
        digests: Digests,
        row: ResumableUpload,
        head: bytes,
        store_upload_id: str | None,
        declared: Checksum | None,
    ) -> None:
        self._tools = tools
        self._digests = digests
        self._row = row
        self._store_upload_id = store_upload_id
        self._declared = declared
        self._checking = hashlib.new(declared.algorithm, usedforsecurity=False) if declared else None
        self.number = row.writer
        self.offset = row.upload_offset
        self.expires_at = row.expires_at
        self.parts: list[list[Any]] = list(row.parts)
        self._received = row.upload_offset
        self._digest = digests.at(row.id, row.upload_offset)
        self._recorded = len(self.parts)
        self._filling: Part = tools.memory.take()
        self._kept = row.upload_offset - self._received_in_parts()
        """Bytes before `_filling` that are in pieces; 0 once they have been read into it."""
        self._sending: tuple[Part, asyncio.Task[None]] | None = None
        self._head = head if row.upload_offset < HEAD_BYTES else None
        """The file's beginning, until it has been checked; None afterwards."""

    async def take(self, chunks: AsyncIterator[bytes], key: AssetKey) -> None:
        """Takes one request's body. Received bytes are durable when it returns, and when it raises
        `ClientDisconnected`.

        With a declared checksum, either all of the body is durable or none. Raises `UploadTaken`,
        `UploadChecksumWrong`, `InvalidRequest`, `UploadRefused`, and the store's errors.
        """
        try:
            await self._take(chunks, key)
        finally:
            self._tools.memory.give(self._filling)
            if self._sending is not None:
                part, task = self._sending
                task.cancel()
                # Not in the task itself: a task that is cancelled before it starts never runs its `finally`.
                task.add_done_callback(lambda _: self._tools.memory.give(part))
                await asyncio.gather(task, return_exceptions=True)

    @property
    def taken(self) -> int:
        """Bytes of this request so far."""
        return self._received - self._row.upload_offset

    async def _take(self, chunks: AsyncIterator[bytes], key: AssetKey) -> None:
        gone: ClientDisconnected | None = None
        try:
            async for chunk in chunks:
                await self._write(chunk, key)
        except ClientDisconnected as error:
            if self._declared is not None:
                raise
            gone = error
        await self._sent()
        if (
            self._checking is not None
            and self._declared is not None
            and not hmac.compare_digest(self._checking.digest(), self._declared.digest)
        ):
            raise UploadChecksumWrong
        await self._rest()
        if gone is not None:
            raise gone

    async def _write(self, chunk: bytes, key: AssetKey) -> None:
        self._received += len(chunk)
        if self._received > self._row.upload_length:
            raise InvalidRequest(f"More than the {self._row.upload_length} bytes that were declared")
        if self._head is not None:
            self._head = (self._head + chunk)[:HEAD_BYTES]
            if len(self._head) == HEAD_BYTES:
                # A wrong file is refused before the rest of it is transferred.
                key.format.check(self._head, self._row.upload_length)
                self._head = None
        if self._checking is not None:
            self._checking.update(chunk)
        if self._kept and (
            self._received == self._row.upload_length or self._kept + len(self._filling) + len(chunk) >= LEAST_PART
        ):
            await self._read_kept()
        view = memoryview(chunk)
        while view:
            taken = self._filling.write(view)
            if self._digest is not None:
                self._digest.update(view[:taken])
            view = view[taken:]
            if self._filling.full and view:
                await self._send()

    async def _read_kept(self) -> None:
        """Puts what earlier requests left before this one's bytes: together they are enough for a part."""
        async with self._tools.database.transaction() as session:
            kept = await pieces.read(session, self._row.id)
        if len(kept) != self._kept:
            raise UploadTaken
        part, self._kept = self._tools.memory.take(), 0
        part.write(kept)
        part.write(self._filling.read(0, len(self._filling)))
        self._tools.memory.give(self._filling)
        self._filling = part

    async def _send(self) -> None:
        """Sends the filled part while the next one fills; one at a time, so that they are committed in order."""
        await self._sent()
        part, self._filling = self._filling, self._tools.memory.take()
        received = self._received_in_parts() + len(part)
        digest = self._digest.copy() if self._digest is not None else None
        self._sending = part, asyncio.create_task(self._store(part, received, digest))

    def _received_in_parts(self) -> int:
        return sum(size for _, _, size in self.parts)

    async def _sent(self) -> None:
        if self._sending is not None:
            part, task = self._sending
            await task
            # Before the next one is taken: a callback of the task may run later, and an upload would have a third part.
            self._sending = None
            self._tools.memory.give(part)

    async def _store(self, part: Part, offset: int, digest: Digest | None) -> None:
        number = await self._reserve()
        upload_id = await self._open()
        etag = await self._tools.store.upload_part(self._row.object_key, upload_id, number, part)
        self.parts.append([number, etag, len(part)])
        if self._declared is None:
            await self._commit(offset, b"")
            self._digests.keep(self._row.id, offset, digest)

    async def _rest(self) -> None:
        """Makes the rest durable: as a part if it is large enough or the last, else as a piece."""
        length, piece = len(self._filling), b""
        if length and (self._received == self._row.upload_length or length >= LEAST_PART):
            await self._send()
            await self._sent()
        else:
            piece = bytes(self._filling.read(0, length))
        if self._declared is not None or piece:
            await self._commit(self._received, piece)
        self._digests.keep(self._row.id, self._received, self._digest)

    async def _reserve(self) -> int:
        """Returns a part number that no other request has or had. Raises `UploadTaken`."""
        async with self._tools.database.transaction() as session:
            return await transitions.reserve_part(session, self._row.id, self.number)

    async def _open(self) -> str:
        """Returns the id of the store's multipart upload. Two requests may each begin one: the first in the ledger
        counts."""
        if self._store_upload_id is None:
            store, key = self._tools.store, self._row.object_key
            made = await store.create_multipart(key, keys.parse(self._row.wanted_key).format.mime)
            async with self._tools.database.transaction() as session:
                self._store_upload_id = await ledger.keep_first_upload_id(session, key, made)
            if self._store_upload_id != made:
                try:
                    await store.abort_multipart(key, made)
                except Unavailable:
                    log.warning("upload.abort_failed", object_key=key)
            if self._store_upload_id is None:
                raise UploadTaken
        return self._store_upload_id

    async def _commit(self, offset: int, piece: bytes) -> None:
        expires = datetime.now(UTC) + timedelta(hours=self._tools.settings.resumable_hours)
        async with self._tools.database.transaction() as session:
            await self._write_down(session, offset, piece, expires)
        self.offset, self.expires_at, self._recorded = offset, expires, len(self.parts)

    async def _write_down(self, session: AsyncSession, offset: int, piece: bytes, expires: datetime) -> None:
        whole = offset == self._row.upload_length
        trigger = ResumableTrigger.COMPLETED if whole else ResumableTrigger.APPENDED
        facts: dict[str, Any] = {"upload_offset": offset, "expires_at": expires}
        if len(self.parts) != self._recorded:
            facts["parts"] = self.parts
        await transitions.move(session, self._row.id, self.number, trigger, **facts)
        if "parts" in facts:
            await pieces.forget(session, self._row.id, self._received_in_parts())
        if piece:
            await pieces.append(session, self._row.id, offset - len(piece), piece)
        await ledger.renew_lease(session, self._row.object_key, expires)
        if whole:
            at = datetime.now(UTC) + FINISH_AFTER * 1.5
            args = {"upload_id": str(self._row.id)}
            await jobs.enqueue(session, FINISH, args, at=at, turn=f"{FINISH}:{self._row.user_id}")
