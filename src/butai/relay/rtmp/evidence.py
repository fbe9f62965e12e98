"""Evidence that a platform reads what is sent, and whether evidence is overdue. Pure: the time is an argument.

There are three kinds, and a platform is held only to those that are its habit: three of a kind make one. *Answers to
pings*: the application reaches a ping only by reading what was sent before it, and a ping is sent twice a second. RTMP
has pings of servers only, so no server owes the answer; one that acknowledges and leaves pings unanswered is no longer
expected to answer. *Acknowledgements*: each shows that the application reads, whatever number it bears. Servers count in
different ways: RTMP's 32 bits wrap at 2³² or 2³¹, or begin again at 0xf0000000 (nginx-rtmp, SRS, Node-Media-Server), and
a number may be of other bytes than ours. So what is expected is learned from the bytes and the time between the last
ones: platforms use windows of their own instead of the requested one (2.5 MB, 5 s of a broadcast, is common). *TCP*: the
state of the other kernel, used where no word of the application is expected.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from butai.relay.rtmp.session import WINDOW
from butai.relay.timing import Limits

_PINGS_KEPT = 64

HABIT = 3
"""Answers to pings, or acknowledgements of media, after which more are expected."""

_WINDOWS_DUE = 2
"""Windows that may be outstanding before the whole silence counts; after one, the time from then on counts."""

_WRAPS = (2**31, 0xF0000000, 2**32)
"""Numbers at which servers begin to count again. Some leave out an acknowledgement there, some send none any more."""

_UNOBSERVED = 1024 * 1024
"""Bytes that may have been sent and acknowledged since TCP was observed: 0.1 s, a keyframe at most."""


@dataclass(frozen=True, slots=True)
class TcpProgress:
    """The state of TCP. `acked`: bytes that the other kernel has received. `waiting`: bytes that it has not."""

    acked: int
    waiting: int


class Evidence:
    """The evidence of one connection. Times are monotonic seconds."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._media_from: int | None = None
        self._began = self._last_word_at = self._tcp_moved_at = 0.0
        self._sent = 0
        # Pings without an answer: their times and the bytes sent before them.
        self._pings: dict[int, tuple[float, int]] = {}
        self._ping = 0
        self._pongs = self._acks = 0
        self._ack_number = self._ack_total = 0
        self._last_ack_at = self._last_pong_at = 0.0
        # Only the latest: the one that ends a stall is large, and must not hide the next stall.
        self._steps: deque[int] = deque((WINDOW,), maxlen=4)
        self._ack_gaps: deque[float] = deque((0.0,), maxlen=4)
        self._pong_gaps: deque[float] = deque((0.0,), maxlen=4)
        self._received = self._received_at_ack = 0
        self._due_since: float | None = None
        self._tcp_acked = 0
        self._waiting = False
        self.bytes = 0
        """Bytes that were read, as far as words of the application and TCP show it."""

    @property
    def media_taken(self) -> bool:
        """Whether any media were read."""
        return self._media_from is not None and self.bytes > self._media_from

    def media_begins(self, sent: int, now: float) -> None:
        """Records that the platform accepted the publish: bytes after the first `sent` are media."""
        self._media_from = self._sent = self._received = self._received_at_ack = sent
        self._acks = 0
        self._began = self._last_word_at = self._last_ack_at = self._last_pong_at = self._tcp_moved_at = now

    def acknowledged(self, number: int, now: float) -> None:
        """Records an acknowledgement. `number`: of 32 bits, as the platform counts."""
        advance = (number - self._ack_number) % 2**32
        counts_ours = 0 < advance <= self._sent + _UNOBSERVED - self._ack_total
        if counts_ours:
            self._ack_total += advance
        # What had arrived at the acknowledgement before this one was read by now, whatever the number says.
        self.bytes = max(self.bytes, self._ack_total, self._received_at_ack)
        if not counts_ours:
            self._ack_total = self.bytes
        self._ack_number = number
        self._last_word_at, self._due_since = now, None
        step = self._received - self._received_at_ack
        if step > 0 or (counts_ours and self.media_taken):
            self._acks += 1
            self._steps.append(step)
            self._ack_gaps.append(now - self._last_ack_at)
            self._received_at_ack, self._last_ack_at = self._received, now
        if counts_ours and any(number < wrap <= number + _WINDOWS_DUE * max(self._steps) for wrap in _WRAPS):
            self._acks = 0
        if any(now - at > self._limits.unanswered_after for at, _ in self._pings.values()):
            # Until the next answers, which may come right after this acknowledgement.
            self._pongs = 0

    def ping(self, sent: int, now: float) -> int:
        """Records a ping after the first `sent` bytes. Returns its number, from 1."""
        self._sent = max(self._sent, sent)
        self._ping = self._ping % 0x7FFFFFFF + 1
        if len(self._pings) >= _PINGS_KEPT:
            del self._pings[next(iter(self._pings))]
        self._pings[self._ping] = now, sent
        return self._ping

    def pong(self, number: int, now: float) -> float | None:
        """Records the answer to a ping. Returns the round-trip time in seconds; None for an unknown number."""
        asked = self._pings.pop(number, None)
        if asked is None:
            return None
        for older in [one for one in self._pings if one < number]:
            del self._pings[older]
        self._pongs += 1
        self._pong_gaps.append(now - self._last_pong_at)
        self._last_word_at = self._last_pong_at = now
        self.bytes = max(self.bytes, asked[1])
        return now - asked[0]

    def observe_tcp(self, progress: TcpProgress, sent: int, now: float) -> None:
        """Records the state of TCP and the number of bytes sent."""
        moved = progress.acked > self._tcp_acked or not progress.waiting
        if moved:
            self._tcp_moved_at = now
        self._tcp_acked, self._waiting = progress.acked, progress.waiting > 0
        self._sent = max(self._sent, sent)
        # An application owes nothing for bytes that are still on their way.
        self._received = max(self._received, sent - progress.waiting)
        if self._due_since is None and self._outstanding(1, now):
            self._due_since = now
        # Only while TCP moves: bytes in the receive buffer of a platform that reads nothing are not read.
        spoken = self._pongs >= HABIT or self._acks >= HABIT
        if moved and not spoken and now - self._began > self._limits.ignored_after:
            self.bytes = max(self.bytes, sent - progress.waiting)

    def stood_still(self, seconds: float, now: float) -> None:
        """Leaves out the `seconds` before `now`, in which this process did not run: nothing could be heard then, and nothing was
        asked."""

        def later(at: float) -> float:
            # Not later than now: what waited in the socket may have been heard just before.
            return min(at + seconds, now)

        self._began, self._last_word_at = later(self._began), later(self._last_word_at)
        self._last_ack_at, self._last_pong_at = later(self._last_ack_at), later(self._last_pong_at)
        self._tcp_moved_at = later(self._tcp_moved_at)
        if self._due_since is not None:
            self._due_since = later(self._due_since)
        self._pings = {number: (later(at), sent) for number, (at, sent) in self._pings.items()}

    def silent(self, now: float) -> float:
        """Seconds for which evidence has been overdue; 0 if none is expected."""
        silence = now - self._last_word_at
        overdue = min(silence, now - self._tcp_moved_at) if self._waiting else 0.0
        if self._pongs >= HABIT:
            # One that answers only some pings owes the next answer later.
            gap = max(self._pong_gaps)
            owed = silence if gap <= 2 * self._limits.ping_every else min(silence, now - self._last_pong_at - gap)
            overdue = max(overdue, owed)
        if self._acks >= HABIT and self._due_since is not None:
            overdue = max(overdue, silence if self._outstanding(_WINDOWS_DUE, now) else now - self._due_since)
        return overdue

    def _outstanding(self, windows: int, now: float) -> bool:
        """Whether more than so many of the platform's windows have arrived there since its last acknowledgement. One
        that acknowledges by a clock owes nothing for a higher bitrate, so the time counts as well."""
        return self._received - self._received_at_ack > windows * max(
            WINDOW, *self._steps
        ) and now - self._last_ack_at > windows * max(self._ack_gaps)
