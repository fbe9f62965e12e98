"""Decides whether and when a failed output is tried again. Pure.

This is the only retry: an engine makes one attempt and reports its end. A delay is uniform over [d/2, d] with
d = min(cap, base·2ⁿ), so that outputs that failed together do not all come back at the same time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from butai.config import RetrySettings
from butai.errors import Code
from butai.live.reconcile.timing import Timing

Random = Callable[[], float]
"""Uniform over [0, 1)."""

PERMANENT = frozenset(
    {
        Code.NOT_HOST,
        Code.NO_DESTINATION,
        Code.INVALID_DESTINATION,
        Code.LOGIN_REQUIRED,
        Code.REDIRECTED,
        Code.NO_MEDIA,
        Code.SOURCE_ENDED,
        Code.ROOM_NOT_FOUND,
        Code.LIVEKIT_UNAUTHORIZED,
        Code.RETRIES_EXHAUSTED,
    }
)
"""Codes that another attempt cannot change."""

ONCE = frozenset({Code.KEY_REJECTED, Code.TLS_FAILED, Code.EGRESS_START_TIMEOUT})
"""Codes that may be a temporary fault of the platform: tried once more, and final when they occur twice in a row. Of a
key that worked in this broadcast only `key_rejected` is."""

OF_OUR_ENGINE = frozenset({Code.EGRESS_LOST, Code.EGRESS_CRASHED, Code.LIVEKIT_UNREACHABLE})
"""Failures of which the platform knows nothing: they say nothing of whether it keeps what it accepts."""

UNCOUNTED_SHORT_LIVES = 3
"""Short lives in a row after each of which an output has the tries of the platform's window. After more the platform does
not keep what it accepts: the waits and the budget are those of any failure."""


@dataclass(frozen=True, slots=True)
class Budget:
    """The used part of an output's budget: `tries` attempts failed, the first of them when it `began`. `short_lives`:
    those in a row that were live for less than `RetrySettings.stable`."""

    tries: int = 0
    began: float | None = None
    short_lives: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed attempt. `last_live_at`: when the output was last live; `code_before`: the code of the failure before
    this one, None if the output was live in between; `key_worked`: whether the platform accepted its key before in this
    broadcast."""

    code: Code
    at: float
    attempt_started_at: float | None = None
    last_live_at: float | None = None
    code_before: str | None = None
    key_worked: bool = False

    @property
    def lived(self) -> float | None:
        """Seconds from the start of the attempt to the end of its last period of live; None if it was never live."""
        if self.attempt_started_at is None or self.last_live_at is None:
            return None
        return self.last_live_at - self.attempt_started_at if self.last_live_at > self.attempt_started_at else None

    @property
    def once(self) -> bool:
        """Whether it is final when it occurs twice in a row."""
        return self.code in ONCE and (not self.key_worked or self.code is Code.KEY_REJECTED)


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """`again_at`: the time of the next attempt, None if only the host can request one. `code`: the code to show;
    `cause`: the last error under `retries_exhausted`. `budget`: the budget after this failure."""

    again_at: float | None
    code: Code
    cause: Code | None
    budget: Budget


def decide(settings: RetrySettings, failure: Failure, budget: Budget, random: Random, timing: Timing) -> RetryDecision:
    """Decides what follows a failed attempt."""
    code, now = failure.code, failure.at
    if code is Code.EGRESS_UNAVAILABLE:
        return RetryDecision(now + engine_delay(1, random, timing), code, None, budget)
    short_lives = budget.short_lives
    if failure.lived is not None and code not in OF_OUR_ENGINE:
        short_lives = 0 if failure.lived >= settings.stable else short_lives + 1
    spent = Budget(budget.tries + 1, now if budget.began is None else budget.began, short_lives)
    if code in PERMANENT or (failure.once and failure.code_before == code):
        return RetryDecision(None, code, None, spent)
    if _exhausted(settings, failure, spent):
        return RetryDecision(None, Code.RETRIES_EXHAUSTED, code, spent)
    again_at = now + _wait(settings, failure, spent, random, timing)
    if failure.attempt_started_at is not None:
        again_at = max(again_at, failure.attempt_started_at + settings.least_wait)
    return RetryDecision(again_at, code, None, spent)


def after_live(settings: RetrySettings, budget: Budget, live_for: float) -> Budget:
    """The budget when the output stops being live after `live_for` seconds: restored if that was stable. After a
    shorter period, at least the window's tries are left, beside the one that ends now; but not after many such periods
    in a row."""
    if live_for >= settings.stable:
        return Budget()
    if settings.window > 0 and budget.short_lives < UNCOUNTED_SHORT_LIVES:
        most = max(settings.attempts - settings.window_tries - 1, 0)
        return Budget(min(budget.tries, most), budget.began, budget.short_lives)
    return budget


def engine_delay(failures: int, random: Random, timing: Timing) -> float:
    """Seconds until the next start of an engine after `failures` consecutive failures, to start or soon after it."""
    return _jitter(min(timing.engine_cap, timing.engine_base * 2 ** min(failures - 1, 10)), random)


def _exhausted(settings: RetrySettings, failure: Failure, spent: Budget) -> bool:
    limit, seconds = settings.attempts, settings.minutes * 60
    if _window_is_open(settings, failure):
        limit, seconds = max(limit, settings.window_tries + 1), seconds + settings.window
    began = failure.at if spent.began is None else spent.began
    return spent.tries >= limit or failure.at - began >= seconds


def _wait(settings: RetrySettings, failure: Failure, spent: Budget, random: Random, timing: Timing) -> float:
    if failure.once:
        return timing.once_wait
    if failure.code is Code.ALREADY_PUBLISHING and not failure.key_worked:
        return timing.slow_wait
    wait = _jitter(min(settings.cap, settings.base * 2 ** min(spent.tries - 1, 30)), random)
    hurried = settings.window_tries > 0 and spent.short_lives <= UNCOUNTED_SHORT_LIVES
    if hurried and _window_is_open(settings, failure):
        # Each try has its share of the window. What this one took of it was no waiting.
        took = timing.longest_hurried_attempt
        if failure.attempt_started_at is not None and failure.lived is None:
            took = min(took, failure.at - failure.attempt_started_at)
        wait = min(wait, max(settings.window / settings.window_tries - took, timing.least_window_wait))
    return wait


def _window_is_open(settings: RetrySettings, failure: Failure) -> bool:
    return failure.last_live_at is not None and failure.at < failure.last_live_at + settings.window


def _jitter(longest: float, random: Random) -> float:
    return longest / 2 * (1 + random())
