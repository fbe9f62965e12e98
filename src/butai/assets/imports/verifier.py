"""Verifies, by a HEAD, that the store has an object that a listing names. Writes nothing into the index.

A listing is out of date as soon as it is made, so each object is verified. A store that is down or refuses the
credentials ends the run after `GIVE_UP_AFTER` objects, instead of millions of failures one by one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, META_LIMIT, Sidecar, parse_meta
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.assets.storage.client import ObjectAbsent, ObjectFacts, RangeRefused, Store
from butai.assets.storage.heads import StoreHeads
from butai.errors import Code, FileTooLarge, SizeMismatch, StoreAccessDenied, Unavailable, UploadRefused
from butai.limits.token_bucket import TokenBucket

CONCURRENCY = 48
"""HEADs at a time: at 20 ms each, some 2,000 a second."""

GIVE_UP_AFTER = 100
"""Consecutive failures for a reason of the store's, after which a run ends: the store is down, or refuses us."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object that the store has. `meta`: the content of a `_meta.json`, None for others and for an unchanged one."""

    facts: ObjectFacts
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NotImportable:
    """Why an object cannot be imported. `reason` is a stable code; `gone`: the store answered as for an absent key."""

    reason: str
    detail: str = ""
    gone: bool = False


class Verifier:
    """Verifies objects, at most `CONCURRENCY` at a time and `rate` a second (None: no limit). `check_content`: also
    compares a file's first bytes with its name."""

    def __init__(self, store: Store, *, check_content: bool, rate: float | None) -> None:
        self._store = store
        self._check_content = check_content
        self._pace = TokenBucket(rate or 0, burst=0)
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._reached = False
        self._failed_in_a_row = 0
        self._denied = False
        self._refused = False
        self._asking_canary = asyncio.Lock()

    async def verify(
        self, object_key: str, key: AssetKey, before: tuple[int | None, str | None] | None
    ) -> FoundObject | NotImportable:
        """Verifies one object. `before`: size and ETag of the index. Never raises for the store's errors."""
        async with self._slots:
            if await self._gave_up():
                # The next run verifies it.
                return NotImportable(Code.NOT_TRIED)
            await self._pace.take()
            try:
                answer = await self._read(object_key, key, before)
            except ObjectAbsent:
                answer = NotImportable(Code.ABSENT, gone=True)
            except StoreAccessDenied:
                # AWS answers 403 for an absent key, too, to callers who may not list.
                self._failed_in_a_row += not self._reached
                self._denied = True
                return NotImportable(Code.DENIED_OR_ABSENT, gone=True)
            except Unavailable as error:
                self._failed_in_a_row += 1
                self._denied = False
                return NotImportable(error.code, error.detail)
            except UploadRefused as error:
                answer = NotImportable(error.code, error.detail)
            self._reached, self._failed_in_a_row = True, 0
            return answer

    async def _read(
        self, object_key: str, key: AssetKey, before: tuple[int | None, str | None] | None
    ) -> FoundObject | NotImportable:
        facts = await self._store.head(object_key)
        if facts.size == 0:
            return NotImportable(Code.EMPTY)
        if facts.archived:
            return NotImportable(Code.ARCHIVED)
        if facts.coding:
            # Its bytes are not the file's, and a reader would be told of no coding.
            return NotImportable(Code.CODED, facts.coding)
        meta = None
        try:
            if key.sidecar is Sidecar.META and before != (facts.size, facts.etag):
                if facts.size > META_LIMIT:
                    raise FileTooLarge(f"The file has {facts.size} bytes; {META_LIMIT} is the most for a _meta.json")
                meta = parse_meta(await self._store.read(object_key, 0, META_LIMIT))
            if self._check_content:
                key.format.check(await self._store.read(object_key, 0, HEAD_BYTES), facts.size)
        except RangeRefused:
            raise SizeMismatch("The object changed while it was read") from None
        return FoundObject(facts, meta)

    async def reason_to_stop(self) -> str:
        """Why the run cannot go on, in one line; empty while it can."""
        if not await self._gave_up():
            return ""
        if self._refused:
            return f"the store refused all of the first {self._failed_in_a_row} objects: butai doctor shows why"
        return f"the store has not answered for {self._failed_in_a_row} objects in a row: run this again when it does"

    async def _gave_up(self) -> bool:
        if self._failed_in_a_row < GIVE_UP_AFTER or not self._denied:
            return self._failed_in_a_row >= GIVE_UP_AFTER
        async with self._asking_canary:
            if self._failed_in_a_row >= GIVE_UP_AFTER and not self._refused and await self._canary_readable():
                # The credentials are valid: the listing only begins with objects that are gone.
                self._reached, self._failed_in_a_row = True, 0
            self._refused = self._failed_in_a_row >= GIVE_UP_AFTER
        return self._refused

    async def _canary_readable(self) -> bool:
        """Whether the store lets us read an object of our own, or write it where it is not there yet."""
        canary = Canary(StoreHeads(self._store, rate=0), self._store.prefix)
        try:
            await canary.prepare(self._store)
        except StoreUnreliable:
            return False
        return True
