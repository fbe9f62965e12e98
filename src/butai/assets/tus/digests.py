"""SHA-256 digests of unfinished uploads, kept in memory between requests.

A digest's state cannot be stored, so an upload whose requests reach several processes is read back once at its end.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from uuid import UUID

from butai.assets.uploads.part_buffers import Digest

MOST = 1000
"""Uploads whose digest is kept; a few hundred bytes each. The oldest goes first."""


class Digests:
    """For each upload, the digest of its beginning and the length of that beginning in bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[UUID, tuple[int, Digest]] = OrderedDict()

    def at(self, upload_id: UUID, offset: int) -> Digest | None:
        """Returns a copy of the digest of the first `offset` bytes; None when this process does not have it."""
        if offset == 0:
            return hashlib.sha256()
        kept = self._kept.get(upload_id)
        return kept[1].copy() if kept is not None and kept[0] == offset else None

    def keep(self, upload_id: UUID, offset: int, digest: Digest | None) -> None:
        """Keeps a copy of the digest of the first `offset` bytes; with None, forgets the upload."""
        self._kept.pop(upload_id, None)
        if digest is not None:
            self._kept[upload_id] = (offset, digest.copy())
            if len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def forget(self, upload_id: UUID) -> None:
        """Forgets an upload that is over. Idempotent."""
        self._kept.pop(upload_id, None)
