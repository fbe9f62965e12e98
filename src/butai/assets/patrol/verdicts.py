"""Judges an asset's object by the store's answer. Pure.

On AWS a HEAD of an absent key is answered 404 only to callers who may list the bucket; others get 403, and a HEAD has
no body that gives the reason. A run therefore first finds out which kind of store it has (`assets.storage.canary`), and
the rules differ:

    store           answer  verdict
    shows absence   404     lost, once a second probe confirms it
    shows absence   403     undecided: a permission is broken, not a file
    hides absence   403     suspect; lost once it has been suspect for at least `recheck`
    either          200, archived  as absent: no reader can have it until it is restored
    either          200     found; with another size or ETag a mismatch, and the asset's status stays
    either          others  undecided: 5xx, time-outs and throttling are never a finding
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from butai.assets.storage.answers import HeadAnswer, HeadKind


@dataclass(frozen=True, slots=True)
class IndexedObject:
    """An asset's object as the index has it. `id` is the asset's, `status` its `ready` or `missing`, `size` in bytes;
    `suspected_at`: since when the object is suspect; `used_at`: when a reader last got it."""

    id: UUID
    object_key: str
    status: str
    size: int | None
    etag: str | None
    suspected_at: datetime | None = None
    used_at: datetime | None = None


class Verdict(StrEnum):
    """The meaning of one answer for one asset."""

    FOUND = "found"
    RECOVERED = "recovered"
    MISMATCH = "mismatch"
    SUSPECT = "suspect"
    LOST = "lost"
    STILL_MISSING = "still_missing"
    UNDECIDED = "undecided"


ADVERSE = frozenset({Verdict.SUSPECT, Verdict.LOST})
"""Verdicts against an asset that was ready. Each needs a second probe before anything is written."""


def judge(row: IndexedObject, answer: HeadAnswer, *, hides_absence: bool, now: datetime, recheck: timedelta) -> Verdict:
    """The verdict on one object by one answer. `hides_absence`: the store answers 403 for an absent key; `recheck`: the
    time an object must have been suspect before a 403 means lost."""
    if answer.kind is HeadKind.PRESENT:
        # A row without size or ETag (a copy at a store that returned none) matches any.
        same = row.size in (None, answer.size) and (not row.etag or not answer.etag or row.etag == answer.etag)
        if not same:
            return Verdict.MISMATCH
        return Verdict.FOUND if row.status == "ready" else Verdict.RECOVERED
    absent = answer.kind in (HeadKind.ABSENT, HeadKind.ARCHIVED)
    denied = answer.kind is HeadKind.DENIED and hides_absence
    if not absent and not denied:
        return Verdict.UNDECIDED
    if row.status != "ready":
        return Verdict.STILL_MISSING
    if absent:
        return Verdict.LOST
    long_suspect = row.suspected_at is not None and row.suspected_at <= now - recheck
    return Verdict.LOST if long_suspect else Verdict.SUSPECT


MASS_MINIMUM = 20
"""Adverse verdicts of one batch that count as true losses for any size of the batch."""

MASS_SHARE = 0.02


def is_mass_loss(adverse: int, probed: int) -> bool:
    """Whether so many adverse verdicts among `probed` objects point at a fault of the store rather than at lost
    files."""
    return adverse > max(MASS_MINIMUM, MASS_SHARE * probed)
