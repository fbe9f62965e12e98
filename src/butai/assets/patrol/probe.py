"""Probes one batch of objects: HEAD requests, a verdict on each answer, and a second HEAD before an adverse one stands.

Reads and writes no database. A wrong verdict against a healthy file costs more than a correct one that comes an hour
late, so every doubtful answer ends without a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from butai.assets.patrol.verdicts import ADVERSE, IndexedObject, Verdict, is_mass_loss, judge
from butai.assets.storage.answers import HeadAnswer, HeadKind
from butai.assets.storage.canary import Canary, StoreUnreliable, describe
from butai.assets.storage.heads import Heads
from butai.errors import Code

MOST_UNDECIDED = 0.5
"""Share of a batch without a clear answer above which the store counts as unreliable."""


class ProbedObject(NamedTuple):
    """One object with its verdict and the answer behind it."""

    row: IndexedObject
    verdict: Verdict
    answer: HeadAnswer


@dataclass(slots=True)
class BatchResult:
    """A probed batch, in the order of its rows, and the number of objects for each verdict."""

    objects: list[ProbedObject] = field(default_factory=list)
    counts: Counter[Verdict] = field(default_factory=Counter)


async def probe_batch(
    rows: Sequence[IndexedObject],
    heads: Heads,
    canary: Canary,
    *,
    hides_absence: bool,
    now: datetime,
    recheck: timedelta,
    closely: bool = False,
) -> BatchResult:
    """Judges each of `rows`. Raises `StoreUnreliable`: then none of these assets may change.

    `closely`: also finds out which are archived, as is done for those that were missing; for a few, of which a read failed.

    An adverse verdict stands when a second HEAD gives the same one, with the canaries good before and after it: an
    outage that begins or ends in between shows in one of them.
    """

    def judged(row: IndexedObject, answer: HeadAnswer) -> Verdict:
        return judge(row, answer, hides_absence=hides_absence, now=now, recheck=recheck)

    answers = await heads.many([row.object_key for row in rows])
    for place, row in enumerate(rows):
        # One that was archived while it was missing would be found again, and lost with the next read.
        if answers[place].kind is HeadKind.PRESENT and (closely or row.status != "ready"):
            answers[place] = await heads.closely(row.object_key)
    first = [ProbedObject(row, judged(row, answer), answer) for row, answer in zip(rows, answers, strict=True)]
    undecided = [each for each in first if each.verdict is Verdict.UNDECIDED]
    if len(undecided) > max(1, MOST_UNDECIDED * len(rows)):
        answered = Counter(describe(each.answer) for each in undecided)
        raise StoreUnreliable(
            f"{len(undecided)} of {len(rows)} objects had no clear answer; mostly: {answered.most_common(1)[0][0]}"
        )
    adverse = sum(each.verdict in ADVERSE for each in first)
    if adverse:
        await _require_same_store(canary, hides_absence=hides_absence)
        if is_mass_loss(adverse, len(rows)):
            raise StoreUnreliable(
                f"{adverse} of {len(rows)} objects seem to be missing: nothing was marked",
                code=Code.PATROL_MASS_MISSING,
            )
    result = BatchResult()
    for probed in first:
        each = probed
        if probed.verdict in ADVERSE:
            answer = await heads.closely(probed.row.object_key)
            each = ProbedObject(probed.row, judged(probed.row, answer), answer)
            if each.verdict in ADVERSE:
                await _require_same_store(canary, hides_absence=hides_absence)
        result.objects.append(each)
        result.counts[each.verdict] += 1
    return result


async def _require_same_store(canary: Canary, *, hides_absence: bool) -> None:
    if await canary.probe() is not hides_absence:
        raise StoreUnreliable("the store hides absent keys at one moment and shows them at another")
