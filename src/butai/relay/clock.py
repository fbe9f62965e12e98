"""Computes when the next picture and the next chunk of sound are due. Pure: the time is an argument.

A broadcast has a clock of its own, so that a host who is muted, reloads or stutters never starves a platform. Both
clocks count from the same monotonic time and keep its grid: skipped slots are a gap in the time stamps, never a shift
of picture against sound.
"""

from __future__ import annotations

MAX_FRAME_DELAY = 0.25
"""Seconds that a picture may be late. Later ones are skipped: an encoder that cannot keep up loses frames, not time."""

MAX_SOUND_DELAY = 1.0
"""Seconds that sound may be late. A longer pause (a stopped process, a suspended machine) is skipped, since a platform
would only queue the burst."""


class FrameClock:
    """Slots of 1/fps seconds, each filled at most once."""

    def __init__(self, fps: int, begin: float) -> None:
        self._fps, self._begin = fps, begin
        self._next = 0
        self.skipped = 0
        """Slots that were skipped."""

    @property
    def next_at(self) -> float:
        """When the next slot begins, on the clock of `begin`."""
        return self._begin + self._next / self._fps

    def due(self, now: float) -> int | None:
        """The slot to fill now; None if it is too early."""
        late = now - self.next_at
        if late < 0:
            return None
        if late > MAX_FRAME_DELAY:
            slot = int((now - self._begin) * self._fps)
            self.skipped += slot - self._next
            self._next = slot
        slot = self._next
        self._next += 1
        return slot


class SampleClock:
    """Chunks of `chunk` samples. A chunk is due when its last sample has passed."""

    def __init__(self, rate: int, chunk: int, begin: float) -> None:
        self._rate, self._chunk, self._begin = rate, chunk, begin
        self._position = 0
        self.skipped = 0
        """Samples that were skipped."""

    @property
    def next_at(self) -> float:
        """When the next chunk is due, on the clock of `begin`."""
        return self._begin + (self._position + self._chunk) / self._rate

    def due(self, now: float) -> int | None:
        """The first sample of the chunk to make now; None if it is too early."""
        late = now - self.next_at
        if late < 0:
            return None
        if late > MAX_SOUND_DELAY:
            missed = int(late * self._rate)
            self.skipped += missed
            self._position += missed
        position = self._position
        self._position += self._chunk
        return position
