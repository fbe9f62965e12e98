"""Delays and budgets, with time as a number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.config import LiveSettings, RetrySettings
from butai.errors import Code
from butai.live.reconcile.retry import (
    OF_OUR_ENGINE,
    ONCE,
    PERMANENT,
    Budget,
    Failure,
    RetryDecision,
    after_live,
    decide,
    engine_delay,
)
from butai.live.reconcile.timing import Timing

TRIED_AGAIN = sorted(set(Code) - PERMANENT - ONCE - {Code.EGRESS_UNAVAILABLE, Code.ALREADY_PUBLISHING})
randoms = st.floats(0, 1, exclude_max=True)


def fail(
    settings: RetrySettings, code: Code, at: float, budget: Budget, *, random: float = 0.5, **more: float | str | None
) -> RetryDecision:
    return decide(settings, Failure(code, at, **more), budget, lambda: random, Timing())  # pyright: ignore[reportArgumentType]


def fail_until_final(
    settings: RetrySettings, code: Code, *, random: float = 0.5, **more: float | str | None
) -> tuple[RetryDecision, list[float]]:
    """Fails each attempt at once. The decision that there is no other one, and the waits before those that there were."""
    now, budget, waits = 1000.0, Budget(), list[float]()
    while (verdict := fail(settings, code, now, budget, random=random, **more)).again_at is not None:
        waits.append(verdict.again_at - now)
        now, budget = verdict.again_at, verdict.budget
    return verdict, waits


@given(randoms, st.sampled_from(TRIED_AGAIN))
def test_each_delay_lies_in_the_upper_half_of_the_doubling_one_until_the_budget_is_spent(
    random: float, code: Code
) -> None:
    settings = RetrySettings()
    verdict, waits = fail_until_final(settings, code, random=random)
    assert (verdict.code, verdict.cause) == (Code.RETRIES_EXHAUSTED, code)
    assert len(waits) == settings.attempts - 1
    for number, wait in enumerate(waits):
        longest = min(settings.cap, settings.base * 2**number)
        assert longest / 2 - 1e-6 <= wait <= longest + 1e-6


def test_minutes_spend_the_budget_as_well_as_tries() -> None:
    settings = RetrySettings(attempts=1000, cap=5, minutes=1)
    now, budget = 1000.0, Budget()
    while (verdict := fail(settings, Code.DESTINATION_UNREACHABLE, now, budget)).again_at is not None:
        now, budget = verdict.again_at + 2.0, verdict.budget
        assert now < 1000 + 60 + 10
    assert verdict.code is Code.RETRIES_EXHAUSTED and now >= 1060


def test_a_first_failure_after_hours_is_a_first_failure() -> None:
    verdict = fail(RetrySettings(), Code.DESTINATION_CLOSED, 7200.0, Budget(), attempt_started_at=0.0)
    assert verdict.again_at is not None and verdict.budget == Budget(1, 7200.0)


@pytest.mark.parametrize("code", sorted(ONCE))
def test_some_are_tried_once_more_after_three_seconds(code: Code) -> None:
    first = fail(RetrySettings(), code, 100.0, Budget())
    assert first.again_at == 103.0 and first.code is code
    second = fail(RetrySettings(), code, 104.0, first.budget, code_before=code)
    assert (second.again_at, second.code, second.cause) == (None, code, None)
    # Something else came between.
    other = fail(RetrySettings(), code, 104.0, first.budget, code_before=Code.DESTINATION_UNREACHABLE)
    assert other.again_at == 107.0


@pytest.mark.parametrize("code", sorted(PERMANENT))
def test_what_no_try_would_change_is_not_tried(code: Code) -> None:
    assert fail(RetrySettings(), code, 0.0, Budget()).again_at is None


def test_somebody_elses_publishing_is_tried_slowly() -> None:
    assert fail(RetrySettings(), Code.ALREADY_PUBLISHING, 100.0, Budget()).again_at == 115.0


@given(st.integers(1, 50), randoms)
def test_an_engine_that_does_not_come_waits_five_to_sixty_seconds(failures: int, random: float) -> None:
    wait = engine_delay(failures, lambda: random, Timing())
    longest = min(60.0, 5.0 * 2 ** min(failures - 1, 10))
    assert longest / 2 <= wait <= longest


def test_an_engine_that_does_not_come_costs_no_budget() -> None:
    spent = Budget(3, 50.0)
    verdict = fail(RetrySettings(), Code.EGRESS_UNAVAILABLE, 100.0, spent)
    assert verdict.budget == spent and verdict.again_at is not None and verdict.again_at > 100.0


def test_youtube_gets_ten_seconds_between_tries_counted_from_the_start_of_the_last() -> None:
    settings = LiveSettings().youtube_retry
    verdict = fail(settings, Code.KEY_REJECTED, 100.5, Budget(), attempt_started_at=100.0)
    assert verdict.again_at == 110.0
    after_an_hour = fail(settings, Code.DESTINATION_CLOSED, 3600.0, Budget(), attempt_started_at=0.0)
    assert after_an_hour.again_at is not None and after_an_hour.again_at <= 3601.0


@given(st.lists(randoms, min_size=4, max_size=4), st.floats(0, 16), st.integers(0, 9), st.floats(0.1, 60))
def test_twitch_after_live_gets_four_tries_within_ninety_seconds(
    luck: list[float], attempt_takes: float, tries_before: int, base: float
) -> None:
    settings = LiveSettings().twitch_retry.model_copy(update={"base": base})
    dropped = 1000.0
    budget = after_live(settings, Budget(tries_before, 900.0 if tries_before else None), live_for=5.0)
    now, code = dropped, Code.DESTINATION_CLOSED
    for random in luck:
        verdict = fail(settings, code, now, budget, random=random, last_live_at=dropped)
        assert verdict.again_at is not None
        # It begins, and has failed by then.
        now = verdict.again_at + attempt_takes
        assert verdict.again_at <= dropped + 90
        budget, code = verdict.budget, Code.DESTINATION_UNREACHABLE


def test_flapping_for_ever_is_given_up_in_the_end() -> None:
    settings = LiveSettings().twitch_retry
    now, budget = 0.0, Budget()
    while True:
        verdict = fail(settings, Code.DESTINATION_CLOSED, now, budget, last_live_at=now)
        if verdict.again_at is None:
            break
        now = verdict.again_at + 5
        budget = after_live(settings, verdict.budget, live_for=5.0)
        assert now < 15 * 60
    assert verdict.code is Code.RETRIES_EXHAUSTED


def test_many_short_lives_in_a_row_are_counted() -> None:
    """A platform that accepts every publish and hangs up after four seconds."""
    settings = LiveSettings().twitch_retry
    now, budget, waits, drops = 1000.0, Budget(), [], []
    while True:
        started, dropped = now, now + 4.0
        drops.append(dropped)
        budget = after_live(settings, budget, live_for=3.5)
        verdict = fail(
            settings,
            Code.DESTINATION_CLOSED,
            dropped,
            budget,
            attempt_started_at=started,
            last_live_at=dropped,
            key_worked=True,
        )
        budget = verdict.budget
        if verdict.again_at is None:
            break
        waits.append(verdict.again_at - dropped)
        now = verdict.again_at
    assert (verdict.code, verdict.cause) == (Code.RETRIES_EXHAUSTED, Code.DESTINATION_CLOSED)
    assert len(drops) == settings.attempts
    # The last ones are as far apart as those of a platform that cannot be reached.
    assert waits[-1] == 45.0 and sorted(waits) == waits


def test_quick_refusals_after_live_use_up_no_budget_within_ninety_seconds() -> None:
    settings = LiveSettings().twitch_retry
    dropped, now, budget, tries = 1000.0, 1000.0, after_live(settings, Budget(), live_for=30.0), 0
    code, started = Code.DESTINATION_CLOSED, 970.0
    while now < dropped + 90:
        verdict = fail(
            settings, code, now, budget, attempt_started_at=started, last_live_at=dropped, key_worked=True, random=0.0
        )
        assert verdict.again_at is not None, now - dropped
        budget, code, started = verdict.budget, Code.ALREADY_PUBLISHING, verdict.again_at
        now, tries = started + 0.1, tries + 1
    assert tries >= 4


def test_a_long_life_ends_a_row_of_short_ones() -> None:
    settings, spent = LiveSettings().twitch_retry, Budget(6, 900.0, short_lives=6)
    after_long = fail(
        settings,
        Code.DESTINATION_CLOSED,
        1100.0,
        after_live(settings, spent, live_for=99.0),
        attempt_started_at=1000.0,
        last_live_at=1100.0,
    )
    assert after_long.budget == Budget(1, 1100.0, short_lives=0)
    never_live = fail(settings, Code.DESTINATION_UNREACHABLE, 1100.0, spent, attempt_started_at=1099.0)
    assert never_live.budget.short_lives == 6


@pytest.mark.parametrize("code", sorted(OF_OUR_ENGINE))
def test_the_platform_is_not_counted_what_our_engine_failed_at(code: Code) -> None:
    settings, spent = LiveSettings().twitch_retry, Budget(2, 900.0, short_lives=2)
    failed = fail(settings, code, 1010.0, spent, attempt_started_at=1000.0, last_live_at=1010.0)
    assert failed.budget.short_lives == 2


@pytest.mark.parametrize("code", [Code.ALREADY_PUBLISHING, *sorted(ONCE - {Code.KEY_REJECTED})])
def test_a_key_that_worked_is_tried_with_the_patience_of_a_reconnect(code: Code) -> None:
    verdict, waits = fail_until_final(RetrySettings(), code, code_before=code, key_worked=True)
    assert (verdict.code, verdict.cause) == (Code.RETRIES_EXHAUSTED, code)
    assert waits[:6] == [0.75, 1.5, 3, 6, 12, 24]


def test_a_key_that_is_named_as_wrong_is_final_also_when_it_worked() -> None:
    first = fail(RetrySettings(), Code.KEY_REJECTED, 100.0, Budget(), key_worked=True)
    assert first.again_at == 103.0
    again = fail(
        RetrySettings(), Code.KEY_REJECTED, 104.0, first.budget, code_before=Code.KEY_REJECTED, key_worked=True
    )
    assert (again.again_at, again.code) == (None, Code.KEY_REJECTED)


def test_stable_live_gives_the_budget_back_and_a_short_one_does_not() -> None:
    settings, spent = RetrySettings(), Budget(7, 10.0)
    assert after_live(settings, spent, live_for=60.0) == Budget()
    assert after_live(settings, spent, live_for=59.0) == spent
