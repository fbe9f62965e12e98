"""SHA-256 on the way, for uploads that one process carries from their first byte to their last. Kept by `writing`.

A digest cannot be stored and taken up elsewhere, so an upload that changes its process is read back once at its end.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from uuid import UUID

MOST = 1000
"""Uploads whose digest is kept; a few hundred bytes each."""


class Digests:
    """The digest of each upload's beginning, and how many bytes that is."""

    def __init__(self) -> None:
        self._kept: OrderedDict[UUID, tuple[int, hashlib._Hash]] = OrderedDict()

    def at(self, upload_id: UUID, offset: int) -> hashlib._Hash | None:
        """The digest of the first `offset` bytes, to go on with; None when this process does not have it."""
        if offset == 0:
            return hashlib.sha256()
        kept = self._kept.get(upload_id)
        return kept[1].copy() if kept is not None and kept[0] == offset else None

    def keep(self, upload_id: UUID, offset: int, digest: hashlib._Hash | None) -> None:
        """Keeps a copy; None forgets."""
        self._kept.pop(upload_id, None)
        if digest is not None:
            self._kept[upload_id] = (offset, digest.copy())
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def forget(self, upload_id: UUID) -> None:
        """The upload is over."""
        self._kept.pop(upload_id, None)
