"""Rates of callers: a bucket for each, in classes, with a clock of the test's own."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from butai.api import document
from butai.config import Rate, RateSettings
from butai.errors import RateLimited, Unauthenticated
from butai.identity import api_key_of
from butai.limits import callers
from butai.limits.callers import CallerRates, RateClass, class_of
from butai.limits.token_bucket import Buckets, TokenBucket
from butai.web.refusals import PAUSE, REMEMBERED, Refusals
from tests.clock import Clock


def taken(bucket: TokenBucket, now: float) -> int:
    """How many tokens are there."""
    count = 0
    while bucket.try_take(now) == 0:
        count += 1
    return count


def test_a_bucket_has_its_burst_and_fills_at_its_rate() -> None:
    bucket = TokenBucket(2, 60)
    assert taken(bucket, 5.0) == 120
    assert bucket.try_take(5.0) == pytest.approx(0.5)
    assert bucket.untaken(5.0) == pytest.approx(0.5)
    assert taken(bucket, 8.0) == 6
    assert taken(bucket, 1000.0) == 120
    assert TokenBucket(0).try_take(5.0) == TokenBucket(0).untaken(5.0) == 0


def test_a_token_that_is_spent_before_it_is_there_is_missing_later() -> None:
    bucket = TokenBucket(2, 60)
    for _ in range(122):
        bucket.spend(5.0)
    assert bucket.untaken(5.0) == pytest.approx(1.5)
    assert bucket.try_take(6.0) == pytest.approx(0.5)
    assert taken(bucket, 7.0) == 2
    unlimited = TokenBucket(0)
    unlimited.spend(5.0)
    assert unlimited.untaken(5.0) == 0


def test_each_name_has_a_bucket_and_those_used_longest_ago_are_forgotten() -> None:
    clock = Clock()
    buckets = Buckets(0.5, 3, 2, clock)
    for name in "aabbb":
        assert buckets.try_take(name) == 0
    assert buckets.untaken("a") == 0
    buckets.spend("a")
    assert buckets.untaken("a") == pytest.approx(2)
    assert buckets.try_take("a") == pytest.approx(2)
    clock.now += 2
    assert buckets.try_take("a") == 0
    assert buckets.try_take("c") == 0
    # "b" was used longest ago; it has three again.
    assert [buckets.try_take("b") for _ in range(3)] == [0, 0, 0]
    assert buckets.try_take("b") > 0
    assert Buckets(0, 1, 2, clock).try_take("a") == Buckets(0, 1, 2, clock).untaken("a") == 0


def test_a_refusal_says_when_and_holds_for_one_caller_in_one_class() -> None:
    clock = Clock()
    rates = CallerRates(RateSettings(begin=Rate(burst=3, per_second=0.25)), 1, clock)
    for _ in range(3):
        rates.charge(RateClass.BEGIN, "user:mallory")
    with pytest.raises(RateLimited) as refused:
        rates.charge(RateClass.BEGIN, "user:mallory")
    assert (refused.value.status, refused.value.code, refused.value.retry_after) == (429, "rate_limited", 4)
    rates.charge(RateClass.BEGIN, "user:alice")
    rates.charge(RateClass.WRITE, "user:mallory")
    clock.now += 4
    rates.charge(RateClass.BEGIN, "user:mallory")


def test_every_operation_that_writes_has_a_class_and_every_class_is_used() -> None:
    found: Counter[RateClass] = Counter()
    for path, operations in document()["paths"].items():
        for method, operation in operations.items():
            kind = class_of(method.upper(), path)
            assert kind is not None or method in ("get", "head"), (method, path)
            if kind is not None:
                found[kind] += 1
            assert ("429" in operation["responses"]) == (path not in ("/healthz", "/readyz")), (method, path)
    by_address = {RateClass.ANONYMOUS, RateClass.INVITATION, RateClass.GUESS, RateClass.PROBE}
    assert found.keys() == set(RateClass) - by_address
    assert found[RateClass.TEST] == found[RateClass.STREAM] == 1


async def check(rates: CallerRates, address: str, key: bytes) -> type[Exception] | None:
    """What becomes of a key: b"good" is one, all others are none."""
    try:
        async with rates.checking(address, key):
            await asyncio.sleep(0)
            if key != b"good":
                raise Unauthenticated
    except (RateLimited, Unauthenticated) as refused:
        return type(refused)
    return None


async def test_guessed_keys_are_limited_and_a_good_one_works_in_any_case() -> None:
    clock = Clock()
    rates = CallerRates(RateSettings(guess=Rate(burst=3, per_second=0.5)), 1, clock)
    for number in range(3):
        assert await check(rates, "203.0.113.7", b"%d" % number) is Unauthenticated
    assert await check(rates, "203.0.113.7", b"9") is RateLimited
    # One that was never seen before, and one that was.
    assert await check(rates, "203.0.113.7", b"good") is None
    assert await check(rates, "203.0.113.7", b"good") is None
    assert await check(rates, "203.0.113.8", b"9") is Unauthenticated
    clock.now += 2
    assert await check(rates, "203.0.113.7", b"9") is Unauthenticated
    assert await check(rates, "203.0.113.7", b"9") is RateLimited
    # Kept for an hour, and good still.
    clock.now += callers.PROVED_SECONDS
    for number in range(3):
        assert await check(rates, "203.0.113.7", b"%d" % number) is Unauthenticated
    assert await check(rates, "203.0.113.7", b"9") is RateLimited
    assert await check(rates, "203.0.113.7", b"good") is None


async def test_beyond_the_limit_unproved_keys_of_an_address_are_checked_one_at_a_time() -> None:
    rates = CallerRates(RateSettings(guess=Rate(burst=1, per_second=0.01)), 1, Clock())
    assert await check(rates, "203.0.113.7", b"0") is Unauthenticated
    running = most = 0

    async def guess(address: str, key: bytes) -> type[Exception] | None:
        nonlocal running, most
        try:
            async with rates.checking(address, key):
                running += 1
                most = max(most, running)
                await asyncio.sleep(0)
                running -= 1
                if key != b"good":
                    raise Unauthenticated
        except (RateLimited, Unauthenticated) as refused:
            return type(refused)
        return None

    keys = [b"%d" % number for number in range(20)]
    found = await asyncio.gather(*(guess("203.0.113.7", key) for key in [*keys, b"good", *keys]))
    assert found == [RateLimited] * 20 + [None] + [RateLimited] * 20
    assert most == 1
    # A key that was accepted does not wait for them, nor do those of other addresses.
    await asyncio.gather(*(guess("203.0.113.7", key) for key in (b"1", b"good", b"good")), guess("203.0.113.8", b"2"))
    assert most == 4


async def test_a_key_that_is_good_no_more_waits_again() -> None:
    rates = CallerRates(RateSettings(guess=Rate(burst=1, per_second=0.01)), 1, Clock())
    assert await check(rates, "203.0.113.7", b"good") is None
    with pytest.raises(Unauthenticated):
        async with rates.checking("203.0.113.7", b"good"):
            raise Unauthenticated
    with pytest.raises(RateLimited):
        async with rates.checking("203.0.113.7", b"good"):
            raise Unauthenticated


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([], None),
        ([(b"x-api-key", b" butai_1 ")], b"butai_1"),
        ([(b"authorization", b"Bearer butai_2")], b"butai_2"),
        ([(b"authorization", b"Bearer a.b.c")], None),
        ([(b"x-api-key", b"butai_1"), (b"authorization", b"Bearer a.b.c")], None),
        ([(b"authorization", b"Bearer a.b.c"), (b"x-api-key", b"butai_1")], None),
        ([(b"x-api-key", b"butai_1"), (b"authorization", b"Bearer butai_2")], b"butai_2"),
        ([(b"authorization", b"Bearer butai_2"), (b"x-api-key", b"butai_1")], b"butai_2"),
    ],
    ids=str,
)
def test_the_authorization_header_decides_alone_where_there_is_one(
    headers: list[tuple[bytes, bytes]], key: bytes | None
) -> None:
    assert api_key_of(headers) == key


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/api/live/destinations/0190aaaa-0000-7000-8000-000000000000/test", RateClass.TEST),
        ("/api/live/rooms/test", RateClass.BEGIN),
        ("/api/live/rooms/my/test", RateClass.BEGIN),
        ("/api/live/destinations/a/b/test", RateClass.BEGIN),
        ("/api/live/rooms/studio/tokens", RateClass.WRITE),
        ("/api/live/rooms/studio/tokens/revoke", RateClass.BEGIN),
        ("/api/live/rooms/tokens", RateClass.BEGIN),
        ("/api/live/rooms/a/b/tokens", RateClass.BEGIN),
    ],
)
def test_a_class_is_of_exact_paths(path: str, kind: RateClass) -> None:
    assert class_of("POST", path) == kind


def test_the_number_of_buckets_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "BUCKETS", 10)
    rates = CallerRates(RateSettings(anonymous=Rate(burst=1, per_second=0.01)), 1)
    for number in range(100):
        rates.charge(RateClass.ANONYMOUS, f"203.0.113.{number}")
    with pytest.raises(RateLimited):
        rates.charge(RateClass.ANONYMOUS, "203.0.113.99")
    # Forgotten, and full again.
    rates.charge(RateClass.ANONYMOUS, "203.0.113.0")


def test_open_streams_are_counted_for_each_caller() -> None:
    rates = CallerRates(RateSettings(), 2)
    with rates.stream("user:alice"), rates.stream("user:alice"):
        with pytest.raises(RateLimited), rates.stream("user:alice"):
            pass
        with rates.stream("user:bob"):
            pass
    with rates.stream("user:alice"):
        pass


def test_an_address_that_does_not_wait_is_told_so_later() -> None:
    clock = Clock()
    refusals = Refusals(clock)
    assert [refusals.pause("192.0.2.1") for _ in range(3)] == [0, PAUSE, PAUSE]
    assert refusals.pause("192.0.2.2") == 0
    # Asking again with each answer, which takes the pause.
    for _ in range(3):
        clock.now += PAUSE
        assert refusals.pause("192.0.2.1") == PAUSE
    clock.now += REMEMBERED
    assert refusals.pause("192.0.2.1") == 0
