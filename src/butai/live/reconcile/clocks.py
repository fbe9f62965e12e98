"""Corrects times in rows that were written by a clock that has been set since. Pure.

A controller's own clock runs on whatever becomes of others (`RowAccess.clock`), so only times from before it took the
broadcast can be wrong. They end nothing: what would wait for hours is due now, and what seems to last for hours began
when the broadcast was taken.
"""

from __future__ import annotations

from dataclasses import replace

from butai.live.reconcile.draft import Policy
from butai.live.reconcile.rows import BroadcastRow, OutputRow

TOLERANCE = 1.0
"""Seconds by which the clocks of two controllers may differ."""


def in_this_clock(row: BroadcastRow, held_since: float | None, now: float, policy: Policy) -> BroadcastRow:
    """The row with times that are possible by the clock of `now`. `held_since`: when this controller took the
    broadcast, if it is known."""
    taken, timing = now if held_since is None else held_since, policy.timing
    outputs = tuple(_output(output, held_since, now, policy) for output in row.outputs)
    wait = timing.engine_gone_after + timing.engine_cap
    changes = {
        "outputs": outputs,
        "engine_seen_at": _began(row.engine_seen_at, taken, now),
        "engine_next_at": _due(row.engine_next_at, wait, now),
    }
    if all(getattr(row, name) == value for name, value in changes.items()):
        return row
    return replace(row, **changes)


def _output(output: OutputRow, held_since: float | None, now: float, policy: Policy) -> OutputRow:
    rules, timing, taken = policy.retry[output.platform], policy.timing, now if held_since is None else held_since
    longest = max(
        rules.cap, rules.least_wait, timing.slow_wait, timing.once_wait, timing.engine_cap, timing.capacity_pause
    )
    state_since = _began(output.state_since, taken, now)
    assert state_since is not None
    budget_from, live_since = _began(output.budget_from, taken, now), output.live_since
    if budget_from is not None and held_since is not None and budget_from < held_since - rules.minutes * 60:
        budget_from = held_since
    if live_since is not None and live_since > now + TOLERANCE:
        # For how long it has been live is not known. The budget is restored rather than lost.
        live_since = taken - rules.stable
    return replace(
        output,
        state_since=state_since,
        attempt_started_at=_began(output.attempt_started_at, taken, now),
        next_attempt_at=_due(output.next_attempt_at, 2 * longest, now),
        budget_from=budget_from,
        live_since=live_since,
        last_live_at=_began(output.last_live_at, taken, now),
    )


def _began(at: float | None, taken: float, now: float) -> float | None:
    """A time of something that has begun."""
    return taken if at is not None and at > now + TOLERANCE else at


def _due(at: float | None, longest: float, now: float) -> float | None:
    """A time that is waited for, for at most `longest` seconds."""
    return now if at is not None and at > now + longest else at
