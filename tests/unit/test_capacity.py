"""The capacity of a machine: what it admits, what it measures, and who gets a smaller preset. Time is a number."""

from __future__ import annotations

import os
import uuid
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.config import LiveSettings, RetrySettings
from butai.errors import Code
from butai.live.egress.presets import LIVEKIT_COST, PRESETS, RELAY_COSTS
from butai.live.reconcile.capacity import (
    LATE,
    LATE_REPORTS,
    LEAST_RATIO,
    LOST,
    LOWER,
    MOST_RATIO,
    PRESSURE_WINDOW,
    STEADY_REPORTS,
    Capacity,
    EngineLoad,
    Machine,
    Newcomer,
    cost_key,
)
from butai.live.reconcile.commands import BroadcastEnded, EndBegun, Move
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.fold import after
from butai.live.reconcile.machine import LEAST_CORES, available_cores, cores_for_engines
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reports import Observations, StartFailed
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.reconcile.timing import Timing
from butai.live.reconcile.waiting import wait_for_capacity
from butai.live.states import OutputState, OutputTrigger
from butai.relay.clock import MAX_FRAME_DELAY
from tests.examples import examples

TABLE = {cost_key("relay", preset): cost for preset, cost in RELAY_COSTS.items()} | {
    cost_key("livekit", preset): LIVEKIT_COST for preset in PRESETS
}
presets = st.sampled_from(sorted(PRESETS))


def newcomer(preset: str = "720p30", egress: str = "relay") -> Newcomer:
    return Newcomer(uuid.uuid4(), egress, preset)


def load(ref: str, at: float, cores: float = 0.34, late: float = 0.0, *, steady: bool = True) -> EngineLoad:
    return EngineLoad(ref, at, cost_key("relay", "720p30"), cores, late, steady)


def watched(capacity: Capacity, *, seconds: int = 60, late: float = 0.0, cores: float = 0.34) -> Capacity:
    for second in range(seconds):
        capacity.observe([load("r1", float(second), cores, late)], float(second))
    return capacity


def test_every_preset_has_a_cost_and_a_lower_one_costs_less() -> None:
    assert RELAY_COSTS.keys() == PRESETS.keys()
    assert set(LOWER) == set(PRESETS) - {"480p30"}
    assert all(RELAY_COSTS[lower] < RELAY_COSTS[preset] for preset, lower in LOWER.items())


def test_a_picture_counts_as_late_long_before_it_is_lost() -> None:
    assert LATE <= MAX_FRAME_DELAY / 2
    assert LOST == MAX_FRAME_DELAY


@examples(ci=100, deep=2000)
@given(
    st.lists(st.tuples(presets, st.sampled_from(["relay", "livekit"])), max_size=30),
    st.floats(0, 8),
    st.floats(0, 8),
    st.floats(0.05, 3),
)
def test_what_is_admitted_fits_in_order_and_nothing_that_fits_is_left(
    wanted: list[tuple[str, str]], cores: float, used: float, cost_of_one: float
) -> None:
    capacity = watched(Capacity(cores, TABLE), seconds=STEADY_REPORTS + 1, cores=cost_of_one)
    newcomers = [newcomer(preset, egress) for preset, egress in wanted]
    admitted = capacity.machine().admit(newcomers, used)
    taken = [one.newcomer for one in admitted]
    assert taken == [one for one in newcomers if one in taken]
    assert all(one.preset == one.newcomer.preset for one in admitted)
    costs = capacity.costs
    total = used + sum(costs[cost_key(one.newcomer.egress, one.preset)] for one in admitted)
    assert total <= cores + 1e-9 or len([one for one in taken if one.egress == "relay"]) <= 1
    for left in newcomers:
        assert left in taken or total + costs[cost_key(left.egress, left.preset)] > cores - 1e-9


def test_an_empty_machine_takes_one_broadcast_however_small_it_is() -> None:
    capacity = Capacity(0.1, TABLE)
    assert len(capacity.machine().admit([newcomer("1080p60"), newcomer("480p30")], 0.0)) == 1
    assert capacity.machine().admit([newcomer("480p30")], capacity.costs["relay 480p30"]) == []


def test_an_operators_number_is_taken_as_it_is() -> None:
    assert Capacity(0.0, TABLE).machine().admit([newcomer(), newcomer("720p30", "livekit")], 0.0) == []
    assert len(Capacity(1.0, TABLE).machine().admit([newcomer() for _ in range(9)], 0.0)) == 2


def test_costs_follow_what_the_engines_here_take() -> None:
    slow = watched(Capacity(2.0, TABLE), cores=0.68)
    assert slow.ratio == pytest.approx(2.0)
    assert len(slow.machine().admit([newcomer() for _ in range(9)], 0.68)) == 1
    fast = watched(Capacity(2.0, TABLE), cores=0.17)
    assert fast.ratio == pytest.approx(0.5)
    assert len(fast.machine().admit([newcomer() for _ in range(20)], 0.17)) == 10


@examples(ci=50, deep=1000)
@given(st.lists(st.floats(0, 50), min_size=1, max_size=40))
def test_no_measurement_leads_beyond_the_bounds(cores: list[float]) -> None:
    capacity = Capacity(2.0, TABLE)
    for second, taken in enumerate(cores):
        capacity.observe([load("r1", float(second), taken)], float(second))
        assert LEAST_RATIO <= capacity.ratio <= MOST_RATIO
        if second + 1 < STEADY_REPORTS:
            assert capacity.ratio == 1.0


def test_an_engine_that_waits_for_its_host_lowers_no_cost() -> None:
    capacity = Capacity(2.0, TABLE)
    for second in range(60):
        capacity.observe([load("r1", float(second), 0.02, steady=False)], float(second))
    assert capacity.ratio == 1.0


def test_a_report_that_is_seen_again_counts_once() -> None:
    capacity = Capacity(2.0, TABLE)
    for second in range(10):
        capacity.observe([load("r1", 5.0, late=0.2)], float(second))
    assert capacity.admits == "all"


def test_late_pictures_lower_newcomers_and_lost_ones_admit_none() -> None:
    assert watched(Capacity(2.0, TABLE), late=0.05).admits == "all"
    behind = watched(Capacity(2.0, TABLE), late=0.12)
    assert behind.admits == "lowered"
    wanted = [newcomer("1080p30"), newcomer("480p30"), newcomer("720p30", "livekit")]
    assert [one.preset for one in behind.machine().admit(wanted, 0.34)] == ["720p30", "480p30", "720p30"]
    losing = watched(Capacity(2.0, TABLE), late=0.3)
    assert losing.admits == "none"
    assert watched(Capacity(2.0, TABLE, when_late=True), late=0.3).admits == "all"
    elsewhere = newcomer("720p30", "livekit")
    assert [one.newcomer for one in losing.machine().admit([newcomer(), elsewhere], 0.34)] == [elsewhere]


def test_one_hiccup_lowers_nothing_and_pressure_passes() -> None:
    capacity = Capacity(2.0, TABLE)
    for second in range(LATE_REPORTS - 1):
        capacity.observe([load("r1", float(second), late=0.2)], float(second))
    assert capacity.admits == "all"
    capacity.observe([load("r1", 10.0, late=0.2)], 10.0)
    assert capacity.admits == "lowered"
    capacity.observe([load("r1", 11.0 + PRESSURE_WINDOW)], 11.0 + PRESSURE_WINDOW)
    assert capacity.admits == "all"


def test_a_second_in_which_many_engines_are_late_counts_once() -> None:
    capacity = Capacity(8.0, TABLE)
    many = [f"r{number}" for number in range(5 * LATE_REPORTS)]
    capacity.observe([load(ref, 0.0, late=0.3) for ref in many], 0.0)
    assert capacity.admits == "all"
    # Whichever of them is late.
    for second in range(1, LATE_REPORTS):
        capacity.observe([load(ref, float(second), late=0.3 * (ref == many[second])) for ref in many], float(second))
    assert capacity.admits == "none"


def test_of_the_controllers_of_a_machine_the_one_that_is_furthest_behind_counts() -> None:
    table = {"relay 720p30": 0.34, "relay 480p30": 0.3}
    new = Capacity(2.0, table)
    slow = Machine(9.0, {"relay 720p30": 0.68}, "lowered")
    busy = Machine(9.0, {"relay 720p30": 0.51, "relay 1080p30": 2.0}, "none")
    found = new.machine([slow, busy])
    assert found == Machine(2.0, {"relay 720p30": 0.68, "relay 480p30": 0.3}, "none")
    assert new.machine([slow]).admits == "lowered"
    # What this one has measured is newer.
    measured = watched(Capacity(2.0, table), cores=0.17)
    assert measured.machine([slow, busy]).costs == measured.costs
    assert Capacity(2.0, table, when_late=True).machine([busy]).admits == "all"


def test_until_resumed_engines_are_measured_costs_count_as_high_as_they_can_be() -> None:
    capacity = Capacity(2.0, TABLE)
    assert capacity.machine().costs == capacity.costs == TABLE
    assert capacity.machine(resumed=True).costs == {key: round(cost * MOST_RATIO, 4) for key, cost in TABLE.items()}
    # Peers that have only begun to measure know no better.
    unmeasured = Machine(2.0, dict(TABLE), "all")
    assert capacity.machine([unmeasured], resumed=True).costs == capacity.machine(resumed=True).costs
    doubled = {key: 2 * cost for key, cost in TABLE.items()}
    assert capacity.machine([unmeasured, Machine(2.0, doubled, "all")], resumed=True).costs == doubled
    # What is said to others is not: a start is taken, and begins a few seconds later.
    assert capacity.costs == TABLE
    watched(capacity, seconds=STEADY_REPORTS)
    assert capacity.machine(resumed=True).costs == capacity.costs


def test_without_an_engine_nothing_is_behind() -> None:
    capacity = watched(Capacity(2.0, TABLE), late=0.3)
    capacity.observe([], 61.0)
    assert capacity.admits == "all"


# The machine


def test_the_cores_are_those_of_the_process_and_of_all_its_control_groups(tmp_path: Path) -> None:
    cores = float(len(os.sched_getaffinity(0)))
    assert available_cores(tmp_path) == cores
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    group = tmp_path / "sys/fs/cgroup/a/b"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == cores
    (group.parent / "cpu.max").write_text("50000 100000\n")
    assert available_cores(tmp_path) == 0.5


def test_the_older_control_groups_limit_too_and_minus_one_is_no_limit(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:memory:/x\n4:cpu,cpuacct:/x\n")
    mount = tmp_path / "sys/fs/cgroup/cpu,cpuacct"
    mount.mkdir(parents=True)
    # The path is the host's: within a container only the mount is there.
    (mount / "cpu.cfs_period_us").write_text("100000\n")
    (mount / "cpu.cfs_quota_us").write_text("-1\n")
    assert available_cores(tmp_path) == float(len(os.sched_getaffinity(0)))
    (mount / "cpu.cfs_quota_us").write_text("75000\n")
    assert available_cores(tmp_path) == 0.75


def test_a_setting_takes_the_place_of_the_measured_cores() -> None:
    assert cores_for_engines(LiveSettings(capacity=7.5)) == 7.5
    assert cores_for_engines(LiveSettings(capacity_reserve=0.0)) == available_cores()
    assert cores_for_engines(LiveSettings(capacity_reserve=10_000.0)) == LEAST_CORES


# Those that wait

NOW = 5000.0
RULES = RetrySettings()
POLICY = Policy({"youtube": RULES, "twitch": RULES, "custom": RULES}, "here", lambda: 0.5)
LIMIT, PAUSE = Timing().capacity_limit, Timing().capacity_pause


def row(*outputs: OutputRow) -> BroadcastRow:
    return BroadcastRow(uuid.uuid4(), "room", "host", "on_air", "720p30", "any", "", 60.0, "end", outputs)


def output(state: OutputState = OutputState.PENDING) -> OutputRow:
    return OutputRow(uuid.uuid4(), "custom", "rtmp://a", None, b"k", "on", state, NOW - 10)


def waited(broadcast: BroadcastRow, since: float, now: float) -> BroadcastRow:
    for write in wait_for_capacity(broadcast, since, now, POLICY):
        broadcast = after(broadcast, write)
    return broadcast


def test_a_broadcast_that_waits_says_why_and_when_it_is_tried_again() -> None:
    waiting = waited(row(output(), output()), NOW, NOW)
    for one in waiting.outputs:
        assert (one.state, one.error_code) == (OutputState.STARTING, Code.NO_CAPACITY)
        assert one.next_attempt_at == NOW + PAUSE
        assert one.tries == 0
    assert wait_for_capacity(waiting, NOW, NOW + PAUSE - 1, POLICY) == ()
    [first, _] = wait_for_capacity(waiting, NOW, NOW + LIMIT - 1, POLICY)
    assert isinstance(first, Move)
    assert first.changes["next_attempt_at"] == NOW + LIMIT


def test_after_five_minutes_all_of_it_ends_with_the_reason() -> None:
    assert LIMIT == 300
    stopped, no_destination = replace(output(), wanted="off"), replace(output(OutputState.FAILED), wanted="off")
    waiting = waited(row(output(), stopped, no_destination), NOW, NOW)
    ended = wait_for_capacity(waiting, NOW, NOW + LIMIT, POLICY)
    assert [type(write) for write in ended[-2:]] == [EndBegun, BroadcastEnded]
    over = waited(waiting, NOW, NOW + LIMIT)
    assert over.ended_at == NOW + LIMIT
    assert over.end_code == Code.NO_CAPACITY
    assert [one.state for one in over.outputs] == [OutputState.FAILED, OutputState.ENDED, OutputState.FAILED]
    assert over.outputs[0].error_code == Code.NO_CAPACITY


def test_an_output_that_waited_begins_as_soon_as_there_is_an_engine() -> None:
    waiting = waited(row(output()), NOW, NOW)
    seen = Observations()
    assert not [one for one in plan(waiting, seen.snapshot(), NOW + 1, POLICY).writes if isinstance(one, Move)]
    seen.engine_running("r1", NOW + 1)
    moves = [one for one in plan(waiting, seen.snapshot(), NOW + 1, POLICY).writes if isinstance(one, Move)]
    assert [(one.event, one.changes["attempt"]) for one in moves] == [(OutputTrigger.STARTED, 1)]


def test_where_the_engine_does_not_start_an_output_that_waited_says_so_and_when_it_is_tried_again() -> None:
    waiting = waited(row(output()), NOW, NOW)
    seen = Observations()
    seen.engine_failed(StartFailed(NOW + 1, "no memory"))
    [move] = [one for one in plan(waiting, seen.snapshot(), NOW + 1, POLICY).writes if isinstance(one, Move)]
    assert move.changes["error_code"] == Code.EGRESS_UNAVAILABLE
    assert move.changes["next_attempt_at"] < NOW + PAUSE
