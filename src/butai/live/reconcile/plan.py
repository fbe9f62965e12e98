"""Decides what to do about one broadcast: a pure function of the wanted state, the observed state, and the time.

Idempotent: where everything is as wanted, a plan is empty. No state is kept here; all that must survive is in the rows.
"""

from __future__ import annotations

from butai.errors import Code
from butai.live.reconcile import retry
from butai.live.reconcile.clocks import in_this_clock
from butai.live.reconcile.commands import (
    BroadcastEnded,
    CheckDestinations,
    Configure,
    EndBegun,
    EngineHurried,
    EngineLost,
    EngineStarted,
    ForgetRetry,
    KillEngine,
    Order,
    Plan,
    SourceChanged,
    StartEngine,
    StartOutput,
    StopEngine,
    StopOutput,
)
from butai.live.reconcile.draft import NO_ERROR, Draft, Policy
from butai.live.reconcile.held import apply_checks, is_held, to_check
from butai.live.reconcile.reports import Observed, OutputReport
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputState, OutputTrigger

_SOURCE_FAILED_FOR_GOOD = (Code.ROOM_NOT_FOUND, Code.LIVEKIT_UNAUTHORIZED)


def plan(desired: BroadcastRow, observed: Observed, now: float, policy: Policy) -> Plan:
    """The writes and orders that lead from `observed` to `desired`."""
    return _Planner(desired, observed, now, policy).plan()


class _Planner:
    """One call of `plan`. Each step works on the rows as the earlier steps left them."""

    def __init__(self, desired: BroadcastRow, observed: Observed, now: float, policy: Policy) -> None:
        self.seen, self.now, self.policy, self.timing = observed, now, policy, policy.timing
        self.draft = Draft(in_this_clock(desired, observed.held_since, now, policy), now, policy)
        self.orders: list[Order] = []
        self.timers: list[float | None] = []

    def plan(self) -> Plan:
        if self.row.ended_at is None:
            self._apply_reports()
            self._apply_engine()
            self._apply_source()
            if self.seen.ref == self.row.engine_ref:
                apply_checks(self.draft, self.seen)
            for output in self.row.outputs:
                self._apply_wishes(self._now(output))
                self._check_time_limit(self._now(output))
            self._start_what_is_due()
            self._end_broadcast_if_done()
        self._give_orders()
        later = [at for at in self.timers if at is not None and at > self.now]
        return Plan(tuple(self.draft.writes), tuple(self.orders), min(later, default=None))

    @property
    def row(self) -> BroadcastRow:
        """The rows after all writes so far."""
        return self.draft.row

    def _now(self, output: OutputRow) -> OutputRow:
        """An output after all writes so far."""
        found = self.draft.output(output.id)
        assert found is not None, "outputs are never removed"
        return found

    @property
    def _on_air(self) -> bool:
        return self.row.wanted == "on_air" and self.row.ended_at is None

    @property
    def _usable(self) -> bool:
        """Whether an engine is running that was not ordered to end."""
        return self.seen.engine == "running" and self.seen.stop_sent_at is None

    # The engine

    def _apply_reports(self) -> None:
        """Applies the reports of the engine that the rows name. Another engine's reports are about other attempts."""
        if self.seen.ref is not None and self.seen.ref == self.row.engine_ref:
            for report in self.seen.reports:
                output = self.draft.output(report.output_id)
                if output is not None:
                    self._apply_report(output, report)

    def _apply_report(self, output: OutputRow, report: OutputReport) -> None:
        if report.attempt != output.attempt or not output.trying:
            return
        if report.phase == "live" and output.state in (OutputState.STARTING, OutputState.RECONNECTING):
            at = self.draft.clamp_time(output, report.at)
            self.draft.move(
                output,
                OutputTrigger.ACCEPTED,
                at,
                confirmation="transport",
                live_since=at,
                first_live_at=output.first_live_at or at,
                key_live_at=output.key_live_at or at,
                last_live_at=at,
                **NO_ERROR,
            )
        elif report.phase == "stalled" and output.state is OutputState.LIVE:
            code = _code(report.code, Code.DESTINATION_STALLED)
            at = self.draft.clamp_time(output, report.at)
            self.draft.move(
                output,
                OutputTrigger.INTERRUPTED,
                at,
                code=code,
                error_code=code,
                error_cause=None,
                error_detail=report.detail or None,
                **self.draft.off_live(output, at),
            )
        elif report.phase == "failed":
            was_up = output.state in (OutputState.LIVE, OutputState.RECONNECTING)
            assumed = Code.DESTINATION_CLOSED if was_up else Code.DESTINATION_UNREACHABLE
            code = _code(report.code, assumed)
            if output.key_live_at is not None:
                code = _code(report.if_key_worked, code)
            self.draft.fail(output, code, report.detail, report.at, report.not_before)
        elif report.phase == "ended":
            # It ended without an order.
            self.draft.fail(output, Code.EGRESS_LOST, report.detail, report.at)

    def _apply_engine(self) -> None:
        row, seen = self.row, self.seen
        if seen.gone is not None:
            asked = seen.stop_sent_at is not None and not seen.killed
            unheard = seen.source is not None and seen.source.code == Code.LIVEKIT_UNREACHABLE
            code = Code.LIVEKIT_UNREACHABLE if unheard else _code(seen.gone.code, Code.EGRESS_LOST)
            self._lose_engine(None if asked and not unheard else code, seen.gone.detail, seen.gone.at)
        elif row.engine_ref is not None and (seen.engine != "running" or seen.ref != row.engine_ref):
            self._lose_engine(Code.EGRESS_LOST, "the engine was not found any more", self.now)
        if seen.start_failed is not None:
            self._engine_unavailable(seen.start_failed.detail, seen.start_failed.at)
        if seen.engine == "running" and seen.ref is not None and seen.ref != self.row.engine_ref:
            self.draft.write(EngineStarted(seen.ref, self.policy.host, self.now))

    def _lose_engine(self, code: Code | None, detail: str, at: float) -> None:
        """The engine that the rows name has ended, and every attempt with it."""
        row, seen, failures, next_at = self.row, self.seen, self.row.engine_failures, None
        if code is not None and self._on_air:
            steady = seen.since is not None and at - seen.since >= self.timing.engine_steady
            failures = 1 if steady else failures + 1
            # After the first failure the next start is immediate; an engine that fails again before it was healthy has
            # to wait.
            next_at = at if failures == 1 else at + retry.engine_delay(failures - 1, self.policy.random, self.timing)
        if row.engine_ref is not None and row.engine_host != self.policy.host:
            # On another machine, where its end cannot be observed: it may push until then.
            next_at = max(next_at or 0.0, (row.engine_seen_at or self.now) + self.timing.engine_gone_after)
        self.draft.write(EngineLost(code, detail, failures, next_at, at))
        for output in self.row.outputs:
            if output.trying and self._wanted(output):
                self.draft.fail(output, code or Code.EGRESS_LOST, detail, at)

    def _engine_unavailable(self, detail: str, at: float) -> None:
        """No engine could be started, which uses nothing of the outputs' budgets."""
        failures = self.row.engine_failures + 1
        next_at = at + retry.engine_delay(failures, self.policy.random, self.timing)
        self.draft.write(EngineLost(Code.EGRESS_UNAVAILABLE, detail, failures, next_at, at))
        for output in self.row.outputs:
            told_to_wait = output.error_code == Code.NO_CAPACITY
            early = (output.next_attempt_at or 0.0) < next_at
            if output.waiting and self._wanted(output) and (early or told_to_wait):
                self.draft.move(
                    output,
                    OutputTrigger.RETRY_PLANNED,
                    self.draft.clamp_time(output, at),
                    code=Code.EGRESS_UNAVAILABLE,
                    next_attempt_at=next_at,
                    error_code=Code.EGRESS_UNAVAILABLE,
                    error_cause=None,
                    error_detail=detail or None,
                )

    def _apply_source(self) -> None:
        source = self.seen.source
        if source is None or self.seen.ref != self.row.engine_ref:
            return
        code = _code(source.code, Code.SOURCE_ENDED) if source.code or source.phase in ("ended", "failed") else None
        ready = self.row.hold_until_media and source.ready
        if (source.phase, code, ready) != (self.row.source_phase, self.row.source_code, self.row.source_ready):
            at = min(source.at, self.now)
            self.draft.write(SourceChanged(source.phase, code, at, ready))
        if code is None or source.phase not in ("ended", "failed") or not self._on_air:
            return
        if code is Code.LIVEKIT_UNREACHABLE:
            # The relay has given up; another one may succeed, as long as the outputs' budgets last.
            if any(not output.over for output in self.row.outputs):
                return
        elif code in _SOURCE_FAILED_FOR_GOOD:
            for output in self.row.outputs:
                if not output.over and output.state is not OutputState.STOPPING:
                    self.draft.give_up(output, code, None, source.detail, self.now)
        self.draft.write(EndBegun(code, self.now))

    # Wishes of hosts, and time limits

    def _apply_wishes(self, output: OutputRow) -> None:
        if output.retry_asked_at is not None:
            self._retry_now(output, output.retry_asked_at)
            output = self._now(output)
        if not self._wanted(output):
            if self._on_air and output.state is OutputState.FAILED and output.error_code != Code.NO_DESTINATION:
                # Taken off the air by its host. Otherwise a failure must still show as one after the end of the
                # broadcast.
                self.draft.end(output, output.error_code)
            elif not output.over and output.state is not OutputState.STOPPING:
                self.draft.stop(output, self.row.end_code)
        output = self._now(output)
        if output.state is OutputState.STOPPING:
            self._confirm_end(output)

    def _confirm_end(self, output: OutputRow) -> None:
        since = max(output.state_since, self.seen.held_since or 0.0)
        waited = self.now - since
        if self.seen.engine != "running" and self._remote_engine_until is None:
            self.draft.end(output, Code.STOP_UNCONFIRMED if self.seen.killed else self.row.end_code)
        elif self.seen.engine == "running" and self.seen.carries(output.id) is None:
            self.draft.end(output, self.row.end_code)
        elif waited >= self.timing.stop_limit:
            self.draft.end(output, Code.STOP_UNCONFIRMED)
        else:
            self.timers.append(since + self.timing.stop_limit)

    def _retry_now(self, output: OutputRow, asked_at: float) -> None:
        hurry = self._wanted(output) and (
            output.state is OutputState.FAILED or (output.waiting and output.state is not OutputState.PENDING)
        )
        if not hurry:
            self.draft.write(ForgetRetry(output.id, asked_at))
            return
        self.draft.move(
            output,
            OutputTrigger.RETRIED,
            self.now,
            next_attempt_at=self.now,
            retry_asked_at=None,
            tries=0,
            budget_from=None,
            short_lives=0,
            ended_at=None,
            **NO_ERROR,
        )
        if (
            self.seen.engine == "absent"
            and (self.row.engine_next_at or 0.0) > self.now
            and not self._remote_engine_until
        ):
            self.draft.write(EngineHurried(self.now))

    def _check_time_limit(self, output: OutputRow) -> None:
        if not output.trying or output.state is OutputState.LIVE or not self._wanted(output):
            return
        began = max(output.attempt_started_at or 0.0, output.state_since)
        if output.state is OutputState.STARTING:
            began = output.attempt_started_at or output.state_since
        # A time that another controller wrote may be of a clock that was set since.
        began = max(began, self.seen.held_since or 0.0)
        if self.now < began + self.timing.start_limit:
            self.timers.append(began + self.timing.start_limit)
            return
        stalled = output.state is OutputState.RECONNECTING and output.error_code == Code.DESTINATION_STALLED
        code = Code.DESTINATION_STALLED if stalled else Code.EGRESS_START_TIMEOUT
        self.draft.fail(output, code, f"not live after {self.timing.start_limit:.0f} s", self.now)

    def _start_what_is_due(self) -> None:
        for output in self.row.outputs:
            if not output.waiting or not self._wanted(output):
                continue
            # An output that waited for a machine with room begins as soon as it has an engine.
            early = output.error_code == Code.NO_CAPACITY and self._usable
            if output.next_attempt_at is not None and self.now < output.next_attempt_at and not early:
                self.timers.append(output.next_attempt_at)
                continue
            if not self._usable or is_held(self.row, self.seen):
                continue
            if self.seen.carries(output.id) is not None:
                # The previous attempt is still being ended.
                stopped = self.seen.stops.get(output.id)
                if stopped is None or self.now < stopped + self.timing.stop_limit:
                    self.timers.append((stopped or self.now) + self.timing.stop_limit)
                    continue
            latest, held_for = self.seen.latest.get(output.id), 0.0
            if self.row.hold_until_media and output.next_attempt_at is not None:
                held_for = max(self.now - output.next_attempt_at, 0.0)
            self.draft.move(
                output,
                OutputTrigger.STARTED,
                self.now,
                # A held output tries nothing, so the budget's time stands still.
                budget_from=None if output.budget_from is None else min(output.budget_from + held_for, self.now),
                # Higher than the engine's newest, in case the tables were restored from an older copy.
                attempt=max(output.attempt, latest.attempt if latest else 0) + 1,
                attempt_started_at=self.now,
                next_attempt_at=None,
                check_code=None,
            )

    def _end_broadcast_if_done(self) -> None:
        if self._on_air:
            # A host may retry a failed output; an output without a destination never was on air.
            done = [
                output.state is OutputState.ENDED or (output.over and output.wanted == "off")
                for output in self.row.outputs
            ]
            if done and all(done):
                self.draft.write(BroadcastEnded(None, self.now))
            return
        if not all(output.over for output in self.row.outputs):
            return
        carried = any(self.seen.carries(output.id) is not None for output in self.row.outputs)
        asked = self.seen.stop_sent_at
        if carried and (asked is None or self.now < asked + self.timing.stop_limit):
            return
        self.draft.write(BroadcastEnded(self.row.end_code, self.now))

    # Orders

    def _give_orders(self) -> None:
        seen = self.seen
        source_gave_up = seen.source is not None and seen.source.phase == "failed" and seen.engine == "running"
        if not self._on_air or source_gave_up:
            self._end_engine()
        elif seen.engine == "absent":
            next_at = max(self.row.engine_next_at or 0.0, self._remote_engine_until or 0.0)
            if self.now >= next_at:
                self.orders.append(StartEngine())
            else:
                self.timers.append(next_at)
        elif self._usable:
            if not seen.configured:
                self.orders.append(Configure())
            checked = to_check(self.row, seen, self.now)
            if checked != seen.checking:
                self.orders.append(CheckDestinations(checked))
            for output in self.row.outputs:
                self._give_output_orders(output)

    def _end_engine(self) -> None:
        seen = self.seen
        if seen.engine == "absent":
            return
        if seen.stop_sent_at is None:
            self.orders.append(StopEngine())
            self.timers.append(self.now + self.timing.kill_after)
        elif self.now < seen.stop_sent_at + self.timing.kill_after:
            self.timers.append(seen.stop_sent_at + self.timing.kill_after)
        elif not seen.killed:
            self.orders.append(KillEngine())
        if seen.stop_sent_at is not None:
            self.timers.append(seen.stop_sent_at + self.timing.stop_limit)

    def _give_output_orders(self, output: OutputRow) -> None:
        carried = self.seen.carries(output.id)
        latest = self.seen.latest.get(output.id)
        if output.trying:
            known = carried == output.attempt or (latest is not None and latest.attempt == output.attempt)
            if not known:
                self.orders.append(StartOutput(output.id, output.attempt))
        elif carried is not None:
            stopped = self.seen.stops.get(output.id)
            if stopped is None or self.now >= stopped + self.timing.stop_limit:
                self.orders.append(StopOutput(output.id))
                stopped = self.now
            self.timers.append(stopped + self.timing.stop_limit)

    def _wanted(self, output: OutputRow) -> bool:
        return self._on_air and output.wanted == "on"

    @property
    def _remote_engine_until(self) -> float | None:
        """The time until which an engine on another host may still push; None if it cannot."""
        row = self.row
        if row.engine_host in (None, self.policy.host) or row.engine_seen_at is None:
            return None
        until = row.engine_seen_at + self.timing.engine_gone_after
        return until if self.now < until else None


def _code(code: str, otherwise: Code) -> Code:
    try:
        return Code(code)
    except ValueError:
        return otherwise
