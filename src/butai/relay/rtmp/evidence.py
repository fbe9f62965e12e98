"""Evidence that a platform reads what is sent, and whether evidence is overdue. Pure: the time is an argument.

There are three kinds. *Answers to pings*: the application reaches a ping only by reading what was sent before it, and a
ping is sent twice a second. A platform that keeps reading and leaves pings unanswered is no longer expected to answer.
*Acknowledgements*: a platform may use a window of its own instead of the requested one (2.5 MB, 5 s of a broadcast, is
common), or acknowledge once and never again; they are expected only after several, and only when more than the usual
window is outstanding. *TCP*: the state of the other kernel, used where no answer of the application is expected.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from butai.relay.rtmp.session import WINDOW
from butai.relay.timing import Limits

_PINGS_KEPT = 64

HABIT = 3
"""Acknowledgements of media after which more are expected."""

_WINDOWS_DUE = 2
"""Windows that may be outstanding before an acknowledgement is overdue."""


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
        self._pings: dict[int, tuple[float, int]] = {}
        self._number = 0
        self._answers = False
        self._acks = self._last_ack = 0
        # Only the latest: the one that ends a stall is large, and must not hide the next stall.
        self._steps: deque[int] = deque((WINDOW,), maxlen=4)
        self._acknowledgement_due = False
        self._tcp_acked = 0
        self._waiting = False
        self.bytes = 0
        """Bytes known to have been read."""

    @property
    def media_taken(self) -> bool:
        """Whether any media were read."""
        return self._media_from is not None and self.bytes > self._media_from

    def media_begins(self, sent: int, now: float) -> None:
        """Records that the platform accepted the publish: bytes after the first `sent` are media."""
        self._media_from, self._last_ack = sent, max(self._last_ack, sent)
        self._began = self._last_word_at = self._tcp_moved_at = now

    def acknowledged(self, total: int, now: float) -> None:
        """Records an acknowledgement of the first `total` bytes of the connection."""
        if total <= self.bytes and total <= self._last_ack:
            return
        self._last_word_at = now
        self.bytes = max(self.bytes, total)
        if self.media_taken and total > self._last_ack:
            self._acks += 1
            self._steps.append(total - self._last_ack)
            self._last_ack, self._acknowledgement_due = total, False
        if any(behind < total and now - at > self._limits.unanswered_after for at, behind in self._pings.values()):
            # Until the next answer, which may come right after this acknowledgement.
            self._answers = False

    def ping(self, sent: int, now: float) -> int:
        """Records a ping after the first `sent` bytes. Returns its number, from 1."""
        self._number = self._number % 0x7FFFFFFF + 1
        if len(self._pings) >= _PINGS_KEPT:
            del self._pings[next(iter(self._pings))]
        self._pings[self._number] = now, sent
        return self._number

    def pong(self, number: int, now: float) -> float | None:
        """Records the answer to a ping. Returns the round-trip time in seconds; None for an unknown number."""
        asked = self._pings.pop(number, None)
        if asked is None:
            return None
        for older in [one for one in self._pings if one < number]:
            del self._pings[older]
        self._answers = True
        self._last_word_at = now
        self.bytes = max(self.bytes, asked[1])
        return now - asked[0]

    def observe_tcp(self, progress: TcpProgress, sent: int, now: float) -> None:
        """Records the state of TCP and the number of bytes sent."""
        moved = progress.acked > self._tcp_acked or not progress.waiting
        if moved:
            self._tcp_moved_at = now
        self._tcp_acked, self._waiting = progress.acked, progress.waiting > 0
        self._acknowledgement_due = sent - self._last_ack > max(WINDOW, *self._steps) * _WINDOWS_DUE
        # Only while TCP moves: bytes in the receive buffer of a platform that reads nothing are not read.
        spoken = self._answers or self._acks >= HABIT
        if moved and not spoken and now - self._began > self._limits.ignored_after:
            self.bytes = max(self.bytes, sent - progress.waiting)

    def silent(self, now: float) -> float:
        """Seconds for which evidence has been overdue; 0 if none is expected."""
        silence = now - self._last_word_at
        if self._answers or (self._acks >= HABIT and self._acknowledgement_due):
            return silence
        return min(silence, now - self._tcp_moved_at) if self._waiting else 0.0
