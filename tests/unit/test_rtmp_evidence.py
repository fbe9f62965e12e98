"""Whether a platform takes what is sent, by what it says and what it is known to leave unsaid. In virtual time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.relay.rtmp.evidence import HABIT, Evidence, TcpProgress
from butai.relay.rtmp.session import WINDOW
from butai.relay.timing import Limits

STALL = Limits().stall_after
IGNORED = Limits().ignored_after


@dataclass
class Platform:
    """Taken bytes at `rate` a second for as long as it `reads`; looked at ten times a second, asked twice a second."""

    rate: float = 500_000
    window: int | None = WINDOW
    answers: bool = True
    answers_until: float = 1e9
    tcp: bool = True
    reads: bool = True

    def __post_init__(self) -> None:
        self.evidence = Evidence(Limits())
        self.evidence.media_begins(4000, 0)
        self.now, self.sent, self.read, self.acknowledged, self.looks = 0.0, 4000.0, 4000.0, 4000.0, 0
        self.asked: list[tuple[int, float]] = []

    def run(self, seconds: float) -> float:
        """The longest silence meanwhile."""
        longest = 0.0
        for _ in range(round(seconds * 10)):
            self.now, self.looks = self.now + 0.1, self.looks + 1
            self.sent += self.rate / 10
            if self.looks % 5 == 0:
                self.asked.append((self.evidence.ping(int(self.sent), self.now), self.sent))
            if self.reads:
                self.read = self.sent
                if self.window is not None and self.read - self.acknowledged >= self.window:
                    self.acknowledged = self.read
                    self.evidence.acknowledged(int(self.read), self.now)
                for number, behind in [one for one in self.asked if self._answered(one)]:
                    assert self.evidence.pong(number, self.now) is not None
                    self.asked.remove((number, behind))
            taken = self.sent if self.tcp else self.read
            self.evidence.observe_tcp(TcpProgress(int(taken), int(self.sent - taken)), int(self.sent), self.now)
            longest = max(longest, self.evidence.silent(self.now))
        return longest

    def _answered(self, ping: tuple[int, float]) -> bool:
        return self.answers and self.now < self.answers_until and ping[1] <= self.read


@given(
    st.floats(10_000, 1_500_000),
    st.sampled_from([None, WINDOW, 1_000_000, 2_500_000, 5_000_000]),
    st.booleans(),
    st.floats(1, 60),
)
def test_a_platform_that_reads_is_never_stalled(rate: float, window: int | None, answers: bool, seconds: float) -> None:
    platform = Platform(rate, window, answers)
    assert platform.run(seconds) <= STALL
    if seconds > IGNORED + 1:
        assert platform.evidence.media_taken
    assert platform.evidence.bytes <= platform.sent


def test_one_that_stops_reading_is_seen_in_time_while_tcp_takes_everything() -> None:
    for answers, window in ((True, WINDOW), (True, None), (False, WINDOW)):
        platform = Platform(answers=answers, window=window)
        assert platform.run(6) <= STALL
        platform.reads = False
        platform.run(2)
        assert platform.evidence.silent(platform.now) > STALL, (answers, window)
        platform.reads = True
        platform.run(0.6)
        assert platform.evidence.silent(platform.now) < STALL
        assert platform.run(20) <= STALL
        platform.reads = False
        platform.run(2)
        assert platform.evidence.silent(platform.now) > STALL, "seen once more"


def test_one_with_a_large_window_is_seen_when_it_owes_or_when_tcp_is_full() -> None:
    platform = Platform(answers=False, window=2_500_000)
    platform.run(30)
    platform.reads = False
    platform.run(12)
    assert platform.evidence.silent(platform.now) > STALL
    full = Platform(answers=False, window=2_500_000)
    full.run(30)
    full.reads = full.tcp = False
    full.run(2)
    assert full.evidence.silent(full.now) > STALL


@pytest.mark.parametrize("window", [WINDOW, 1_000_000])
def test_one_that_answers_no_more_pings_and_goes_on_acknowledging_is_not_stalled(window: int) -> None:
    platform = Platform(window=window, answers_until=0.8)
    assert platform.run(30) <= 2.1
    # Once known, it is held to its acknowledgements alone.
    assert platform.run(30) <= STALL
    platform.reads = False
    platform.run(2 * window / platform.rate + 2.2)
    assert platform.evidence.silent(platform.now) > STALL


def test_one_that_gives_few_bytes_to_acknowledge_is_seen_by_its_pings() -> None:
    platform = Platform(rate=20_000)
    assert platform.run(20) <= STALL
    platform.reads = False
    platform.run(2)
    assert platform.evidence.silent(platform.now) > STALL


def test_a_slow_link_that_answers_late_is_not_stalled() -> None:
    """Three seconds in the buffers on the way; each ping is answered, each too late for a stall."""
    evidence = Evidence(Limits())
    evidence.media_begins(0, 0)
    asked: list[tuple[int, float]] = []
    longest = 0.0
    for tenth in range(300):
        now = tenth / 10
        if tenth % 5 == 0:
            asked.append((evidence.ping(tenth * 10_000, now), now))
        for number, at in [one for one in asked if now - one[1] >= 3]:
            assert evidence.pong(number, now) == now - at
            asked.remove((number, at))
        evidence.observe_tcp(TcpProgress(tenth * 9_000, 30_000), tenth * 10_000, now)
        longest = max(longest, evidence.silent(now))
    assert evidence.media_taken
    assert longest <= STALL


def test_one_that_says_nothing_is_judged_by_tcp_after_a_while() -> None:
    platform = Platform(answers=False, window=None)
    platform.run(IGNORED - 0.2)
    assert not platform.evidence.media_taken
    platform.run(0.5)
    assert platform.evidence.media_taken
    platform.reads = platform.tcp = False
    platform.run(2)
    assert platform.evidence.silent(platform.now) > STALL


def test_bytes_that_fill_a_kernel_and_go_no_further_are_not_taken() -> None:
    evidence = Evidence(Limits())
    evidence.media_begins(4000, 0)
    for tenth in range(1, 60):
        evidence.observe_tcp(TcpProgress(200_000, 100_000), 300_000, tenth / 10)
    assert not evidence.media_taken
    assert evidence.silent(5.9) > STALL


def test_what_was_read_before_the_media_is_no_evidence() -> None:
    evidence = Evidence(Limits())
    evidence.media_begins(4000, 0)
    number = evidence.ping(4000, 0.1)
    evidence.acknowledged(3500, 0.2)
    assert evidence.pong(number, 0.3) is not None
    assert not evidence.media_taken
    evidence.acknowledged(4001, 0.4)
    assert evidence.media_taken


def test_answers_that_were_not_asked_for_count_for_nothing() -> None:
    evidence = Evidence(Limits())
    evidence.media_begins(4000, 0)
    number = evidence.ping(9000, 0.1)
    assert evidence.pong(number + 1, 0.2) is None
    assert evidence.pong(0, 0.2) is None
    assert evidence.bytes == 0
    assert evidence.pong(number, 0.2) is not None
    assert evidence.pong(number, 0.3) is None
    assert evidence.bytes == 9000


def test_a_platform_is_held_to_acknowledgements_only_when_they_are_its_habit() -> None:
    for count in (1, HABIT - 1, HABIT):
        evidence = Evidence(Limits())
        evidence.media_begins(0, 0)
        for one in range(count):
            evidence.acknowledged(WINDOW * (one + 1), one / 10)
        for tenth in range(100):
            evidence.observe_tcp(TcpProgress(tenth * 100_000, 0), tenth * 100_000, tenth / 10)
        assert (evidence.silent(9.9) > STALL) is (count >= HABIT)
