"""What the store says of an object that a listing names. Called by `importing`; writes nothing into the index.

A listing is old as soon as it is made, so each object is asked for. The pace is bounded, and a store that is down or
refuses us is found out soon, instead of failing millions of objects one by one.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from butai.assets.keys import AssetKey
from butai.assets.kinds import HEAD_BYTES, META_LIMIT, Sidecar, parse_meta
from butai.assets.storage.client import BytesPayload, ObjectAbsent, ObjectFacts, RangeRefused, Store
from butai.errors import Code, FileTooLarge, SizeMismatch, StoreAccessDenied, Unavailable, UploadRefused

CONCURRENCY = 48
"""HEADs on their way at a time: enough to hide 20 ms to a store of 2,000 a second."""

GIVE_UP_AFTER = 100
"""Objects in a row that fail for a reason that is not theirs, before a run ends: the store is down, or refuses us."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """An object that is there. `meta` is the content of a `_meta.json`, None for others and for one that is as before."""

    facts: ObjectFacts
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class NotImportable:
    """Why an object cannot be imported. `reason` is a stable code; `gone`: the store does not have it, or says so."""

    reason: str
    detail: str = ""
    gone: bool = False


class Verifier:
    """Asks for objects, as fast as is allowed. `rate` is objects in a second, None for no limit."""

    def __init__(self, store: Store, *, check_content: bool, rate: float | None) -> None:
        self._store = store
        self._check_content = check_content
        self._rate = rate
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._next_head = 0.0
        self._reached = False
        self._in_vain = 0
        self._denied = False
        self._refused = False
        self._doubt = asyncio.Lock()

    async def look(
        self, object_key: str, key: AssetKey, before: tuple[int | None, str | None] | None
    ) -> FoundObject | NotImportable:
        """`before`: size and ETag as the index has them. Never raises for what a store does."""
        async with self._slots:
            if await self._hopeless():
                # Nobody's fault but the store's; the next run takes it.
                return NotImportable(Code.NOT_TRIED)
            await self._pace()
            try:
                answer = await self._ask(object_key, key, before)
            except ObjectAbsent:
                answer = NotImportable(Code.ABSENT, gone=True)
            except StoreAccessDenied:
                # AWS answers so for an absent key, too, to those who may not list.
                self._in_vain += not self._reached
                self._denied = True
                return NotImportable(Code.DENIED_OR_ABSENT, gone=True)
            except Unavailable as error:
                self._in_vain += 1
                self._denied = False
                return NotImportable(error.code, error.detail)
            except UploadRefused as error:
                answer = NotImportable(error.code, error.detail)
            self._reached, self._in_vain = True, 0
            return answer

    async def _ask(
        self, object_key: str, key: AssetKey, before: tuple[int | None, str | None] | None
    ) -> FoundObject | NotImportable:
        facts = await self._store.head(object_key)
        if facts.size == 0:
            return NotImportable(Code.EMPTY)
        meta = None
        try:
            if key.sidecar is Sidecar.META and before != (facts.size, facts.etag):
                if facts.size > META_LIMIT:
                    raise FileTooLarge(f"The file has {facts.size} bytes; {META_LIMIT} is the most for a _meta.json")
                meta = parse_meta(await self._store.read(object_key, 0, META_LIMIT))
            if self._check_content:
                key.format.check(await self._store.read(object_key, 0, HEAD_BYTES), facts.size)
        except RangeRefused:
            raise SizeMismatch("The object changed while it was looked at") from None
        return FoundObject(facts, meta)

    async def _pace(self) -> None:
        if self._rate:
            now = asyncio.get_running_loop().time()
            self._next_head = max(self._next_head, now)
            wait = self._next_head - now
            self._next_head += 1 / self._rate
            await asyncio.sleep(wait)

    async def despair(self) -> str:
        """Why it makes no sense to go on, in one line; empty while it does."""
        if not await self._hopeless():
            return ""
        if self._refused:
            return f"the store refused all of the first {self._in_vain} objects: butai doctor tells why"
        return f"the store has not answered for {self._in_vain} objects in a row: run this again when it does"

    async def _hopeless(self) -> bool:
        if self._in_vain < GIVE_UP_AFTER or not self._denied:
            return self._in_vain >= GIVE_UP_AFTER
        async with self._doubt:
            if self._in_vain >= GIVE_UP_AFTER and not self._refused and await self._canary_lives():
                # So it is not us whom it refuses: the listing begins with what is no longer there.
                self._reached, self._in_vain = True, 0
            self._refused = self._in_vain >= GIVE_UP_AFTER
        return self._refused

    async def _canary_lives(self) -> bool:
        """Whether the store lets us read an object of our own, whose name is always the same."""
        canary = f"{self._store.prefix}butai/import/canary"
        try:
            await self._store.put(canary, BytesPayload(b"canary"), "text/plain")
            await self._store.head(canary)
        except (Unavailable, ObjectAbsent):
            return False
        # Without the right to delete it stays, and does no harm.
        with suppress(Unavailable):
            await self._store.delete(canary)
        return True
