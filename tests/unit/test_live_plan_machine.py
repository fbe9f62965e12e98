"""Hosts, platforms, engines, controllers and the clock do what they like, in any order; the rules hold all the same.

The rows, the observations and the plan are the real ones; the engine is a model that obeys orders at once, and whose
reports arrive late, doubled and out of order. Time is a number.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from butai.config import RetrySettings
from butai.live.reconcile.commands import (
    BroadcastEnded,
    CheckDestinations,
    Configure,
    KillEngine,
    Move,
    Plan,
    StartEngine,
    StartOutput,
    StopEngine,
    StopOutput,
    Write,
)
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.fold import after
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reports import (
    OVER,
    CheckReport,
    EngineGone,
    Observations,
    Observed,
    OutputReport,
    SourceReport,
    StartFailed,
)
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.states import OutputState, OutputTrigger
from tests.examples import examples

RULES = RetrySettings(base=1, cap=8, attempts=4, minutes=10, stable=60)
POLICY = Policy({"youtube": RULES, "twitch": RULES, "custom": RULES}, "here", lambda: 0.5)
CODES = (
    "key_rejected",
    "destination_unreachable",
    "destination_closed",
    "already_publishing",
    "tls_failed",
    "nonsense",
)


class EngineModel:
    """One engine that runs. It ends an older attempt before it starts another."""

    def __init__(self) -> None:
        self.ref = uuid.uuid4().hex
        self.running: dict[UUID, OutputReport] = {}
        self.stopped_at: dict[UUID, float] = {}
        self.deaf = False


def without(seen: Observed, output_id: UUID) -> Observed:
    """As if the engine had never spoken of this output."""
    return replace(
        seen,
        latest={key: value for key, value in seen.latest.items() if key != output_id},
        reports=tuple(report for report in seen.reports if report.output_id != output_id),
    )


def moves_of_others(made: Plan, output_id: UUID) -> list[Move]:
    return [one for one in made.writes if isinstance(one, Move) and one.output_id != output_id]


def _is_check(write: Write) -> bool:
    return isinstance(write, Move) and write.event is OutputTrigger.CHECKED


class BroadcastMachine(RuleBasedStateMachine):
    """One broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.now, self.numbers = 1_000_000.0, 0
        self.engine: EngineModel | None = None
        self.starting = False
        self.seen = Observations()
        self.on_its_way: list[OutputReport | SourceReport] = []
        self.tries: dict[UUID, int] = {}
        self.ended: dict[UUID, OutputRow] = {}
        self.away = False

    @initialize(count=st.integers(1, 3), hold=st.booleans())
    def begin(self, count: int, hold: bool = False) -> None:
        self.row = BroadcastRow(
            uuid.uuid4(),
            "room",
            "host",
            "on_air",
            "720p30",
            "any",
            "",
            60.0,
            "end",
            tuple(self._output() for _ in range(count)),
            hold_until_media=hold,
        )
        self.step()

    def _output(self) -> OutputRow:
        return OutputRow(uuid.uuid4(), "custom", "rtmp://a", None, b"k", "on", OutputState.PENDING, self.now)

    # The controller

    def step(self) -> None:
        if self.away:
            return
        seen = self.seen.snapshot()
        made = plan(self.row, seen, self.now, POLICY)
        for output_id in {report.output_id for report in seen.reports}:
            if not any(isinstance(one, BroadcastEnded) for one in made.writes):
                other = plan(self.row, without(seen, output_id), self.now, POLICY)
                assert moves_of_others(made, output_id) == moves_of_others(other, output_id)
        before, self.row = self.row, functools.reduce(after, made.writes, self.row)
        self.applied(before, made.writes, self.row)
        self._count(made)
        self.seen.mark_written(seen)
        for order in made.orders:
            self._obey(order)
        seen = self.seen.snapshot()
        if self.row.hold_until_media and not (seen.source and seen.source.ready):
            started = [one for one in made.writes if isinstance(one, Move) and one.event is OutputTrigger.STARTED]
            assert not started, "before the first picture"
        if not seen.reports and not seen.gone and seen.engine != "absent":
            # Nothing new: nothing to do.
            assert plan(self.row, seen, self.now, POLICY).actions == []

    def applied(self, before: BroadcastRow, writes: Sequence[Write], changed: BroadcastRow) -> None:
        """What a plan wrote."""

    def _count(self, made: Plan) -> None:
        for one in made.writes:
            if isinstance(one, Move):
                if one.event is OutputTrigger.STARTED:
                    self.tries[one.output_id] = self.tries.get(one.output_id, 0) + 1
                    assert self.tries[one.output_id] <= RULES.attempts
                if one.event is OutputTrigger.RETRIED or (
                    one.before is OutputState.LIVE and one.changes.get("tries") in (0, 1)
                ):
                    self.tries[one.output_id] = one.changes["tries"]

    def _obey(self, order: object) -> None:
        engine = self.engine
        match order:
            case StartEngine():
                assert engine is None and not self.starting, "a second engine"
                self.starting = True
                self.seen.engine_starting()
            case StopEngine() if self.starting:
                self.starting = False
                self.seen.engine_dropped()
            case StopEngine():
                self.seen.ordered_end(self.now)
                if engine and not engine.deaf:
                    self._gone("")
            case KillEngine():
                self.seen.ordered_end(self.now, killed=True)
                if engine:
                    self._gone("egress_crashed")
            case Configure():
                assert engine
                self.seen.ordered_configuration()
            case CheckDestinations():
                assert engine and (self.row.hold_until_media or not order.outputs)
                self.seen.ordered_checks(order.outputs)
            case StartOutput():
                assert engine and self.row.engine_ref == engine.ref
                before = engine.running.get(order.output_id)
                if before is not None and before.phase not in OVER:
                    assert before.attempt < order.attempt, "the same attempt twice"
                    assert self.now >= engine.stopped_at[order.output_id] + POLICY.timing.stop_limit, (
                        "two attempts at once"
                    )
                self.seen.ordered_start(order.output_id, order.attempt)
                self._say(order.output_id, order.attempt, "connecting")
            case StopOutput():
                assert engine
                self.seen.ordered_stop(order.output_id, self.now)
                engine.stopped_at[order.output_id] = self.now
                if not engine.deaf:
                    known = engine.running.get(order.output_id)
                    self._say(order.output_id, known.attempt if known else 0, "ended")
            case _:
                raise AssertionError(f"an unknown order: {order}")

    def _say(self, output_id: UUID, attempt: int, phase: str, code: str = "") -> None:
        assert self.engine
        self.numbers += 1
        known = "destination_closed" if code == "key_rejected" else ""
        report = OutputReport(output_id, attempt, phase, self.now, code, if_key_worked=known, number=self.numbers)  # pyright: ignore[reportArgumentType]
        self.engine.running[output_id] = report
        self.on_its_way.append(report)

    def _gone(self, code: str) -> None:
        # The last words come before the end of the line, in whatever order.
        for report in self.on_its_way:
            self.seen.record(report)
        self.on_its_way.clear()
        self.engine = None
        self.seen.record(EngineGone(self.now, code))

    # What happens

    @rule(seconds=st.sampled_from([0.01, 0.5, 1.5, 4.0, 11.0, 46.0, 70.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.step()

    @precondition(lambda self: self.starting)
    @rule()
    def the_engine_comes_up(self) -> None:
        self.engine, self.starting = EngineModel(), False
        self.on_its_way.clear()
        self.seen.engine_running(self.engine.ref, self.now)
        self.step()

    @precondition(lambda self: self.starting)
    @rule()
    def the_engine_does_not_come_up(self) -> None:
        self.starting = False
        self.seen.engine_failed(StartFailed(self.now))
        self.step()

    @precondition(lambda self: self.engine is not None)
    @rule()
    def the_engine_dies(self) -> None:
        self._gone("egress_crashed")
        self.step()

    @precondition(lambda self: self.engine is not None)
    @rule(deaf=st.booleans())
    def the_engine_does_not_obey(self, deaf: bool) -> None:
        assert self.engine
        self.engine.deaf = deaf

    @precondition(lambda self: self._running())
    @rule(data=st.data(), phase=st.sampled_from(["live", "stalled", "failed"]), code=st.sampled_from(CODES))
    def a_platform_does_something(self, data: st.DataObject, phase: str, code: str) -> None:
        report = data.draw(st.sampled_from(self._running()))
        self.now += 0.001
        self._say(report.output_id, report.attempt, phase, code if phase == "failed" else "")

    def _running(self) -> list[OutputReport]:
        return [] if self.engine is None else [one for one in self.engine.running.values() if one.phase not in OVER]

    @precondition(lambda self: self.on_its_way)
    @rule(data=st.data(), doubled=st.booleans())
    def a_report_arrives(self, data: st.DataObject, doubled: bool) -> None:
        report = data.draw(st.sampled_from(self.on_its_way))
        if not doubled:
            self.on_its_way.remove(report)
        self.seen.record(report)
        self.step()

    @rule(stable=st.booleans())
    def all_goes_well(self, stable: bool) -> None:
        """For a while: what is on its way comes, and platforms take what they get."""
        self.away = False
        if self.starting:
            self.the_engine_comes_up()
        self.step()
        for report in self._running():
            if report.phase != "live":
                self.now += 0.001
                self._say(report.output_id, report.attempt, "live")
        if self.on_its_way:
            self.all_reports_arrive()
        self.time_passes(61.0 if stable else 1.0)

    @precondition(lambda self: self.on_its_way)
    @rule()
    def all_reports_arrive(self) -> None:
        for report in self.on_its_way:
            self.seen.record(report)
        self.on_its_way.clear()
        self.step()

    @precondition(lambda self: self.engine is not None)
    @rule(
        phase=st.sampled_from(["waiting", "live", "live", "lost", "ended", "failed"]),
        unreachable=st.booleans(),
        ready=st.none() | st.booleans(),
    )
    def the_host_comes_and_goes(self, phase: str, unreachable: bool, ready: bool | None = None) -> None:
        code = {"ended": "source_ended", "failed": "livekit_unreachable" if unreachable else "room_not_found"}
        told = SourceReport(phase, self.now, code.get(phase, ""), told_ready=ready)  # pyright: ignore[reportArgumentType]
        self.seen.record(told)
        self.step()

    @precondition(lambda self: self.engine is not None)
    @rule(data=st.data(), code=st.sampled_from(["", *CODES]))
    def a_check_tells_something(self, data: st.DataObject, code: str) -> None:
        self.seen.record(CheckReport(data.draw(st.sampled_from(self.row.outputs)).id, code))
        seen = self.seen.snapshot()
        told, untold = (plan(self.row, one, self.now, POLICY) for one in (seen, replace(seen, checks={})))
        assert told.orders == untold.orders
        assert [one for one in told.writes if not _is_check(one)] == [*untold.writes], "no attempt, no budget"
        self.step()

    @precondition(lambda self: self.row.ended_at is None)
    @rule()
    def the_controller_is_replaced(self) -> None:
        """It dies anywhere between two steps; the next one finds the engine, or nothing."""
        self.seen, self.away = Observations(), False
        self.on_its_way.clear()
        if self.starting:
            # What was on its way comes up all the same, and is found.
            self.engine, self.starting = EngineModel(), False
        if self.engine is not None:
            self.seen.engine_running(self.engine.ref, self.now)
            for report in self.engine.running.values():
                self.seen.record(report)
        self.step()

    @rule()
    def the_database_goes_and_comes(self) -> None:
        self.away = not self.away
        self.step()

    @precondition(lambda self: self.row.ended_at is None and len(self.row.outputs) < 4)
    @rule()
    def the_host_adds_an_output(self) -> None:
        if self.row.wanted == "on_air":
            self.row = replace(self.row, outputs=(*self.row.outputs, self._output()))
            self.step()

    @precondition(lambda self: self.now > 1_000_010)
    @rule(data=st.data())
    def the_host_stops_one(self, data: st.DataObject) -> None:
        self._want(data.draw(st.sampled_from(self.row.outputs)), wanted="off")
        self.step()

    @precondition(lambda self: self.row.wanted == "on_air")
    @rule(data=st.data())
    def the_host_says_now(self, data: st.DataObject) -> None:
        output = data.draw(st.sampled_from(self.row.outputs))
        if output.wanted == "on":
            # Postgres keeps microseconds.
            self._want(output, retry_asked_at=round(self.now, 6))
            self.step()

    def _want(self, output: OutputRow, **wishes: object) -> None:
        changed = replace(output, **wishes)
        self.row = replace(self.row, outputs=tuple(changed if one.id == output.id else one for one in self.row.outputs))

    @precondition(lambda self: self.now > 1_000_100)
    @rule()
    def the_host_stops_all(self) -> None:
        twice = self.row.wanted == "off_air"
        before = self.row
        if not twice:
            self.row = replace(self.row, wanted="off_air", stop_asked_at=self.now)
        self.step()
        if twice:
            assert before.stop_asked_at == self.row.stop_asked_at

    # What holds

    @invariant()
    def what_has_ended_stays_as_it_was(self) -> None:
        for output in self.row.outputs if hasattr(self, "row") else ():
            if output.id in self.ended:
                assert replace(output, wanted="off", retry_asked_at=None) == self.ended[output.id]
            elif output.state is OutputState.ENDED:
                self.ended[output.id] = replace(output, wanted="off", retry_asked_at=None)

    @invariant()
    def budgets_hold(self) -> None:
        for output in self.row.outputs if hasattr(self, "row") else ():
            assert output.tries <= RULES.attempts
            assert (output.first_live_at is None) == (output.key_live_at is None)
            # No platform of these names the key, so one that worked is not called wrong.
            assert output.error_code != "key_rejected" or output.key_live_at is None
            assert (output.next_attempt_at is None) or output.state in (OutputState.STARTING, OutputState.RECONNECTING)
            assert (output.live_since is not None) == (output.state is OutputState.LIVE)
            assert (output.confirmation == "none") or output.state in (
                OutputState.LIVE,
                OutputState.STOPPING,
                OutputState.ENDED,
            )

    def teardown(self) -> None:
        """Whatever happened, a stop ends it, in at most ten seconds and one look."""
        if not hasattr(self, "row"):
            return
        self.away = False
        if self.row.wanted == "on_air":
            self.row = replace(self.row, wanted="off_air", stop_asked_at=self.now)
        self.step()
        for _ in range(12):
            self.now += 1.0
            self.step()
        assert self.row.ended_at is not None
        assert all(output.state in (OutputState.ENDED, OutputState.FAILED) for output in self.row.outputs)
        assert self.engine is None


TestBroadcast = BroadcastMachine.TestCase
TestBroadcast.settings = examples(ci=40, deep=200, stateful_step_count=60, deadline=None)
