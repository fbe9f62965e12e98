"""Tells how far the store's answers can be believed: one object that must be there, and one key that cannot be."""

from __future__ import annotations

import uuid

from butai.assets.storage.answers import HeadAnswer, HeadKind
from butai.assets.storage.heads import Heads
from butai.errors import Code


class StoreUnreliable(Exception):
    """The store's answers cannot be believed now. `code` is the alert's; `detail` is for an operator."""

    def __init__(self, detail: str, *, code: Code = Code.PATROL_UNRELIABLE) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


class Canary:
    """An object of our own that must be there, and a key that cannot be: what the store says of these two tells how far
    to believe what it says of others."""

    def __init__(self, heads: Heads, prefix: str) -> None:
        self._heads = heads
        self.key = f"{prefix}butai/patrol/canary"
        self._absent = f"{prefix}butai/patrol/absent-"

    async def probe(self) -> bool:
        """Whether the store hides what is absent (403 in place of 404). Raises `StoreUnreliable`."""
        own = await self._heads.head(self.key)
        if own.kind is not HeadKind.PRESENT:
            raise StoreUnreliable(f"our own object {self.key} should be there, and the store says {said(own)}")
        none = await self._heads.head(f"{self._absent}{uuid.uuid4().hex}")
        if none.kind not in (HeadKind.ABSENT, HeadKind.DENIED):
            raise StoreUnreliable(f"a key that cannot exist should be absent, and the store says {said(none)}")
        return none.kind is HeadKind.DENIED


def said(answer: HeadAnswer) -> str:
    """An answer in words, for an operator."""
    return {
        HeadKind.PRESENT: "200: it is there",
        HeadKind.ABSENT: "404: it is absent",
        HeadKind.DENIED: "403: access denied",
        HeadKind.UNCLEAR: f"nothing clear ({answer.code})",
    }[answer.kind]
