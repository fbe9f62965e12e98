"""One batch of the patrol: asks the store, weighs the answers, and looks again before it believes anything bad.

Knows no database: `patrolling` hands in rows and writes what comes out. A ruling against a healthy file is worse than one
that comes an hour late, so every doubt ends without one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from butai.assets.patrol.verdicts import GRAVE, Row, Ruling, is_mass, rule
from butai.assets.storage.answers import HeadAnswer
from butai.assets.storage.canary import Canary, StoreUnreliable, said
from butai.assets.storage.heads import Heads
from butai.errors import Code

MOST_UNDECIDED = 0.5
"""Of a batch: beyond this share without a clear answer the store is not one to ask now."""


@dataclass(slots=True)
class BatchResult:
    """What became of a batch: each row with its ruling and the answer behind it."""

    rows: list[tuple[Row, Ruling, HeadAnswer]]
    counts: Counter[Ruling] = field(default_factory=Counter)


async def probe_batch(
    rows: Sequence[Row], heads: Heads, canary: Canary, *, hides_absence: bool, now: datetime, recheck: timedelta
) -> BatchResult:
    """Rules on each of `rows`. Raises `StoreUnreliable`: then none of these rows may change.

    A ruling against a healthy row stands when a second look says the same, with the canaries good before and after it:
    an outage that begins or ends anywhere in between shows in one of them.
    """

    def ruled(row: Row, answer: HeadAnswer) -> Ruling:
        return rule(row, answer, hides_absence=hides_absence, now=now, recheck=recheck)

    answers = await heads.many([row.object_key for row in rows])
    found = [(row, ruled(row, answer), answer) for row, answer in zip(rows, answers, strict=True)]
    undecided = sum(ruling is Ruling.UNDECIDED for _, ruling, _ in found)
    if undecided > max(1, MOST_UNDECIDED * len(rows)):
        codes = Counter(said(answer) for _, ruling, answer in found if ruling is Ruling.UNDECIDED)
        raise StoreUnreliable(
            f"{undecided} of {len(rows)} objects had no clear answer; mostly: {codes.most_common(1)[0][0]}"
        )
    grave = sum(ruling in GRAVE for _, ruling, _ in found)
    if grave:
        await _same(canary, hides_absence)
        if is_mass(grave, len(rows)):
            raise StoreUnreliable(
                f"{grave} of {len(rows)} objects seem to be gone: nothing was marked", code=Code.PATROL_MASS_MISSING
            )
    looked = BatchResult([])
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
        raise StoreUnreliable("the store hides what is absent at one moment, and at another it does not")
