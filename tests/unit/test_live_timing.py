"""Durations that depend on each other, at their own pace and hurried."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import msgspec
import pytest

from butai.config import LiveSettings
from butai.live.egress.relay.engine import SILENT_TICKS
from butai.live.reconcile.timing import Timing
from butai.relay.messages import ConfigureLine, Preset, encode, read_by_relay
from butai.relay.timing import RelayTiming

PACES = pytest.mark.parametrize("timing", [Timing(), Timing().faster(4)], ids=["as it is", "four times as fast"])


@PACES
def test_a_relay_elsewhere_has_ended_before_another_may_start(timing: Timing) -> None:
    relay = timing.relay
    look, ending = relay.metrics_every, relay.output_stop_limit + relay.disconnect_limit
    assert timing.keepalive_for + relay.abandoned_after + look + ending <= timing.engine_gone_after


@PACES
def test_a_relay_is_pinged_several_times_before_it_gives_its_controller_up(timing: Timing) -> None:
    assert timing.ping_every * 4 <= timing.relay.abandoned_after
    assert timing.relay.metrics_every * 4 <= timing.ping_every * SILENT_TICKS


@PACES
def test_an_engine_may_end_by_itself_before_it_is_killed_and_is_killed_before_the_stop_is_given_up(
    timing: Timing,
) -> None:
    relay = timing.relay
    assert relay.output_stop_limit + 2 * relay.close_limit <= relay.end_limit
    assert relay.end_limit < timing.kill_after < timing.stop_limit
    assert relay.end_limit < timing.relay_lock_limit


@PACES
def test_evidence_is_missed_in_time_and_not_before_it_is_due(timing: Timing) -> None:
    limits, relay = timing.relay.rtmp, timing.relay
    assert 2 * limits.ping_every <= limits.unanswered_after < limits.stall_after < limits.ignored_after
    assert limits.check_every < limits.ping_every
    assert relay.quiet_after + 2 * relay.count_every <= relay.lost_after
    assert timing.longest_attempt < timing.start_limit


@PACES
def test_delays_have_caps_above_them(timing: Timing) -> None:
    assert timing.engine_base < timing.engine_cap and timing.database_pause < timing.database_pause_cap
    assert timing.relay.join_delay < timing.relay.join_delay_cap < timing.relay.first_join_for


def test_the_broadcasts_of_a_dead_controller_are_taken_over_within_four_seconds() -> None:
    assert LiveSettings().lease + Timing().sweep_every <= 4
    # Renewed thrice in its time, each within `statement_limit` or not at all.
    assert LiveSettings().lease / 3 < Timing().keepalive_for


def test_faster_divides_all_that_is_not_fixed() -> None:
    def compare(plain: object, quick: object) -> None:
        for one in fields(plain):  # pyright: ignore[reportArgumentType]
            before, after = getattr(plain, one.name), getattr(quick, one.name)
            if is_dataclass(before):
                compare(before, after)
            else:
                assert after == (before if "fixed" in one.metadata else before / 4), one.name

    compare(Timing(), Timing().faster(4))
    assert Timing().faster(4).relay == RelayTiming().faster(4)


def test_the_relays_durations_travel_with_its_configuration() -> None:
    quick = RelayTiming().faster(4)
    line = ConfigureLine("b1", "ws://x", "t", "host", Preset(320, 180, 30, 500), timing=quick)
    assert read_by_relay(encode(line)) == line
    # A relay that knows no durations reads the rest.
    known = msgspec.json.decode(encode(line))
    assert {"type", "broadcast_id", "livekit_url", "token", "host_identity", "preset", "timing"} == set(known)


@PACES
def test_after_a_pause_a_relay_hears_its_controller_in_time(timing: Timing) -> None:
    relay = timing.relay
    # A relay that is looked at as often as it should be did not stand still.
    assert relay.metrics_every * 2 < relay.stood_still_after
    assert relay.stale_for + timing.ping_every <= relay.heard_within


def test_a_still_picture_counts_as_there_only_when_livekit_would_have_removed_a_killed_host() -> None:
    relay = RelayTiming()
    assert relay.lost_after < relay.picture_within < relay.dropped_after
    assert relay.dropped_after > 25
