"""Tests how far the store's answers can be trusted, by one object that must exist and one key that cannot.

On AWS a HEAD of an absent key is answered 403, not 404, to a caller without the right to list: alone, neither answer
proves anything.
"""

from __future__ import annotations

import uuid

from butai.assets.storage.answers import HeadAnswer, HeadKind
from butai.assets.storage.client import BytesPayload, Store
from butai.assets.storage.heads import Heads
from butai.errors import Code, Unavailable


class StoreUnreliable(Exception):
    """The store's answers cannot be trusted now. `code` is that of the alert; `detail` is a sentence for operators."""

    def __init__(self, detail: str, *, code: Code = Code.PATROL_UNRELIABLE) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Canary:
    """The pair of keys: `key`, an object of our own that must exist, and a random one that cannot."""

    def __init__(self, heads: Heads, prefix: str) -> None:
        self._heads = heads
        self.key = f"{prefix}butai/patrol/canary"
        self._absent = f"{prefix}butai/patrol/absent-"

    async def prepare(self, store: Store) -> bool:
        """Writes our own object where it is not there yet, then probes. Raises `StoreUnreliable`."""
        own = await self._heads.head(self.key)
        if own.kind is not HeadKind.PRESENT:
            try:
                await store.put(self.key, BytesPayload(b"canary"), "text/plain")
            except Unavailable as error:
                raise StoreUnreliable(f"our own object {self.key} cannot be written: {error.detail}") from error
        return await self.probe()

    async def probe(self) -> bool:
        """Returns whether the store hides absent keys (403 in place of 404). Raises `StoreUnreliable`."""
        own = await self._heads.head(self.key)
        if own.kind is not HeadKind.PRESENT:
            raise StoreUnreliable(f"our own object {self.key} must exist, and the store answers {describe(own)}")
        none = await self._heads.head(f"{self._absent}{uuid.uuid4().hex}")
        if none.kind not in (HeadKind.ABSENT, HeadKind.DENIED):
            raise StoreUnreliable(f"a key that cannot exist must be absent, and the store answers {describe(none)}")
        return none.kind is HeadKind.DENIED


def describe(answer: HeadAnswer) -> str:
    """An answer in words, for an operator."""
    return {
        HeadKind.PRESENT: "200: it exists",
        HeadKind.ABSENT: "404: it is absent",
        HeadKind.ARCHIVED: "200: it is archived",
        HeadKind.DENIED: "403: access denied",
        HeadKind.UNCLEAR: f"nothing clear ({answer.code})",
    }[answer.kind]
