"""Single decisions of the plan, and what counts as news of an engine."""

from __future__ import annotations

import functools
import uuid
from dataclasses import replace
from typing import Any

import pytest

from butai.config import LiveSettings, RetrySettings
from butai.errors import Code
from butai.live.reconcile.commands import (
    BroadcastEnded,
    EndBegun,
    EngineLost,
    Move,
    SourceChanged,
    StartEngine,
    StartOutput,
    StopEngine,
    StopOutput,
)
from butai.live.reconcile.draft import Policy
from butai.live.reconcile.fold import after
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reports import KEPT, EngineGone, Observations, OutputReport, SourceReport
from butai.live.reconcile.rows import BroadcastRow, OutputRow
from butai.live.reconcile.timing import Timing
from butai.live.states import OutputState, OutputTrigger

NOW = 5000.0
GONE_AFTER = Timing().engine_gone_after
A, B = uuid.uuid4(), uuid.uuid4()
RULES = RetrySettings()
POLICY = Policy({"youtube": RULES, "twitch": RULES, "custom": RULES}, "here", lambda: 0.5)


def output(output_id: uuid.UUID = A, state: OutputState = OutputState.LIVE, attempt: int = 2, **more: Any) -> OutputRow:
    row = OutputRow(
        output_id, "custom", "rtmp://a", None, b"k", "on", state, 4000.0, attempt=attempt, attempt_started_at=NOW - 1
    )
    if state is OutputState.LIVE:
        row = replace(row, live_since=4000.0, last_live_at=4000.0, first_live_at=4000.0)
    return replace(row, **more)


def broadcast(*outputs: OutputRow, **more: Any) -> BroadcastRow:
    row = BroadcastRow(
        uuid.uuid4(), "room", "host", "on_air", "720p30", "any", "", 60.0, "end", outputs, engine_ref="r1"
    )
    return replace(row, **({"engine_host": "here", "engine_seen_at": NOW} | more))


def running(*reports: OutputReport, ref: str = "r1") -> Observations:
    seen = Observations()
    seen.engine_running(ref, NOW - 100)
    seen.ordered_configuration()
    for report in reports:
        seen.record(report)
    return seen


def report(attempt: int, phase: Any, at: float = NOW, code: str = "", output_id: uuid.UUID = A) -> OutputReport:
    return OutputReport(output_id, attempt, phase, at, code, number=int(at))


def moves(row: BroadcastRow, seen: Observations, now: float = NOW) -> list[tuple[OutputTrigger, str | None]]:
    return [(one.event, one.code) for one in plan(row, seen.snapshot(), now, POLICY).writes if isinstance(one, Move)]


def kept_reports(*reports: OutputReport) -> list[OutputReport]:
    return list(running(*reports).snapshot().reports)


def test_reports_of_an_older_attempt_and_doubled_ones_are_no_news() -> None:
    live = report(2, "live", 10)
    assert kept_reports(live, live, report(1, "failed", 20), report(1, "live", 30)) == [live]


def test_within_an_attempt_reports_only_lead_further() -> None:
    kept = [report(1, "connecting", 1), report(1, "live", 3), report(1, "failed", 9)]
    late = [report(1, "publishing", 2), report(1, "live", 12), report(1, "ended", 13), report(1, "stalled", 14)]
    assert kept_reports(kept[0], kept[1], late[0], kept[2], *late[1:]) == kept


@pytest.mark.parametrize("set_by", [0, 7200, -7200])
def test_live_and_stalled_take_turns_by_their_numbers_and_a_clock_that_is_set_hides_nothing(set_by: int) -> None:
    def told(phase: Any, number: int) -> OutputReport:
        return OutputReport(A, 1, phase, NOW + number * set_by, number=number)

    live, stalled, again = told("live", 3), told("stalled", 4), told("live", 5)
    failed = told("failed", 1)
    assert kept_reports(live, told("stalled", 2), stalled, again, stalled, failed) == [live, stalled, again, failed]


def test_an_engine_that_does_not_count_is_heard_in_the_order_of_arrival() -> None:
    turns = [OutputReport(A, 1, "live" if n % 2 else "stalled", NOW - n) for n in range(1, 6)]
    assert kept_reports(*turns) == turns
    assert kept_reports(turns[0], turns[0]) == turns[:1]


def test_reports_that_wait_are_bounded_and_the_newest_stay_in_their_order() -> None:
    flapping = [report(1, "live" if n % 2 else "stalled", n, output_id=A) for n in range(1, 100)]
    other = report(1, "live", 1, output_id=B)
    kept = kept_reports(other, *flapping)
    assert kept == [other, *flapping[-KEPT:]]


def test_what_an_engine_that_is_gone_says_is_no_news() -> None:
    seen = running(report(1, "live", 1))
    assert seen.record(EngineGone(2, "egress_crashed"))
    assert not seen.record(report(1, "failed", 3)) and not seen.record(EngineGone(4))
    assert seen.snapshot().carries(A) is None


def test_a_report_of_another_attempt_than_the_rows_changes_nothing() -> None:
    row = broadcast(output(attempt=2))
    assert moves(row, running(report(1, "failed", code="destination_closed"))) == []
    assert moves(row, running(report(3, "failed", code="destination_closed"))) == []
    assert moves(row, running(report(2, "failed", code="destination_closed"))) == [
        (OutputTrigger.RETRY_PLANNED, "destination_closed")
    ]


def source_writes(row: BroadcastRow, *reports: SourceReport) -> list[tuple[str, str | None]]:
    seen = running()
    for one in reports:
        seen.record(one)
    writes = plan(row, seen.snapshot(), NOW, POLICY).writes
    return [(one.phase, one.code) for one in writes if isinstance(one, SourceChanged)]


@pytest.mark.parametrize("phase", ["waiting", "live", "lost"])
def test_what_is_wrong_with_the_media_is_written_and_so_is_its_end(phase: Any) -> None:
    row = broadcast(output(), source_phase=phase)
    assert source_writes(row, SourceReport(phase, NOW)) == []
    assert source_writes(row, SourceReport(phase, NOW), SourceReport(phase, NOW, "media_encrypted")) == [
        (phase, Code.MEDIA_ENCRYPTED)
    ]
    encrypted = replace(row, source_code="media_encrypted")
    assert source_writes(encrypted, SourceReport(phase, NOW, "media_encrypted")) == []
    assert source_writes(encrypted, SourceReport(phase, NOW, "media_encrypted"), SourceReport(phase, NOW)) == [
        (phase, None)
    ]


def test_a_show_ends_with_what_was_wrong_with_its_media() -> None:
    row = broadcast(output(), source_phase="lost", source_code="media_encrypted")
    seen = running()
    seen.record(SourceReport("ended", NOW, "media_encrypted"))
    writes = plan(row, seen.snapshot(), NOW, POLICY).writes
    assert EndBegun(Code.MEDIA_ENCRYPTED, NOW) in writes


def test_a_report_while_the_next_attempt_is_waited_for_changes_nothing() -> None:
    row = broadcast(output(state=OutputState.RECONNECTING, next_attempt_at=NOW + 5))
    assert moves(row, running(report(2, "live"))) == []


def test_reports_of_an_engine_that_the_rows_do_not_know_change_nothing() -> None:
    row = broadcast(output(), engine_ref="r0")
    found = moves(row, running(report(2, "failed", code="key_rejected"), ref="r1"))
    assert found == [(OutputTrigger.RETRY_PLANNED, "egress_lost")]


def test_an_attempt_is_started_once_and_again_only_by_a_new_engine_connection() -> None:
    row = broadcast(output(state=OutputState.STARTING, attempt=1))
    seen = running()
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert [type(one) for one in made.orders] == [StartOutput]
    seen.ordered_start(A, 1)
    assert plan(row, seen.snapshot(), NOW, POLICY).orders == ()
    seen.record(report(1, "failed", code="destination_closed"))
    assert not [one for one in plan(row, seen.snapshot(), NOW, POLICY).orders if isinstance(one, StartOutput)]


def test_the_time_limit_ends_the_old_attempt_before_the_next_begins() -> None:
    row = broadcast(output(state=OutputState.STARTING, attempt=1, attempt_started_at=NOW - 45))
    seen = running(report(1, "connecting", NOW - 45))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    [move] = [one for one in made.writes if isinstance(one, Move)]
    assert (move.event, move.code, move.changes["next_attempt_at"]) == (
        OutputTrigger.RETRY_PLANNED,
        Code.EGRESS_START_TIMEOUT,
        NOW + 3,
    )
    assert made.orders == (StopOutput(A),)
    seen.ordered_stop(A, NOW)
    waiting = broadcast(replace(row.outputs[0], **dict(move.changes)))
    assert moves(waiting, seen, NOW + 4) == []
    seen.record(report(1, "ended", NOW + 4))
    assert moves(waiting, seen, NOW + 4) == [(OutputTrigger.STARTED, None)]


def test_a_stop_of_one_that_waits_is_over_at_once_and_touches_no_other() -> None:
    row = broadcast(output(state=OutputState.RECONNECTING, next_attempt_at=NOW + 9, wanted="off"), output(B, attempt=1))
    seen = running(report(2, "failed", NOW - 5), report(1, "live", NOW - 50, output_id=B))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert [(one.output_id, one.event) for one in made.writes if isinstance(one, Move)] == [
        (A, OutputTrigger.STOP_ASKED),
        (A, OutputTrigger.ENDED),
    ]
    assert made.orders == ()


def test_a_stop_is_over_after_ten_seconds_whatever_the_engine_says() -> None:
    stopping = output(state=OutputState.STOPPING, wanted="off")
    row = broadcast(replace(stopping, state_since=NOW - 9.9), output(B, attempt=1))
    seen = running(report(2, "live", NOW - 50), report(1, "live", NOW - 50, output_id=B))
    seen.ordered_stop(A, NOW - 9.9)
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert made.writes == () and made.wake_at == pytest.approx(NOW + 0.1)
    assert moves(row, seen, NOW + 0.1) == [(OutputTrigger.ENDED, Code.STOP_UNCONFIRMED)]


def test_losing_an_engine_that_was_told_to_end_fails_nothing() -> None:
    row = broadcast(output(), wanted="off_air")
    seen = running(report(2, "live", NOW - 50))
    seen.ordered_end(NOW - 1)
    seen.record(EngineGone(NOW))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert [type(one) for one in made.writes] == [EngineLost, Move, Move, BroadcastEnded]
    assert moves(row, seen) == [(OutputTrigger.STOP_ASKED, None), (OutputTrigger.ENDED, None)]


def test_an_engine_elsewhere_is_outwaited_and_not_started_beside() -> None:
    row = broadcast(output(), engine_host="there", engine_seen_at=NOW - 10)
    made = plan(row, Observations().snapshot(), NOW, POLICY)
    assert StartEngine() not in made.orders
    [lost] = [one for one in made.writes if isinstance(one, EngineLost)]
    assert lost.next_at == NOW - 10 + GONE_AFTER
    gone = broadcast(
        output(state=OutputState.RECONNECTING, next_attempt_at=NOW),
        engine_host="there",
        engine_ref=None,
        engine_seen_at=NOW - 10,
    )
    assert plan(gone, Observations().snapshot(), NOW, POLICY).wake_at == NOW - 10 + GONE_AFTER
    assert StartEngine() in plan(gone, Observations().snapshot(), NOW + GONE_AFTER, POLICY).orders


def test_the_first_crash_is_answered_at_once_and_the_next_ones_wait() -> None:
    def next_start(failures: int, ran: float) -> float:
        seen = running(report(2, "live", NOW - 50))
        seen._since = NOW - ran
        seen.record(EngineGone(NOW, "egress_crashed"))
        made = plan(broadcast(output(), engine_failures=failures), seen.snapshot(), NOW, POLICY)
        [lost] = [one for one in made.writes if isinstance(one, EngineLost)]
        assert lost.next_at is not None
        return lost.next_at - NOW

    assert next_start(0, ran=5) == 0
    assert next_start(1, ran=5) == pytest.approx(3.75)
    assert next_start(7, ran=5) == pytest.approx(45)
    assert next_start(7, ran=61) == 0


def test_a_livekit_that_cannot_be_reached_is_tried_with_another_engine() -> None:
    row = broadcast(output(state=OutputState.STARTING, attempt=1))
    seen = running(report(1, "connecting", NOW - 1))
    seen.record(SourceReport("failed", NOW, "livekit_unreachable"))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert StopEngine() in made.orders and not [one for one in made.writes if isinstance(one, Move)]
    seen.ordered_end(NOW)
    seen.record(EngineGone(NOW + 1))
    assert moves(row, seen, NOW + 1) == [(OutputTrigger.RETRY_PLANNED, Code.LIVEKIT_UNREACHABLE)]


def test_what_was_never_wanted_keeps_its_error_and_keeps_no_broadcast_up() -> None:
    nowhere = output(B, OutputState.FAILED, attempt=0, wanted="off", error_code="no_destination")
    row = broadcast(output(state=OutputState.ENDED, wanted="off"), nowhere)
    made = plan(row, running().snapshot(), NOW, POLICY)
    assert made.writes == (BroadcastEnded(None, NOW),)
    up = broadcast(output(), nowhere)
    assert plan(up, running(report(2, "live", NOW - 50)).snapshot(), NOW, POLICY).writes == ()


def refusal(attempt: int, at: float, if_key_worked: str = "destination_closed") -> OutputReport:
    return OutputReport(A, attempt, "failed", at, "key_rejected", if_key_worked=if_key_worked)


@pytest.mark.parametrize("shown", ["destination_closed", "already_publishing"])
@pytest.mark.parametrize("platform", ["youtube", "twitch", "custom"])
def test_a_platform_that_holds_the_old_session_for_25_seconds_gets_the_stream_back(platform: str, shown: str) -> None:
    """As SRS and Node-Media-Server after a cut network: they hang up on the new publish, or say that the name is taken."""
    rules = LiveSettings()
    policy = replace(POLICY, retry={one: getattr(rules, f"{one}_retry") for one in ("youtube", "twitch", "custom")})
    row = broadcast(output(state=OutputState.STARTING, attempt=1, platform=platform))
    seen, now, codes = running(), NOW, []

    def step(*reports: OutputReport) -> OutputRow:
        nonlocal row
        for one in reports:
            seen.record(one)
        looked = seen.snapshot()
        row = functools.reduce(after, plan(row, looked, now, policy).writes, row)
        seen.mark_written(looked)
        [found] = row.outputs
        return found

    step(report(1, "live", now))
    now += 30
    found = step(report(1, "failed", now, "destination_closed"))
    cut = now
    while found.state is OutputState.RECONNECTING and now < cut + 25:
        assert found.next_attempt_at is not None
        now = found.next_attempt_at
        attempt = step().attempt
        if now < cut + 25:
            now += 0.1
            found = step(refusal(attempt, now, shown))
            codes.append(found.error_code)
    assert found.state is OutputState.RECONNECTING
    assert step(report(found.attempt + 1, "live", now)).state is OutputState.LIVE
    assert set(codes) == {shown} and len(codes) >= 2
    assert now < cut + 60


def test_a_refusal_of_a_key_that_never_worked_is_of_the_key() -> None:
    row = broadcast(output(state=OutputState.STARTING, attempt=1))
    assert moves(row, running(refusal(1, NOW))) == [(OutputTrigger.RETRY_PLANNED, "key_rejected")]
    twice = broadcast(output(state=OutputState.STARTING, attempt=2, error_code="key_rejected"))
    assert moves(twice, running(refusal(2, NOW))) == [(OutputTrigger.FAILED, "key_rejected")]
    worked = broadcast(output(state=OutputState.RECONNECTING, attempt=2, key_live_at=4000.0))
    named = refusal(2, NOW, if_key_worked="")
    assert moves(worked, running(named)) == [(OutputTrigger.RETRY_PLANNED, "key_rejected")]


def test_every_second_try_takes_the_backup_ingest_url() -> None:
    rows = [replace(output(), backup_ingest_url="rtmp://b", tries=tries) for tries in range(4)]
    assert [row.attempt_ingest_url for row in rows] == ["rtmp://a", "rtmp://b"] * 2
    assert replace(rows[1], backup_ingest_url=None).attempt_ingest_url == "rtmp://a"
