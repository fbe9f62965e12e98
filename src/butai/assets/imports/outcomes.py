"""Options and results of an import. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from butai.assets.imports.listing_formats import ListedObject


class Outcome(StrEnum):
    """The outcome of one listed object."""

    ADDED = "added"
    UPDATED = "updated"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ImportVerdict:
    """The outcome of one listed object, and why. `reason` is a stable code, empty for an object that was added."""

    entry: ListedObject
    outcome: Outcome
    reason: str = ""
    detail: str = ""


@dataclass(slots=True)
class Tally:
    """The progress of a run: objects `scanned`, and counts by outcome and reason."""

    scanned: int = 0
    counts: Counter[tuple[Outcome, str]] = field(default_factory=Counter)

    def of(self, outcome: Outcome) -> int:
        """The number of objects with this outcome, for all reasons."""
        return sum(count for (kind, _), count in self.counts.items() if kind is outcome)


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """Options of a run. `owner` None: the files belong to the studio, and only operators change them. `strip_prefix` is
    removed from an object's key to get the public key, `add_prefix` put before a listed key to get the object's; `rate`
    is HEADs a second, None for no limit."""

    visibility: str
    owner: str | None = None
    strip_prefix: str = ""
    add_prefix: str = ""
    check_content: bool = False
    rate: float | None = None
    dry_run: bool = False


class ImportStopped(Exception):
    """The run cannot go on. The message is one line for an operator; rows written so far stay."""
