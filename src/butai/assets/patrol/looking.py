"""One batch of the patrol: asks the store, weighs the answers, and looks again before it believes anything bad.

Knows no database: `patrolling` hands in rows and writes what comes out. A ruling against a healthy file is worse than one
that comes an hour late, so every doubt ends without one.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from butai.assets.patrol.heads import Heads
from butai.assets.patrol.verdicts import GRAVE, Answer, Kind, Row, Ruling, is_mass, rule

MOST_UNDECIDED = 0.5
"""Of a batch: beyond this share without a clear answer the store is not one to ask now."""


class PatrolStopped(Exception):
    """A run cannot go on, and this batch changes no row. `code` is the alert's; the text is for an operator."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail


def unreliable(detail: str) -> PatrolStopped:
    """The store's answers cannot be believed now."""
    return PatrolStopped("patrol_unreliable", detail)


class Canary:
    """An object of our own that must be there, and a key that cannot be: what the store says of these two tells how far
    to believe what it says of others."""

    def __init__(self, heads: Heads, prefix: str) -> None:
        self._heads = heads
        self.key = f"{prefix}butai/patrol/canary"
        self._absent = f"{prefix}butai/patrol/absent-"

    async def probe(self) -> bool:
        """Whether the store hides what is absent (403 in place of 404). Raises `PatrolStopped`."""
        own = await self._heads.head(self.key)
        if own.kind is not Kind.PRESENT:
            raise unreliable(f"our own object {self.key} should be there, and the store says {_said(own)}")
        none = await self._heads.head(f"{self._absent}{uuid.uuid4().hex}")
        if none.kind not in (Kind.ABSENT, Kind.DENIED):
            raise unreliable(f"a key that cannot exist should be absent, and the store says {_said(none)}")
        return none.kind is Kind.DENIED


def _said(answer: Answer) -> str:
    return {
        Kind.PRESENT: "200: it is there",
        Kind.ABSENT: "404: it is absent",
        Kind.DENIED: "403: access denied",
        Kind.UNCLEAR: f"nothing clear ({answer.code})",
    }[answer.kind]


@dataclass(slots=True)
class Looked:
    """What became of a batch: each row with its ruling and the answer behind it."""

    rows: list[tuple[Row, Ruling, Answer]]
    counts: Counter[Ruling] = field(default_factory=Counter)


async def look(
    rows: Sequence[Row], heads: Heads, canary: Canary, *, hides_absence: bool, now: datetime, recheck: timedelta
) -> Looked:
    """Rules on each of `rows`. Raises `PatrolStopped`: then none of these rows may change.

    A ruling against a healthy row stands when a second look says the same, with the canaries good before and after it:
    an outage that begins or ends anywhere in between shows in one of them.
    """

    def ruled(row: Row, answer: Answer) -> Ruling:
        return rule(row, answer, hides_absence=hides_absence, now=now, recheck=recheck)

    answers = await heads.many([row.object_key for row in rows])
    found = [(row, ruled(row, answer), answer) for row, answer in zip(rows, answers, strict=True)]
    undecided = sum(ruling is Ruling.UNDECIDED for _, ruling, _ in found)
    if undecided > max(1, MOST_UNDECIDED * len(rows)):
        codes = Counter(_said(answer) for _, ruling, answer in found if ruling is Ruling.UNDECIDED)
        raise unreliable(
            f"{undecided} of {len(rows)} objects had no clear answer; mostly: {codes.most_common(1)[0][0]}"
        )
    grave = sum(ruling in GRAVE for _, ruling, _ in found)
    if grave:
        await _same(canary, hides_absence)
        if is_mass(grave, len(rows)):
            raise PatrolStopped(
                "patrol_mass_missing", f"{grave} of {len(rows)} objects seem to be gone: nothing was marked"
            )
    looked = Looked([])
    for row, ruling, answer in found:
        if ruling in GRAVE:
            answer = await heads.head(row.object_key)
            ruling = ruled(row, answer)
            if ruling in GRAVE:
                await _same(canary, hides_absence)
        looked.rows.append((row, ruling, answer))
        looked.counts[ruling] += 1
    return looked


async def _same(canary: Canary, hides_absence: bool) -> None:
    if await canary.probe() is not hides_absence:
        raise unreliable("the store hides what is absent at one moment, and at another it does not")
