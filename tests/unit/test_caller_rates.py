"""Rates of callers: a bucket for each, in classes, with a clock of the test's own."""

from __future__ import annotations

from collections import Counter

import pytest

from butai.api import document
from butai.config import Rate, RateSettings
from butai.errors import RateLimited
from butai.limits import callers
from butai.limits.callers import CallerRates, RateClass, class_of
from butai.limits.token_bucket import TokenBucket
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
            if path != "/healthz":
                assert "429" in operation["responses"], (method, path)
    by_address = {RateClass.ANONYMOUS, RateClass.INVITATION, RateClass.GUESS, RateClass.PROBE}
    assert found.keys() == set(RateClass) - by_address
    assert found[RateClass.TEST] == found[RateClass.STREAM] == 1


def test_guessed_keys_are_limited_and_one_that_was_accepted_goes_on() -> None:
    clock = Clock()
    rates = CallerRates(RateSettings(guess=Rate(burst=3, per_second=0.5)), 1, clock)
    for number in range(3):
        rates.check_guesses("203.0.113.7", b"%d" % number)
        rates.note_key("203.0.113.7", b"%d" % number, good=False)
    rates.note_key("203.0.113.8", b"good", good=True)
    with pytest.raises(RateLimited):
        rates.check_guesses("203.0.113.7", b"9")
    rates.check_guesses("203.0.113.7", b"good")
    rates.check_guesses("203.0.113.8", b"9")
    clock.now += 2
    rates.check_guesses("203.0.113.7", b"9")
    # Kept for an hour.
    for number in range(3):
        rates.note_key("203.0.113.7", b"%d" % number, good=False)
    clock.now += callers.PROVED_SECONDS
    for number in range(3):
        rates.note_key("203.0.113.7", b"%d" % number, good=False)
    with pytest.raises(RateLimited):
        rates.check_guesses("203.0.113.7", b"good")


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
