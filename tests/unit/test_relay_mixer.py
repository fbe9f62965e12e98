"""Several tracks into one stream."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from butai.relay.mixer import Mixer

RATE, CHUNK = 48000, 1024


def tone(count: int, value: int = 1000) -> NDArray[np.int16]:
    return np.full((count, 2), value, np.int16)


def play(mixer: Mixer, seconds: float, speeds: dict[str, float], value: int = 1000) -> list[NDArray[np.int16]]:
    """Pushes 20 ms frames of each track at its own speed and takes chunks in time, in virtual time."""
    taken: list[NDArray[np.int16]] = []
    pushed, frame = dict.fromkeys(speeds, 0), tone(960, value)
    for chunk in range(1, int(seconds * RATE / CHUNK)):
        now = chunk * CHUNK / RATE
        for track, speed in speeds.items():
            while (pushed[track] + 960) / (RATE * speed) <= now:
                mixer.push(track, frame)
                pushed[track] += 960
        taken.append(mixer.take(CHUNK))
    return taken


def test_silence_when_there_is_nothing() -> None:
    assert not Mixer(RATE).take(CHUNK).any()
    assert Mixer(RATE).take(CHUNK).shape == (CHUNK, 2)


def test_a_track_comes_out_whole_and_soon() -> None:
    taken = play(Mixer(RATE), 2.0, {"a": 1.0})
    loud = [bool((chunk == 1000).all()) for chunk in taken]
    first = loud.index(True)
    assert first * CHUNK / RATE < 0.1
    assert all(loud[first:])


def test_two_tracks_are_added_and_never_wrap_round() -> None:
    added = play(Mixer(RATE), 1.0, {"a": 1.0, "b": 1.0})[-1]
    assert (added == 2000).all()
    clipped = play(Mixer(RATE), 1.0, {"a": 1.0, "b": 1.0}, 30000)[-1]
    assert (clipped == 32767).all()
    clipped = play(Mixer(RATE), 1.0, {"a": 1.0, "b": 1.0}, -30000)[-1]
    assert (clipped == -32768).all()


@pytest.mark.parametrize("speed", [1.0005, 0.9995, 1.002, 0.998])
def test_drift_is_absorbed_without_gaps(speed: float) -> None:
    mixer = Mixer(RATE)
    taken = play(mixer, 300.0, {"a": speed})
    assert mixer.levels["a"] < 0.1 * RATE
    sounding = [chunk for chunk in taken[10:] if not (chunk > 990).all()]
    assert len(sounding) <= 2, "gaps"


def test_two_clocks_that_drift_apart_are_both_heard() -> None:
    taken = play(Mixer(RATE), 120.0, {"fast": 1.0003, "slow": 0.9997})
    assert sum(not (chunk > 1990).all() for chunk in taken[20:]) <= 2


def test_a_gap_is_silence_and_the_sound_comes_back() -> None:
    mixer = Mixer(RATE)
    play(mixer, 1.0, {"a": 1.0})
    silence = [mixer.take(CHUNK) for _ in range(20)]
    assert not silence[-1].any()
    assert (play(mixer, 1.0, {"a": 1.0})[-1] == 1000).all()


def test_a_burst_does_not_become_a_delay() -> None:
    mixer = Mixer(RATE)
    play(mixer, 1.0, {"a": 1.0})
    mixer.push("a", tone(RATE // 2))
    mixer.take(CHUNK)
    assert mixer.levels["a"] < 0.1 * RATE


def test_what_nobody_takes_is_bounded() -> None:
    mixer = Mixer(RATE)
    for _ in range(500):
        mixer.push("a", tone(960))
    assert mixer.levels["a"] <= RATE


def test_a_forgotten_track_is_not_heard() -> None:
    mixer = Mixer(RATE)
    play(mixer, 1.0, {"a": 1.0})
    mixer.forget("a")
    assert not mixer.take(CHUNK).any()
    assert mixer.levels == {}
