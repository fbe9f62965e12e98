"""Several audio tracks, each on its host's clock, into one stream on ours.

`push` is called by the event loop as sound comes in, `take` by the encoder's thread when a chunk is due. Each track has a
bounded buffer that is kept around a target by taking a few samples more or less and resampling them: a clock that is
off by 0.01 % shifts sound by 360 ms in an hour otherwise.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

TARGET = 0.05
"""Seconds left in a track's buffer after chunks were taken: two and a half of the SDK's 20 ms frames, since up to two chunks
are taken at a time. With 30 ms it ran dry about once in ten seconds on a busy machine, with 50 ms hardly ever."""

RAISED_TARGET = 0.065
"""Seconds at most, after gaps showed that the sound comes in fits. More would be heard as sound behind the picture."""

EXCESS = 0.12
"""Seconds above the target from which the rest is thrown away at once."""

SMOOTHING = 0.02
"""Share of the newest level in the average: chunks of 21 ms give a memory of one second."""

BEND = 0.005
"""Most that sound is stretched or squeezed: not heard (a twelfth of a semitone)."""

SLACK = 0.006
"""Seconds around the target within which nothing is bent."""


class Track:
    """One audio track's buffer: stereo samples, 16 bits."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._parts: list[NDArray[np.int16]] = []
        self.level = 0
        """Samples that wait."""
        self._target = TARGET
        self._average = 0.0
        self._playing = False
        self.gaps = 0
        """How often it ran dry."""

    def push(self, samples: NDArray[np.int16]) -> None:
        """Samples × 2 at the end."""
        self._parts.append(samples)
        self.level += len(samples)
        # Nobody takes: no endless buffer.
        while self.level > self._rate:
            self.level -= len(self._parts.pop(0))

    def take(self, count: int) -> NDArray[np.int16] | None:
        """`count` samples, None for silence."""
        target = int(self._target * self._rate)
        if not self._playing:
            if self.level < count + target:
                return None
            self._playing, self._average = True, float(target)
            self._drop(self.level - count - target)
        if self.level < count:
            # Dry. What is left comes out, and then it waits until there is enough again.
            self._playing = False
            self.gaps += 1
            self._target = min(self._target * 1.5, RAISED_TARGET)
            rest = self._cut(self.level)
            return np.concatenate([rest, np.zeros((count - len(rest), 2), np.int16)])
        if self.level - count > target + int(EXCESS * self._rate):
            self._drop(self.level - count - target)
            self._average = float(target)
        self._target = max(TARGET, self._target * 0.9999)
        self._average += ((self.level - count) - self._average) * SMOOTHING
        off = self._average - target
        bend = 0
        if abs(off) > SLACK * self._rate:
            bend = int(np.clip(off * 0.02, -BEND * count, BEND * count))
            bend = bend or (1 if off > 0 else -1)
            if count + bend > self.level:
                bend = 0
        taken = self._cut(count + bend)
        return taken if bend == 0 else _stretched(taken, count)

    def _drop(self, count: int) -> None:
        if count > 0:
            self._cut(count)

    def _cut(self, count: int) -> NDArray[np.int16]:
        found: list[NDArray[np.int16]] = []
        self.level -= count
        while count > 0:
            part = self._parts[0]
            if len(part) > count:
                found.append(part[:count])
                self._parts[0] = part[count:]
                break
            found.append(self._parts.pop(0))
            count -= len(part)
        return np.concatenate(found) if found else np.zeros((0, 2), np.int16)


class Mixer:
    """All tracks of the host. Any thread may call any method."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._tracks: dict[str, Track] = {}
        self._lock = threading.Lock()

    def push(self, track_id: str, samples: NDArray[np.int16]) -> None:
        """Sound of a track, samples × 2, at the mixer's rate. An unknown track begins."""
        with self._lock:
            track = self._tracks.get(track_id)
            if track is None:
                track = self._tracks[track_id] = Track(self.rate)
            track.push(samples)

    def forget(self, track_id: str) -> None:
        """The track is gone; what it still held is not played."""
        with self._lock:
            self._tracks.pop(track_id, None)

    def take(self, count: int) -> NDArray[np.int16]:
        """The next `count` samples of all tracks together, count × 2. Silence where there is nothing."""
        with self._lock:
            heard = [taken for track in self._tracks.values() if (taken := track.take(count)) is not None]
        if not heard:
            return np.zeros((count, 2), np.int16)
        if len(heard) == 1:
            return heard[0]
        total = np.sum(heard, axis=0, dtype=np.int32)
        return np.clip(total, -32768, 32767).astype(np.int16)

    @property
    def levels(self) -> dict[str, int]:
        """Samples that wait, of each track."""
        with self._lock:
            return {track_id: track.level for track_id, track in self._tracks.items()}


def _stretched(samples: NDArray[np.int16], count: int) -> NDArray[np.int16]:
    at = np.linspace(0, len(samples) - 1, count)
    grid = np.arange(len(samples))
    both = [np.interp(at, grid, samples[:, side]) for side in (0, 1)]
    return np.stack(both, axis=1).round().astype(np.int16)
