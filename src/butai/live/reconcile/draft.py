"""The outputs of one plan while it is made: each move changes the row in memory and is written down.

Used by `butai.live.reconcile.plan` alone, which decides; here is what each decision does to the columns. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from butai.config import RetrySettings
from butai.errors import Code
from butai.live.reconcile import retry
from butai.live.reconcile.commands import Move, Write
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputTrigger, next_state

WORDLESS: dict[str, Any] = {"error_code": None, "error_cause": None, "error_detail": None}
"""Columns of an output that is well."""


@dataclass(frozen=True)
class Policy:
    """The rules of this installation. `host`: where this controller's engines run. `random`: uniform over [0, 1)."""

    retry: Mapping[str, RetrySettings]
    host: str
    random: retry.Random


class Draft:
    """One plan's writes. Every method takes the row as it stands in `outputs` and leaves the new one there."""

    def __init__(self, desired: BroadcastRow, now: float, policy: Policy) -> None:
        self.now, self.policy = now, policy
        self.outputs = {output.id: output for output in desired.outputs}
        self.writes: list[Write] = []

    def fail(self, output: OutputRow, code: Code, detail: str, at: float, not_before: float = 0.0) -> None:
        """An attempt ended with an error: another one follows (`not_before` that moment), or none."""
        at = self.time(output, at)
        off_live = self.off_live(output, at)
        failure = retry.Failure(
            code, at, output.attempt_started_at, off_live["last_live_at"], code_before=output.error_code
        )
        budget = retry.Budget(off_live["tries"], off_live["budget_from"])
        verdict = retry.decide(self.policy.retry[output.platform], failure, budget, self.policy.random)
        spent = {**off_live, "tries": verdict.budget.tries, "budget_from": verdict.budget.began}
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
        """No further attempt without a host's word."""
        self.move(
            output,
            OutputTrigger.FAILED,
            self.time(output, at),
            code=code,
            next_attempt_at=None,
            error_code=code,
            error_cause=cause,
            error_detail=detail or None,
            **(changes or {"live_since": None, "confirmation": "none"}),
        )

    def stop(self, output: OutputRow, code: str | None) -> None:
        """It is to leave the air. `code`: why, when nobody asked for it."""
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
        """It is off the air for good. `code`: why, when nobody asked for it."""
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
        """What changes when an output is no longer on air; its budget may be whole again."""
        budget = retry.Budget(output.tries, output.budget_from)
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
        }

    def move(
        self, output: OutputRow, event: OutputTrigger, at: float, *, code: str | None = None, **changes: Any
    ) -> None:
        """Raises `IllegalTransition`. `changes`: columns beside the state."""
        after = next_state(output.state, event)
        changes["state"] = after
        if after is not output.state:
            changes["state_since"] = at
        self.write(Move(output.id, event, output.state, output.attempt, at, changes, code))
        self.outputs[output.id] = replace(output, **changes)

    def write(self, write: Write) -> None:
        """One more, in its order."""
        self.writes.append(write)

    def time(self, output: OutputRow, at: float) -> float:
        """When something happened to this output, by the engine's clock: not in the future, and not before the last."""
        return max(min(at, self.now), min(output.state_since, self.now))
