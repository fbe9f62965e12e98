"""Clocks that are set: none ends a broadcast, cuts a good connection, or gives an output up."""

from __future__ import annotations

import ast
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import jwt
import pytest

import butai
from butai.errors import Code
from butai.live.egress.relay import engine as engine_module
from butai.live.reconcile import reconciler as reconciler_module
from butai.live.reconcile.commands import EngineLost, Move, StartEngine
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reconciler import RowAccess
from butai.live.reconcile.reports import EngineGone, Observations, OutputReport, SourceReport, dated
from butai.live.reconcile.rows import BroadcastRow
from butai.live.reconcile.timing import Timing
from butai.live.stamps import Stamp
from butai.live.states import OutputState, OutputTrigger
from butai.live.tokens import Tokens
from butai.relay.telling import output_line, source_line
from tests.unit.test_live_plan import GONE_AFTER, NOW, POLICY, A, broadcast, moves, output, report, running
from tests.unit.test_projects import projects

HOURS = [7200.0, -7200.0]
set_by = pytest.mark.parametrize("by", HOURS, ids=["forwards", "back"])


def taken(at: float = NOW, *reports: OutputReport) -> Observations:
    """An engine that was found by a controller that has just taken the broadcast."""
    seen = running(*reports)
    seen.held_since = at
    return seen


def of_another_clock(row: BroadcastRow, by: float) -> BroadcastRow:
    """The times of a row, by a clock that is behind (or before) that of the controller which reads them now."""

    def moved(value: Any) -> Any:
        changes = {
            name: getattr(value, name) - by
            for name in value.__dataclass_fields__
            if isinstance(getattr(value, name), float) and (name.endswith(("_at", "_since")) or name == "budget_from")
        }
        return replace(value, **changes)

    return replace(moved(row), outputs=tuple(moved(one) for one in row.outputs))


@set_by
@pytest.mark.parametrize("state", [OutputState.STARTING, OutputState.LIVE, OutputState.RECONNECTING])
def test_an_attempt_that_runs_goes_on_after_a_takeover(by: float, state: OutputState) -> None:
    more: dict[str, Any] = {"error_code": "destination_stalled"} if state is OutputState.RECONNECTING else {}
    row = of_another_clock(broadcast(output(state=state, state_since=NOW - 1, **more)), by)
    phase = {"starting": "publishing", "live": "live", "reconnecting": "stalled"}[state]
    seen = taken(NOW, report(2, phase, NOW))
    if state is OutputState.STARTING:
        seen.mark_written(seen.snapshot())
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert not [one for one in made.writes if isinstance(one, Move | EngineLost)]
    late = [one for one in plan(row, seen.snapshot(), NOW + 46, POLICY).writes if isinstance(one, Move)]
    # What does not get live is still found out, counted from here on.
    assert bool(late) is (state is not OutputState.LIVE)


@set_by
@pytest.mark.parametrize("state", [OutputState.STARTING, OutputState.RECONNECTING])
def test_what_waits_is_tried_now_and_not_in_two_hours(by: float, state: OutputState) -> None:
    waiting = output(state=state, next_attempt_at=NOW + 20, error_code="destination_unreachable", tries=2)
    row, seen = of_another_clock(broadcast(waiting), by), taken()
    assert moves(row, seen) == [(OutputTrigger.STARTED, None)]


def test_what_waits_by_the_same_clock_waits_its_time() -> None:
    row, seen = broadcast(output(state=OutputState.STARTING, next_attempt_at=NOW + 59)), taken()
    assert moves(row, seen) == []
    assert plan(row, seen.snapshot(), NOW, POLICY).wake_at == NOW + 59


@set_by
def test_no_budget_is_spent_by_a_clock(by: float) -> None:
    trying = output(tries=3, budget_from=NOW - 30, state=OutputState.RECONNECTING, error_code="destination_closed")
    row = of_another_clock(broadcast(trying), by)
    (move,) = [
        one
        for one in plan(row, taken(NOW, report(2, "failed", code="destination_closed")).snapshot(), NOW, POLICY).writes
        if isinstance(one, Move)
    ]
    assert (move.event, move.changes["tries"]) == (OutputTrigger.RETRY_PLANNED, 4)
    assert NOW < move.changes["next_attempt_at"] <= NOW + 60


def test_a_long_life_restores_the_budget_though_the_clock_went_back() -> None:
    row = broadcast(output(tries=9, budget_from=NOW - 30, live_since=NOW + 7000))
    seen = taken(NOW, report(2, "failed", code="destination_closed"))
    (move,) = [one for one in plan(row, seen.snapshot(), NOW, POLICY).writes if isinstance(one, Move)]
    assert (move.event, move.changes["tries"]) == (OutputTrigger.RETRY_PLANNED, 1)


@set_by
def test_an_engine_is_started_again_without_waiting_for_hours(by: float) -> None:
    row = of_another_clock(broadcast(output(next_attempt_at=NOW), engine_ref=None, engine_next_at=NOW + 60), by)
    seen = Observations(held_since=NOW)
    assert StartEngine() in plan(row, seen.snapshot(), NOW, POLICY).orders


def test_an_engine_on_another_host_is_waited_for_from_the_takeover_if_its_clock_is_ahead() -> None:
    row = broadcast(output(), engine_ref=None, engine_host="elsewhere", engine_seen_at=NOW + 7200)
    seen = Observations(held_since=NOW)
    waits = plan(row, seen.snapshot(), NOW, POLICY)
    assert StartEngine() not in waits.orders
    assert StartEngine() in plan(row, seen.snapshot(), NOW + GONE_AFTER, POLICY).orders


@set_by
def test_a_stop_is_given_its_time(by: float) -> None:
    stopping = output(state=OutputState.STOPPING, state_since=NOW - 1, wanted="off")
    row = of_another_clock(broadcast(stopping, wanted="off_air"), by)
    seen = taken(NOW, report(2, "live"))
    assert moves(row, seen) == []
    assert moves(row, seen, NOW + 11) == [(OutputTrigger.ENDED, "stop_unconfirmed")]


@set_by
def test_a_running_controller_does_not_see_that_a_clock_is_set(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = RowAccess(cast("Any", None), 1, Timing())
    running_clock, before = rows.clock(), rows.now()
    real = reconciler_module.time.time
    monkeypatch.setattr(reconciler_module.time, "time", lambda: real() + by)
    assert abs(rows.now() - before) < 60
    # Postgres's own is followed by those that begin from then on.
    rows.offset += by
    assert abs(running_clock() - before) < 60
    assert abs(rows.clock()() - before - by) < 60


@set_by
def test_a_report_is_as_old_as_its_engine_says(by: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = engine_module.time.monotonic()
    monkeypatch.setattr(engine_module.time, "time", lambda: now + by)
    line = output_line("a", 1, "live")
    age = engine_module._age(line.mono)
    assert age is not None and 0 <= age < 60
    assert engine_module._age(0.0) is None, "a relay of an older version"
    assert dated(OutputReport(A, 1, "live", line.at, age=2.5), NOW).at == NOW - 2.5
    assert dated(SourceReport("live", by, age=0.0), NOW).at == NOW
    assert dated(EngineGone(by, Code.EGRESS_LOST), NOW).at == by, "of an engine that tells times"


def test_the_lines_of_a_relay_are_numbered() -> None:
    lines = [output_line("a", 1, "live"), output_line("b", 1, "stalled"), output_line("a", 1, "stalled")]
    numbers = [line.number for line in lines]
    assert numbers == sorted(set(numbers)) and numbers[0] > 0
    assert source_line("live").mono > 0


def test_tokens_are_good_where_livekits_clock_is_hours_ahead_or_behind() -> None:
    tokens = Tokens(projects())
    made = [
        tokens.for_egress("default", "r", "relay"),
        tokens.make("default", Stamp("host", "r", "h", 1, time.time() + 9e4)),
    ]
    for token in made:
        claims = jwt.decode(token, options={"verify_signature": False})
        assert claims["nbf"] <= time.time() - 7200
        assert claims["exp"] >= time.time() + 7200
    assert tokens.read_host(made[1]) is not None


_MAY_ASK = {
    "relay/telling.py": "for readers of a relay's log",
    "live/reconcile/reconciler.py": "until Postgres was asked",
    "live/egress/relay/process.py": "the age of files",
    "live/egress/relay/engine.py": "beside an age, which holds",
}


def test_no_timer_of_the_relay_or_a_controller_asks_a_clock_that_may_be_set() -> None:
    root = Path(butai.__file__).parent
    modules = [root / "controller.py", *root.glob("relay/**/*.py")]
    modules += [*root.glob("live/reconcile/*.py"), *root.glob("live/egress/relay/*.py")]
    found = set[str]()
    for path in modules:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("time.time", "datetime.now"):
                found.add(path.relative_to(root).as_posix())
    # The metrics of a relay have a time for readers.
    assert found - {"relay/server.py"} == set(_MAY_ASK)
