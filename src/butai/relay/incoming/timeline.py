"""Places what sources send on one time line: it never goes back, whatever the time stamps of encoders do. Pure.

An encoder's time stamps have 32 bits, or 24 where it leaves the extended ones out; they begin anywhere, wrap, and may jump. A
broadcast has one time line over all its sources, in milliseconds of our monotonic clock.
"""

from __future__ import annotations

from butai.relay.packets import Kind

JUMP_MS = 3000
"""Time stamps that are further ahead than the time that passed, or further back, are a jump: the encoder's clock was set, or
its pipeline made again. No network delay looks so, since time passes meanwhile."""
BACK_MS = 1000
APART_MS = 2000
"""Picture and sound whose time stamps are further apart than they came have clocks of their own."""
MOST_AHEAD_MS = 30_000
"""The longest lead of what is placed over the time that passed. Clocks of encoders gain seconds in a day; what sends a file as
fast as it can is held here."""
_SAME_JUMP_MS = 1000
_JUMP_KEPT_MS = 5000
"""Time after a jump of one kind in which that of the other one belongs to it."""
_SHORT, _LONG = 1 << 24, 1 << 32


class Timeline:
    """The time line of one broadcast. Times are milliseconds; `now` is our monotonic clock."""

    def __init__(self) -> None:
        self.apart = False
        """Whether picture and sound of the present source have an offset each."""
        self.jumps = 0
        """Jumps of the present source's time stamps that were taken out."""
        self._placed: dict[Kind, int] = {}
        self._begin()

    def _begin(self) -> None:
        self._offset: int | None = None
        self._raw: dict[Kind, int] = {}
        self._position: dict[Kind, int] = {}
        self._seen_at: dict[Kind, int] = {}
        self._jumped: tuple[Kind, int, int] | None = None
        """The last jump that only one kind has made: its kind, its milliseconds, and when it was seen."""
        self.apart, self.jumps = False, 0

    def begin_source(self) -> None:
        """A source begins: its time stamps have nothing to do with those before. What was placed stays the lower bound."""
        self._begin()

    def place(self, kind: Kind, timestamp: int, now: int, *, keyframe: bool = False) -> int | None:
        """The time of a picture or sound with this time stamp. None before the source's first key frame, which sets its
        offset: it is due now, or at once after what was placed before."""
        if self._offset is None:
            if kind != "video" or not keyframe:
                return None
            self._offset = max([now, *(one + 1 for one in self._placed.values())]) - timestamp
            self._position[kind] = timestamp
        elif kind not in self._raw:
            self._position[kind] = self._first(kind, timestamp, now)
        else:
            step = self._step(kind, timestamp, now)
            ahead = self._position[kind] + step + self._offset - now - MOST_AHEAD_MS
            self._position[kind] += step - max(0, min(step, ahead))
        self._raw[kind], self._seen_at[kind] = timestamp, now
        placed = max(self._position[kind] + self._offset, self._placed.get(kind, 0))
        self._placed[kind] = placed
        return placed

    def fill(self, kind: Kind, at: int) -> int:
        """The time of a packet of our own that is due at `at`: there, or with what was placed before it."""
        self._placed[kind] = placed = max(at, self._placed.get(kind, 0))
        return placed

    def _first(self, kind: Kind, timestamp: int, now: int) -> int:
        """The position of the source's first sound, beside its picture."""
        other: Kind = "video" if kind == "audio" else "audio"
        away = _distance(self._raw[other], timestamp)
        if not -APART_MS <= away <= max(0, now - self._seen_at[other]) + APART_MS:
            self.apart, away = True, 0
        return self._position[other] + away

    def _step(self, kind: Kind, timestamp: int, now: int) -> int:
        """Milliseconds from the last one of its kind; the time that has passed where the time stamps have jumped."""
        passed = max(0, now - self._seen_at[kind])
        step = _distance(self._raw[kind], timestamp)
        jump = step - passed
        if self._jumped is not None:
            jumped, other, seen_at = self._jumped
            if now - seen_at > _JUMP_KEPT_MS:
                self._jumped = None
            elif jumped != kind and abs(jump - other) < min(_SAME_JUMP_MS, abs(jump)):
                # The other kind has jumped as far: picture and sound stay where they were to each other.
                self._jumped = None
                return step - other
        if -BACK_MS <= step <= passed + JUMP_MS:
            return step
        self._jumped = (kind, jump, now)
        self.jumps += 1
        return passed


def _distance(before: int, after: int) -> int:
    """From one time stamp to another, the short way round: after 32 bits, or after 24 where the others are not sent."""
    step = (after - before + _LONG // 2) % _LONG - _LONG // 2
    for turn in (_SHORT, -_SHORT):
        if before < _SHORT and after < _SHORT and abs(step + turn) <= JUMP_MS:
            return step + turn
    return step
