"""Outputs that wait for the host's first picture: decisions of the plan, and what the relay tells of its source."""

from __future__ import annotations

import functools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from butai.live.broadcasts.queries import output_values
from butai.live.reconcile.commands import CheckDestinations, Configure, EndBegun, Move, SourceChanged, StartOutput
from butai.live.reconcile.fold import after
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reports import CheckReport, Observations, SourceReport
from butai.live.reconcile.rows import BroadcastRow
from butai.live.states import OutputState, OutputTrigger
from butai.relay import source as module
from butai.relay.messages import ConfigureLine, Preset, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.picture import Screen
from butai.relay.presence import NOTHING
from butai.relay.source import HostSource
from tests.unit.test_live_plan import NOW, POLICY, A, B, broadcast, output, running


def held(*states: OutputState, seen: Observations | None = None) -> tuple[BroadcastRow, Observations]:
    outputs = [
        output(output_id, state, attempt=0 if state is OutputState.PENDING else 2, next_attempt_at=None)
        for output_id, state in zip((A, B), states, strict=False)
    ]
    return broadcast(*outputs, hold_until_media=True), seen or running()


def started(row: BroadcastRow, seen: Observations, now: float = NOW) -> list[int]:
    writes = plan(row, seen.snapshot(), now, POLICY).writes
    return [one.changes["attempt"] for one in writes if isinstance(one, Move) and one.event is OutputTrigger.STARTED]


@pytest.mark.parametrize("phase", ["connecting", "waiting", "live", "lost", None])
def test_before_the_first_picture_an_output_waits_for_hours_and_tries_nothing(phase: str | None) -> None:
    row, seen = held(OutputState.PENDING, OutputState.PENDING)
    if phase is not None:
        # `live` without a picture: sound alone.
        seen.record(SourceReport(phase, NOW, told_ready=False))  # pyright: ignore[reportArgumentType]
    for now in (NOW, NOW + 50, NOW + 7 * 3600):
        made = plan(row, seen.snapshot(), now, POLICY)
        assert not [one for one in made.writes if isinstance(one, Move | EndBegun)]
        assert not [one for one in made.orders if isinstance(one, StartOutput)]
        assert made.wake_at is None


def test_meanwhile_the_servers_are_checked_and_what_they_find_is_neither_an_attempt_nor_spent() -> None:
    row, seen = held(OutputState.PENDING, OutputState.PENDING)
    moved = replace(row.outputs[1], saved_ingest_url="rtmp://saved-newest")
    row = replace(row, outputs=(row.outputs[0], moved))
    order = CheckDestinations(((A, "rtmp://a"), (B, "rtmp://saved-newest")))
    assert plan(row, seen.snapshot(), NOW, POLICY).orders == (order,)
    seen.ordered_checks(order.outputs)
    assert seen.record(CheckReport(A, "destination_unreachable")) and seen.record(CheckReport(B))
    assert not seen.record(CheckReport(A, "destination_unreachable"))
    (found,) = plan(row, seen.snapshot(), NOW, POLICY).actions
    assert isinstance(found, Move) and (found.event, found.code) == (OutputTrigger.CHECKED, "destination_unreachable")
    assert found.changes == {"state": OutputState.PENDING, "check_code": "destination_unreachable"}
    row = after(row, found)
    assert plan(row, seen.snapshot(), NOW, POLICY).actions == []
    # It comes back; an attempt that begins has no such error either, and is the first.
    for told in (CheckReport(A), CheckReport(A, "tls_failed")):
        seen.record(told)
        (found,) = plan(row, seen.snapshot(), NOW, POLICY).writes
        row = after(row, found)
        assert row.outputs[0].check_code == (told.code or None)
    seen.record(SourceReport("live", NOW, told_ready=True))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert made.orders[0] == CheckDestinations(())
    row = functools.reduce(after, made.writes, row)
    assert [(one.attempt, one.tries, one.error_code, one.check_code) for one in row.outputs] == [(1, 0, None, None)] * 2


def test_only_an_output_that_nothing_else_keeps_from_its_attempt_is_checked() -> None:
    row, seen = held(OutputState.PENDING, OutputState.PENDING)
    assert plan(replace(row, hold_until_media=False), seen.snapshot(), NOW, POLICY).orders == (
        StartOutput(A, 1),
        StartOutput(B, 1),
    )
    later = output(A, OutputState.STARTING, next_attempt_at=NOW + 9)
    off = output(B, OutputState.PENDING, attempt=0, wanted="off")
    assert CheckDestinations not in map(
        type, plan(replace(row, outputs=(later, off)), seen.snapshot(), NOW, POLICY).orders
    )
    assert plan(replace(row, outputs=(later,)), seen.snapshot(), NOW + 10, POLICY).orders == (
        CheckDestinations(((A, "rtmp://a"),)),
    )


def test_an_engine_that_is_found_again_is_ordered_anew() -> None:
    row, seen = held(OutputState.PENDING)
    seen.ordered_checks(((A, "rtmp://a"),))
    assert plan(row, seen.snapshot(), NOW, POLICY).orders == ()
    seen.engine_running("r1", NOW)
    assert plan(row, seen.snapshot(), NOW, POLICY).orders == (Configure(), CheckDestinations(((A, "rtmp://a"),)))


def test_the_first_picture_starts_all_outputs_and_its_loss_holds_none() -> None:
    row, seen = held(OutputState.PENDING, OutputState.PENDING)
    seen.record(SourceReport("live", NOW, told_ready=True))
    assert started(row, seen) == [1, 1]
    seen.record(SourceReport("lost", NOW + 9, told_ready=True))
    assert started(row, seen, NOW + 9) == [1, 1], "the last picture is there"


def test_without_the_setting_nothing_is_held() -> None:
    row, seen = held(OutputState.PENDING)
    assert started(replace(row, hold_until_media=False), seen) == [1]


def test_an_engine_that_does_not_tell_is_ready_with_any_media() -> None:
    row, seen = held(OutputState.PENDING)
    seen.record(SourceReport("waiting", NOW))
    assert started(row, seen) == []
    seen.record(SourceReport("live", NOW))
    assert started(row, seen) == [1]


def test_a_new_engine_has_only_black_and_holds_again() -> None:
    row, seen = held(OutputState.PENDING)
    waiting = output(state=OutputState.RECONNECTING, next_attempt_at=NOW, tries=1, budget_from=NOW - 30)
    row = replace(row, outputs=(waiting,), source_phase="live", source_ready=True, engine_ref="r2")
    seen.engine_running("r2", NOW)
    seen.ordered_configuration()
    seen.record(SourceReport("waiting", NOW, told_ready=False))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert made.writes == (SourceChanged("waiting", None, NOW, False),)
    # The budget's ten minutes do not pass meanwhile.
    seen.record(SourceReport("live", NOW + 3000, told_ready=True))
    (move,) = plan(row, seen.snapshot(), NOW + 3000, POLICY).writes
    assert isinstance(move, Move)
    assert (move.changes["attempt"], move.changes["budget_from"]) == (3, NOW - 30 + 3000)


def test_a_budget_begins_no_later_than_now_however_long_it_was_held_before_the_controller() -> None:
    row, seen = held(OutputState.PENDING)
    # Held since NOW; another controller took it half an hour later, and counts from there.
    waiting = output(state=OutputState.RECONNECTING, next_attempt_at=NOW, tries=1, budget_from=NOW + 1800)
    row = replace(row, outputs=(waiting,), source_phase="live", source_ready=True, engine_ref="r2")
    seen.engine_running("r2", NOW + 1800)
    seen.ordered_configuration()
    seen.record(SourceReport("live", NOW + 3600, told_ready=True))
    (move,) = plan(row, seen.snapshot(), NOW + 3600, POLICY).writes
    assert isinstance(move, Move)
    assert move.changes["budget_from"] == NOW + 3600


def test_a_picture_after_sound_is_news_once() -> None:
    seen = running()
    assert seen.record(SourceReport("live", NOW, told_ready=False))
    assert seen.record(SourceReport("live", NOW + 1, told_ready=True))
    assert not seen.record(SourceReport("live", NOW + 2, told_ready=True))


@pytest.mark.parametrize(
    ("state", "due_in", "shown"),
    [
        ("pending", None, "no_media"),
        ("starting", None, None),
        ("reconnecting", -1, "no_media"),
        ("reconnecting", 60, "egress_lost"),
        ("live", None, None),
        ("failed", None, "key_rejected"),
    ],
)
def test_a_held_output_shows_no_media_with_its_advice(state: str, due_in: float | None, shown: str | None) -> None:
    now = datetime.now(UTC)
    of = {
        "hold_until_media": True,
        "source_ready": False,
        "source_phase": "waiting",
        "source_code": None,
        "wanted": "on_air",
        "ended_at": None,
        "engine_ref": "r1",
    }
    row = dict.fromkeys(
        ("id", "label", "destination_id", "key_fingerprint", "error_cause", "live_since", "metrics", "check_code"), None
    ) | {
        "platform": "youtube",
        "state": state,
        "state_since": now,
        "confirmation": "none",
        "attempt": 0,
        "next_attempt_at": None if due_in is None else now + timedelta(seconds=due_in),
        "error_code": {"reconnecting": "egress_lost", "failed": "key_rejected"}.get(state),
    }
    error = output_values(of, row, "en")["error"]
    assert (error and error.code) == shown
    if shown == "no_media":
        assert error is not None and error.action and error.next_attempt_at is None
        for other in ({"source_ready": True}, {"hold_until_media": False}, {"source_phase": "connecting"}):
            was = output_values(of | other, row, "en")["error"]
            assert (was and was.code) == row["error_code"]
        checked = row | {"check_code": "destination_unreachable"}
        for phase in ("connecting", "waiting"):
            error = output_values(of | {"source_phase": phase}, checked, "en")["error"]
            assert error and (error.code, error.retryable, error.next_attempt_at) == (
                "destination_unreachable",
                True,
                None,
            )
        # Without an engine nothing checks any more.
        error = output_values(of | {"engine_ref": None}, checked, "en")["error"]
        assert error and error.code == "no_media"
        started = output_values(of | {"source_ready": True}, checked, "en")["error"]
        assert (started and started.code) == row["error_code"]


class Host:
    """A relay's source whose room is a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, sound_only: bool = False, on_lost: str = "end") -> None:
        self.now, self.said = 1000.0, list[SourceLine]()
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        configure = ConfigureLine(
            "b1",
            "ws://127.0.0.1:9",
            "token",
            "host",
            Preset(320, 180, 30, 500),
            on_lost=on_lost,  # pyright: ignore[reportArgumentType]
            sound_only=sound_only,
        )
        self.source = HostSource(configure, Screen(320, 180), Mixer(48000), self.said.append)
        self.choice = NOTHING

    def go_on(self, seconds: float) -> list[tuple[str, bool | None]]:
        told = len(self.said)
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.source._presence.host(self.now, here=True, choice=self.choice)
            self.source._update_phase()
        return [(line.phase, line.ready) for line in self.said[told:]]

    def sound(self) -> None:
        self.choice = replace(self.choice, sounds=frozenset({"a"}))
        self.source._presence.host(self.now, here=True, choice=self.choice)
        self.source._sound_arrived()

    def picture(self) -> None:
        self.choice = replace(self.choice, picture="v")
        self.source._presence.host(self.now, here=True, choice=self.choice)
        self.source._pictures_before += 1
        self.source._picture_arrived("v")

    def leave(self) -> None:
        self.choice = NOTHING


def test_the_relay_is_ready_with_the_first_picture_and_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch)
    assert host.source.line.ready is False
    host.sound()
    host.picture()
    assert [(line.phase, line.ready) for line in host.said] == [("live", False), ("live", True)]
    host.leave()
    assert host.go_on(5) == [("lost", True)]


def test_sound_is_enough_where_the_start_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(monkeypatch, sound_only=True)
    host.sound()
    assert [(line.phase, line.ready) for line in host.said] == [("live", True)]


def test_a_host_who_never_came_ends_with_no_media_and_one_who_left_with_source_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    never = Host(monkeypatch)
    assert never.go_on(61) == [("waiting", False), ("ended", False)]
    assert never.said[-1].code == "no_media"
    left = Host(monkeypatch)
    left.picture()
    left.leave()
    assert left.go_on(70) == [("lost", True), ("ended", True)]
    assert left.said[-1].code == "source_ended"
    stays = Host(monkeypatch, on_lost="stay")
    assert stays.go_on(200) == [("waiting", False)]


def test_a_broadcast_whose_host_never_came_ends_with_no_media() -> None:
    row, seen = held(OutputState.PENDING)
    seen.record(SourceReport("ended", NOW, "no_media", told_ready=False))
    made = plan(row, seen.snapshot(), NOW, POLICY)
    assert EndBegun("no_media", NOW) in made.writes
    assert [one.code for one in made.writes if isinstance(one, Move)][:1] == ["no_media"]
