"""What the store's answer about one object means. Pure: `looking` asks, `recording` writes.

On AWS a HEAD of an absent key is answered 404 only to those who may list the bucket; to others it is 403, and a HEAD has
no body to say why. So a run finds out first which kind of store it has (`Canary` in `looking`), and the rules differ:

    store           answer  means
    shows absence   404     gone, once a second look says so too
    shows absence   403     nothing: a right is broken, not a file
    hides absence   403     suspect; gone, when it was suspect at least `recheck` ago
    either          200     there; other size or ETag: a mismatch, and the state stays
    either          others  nothing: 5xx, time-outs and throttling are never a finding
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from butai.assets.storage.answers import HeadAnswer, HeadKind


@dataclass(frozen=True, slots=True)
class Row:
    """What the index says of an object. `status` is `ready` or `missing`; `suspected_at`: since when it is suspect."""

    id: UUID
    object_key: str
    status: str
    size: int | None
    etag: str | None
    suspected_at: datetime | None = None
    used_at: datetime | None = None


class Ruling(StrEnum):
    """What is to be done with a row."""

    FOUND = "found"
    RECOVERED = "recovered"
    MISMATCH = "mismatch"
    SUSPECT = "suspect"
    LOST = "lost"
    STILL_MISSING = "still_missing"
    UNDECIDED = "undecided"


GRAVE = frozenset({Ruling.SUSPECT, Ruling.LOST})
"""Rulings against a row that was well. They are looked at again before anything is written."""


def rule(row: Row, answer: HeadAnswer, *, hides_absence: bool, now: datetime, recheck: timedelta) -> Ruling:
    """The ruling on one row by one answer."""
    if answer.kind is HeadKind.PRESENT:
        # A row without size or ETag (a copy whose store told none) agrees with any.
        same = row.size in (None, answer.size) and (not row.etag or not answer.etag or row.etag == answer.etag)
        if not same:
            return Ruling.MISMATCH
        return Ruling.FOUND if row.status == "ready" else Ruling.RECOVERED
    absent = answer.kind is HeadKind.ABSENT
    denied = answer.kind is HeadKind.DENIED and hides_absence
    if not absent and not denied:
        return Ruling.UNDECIDED
    if row.status != "ready":
        return Ruling.STILL_MISSING
    if absent:
        return Ruling.LOST
    long_suspect = row.suspected_at is not None and row.suspected_at <= now - recheck
    return Ruling.LOST if long_suspect else Ruling.SUSPECT


LEAST_MASS = 20
MASS_SHARE = 0.02


def is_mass(grave: int, looked: int) -> bool:
    """Whether so many rows of one batch speak of the store rather than of the files."""
    return grave > max(LEAST_MASS, MASS_SHARE * looked)
