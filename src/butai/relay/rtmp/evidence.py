"""What is known of bytes that were read on the other side, and whether it should have said more by now. Pure: the time is
handed in. Called by `publisher`.

Three witnesses. *Answers to pings*: the application reaches a ping only by reading what was sent before, and one is asked
twice a second; a platform that reads on and leaves pings unanswered is no longer held to them. *Acknowledgements*: a
platform may keep a window of its own instead of the one that it was asked for (2.5 MB, 5 s of a show, is usual), or
acknowledge once and never again; so it is held to them only after it has shown its habit, and only when more than its usual
window is outstanding. *TCP*: the other kernel's word, where the application owes none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from butai.relay.rtmp.session import WINDOW

_PINGS_KEPT = 64

HABIT = 3
"""Acknowledgements of media after which a platform is held to them."""

_DUE = 2
"""Windows of a platform that may be outstanding before its acknowledgement is late."""

_LATE = 1.0
"""Seconds after which a ping that was read, as an acknowledgement shows, will not be answered."""


@dataclass(frozen=True, slots=True)
class TcpProgress:
    """TCP's word. `acked`: bytes that the other kernel has. `waiting`: bytes that it has not."""

    acked: int
    waiting: int


class Evidence:
    """Of one connection."""

    def __init__(self, ignored_after: float) -> None:
        """`ignored_after`: seconds of media until TCP is asked, where the application says nothing."""
        self._ignored_after = ignored_after
        self._media_from: int | None = None
        self._began = self._heard = self._moved = 0.0
        self._pings: dict[int, tuple[float, int]] = {}
        self._number = 0
        self._answers = False
        self._acks = self._last_ack = 0
        # Of the latest alone: the one that ends a stall is large, and must not hide the next.
        self._steps: deque[int] = deque((WINDOW,), maxlen=4)
        self._due = False
        self._tcp_acked = 0
        self._waiting = False
        self.bytes = 0
        """That were taken, as far as is known."""

    @property
    def media_taken(self) -> bool:
        """Whether any of the media was ever taken."""
        return self._media_from is not None and self.bytes > self._media_from

    def media_begins(self, sent: int, now: float) -> None:
        """The platform took the key; what is sent from here on is media."""
        self._media_from, self._last_ack = sent, max(self._last_ack, sent)
        self._began = self._heard = self._moved = now

    def acknowledged(self, total: int, now: float) -> None:
        """By an acknowledgement: of so many bytes, from the connection's first."""
        if total <= self.bytes and total <= self._last_ack:
            return
        self._heard = now
        self.bytes = max(self.bytes, total)
        if self.media_taken and total > self._last_ack:
            self._acks += 1
            self._steps.append(total - self._last_ack)
            self._last_ack, self._due = total, False
        if any(behind < total and now - at > _LATE for at, behind in self._pings.values()):
            # Until the next answer, which after a pause may come right behind this.
            self._answers = False

    def ping(self, sent: int, now: float) -> int:
        """A ping goes out behind so many bytes: its number, from 1."""
        self._number = self._number % 0x7FFFFFFF + 1
        if len(self._pings) >= _PINGS_KEPT:
            del self._pings[next(iter(self._pings))]
        self._pings[self._number] = now, sent
        return self._number

    def pong(self, number: int, now: float) -> float | None:
        """The answer: seconds that it took. None for a number that was not asked."""
        asked = self._pings.pop(number, None)
        if asked is None:
            return None
        for older in [one for one in self._pings if one < number]:
            del self._pings[older]
        self._answers = True
        self._heard = now
        self.bytes = max(self.bytes, asked[1])
        return now - asked[0]

    def look(self, progress: TcpProgress, sent: int, now: float) -> None:
        """What TCP says now, and how many bytes are sent."""
        moved = progress.acked > self._tcp_acked or not progress.waiting
        if moved:
            self._moved = now
        self._tcp_acked, self._waiting = progress.acked, progress.waiting > 0
        self._due = sent - self._last_ack > max(WINDOW, *self._steps) * _DUE
        # Only while it moves: what the other kernel holds of a platform that reads nothing is not taken.
        spoken = self._answers or self._acks >= HABIT
        if moved and not spoken and now - self._began > self._ignored_after:
            self.bytes = max(self.bytes, sent - progress.waiting)

    def silent(self, now: float) -> float:
        """Seconds for which the other side has owed a word and given none."""
        heard = now - self._heard
        if self._answers or (self._acks >= HABIT and self._due):
            return heard
        return min(heard, now - self._moved) if self._waiting else 0.0
