"""One time line over all sources: offsets, wraps, jumps, reconnections; figures; the kept group of pictures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.relay.incoming.figures import SourceFigures
from butai.relay.incoming.kept_group import KeptGroup
from butai.relay.incoming.timeline import MOST_AHEAD_MS, Timeline
from butai.relay.packets import Kind, Packet


def played(line: Timeline, first: int, now: int, *, frames: int = 90, wrap: int = 2**32, sound: int = 0) -> list[int]:
    """Thirty pictures and sounds a second from a time stamp on, in real time; all times of pictures, and checks the sound's."""
    found: list[int] = []
    for number in range(frames):
        at = number * 1000 // 30
        stamp = (first + at) % wrap
        video = line.place("video", stamp, now + at, keyframe=number % 30 == 0)
        audio = line.place("audio", (stamp + sound) % wrap, now + at)
        assert video is not None and audio is not None
        assert audio - video in (0, sound)
        found.append(video)
    return found


@pytest.mark.parametrize(
    ("first", "wrap"),
    [
        (0, 2**32),
        (7_000, 2**32),
        (2**24 - 1500, 2**32),
        (2**31 - 1500, 2**32),
        (2**32 - 1500, 2**32),
        (2**24 - 1500, 2**24),
    ],
)
def test_the_first_picture_is_now_and_the_rest_at_its_distance_over_every_wrap(first: int, wrap: int) -> None:
    line = Timeline()
    assert played(line, first, 50_000, wrap=wrap) == [50_000 + number * 1000 // 30 for number in range(90)]
    assert (line.apart, line.jumps) == (False, 0)


def test_nothing_is_placed_before_the_first_key_frame() -> None:
    line = Timeline()
    assert line.place("audio", 0, 1000) is None
    assert line.place("video", 0, 1000) is None
    assert line.place("video", 40, 1040, keyframe=True) == 1040
    # A sound from before it, which comes after it, does not go back behind what outputs have.
    assert line.place("audio", 20, 1041) == 1020


def test_a_new_source_goes_on_after_the_old_one_whatever_its_time_stamps_are() -> None:
    line = Timeline()
    first = played(line, 5_000_000, 1000)
    line.begin_source()
    second = played(line, 0, 6000)
    assert second[0] == 6000
    line.begin_source()
    # Faster than our clock: the one before has been placed ahead of it.
    third = played(line, 2**32 - 10, 3000)
    assert first[-1] < second[0] and third[0] == second[-1] + 1


@pytest.mark.parametrize("jump", [3_600_000, -3_600_000, 2**30, 15_000])
def test_a_jump_of_both_is_taken_out_and_both_stay_together(jump: int) -> None:
    line = Timeline()
    before = played(line, 10_000_000, 0, sound=7)
    after: list[int] = []
    for number in range(90):
        now = 3000 + number * 33
        stamp = (10_003_000 + jump + number * 33) % 2**32
        video = line.place("video", stamp, now, keyframe=number == 0)
        audio = line.place("audio", (stamp + 7) % 2**32, now + 4)
        assert video is not None and audio is not None and audio - video == 7
        after.append(video)
    assert abs(after[0] - 3000) <= 40 and after[0] > before[-1]
    assert line.jumps == 1


def test_a_hole_in_real_time_is_no_jump() -> None:
    line = Timeline()
    line.place("video", 0, 0, keyframe=True)
    assert line.place("video", 20_000, 20_000) == 20_000
    assert line.place("video", 22_500, 20_010) == 22_500
    assert line.jumps == 0


def test_small_steps_back_are_held() -> None:
    line = Timeline()
    line.place("video", 1000, 0, keyframe=True)
    assert [line.place("video", stamp, 100) for stamp in (1033, 1020, 1034, 1066)] == [33, 33, 34, 66]


def test_picture_and_sound_with_clocks_of_their_own_get_an_offset_each() -> None:
    line = Timeline()
    line.place("video", 90_000_000, 1000, keyframe=True)
    assert line.place("audio", 5, 1001) == 1000
    assert line.place("audio", 26, 1022) == 1021
    assert line.apart
    line.begin_source()
    assert not line.apart


def test_a_sound_that_begins_later_is_not_apart_by_the_time_that_passed() -> None:
    line = Timeline()
    line.place("video", 90_000, 1000, keyframe=True)
    assert line.place("audio", 95_000, 6000) == 6000
    assert not line.apart


def test_a_jump_that_looks_small_in_one_kind_is_that_of_the_other() -> None:
    line = Timeline()
    played(line, 0, 0)
    video = line.place("video", 3000 + 3200, 3000)
    # The network held it back for a moment, so that it is no jump by itself.
    audio = line.place("audio", 3000 + 3200, 3300)
    assert (video, audio, line.jumps) == (3000, 3000, 1)
    # And small steps are no jump of the other kind.
    line = Timeline()
    played(line, 10_000, 0)
    line.place("video", 13_000 - 1200, 3000)
    assert line.place("audio", 13_280, 3500) == 3280


def test_an_encoder_that_is_faster_than_time_is_held_at_a_lead() -> None:
    line = Timeline()
    line.place("video", 0, 1000, keyframe=True)
    for number in range(100):
        for kind in ("video", "audio"):
            placed = line.place(kind, number * 2900, 1000 + number)
            assert placed is not None and placed <= 1000 + number + MOST_AHEAD_MS
    assert line.place("video", 99 * 2900 + 500, 1599) == line.place("audio", 99 * 2900 + 500, 1599)
    assert line.jumps == 0


def test_a_jump_is_not_compared_with_one_of_long_ago() -> None:
    line = Timeline()
    played(line, 0, 0)
    for number in range(300):
        line.place("video", 63_000 + number * 33, 3000 + number * 33)
        line.place("audio", 3000 + number * 33, 3000 + number * 33)
    placed = line.place("audio", 73_400, 12_900)
    assert (placed, line.jumps) == (12_900, 2)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["audio", "video"]),
            st.integers(0, 2**32 - 1) | st.integers(0, 5000) | st.integers(2**24 - 50, 2**24 + 50),
            st.integers(0, 5000),
            st.booleans(),
            st.booleans(),
        ),
        max_size=40,
    )
)
def test_time_never_goes_back_and_never_runs_away(steps: list[tuple[Kind, int, int, bool, bool]]) -> None:
    line, now, last, placed_at = Timeline(), 0, dict[Kind, int](), list[int]()
    for kind, stamp, passed, keyframe, again in steps:
        now += passed
        if again:
            line.begin_source()
        placed = line.place(kind, stamp, now, keyframe=keyframe)
        if placed is None:
            continue
        assert placed >= last.get(kind, 0)
        last[kind] = placed
        placed_at.append(placed)
        # Each message may be ahead of the time that passed by less than what counts as a jump.
        assert placed <= now + 5000 * len(placed_at)


def test_figures_are_of_the_last_seconds_and_the_distance_of_key_frames() -> None:
    figures = SourceFigures()
    assert (figures.kbps(0), figures.fps(0), figures.keyframe_interval_ms) == (0, 0, 0)
    for number in range(300):
        at = number * 40
        figures.picture(10_000, at, 500 + at, keyframe=number % 50 == 0)
        if number % 2:
            figures.sound(1000, 500 + at)
        if number == 60:
            assert figures.fps(500 + at) == pytest.approx(25, abs=7)
    assert figures.fps(12_500) == 25
    assert figures.kbps(12_500) == (25 * 10_000 + 12.5 * 1000) * 8 / 1000
    assert figures.keyframe_interval_ms == 2000
    figures.picture(1, 11_000 + 9000, 21_000, keyframe=False)
    assert figures.keyframe_interval_ms == 10_000, "already known before the next one comes"
    assert figures.fps(40_000) == 0


def packet(number: int, *, keyframe: bool = False, kind: str = "video", size: int = 10) -> Packet:
    return Packet("audio" if kind == "audio" else "video", bytes(size), number, number, keyframe)


def test_the_kept_group_begins_with_a_key_frame() -> None:
    group = KeptGroup()
    for one in (packet(0), packet(1, kind="audio", keyframe=True)):
        group.add(one)
        assert group.packets() == ()
    first = [packet(2, keyframe=True), packet(3), packet(4, kind="audio", keyframe=True)]
    for one in first:
        group.add(one)
    assert group.packets() == tuple(first)
    second = packet(5, keyframe=True)
    group.add(second)
    assert group.packets() == (second,)
    group.clear()
    assert (group.packets(), group.bytes) == ((), 0)


def test_a_group_that_is_too_large_is_not_kept_in_part() -> None:
    group = KeptGroup(most=2000)
    group.add(packet(0, keyframe=True))
    for number in range(1, 20):
        group.add(packet(number))
        assert group.bytes <= 2000
    assert group.packets() == ()
    group.add(packet(20, keyframe=True))
    assert len(group.packets()) == 1


def test_a_group_of_many_small_packets_is_not_kept() -> None:
    group = KeptGroup(most=10_000)
    group.add(packet(0, keyframe=True))
    for number in range(1, 200):
        group.add(packet(number, kind="audio", size=1))
    assert (group.packets(), group.bytes) == ((), 0)


def test_a_long_group_is_not_kept() -> None:
    group = KeptGroup()
    group.add(packet(0, keyframe=True))
    group.add(packet(10_400))
    assert len(group.packets()) == 2, "250 pictures, 24 in a second"
    group.add(packet(11_001))
    assert group.packets() == ()
    group.add(packet(11_100, keyframe=True))
    assert len(group.packets()) == 1
