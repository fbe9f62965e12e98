"""The rows and writes of one plan while it is being made. Pure.

`plan` decides; this module knows which columns each decision changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from butai.config import RetrySettings
from butai.errors import Code
from butai.live.reconcile import retry
from butai.live.reconcile.commands import Move, Write
from butai.live.reconcile.fold import after
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.reconcile.timing import Timing
from butai.live.states import OUTPUT_TABLE, OutputTrigger

NO_ERROR: dict[str, Any] = {"error_code": None, "error_cause": None, "error_detail": None}
"""The error columns of an output without an error."""


@dataclass(frozen=True)
class Policy:
    """The rules of this installation: `retry` by platform, `host` (the machine of this controller's engines), `random`
    (uniform over [0, 1), for jitter)."""

    retry: Mapping[str, RetrySettings]
    host: str
    random: retry.Random
    timing: Timing = field(default_factory=Timing)


class Draft:
    """Collects the writes of one plan and applies them: `row` is the broadcast after them. Outputs are passed as `row`
    has them."""

    def __init__(self, desired: BroadcastRow, now: float, policy: Policy) -> None:
        self.now, self.policy = now, policy
        self.row = desired
        self.writes: list[Write] = []

    def output(self, output_id: UUID) -> OutputRow | None:
        """An output after all writes so far; None for an unknown id."""
        return next((output for output in self.row.outputs if output.id == output_id), None)

    def fail(self, output: OutputRow, code: Code, detail: str, at: float, not_before: float = 0.0) -> None:
        """Ends an attempt with an error and plans the next one, no earlier than `not_before`; fails the output where
        `retry` says so."""
        at = self.clamp_time(output, at)
        off_live = self.off_live(output, at)
        failure = retry.Failure(
            code,
            at,
            output.attempt_started_at,
            off_live["last_live_at"],
            code_before=output.error_code,
            key_worked=output.key_live_at is not None,
        )
        budget = retry.Budget(off_live["tries"], off_live["budget_from"], off_live["short_lives"])
        rules = self.policy.retry[output.platform]
        verdict = retry.decide(rules, failure, budget, self.policy.random, self.policy.timing)
        spent = {
            **off_live,
            "tries": verdict.budget.tries,
            "budget_from": verdict.budget.began,
            "short_lives": verdict.budget.short_lives,
        }
        if verdict.again_at is None:
            self.give_up(output, verdict.code, verdict.cause, detail, at, **spent)
            return
        self.move(
            output,
            OutputTrigger.RETRY_PLANNED,
            at,
            code=verdict.code,
            next_attempt_at=max(verdict.again_at, not_before),
            error_code=verdict.code,
            error_cause=verdict.cause,
            error_detail=detail or None,
            **spent,
        )

    def give_up(
        self, output: OutputRow, code: Code, cause: Code | None, detail: str, at: float, **changes: Any
    ) -> None:
        """Fails an output: no further attempt unless a host asks for one."""
        self.move(
            output,
            OutputTrigger.FAILED,
            self.clamp_time(output, at),
            code=code,
            next_attempt_at=None,
            error_code=code,
            error_cause=cause,
            error_detail=detail or None,
            **(changes or {"live_since": None, "confirmation": "none"}),
        )

    def stop(self, output: OutputRow, code: str | None) -> None:
        """Takes an output off the air. `code`: the reason, where its host did not request it."""
        off_live = self.off_live(output, self.now)
        self.move(
            output,
            OutputTrigger.STOP_ASKED,
            self.now,
            code=code,
            next_attempt_at=None,
            live_since=None,
            last_live_at=off_live["last_live_at"],
        )

    def end(self, output: OutputRow, code: str | None) -> None:
        """Ends an output for good. `code`: the reason, where its host did not request it."""
        self.move(
            output,
            OutputTrigger.ENDED,
            self.now,
            code=code,
            next_attempt_at=None,
            live_since=None,
            ended_at=self.now,
            error_code=code,
            error_cause=None,
            error_detail=None,
        )

    def off_live(self, output: OutputRow, at: float) -> dict[str, Any]:
        """The column changes of an output that is no longer live; a stable period of live has restored its retry
        budget."""
        budget = retry.Budget(output.tries, output.budget_from, output.short_lives)
        last = output.last_live_at
        if output.live_since is not None:
            budget = retry.after_live(self.policy.retry[output.platform], budget, at - output.live_since)
            last = at
        return {
            "confirmation": "none",
            "live_since": None,
            "last_live_at": last,
            "tries": budget.tries,
            "budget_from": budget.began,
            "short_lives": budget.short_lives,
        }

    def move(
        self, output: OutputRow, event: OutputTrigger, at: float, *, code: str | None = None, **changes: Any
    ) -> None:
        """Applies an event to an output. `changes`: columns beside the state. Raises `IllegalOutputTransition`."""
        state = OUTPUT_TABLE.after(output.state, event)
        changes["state"] = state
        if state is not output.state:
            changes["state_since"] = at
        self.write(Move(output.id, event, output.state, output.attempt, at, changes, code))

    def write(self, write: Write) -> None:
        """Appends a write, and applies it to `row`."""
        self.row = after(self.row, write)
        self.writes.append(write)

    def clamp_time(self, output: OutputRow, at: float) -> float:
        """The engine's time stamp, limited to the range from the output's last change to now: its clock may be
        wrong."""
        return max(min(at, self.now), min(output.state_since, self.now))
