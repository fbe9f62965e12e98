"""The patrol's verdicts, and what no schedule of faults may bring it to: calling a healthy file lost."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from butai.assets.patrol.probe import probe_batch
from butai.assets.patrol.verdicts import IndexedObject, Verdict, is_mass_loss, judge
from butai.assets.storage.answers import HeadAnswer, HeadKind
from butai.assets.storage.canary import Canary, StoreUnreliable
from butai.limits.token_bucket import TokenBucket
from tests.examples import examples

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RECHECK = timedelta(minutes=10)
V = Verdict


def row(status: str = "ready", suspected: datetime | None = None, number: int = 0) -> IndexedObject:
    return IndexedObject(uuid.UUID(int=number), f"o/{number}", status, 10, "e", suspected)


@pytest.mark.parametrize(
    ("answer", "hides", "status", "suspected", "verdict"),
    [
        (HeadAnswer(HeadKind.PRESENT, 10, "e"), False, "ready", None, V.FOUND),
        (HeadAnswer(HeadKind.PRESENT, 10, "e"), True, "missing", None, V.RECOVERED),
        (HeadAnswer(HeadKind.PRESENT, 11, "e"), False, "ready", None, V.MISMATCH),
        (HeadAnswer(HeadKind.PRESENT, 10, "f"), False, "ready", None, V.MISMATCH),
        # Other bytes under a lost file's key are not that file.
        (HeadAnswer(HeadKind.PRESENT, 11, "e"), False, "missing", None, V.MISMATCH),
        # A store that tells no ETag.
        (HeadAnswer(HeadKind.PRESENT, 10, ""), False, "ready", None, V.FOUND),
        (HeadAnswer(HeadKind.ABSENT), False, "ready", None, V.LOST),
        (HeadAnswer(HeadKind.ABSENT), False, "missing", None, V.STILL_MISSING),
        (HeadAnswer(HeadKind.ARCHIVED, 10, "e"), True, "ready", None, V.LOST),
        (HeadAnswer(HeadKind.ARCHIVED, 10, "e"), True, "missing", None, V.STILL_MISSING),
        # A store that shows what is absent, and denies: a right is broken, not a file.
        (HeadAnswer(HeadKind.DENIED), False, "ready", NOW - 2 * RECHECK, V.UNDECIDED),
        (HeadAnswer(HeadKind.DENIED), True, "ready", None, V.SUSPECT),
        (HeadAnswer(HeadKind.DENIED), True, "ready", NOW - RECHECK + timedelta(seconds=1), V.SUSPECT),
        (HeadAnswer(HeadKind.DENIED), True, "ready", NOW - RECHECK, V.LOST),
        (HeadAnswer(HeadKind.DENIED), True, "missing", None, V.STILL_MISSING),
        (HeadAnswer(HeadKind.UNCLEAR, code="store_timeout"), True, "ready", NOW - 2 * RECHECK, V.UNDECIDED),
        (HeadAnswer(HeadKind.UNCLEAR, code="store_unavailable"), False, "missing", None, V.UNDECIDED),
    ],
)
def test_each_answer_has_its_verdict(
    answer: HeadAnswer, hides: bool, status: str, suspected: datetime | None, verdict: Verdict
) -> None:
    assert judge(row(status, suspected), answer, hides_absence=hides, now=NOW, recheck=RECHECK) is verdict


async def test_an_archived_object_is_seen_once_a_read_has_failed_and_stays_missing() -> None:
    class Archive:
        """Only a close look sees that the first object is archived."""

        archived = True

        async def head(self, key: str) -> HeadAnswer:
            if key.startswith("o/") or key.endswith("canary"):
                return HeadAnswer(HeadKind.PRESENT, 10, "e")
            return HeadAnswer(HeadKind.ABSENT)

        async def closely(self, key: str) -> HeadAnswer:
            if self.archived and key == "o/0":
                return HeadAnswer(HeadKind.ARCHIVED, 10, "e")
            return await self.head(key)

        async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
            return [await self.head(key) for key in keys]

    heads = Archive()

    async def verdicts(*statuses: str, closely: bool = False) -> list[Verdict]:
        rows = [row(status, number=number) for number, status in enumerate(statuses)]
        batch = await probe_batch(
            rows, heads, Canary(heads, ""), hides_absence=False, now=NOW, recheck=RECHECK, closely=closely
        )
        return [each.verdict for each in batch.objects]

    assert await verdicts("ready", "ready", closely=True) == [V.LOST, V.FOUND]
    # The next run has no close look at those that were there, and does not bring back what is archived.
    assert await verdicts("missing", "missing") == [V.STILL_MISSING, V.RECOVERED]
    heads.archived = False
    assert await verdicts("missing", "missing") == [V.RECOVERED, V.RECOVERED]


def test_a_mass_is_more_than_twenty_and_more_than_two_percent() -> None:
    assert [
        is_mass_loss(20, 100),
        is_mass_loss(21, 100),
        is_mass_loss(20, 1000),
        is_mass_loss(21, 1000),
        is_mass_loss(40, 2000),
    ] == [
        False,
        True,
        False,
        True,
        False,
    ]


@dataclass
class Weather:
    """A store with faults. `faults`: (first request, how many, what), counted over all requests there ever were.
    A fault lasts three requests at least: what ends sooner is one request's own, and says nothing about a store."""

    objects: dict[str, HeadAnswer]
    hides_absence: bool
    faults: list[tuple[int, int, str]] = field(default_factory=list)
    asked: int = 0
    met: Counter[str] = field(default_factory=Counter)

    async def head(self, key: str) -> HeadAnswer:
        number, self.asked = self.asked, self.asked + 1
        for start, length, what in self.faults:
            if start <= number < start + length:
                self.met[what] += 1
                return {"denied": HeadAnswer(HeadKind.DENIED), "absent": HeadAnswer(HeadKind.ABSENT)}.get(
                    what, HeadAnswer(HeadKind.UNCLEAR, code=what)
                )
        absent = HeadKind.DENIED if self.hides_absence else HeadKind.ABSENT
        return self.objects.get(key, HeadAnswer(absent))

    async def closely(self, key: str) -> HeadAnswer:
        return await self.head(key)

    async def many(self, keys: Sequence[str]) -> list[HeadAnswer]:
        return [await self.head(key) for key in keys]


FAULTS = ("denied", "absent", "store_unavailable", "store_timeout")
faults = st.lists(st.tuples(st.integers(0, 400), st.integers(3, 120), st.sampled_from(FAULTS)), max_size=6)
MET: Counter[str] = Counter()
"""Requests that met each fault, in all examples."""

WRITTEN = 4 * 90
"""Most of them that the four written examples can have: each has one fault of 90 requests."""

GENERATED, LEAST_MET = 300, 6
"""Generated examples, and requests of each that met a fault, on average: there are about twenty."""


@examples(ci=GENERATED, deep=1500, deadline=None)
@example(faults=[(20, 90, "denied")], hides=True, gone=3, size=40, rounds=3)
@example(faults=[(20, 90, "absent")], hides=False, gone=3, size=40, rounds=3)
@example(faults=[(20, 90, "store_unavailable")], hides=True, gone=3, size=40, rounds=3)
@example(faults=[(20, 90, "store_timeout")], hides=False, gone=3, size=40, rounds=3)
@given(faults=faults, hides=st.booleans(), gone=st.integers(0, 5), size=st.integers(1, 60), rounds=st.integers(1, 6))
def test_no_healthy_row_is_ever_marked(
    faults: list[tuple[int, int, str]], hides: bool, gone: int, size: int, rounds: int
) -> None:
    """Whatever faults the store has, and whenever; what is really gone is found once they have ended."""
    rows = {number: row(number=number) for number in range(size)}
    lost = set(range(min(gone, size)))
    weather = Weather(
        {one.object_key: HeadAnswer(HeadKind.PRESENT, 10, "e") for number, one in rows.items() if number not in lost},
        hides,
        faults,
    )
    canary = Canary(weather, "")
    weather.objects[canary.key] = HeadAnswer(HeadKind.PRESENT, 6, "c")

    def patrol(at: datetime) -> None:
        try:
            known = asyncio.run(canary.probe())
            batch = asyncio.run(
                probe_batch(list(rows.values()), weather, canary, hides_absence=known, now=at, recheck=RECHECK)
            )
        except StoreUnreliable:
            return
        for one, verdict, _ in batch.objects:
            number = one.id.int
            if verdict is V.LOST:
                assert number in lost, f"{one.object_key} is there, and was called lost"
                rows[number] = replace(one, status="missing", suspected_at=None)
            elif verdict is V.SUSPECT:
                rows[number] = replace(one, suspected_at=one.suspected_at or at)
            elif verdict is V.FOUND:
                rows[number] = replace(one, suspected_at=None)
            assert verdict is not V.MISMATCH

    at = NOW
    for _ in range(rounds):
        patrol(at)
        at += timedelta(minutes=6)
    MET.update(weather.met)
    weather.faults = []
    for _ in range(3):
        patrol(at)
        at += RECHECK
    # More than twenty would be a mass loss, of which no row is marked: there are five at most.
    assert {number for number, one in rows.items() if one.status == "missing"} == lost


def test_the_faults_were_met() -> None:
    """Each in its own example above at the least; a round breaks off soon after, so these are tens of requests. And in the
    generated ones, apart from those."""
    assert [fault for fault in FAULTS if MET[fault] < 20] == []
    assert MET.total() - WRITTEN > GENERATED * LEAST_MET


async def test_a_bucket_keeps_its_rate() -> None:
    bucket = TokenBucket(200)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(20):
        await bucket.take()
    # A tenth of a second's worth goes out at once, the next hundred take half a second.
    assert loop.time() - began < 0.09
    for _ in range(100):
        await bucket.take()
    assert 0.45 < loop.time() - began < 2


async def test_many_at_a_bucket_each_wake_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = TokenBucket(500)
    slept: list[float] = []
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(seconds)

    monkeypatch.setattr("butai.assets.storage.heads.asyncio.sleep", counted)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(bucket.take() for _ in range(150)))
    assert 0.15 < loop.time() - began < 2
    assert len(slept) <= 150
