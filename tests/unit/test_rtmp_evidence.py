"""Whether a platform takes what is sent, by what it says and what it is known to leave unsaid. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from butai.relay.rtmp.evidence import HABIT, Evidence, TcpProgress
from butai.relay.rtmp.session import WINDOW
from butai.relay.timing import Limits

STALL = Limits().stall_after
IGNORED = Limits().ignored_after


Count = Callable[[int, int, int], int]
"""The number of an acknowledgement: of the bytes read, of those since the last one, and of how many there were."""

COUNTS: dict[str, Count] = {
    "of 32 bits": lambda total, _step, _acks: total % 2**32,
    "of 31 bits": lambda total, _step, _acks: total % 2**31,
    "from 0 at 0xf0000000": lambda total, _step, _acks: total % 0xF0000000,
    "signed, and held at the highest": lambda total, _step, _acks: min(total, 2**31 - 1),
    "bytes since the last": lambda _total, step, _acks: step,
    "always the same": lambda _total, _step, _acks: 2**32 - 1,
    "nothing": lambda _total, _step, _acks: 0,
    "messages": lambda _total, _step, acks: acks,
    "without headers": lambda total, _step, _acks: int(total * 0.98) % 2**32,
    "twice": lambda total, _step, _acks: total * 2 % 2**32,
    "back from the top": lambda total, _step, _acks: -total % 2**32,
    "little-endian": lambda total, _step, _acks: int.from_bytes((total % 2**32).to_bytes(4, "little"), "big"),
    "at random": lambda _total, _step, acks: acks * 2_654_435_761 % 2**32,
}
"""Ways of counting. The first three are those of platforms and of nginx-rtmp, SRS and Node-Media-Server."""


@dataclass
class Platform:
    """Taken bytes at `rate` a second for as long as it `reads`; looked at ten times a second, asked twice a second.

    `begun`: bytes that it has read before. `clock`: it acknowledges each so many seconds, whatever it has read.
    `of_pings`: it answers one of so many.
    """

    rate: float = 500_000
    window: int | None = WINDOW
    answers: bool = True
    answers_until: float = 1e9
    tcp: bool = True
    reads: bool = True
    count: Count = COUNTS["of 32 bits"]
    begun: int = 4000
    clock: float | None = None
    of_pings: int = 1

    def __post_init__(self) -> None:
        self.evidence = Evidence(Limits())
        self.now, self.looks, self.acks = 0.0, 0, 0
        self.sent = self.read = self.acknowledged = float(self.begun)
        if self.begun > 4000:
            self.evidence.observe_tcp(TcpProgress(self.begun, 0), self.begun, 0)
        self.evidence.media_begins(self.begun, 0)
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
                if self.clock is not None:
                    due = self.looks % round(self.clock * 10) == 0
                else:
                    due = self.window is not None and self.read - self.acknowledged >= self.window
                if due:
                    self.acks += 1
                    number = self.count(int(self.read), int(self.read - self.acknowledged), self.acks)
                    self.acknowledged = self.read
                    self.evidence.acknowledged(number, self.now)
                for number, behind in [one for one in self.asked if self._answered(one)]:
                    assert self.evidence.pong(number, self.now) is not None
                    self.asked.remove((number, behind))
            taken = self.sent if self.tcp else self.read
            self.evidence.observe_tcp(TcpProgress(int(taken), int(self.sent - taken)), int(self.sent), self.now)
            longest = max(longest, self.evidence.silent(self.now))
        return longest

    def _answered(self, ping: tuple[int, float]) -> bool:
        if ping[0] % self.of_pings:
            return False
        return self.answers and self.now < self.answers_until and ping[1] <= self.read


WAYS = st.sampled_from(sorted(COUNTS)).map(COUNTS.__getitem__)
RATES = st.floats(10_000, 1_500_000)
WINDOWS = st.sampled_from([5000, WINDOW, 1_000_000, 2_500_000, 5_000_000])
BEGUN = st.sampled_from([4000, 2**31 - 3_000_000, 0xF0000000 - 3_000_000, 2**32 - 3_000_000])


@given(RATES, st.none() | WINDOWS, st.booleans(), st.floats(1, 60), WAYS, BEGUN)
def test_a_platform_that_reads_is_never_stalled(
    rate: float, window: int | None, answers: bool, seconds: float, count: Count, begun: int
) -> None:
    platform = Platform(rate, window, answers, count=count, begun=begun)
    assert platform.run(seconds) <= STALL
    if seconds > IGNORED + 1:
        assert platform.evidence.media_taken
    assert platform.evidence.bytes <= platform.sent + 1024 * 1024


@given(RATES, WINDOWS, WAYS, BEGUN)
def test_one_that_stops_reading_is_seen_by_what_it_owes_however_it_counts(
    rate: float, window: int, count: Count, begun: int
) -> None:
    platform = Platform(rate, window, answers=False, count=count, begun=begun)
    owed = max(window, WINDOW) / rate
    platform.run(min(6 * owed + 20, 300))
    assume(platform.acks >= HABIT)
    # Where numbers wrap, acknowledgements are expected only after three more.
    assume(platform.evidence._acks >= HABIT)
    platform.reads = False
    platform.run(owed + STALL + 0.4)
    assert platform.evidence.silent(platform.now) > STALL


@pytest.mark.parametrize("wrap", [2**31, 0xF0000000, 2**32])
@pytest.mark.parametrize("window", [WINDOW, 2_500_000])
def test_one_that_leaves_out_acknowledgements_where_its_numbers_wrap_is_not_stalled(wrap: int, window: int) -> None:
    platform = Platform(window=window, answers=False, begun=wrap - 4 * window)
    platform.run(3.2 * window / platform.rate)
    platform.window = None
    assert platform.run(30) <= STALL
    platform.window = window
    assert platform.run(30) <= STALL


@given(st.floats(10_000, 200_000), st.floats(200_000, 1_500_000), st.sampled_from([0.2, 1, 3, 5]))
def test_one_that_acknowledges_by_a_clock_owes_nothing_for_a_higher_bitrate(
    low: float, high: float, clock: float
) -> None:
    platform = Platform(low, answers=False, clock=clock)
    assert platform.run(6 * clock + 1) <= STALL
    platform.rate = high
    assert platform.run(6 * clock + 1) <= STALL


@pytest.mark.parametrize("of_pings", [2, 5, 12])
def test_one_that_answers_some_pings_only_is_not_stalled_and_seen_when_it_stops(of_pings: int) -> None:
    platform = Platform(window=None, of_pings=of_pings)
    assert platform.run(60) <= STALL
    platform.reads = False
    platform.run(of_pings * Limits().ping_every + STALL + 0.4)
    assert platform.evidence.silent(platform.now) > STALL


def test_one_that_answered_a_ping_or_two_and_acknowledges_nothing_is_not_stalled() -> None:
    platform = Platform(window=None, answers_until=1.1)
    assert platform.run(30) <= STALL


@pytest.mark.parametrize("name", ["of 31 bits", "from 0 at 0xf0000000", "always the same", "nothing"])
def test_pings_that_are_answered_no_more_are_not_owed_however_acknowledgements_count(name: str) -> None:
    platform = Platform(window=400_000, answers_until=0.8, count=COUNTS[name], begun=2**31 - 1_000_000)
    assert platform.run(60) <= STALL


def test_acknowledgements_wrap_at_four_gigabytes() -> None:
    evidence = Evidence(Limits())
    evidence.media_begins(0, 0)
    totals: list[int] = []
    for one, (sent, number) in enumerate(
        ((70_000, 65536), (2**31 + 9, 2**31), (2**32, 2**32 - 5), (2**32 + 2000, 1000))
    ):
        evidence.observe_tcp(TcpProgress(sent, 0), sent, one)
        evidence.acknowledged(number, one)
        totals.append(evidence.bytes)
    assert totals == [65536, 2**31, 2**32 - 5, 2**32 + 1000]


def test_a_number_that_goes_back_is_of_another_count_and_shows_that_something_was_read() -> None:
    evidence = Evidence(Limits())
    evidence.media_begins(4000, 0)
    for one, number in enumerate((70_000, 65_536, 131_072), 1):
        evidence.observe_tcp(TcpProgress(100_000 * one, 0), 100_000 * one, one)
        evidence.acknowledged(number, one + 0.1)
        assert evidence.silent(one + 0.1) == 0
    assert 131_072 <= evidence.bytes <= 300_000


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


@pytest.mark.parametrize("heard", [True, False], ids=["what waited is heard first", "nothing waited"])
@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("window", [WINDOW, 2_500_000, None])
def test_a_time_in_which_this_process_did_not_run_is_no_silence(window: int | None, answers: bool, heard: bool) -> None:
    platform = Platform(window=window, answers=answers)
    assert platform.run(20) <= STALL
    platform.now += 40
    if heard and answers:
        assert (
            platform.evidence.pong(platform.evidence.ping(int(platform.sent), platform.now), platform.now) is not None
        )
    elif heard and window is not None:
        platform.evidence.acknowledged(int(platform.sent), platform.now)
    platform.evidence.stood_still(40, platform.now)
    assert platform.evidence.silent(platform.now) <= STALL
    assert platform.run(20) <= STALL
    # And it hides no stall that comes after it.
    platform.reads = platform.tcp = False
    platform.run(2 * (window or 0) / platform.rate + STALL + 0.7)
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
