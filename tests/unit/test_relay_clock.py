"""The broadcast's clock, in virtual time."""

from __future__ import annotations

from butai.relay.clock import FrameClock, SampleClock


def test_every_slot_comes_once_and_in_time() -> None:
    clock, now, seen = FrameClock(30, 100.0), 100.0, []
    while now < 110.0:
        if (slot := clock.due(now)) is not None:
            assert slot / 30 <= now - 100.0 + 1e-6
            seen.append(slot)
        now += 0.003
    assert seen == list(range(300))
    assert clock.skipped == 0


def test_a_short_delay_is_made_up_for() -> None:
    clock = FrameClock(30, 0.0)
    assert clock.due(0.0) == 0
    caught_up = [clock.due(0.2) for _ in range(8)]
    assert caught_up == [1, 2, 3, 4, 5, 6, None, None]


def test_after_a_long_pause_there_is_no_burst_and_the_grid_stays() -> None:
    clock = FrameClock(30, 0.0)
    assert clock.due(0.0) == 0
    assert clock.due(10.0) == 300
    assert clock.due(10.0) is None
    assert clock.skipped == 299
    assert clock.due(301 / 30) == 301


def test_an_encoder_that_is_too_slow_loses_pictures_not_time() -> None:
    clock, now, seen = FrameClock(60, 0.0), 0.0, []
    while now < 10.0:
        slot = clock.due(now)
        if slot is None:
            now = clock.next_at
            continue
        seen.append(slot)
        assert now - slot / 60 <= 0.25 + 1e-9
        now += 1 / 40  # 40 pictures a second are all it can do
    assert 390 <= len(seen) <= 410
    assert seen == sorted(set(seen))


def test_sound_is_due_when_its_last_sample_is_over() -> None:
    clock = SampleClock(48000, 1024, 5.0)
    assert clock.due(5.0) is None
    assert clock.due(5.0 + 1023 / 48000) is None
    assert clock.due(5.0 + 1024 / 48000 + 1e-9) == 0
    assert clock.due(5.0 + 1024 / 48000 + 1e-9) is None


def test_sound_has_exactly_the_samples_of_the_time() -> None:
    clock, now, chunks = SampleClock(44100, 1024, 0.0), 0.0, 0
    while now < 3600.0:
        now += 0.9  # a lazy caller: late, never by more than a second
        while clock.due(now) is not None:
            chunks += 1
    assert chunks == int(now * 44100 / 1024 + 1e-6)
    assert clock.skipped == 0


def test_sound_leaves_out_a_long_pause() -> None:
    clock = SampleClock(48000, 1024, 0.0)
    assert clock.due(0.03) == 0
    position = clock.due(30.0)
    assert position is not None
    assert abs((position + 1024) / 48000 - 30.0) < 0.001
    assert clock.due(30.0) is None


def test_picture_and_sound_stay_together_over_a_pause() -> None:
    frames, samples = FrameClock(30, 0.0), SampleClock(48000, 1024, 0.0)
    for now in (0.03, 7.0, 7.05, 61.3):
        slot = position = None
        while (due := frames.due(now)) is not None:
            slot = due
        while (due := samples.due(now)) is not None:
            position = due
        if slot is not None and position is not None:
            assert abs(slot / 30 - (position + 1024) / 48000) < 0.06
