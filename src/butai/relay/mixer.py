"""Mixes audio tracks, each on its sender's clock, into one stream on the relay's clock.

The event loop pushes sound as it arrives; the encoder's thread takes it when a chunk is due. Each track's bounded
buffer is kept around a target by taking a few samples more or less and resampling them: a clock that is wrong by 0.01 %
otherwise shifts sound by 360 ms in an hour.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

TARGET = 0.05
"""Seconds left in a track's buffer after a take: two and a half of the SDK's 20 ms frames, since up to two chunks are
taken at a time. With 30 ms the buffer ran empty about once in ten seconds on a busy machine, with 50 ms almost
never."""

RAISED_TARGET = 0.065
"""The highest target in seconds, after gaps. More would be noticed as sound that lags behind the picture."""

EXCESS = 0.12
"""Seconds above the target from which the surplus is dropped at once."""

SMOOTHING = 0.02
"""The newest level's share in the moving average: with chunks of 21 ms, an average over one second."""

BEND = 0.005
"""The largest change of speed: inaudible (a twelfth of a semitone)."""

SLACK = 0.006
"""Seconds around the target within which the speed is not changed."""


class Track:
    """One audio track's buffer: stereo samples, 16 bits."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._chunks: list[NDArray[np.int16]] = []
        self.level = 0
        """The number of buffered samples."""
        self._target = TARGET
        self._average = 0.0
        self._playing = False
        self.gaps = 0
        """How often the buffer ran empty."""

    def push(self, samples: NDArray[np.int16]) -> None:
        """Appends samples (× 2)."""
        self._chunks.append(samples)
        self.level += len(samples)
        # Bounded to one second, while nothing is taken.
        while self.level > self._rate:
            self.level -= len(self._chunks.pop(0))

    def take(self, count: int) -> NDArray[np.int16] | None:
        """Takes `count` samples; None for silence."""
        target = int(self._target * self._rate)
        if not self._playing:
            if self.level < count + target:
                return None
            self._playing, self._average = True, float(target)
            self._drop(self.level - count - target)
        if self.level < count:
            # Too few samples. They are played, then silence until the target is reached again.
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
        cut: list[NDArray[np.int16]] = []
        self.level -= count
        while count > 0:
            chunk = self._chunks[0]
            if len(chunk) > count:
                cut.append(chunk[:count])
                self._chunks[0] = chunk[count:]
                break
            cut.append(self._chunks.pop(0))
            count -= len(chunk)
        return np.concatenate(cut) if cut else np.zeros((0, 2), np.int16)


class Mixer:
    """Mixes all tracks of the host. Thread-safe."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self._tracks: dict[str, Track] = {}
        self._lock = threading.Lock()

    def push(self, track_id: str, samples: NDArray[np.int16]) -> None:
        """Adds sound to a track, samples × 2, at the mixer's rate. An unknown track is added."""
        with self._lock:
            track = self._tracks.get(track_id)
            if track is None:
                track = self._tracks[track_id] = Track(self.rate)
            track.push(samples)

    def forget(self, track_id: str) -> None:
        """Removes a track with its buffered sound."""
        with self._lock:
            self._tracks.pop(track_id, None)

    def take(self, count: int) -> NDArray[np.int16]:
        """Takes the next `count` samples of the mix, count × 2; zeros where no track has sound."""
        with self._lock:
            chunks = [taken for track in self._tracks.values() if (taken := track.take(count)) is not None]
        if not chunks:
            return np.zeros((count, 2), np.int16)
        if len(chunks) == 1:
            return chunks[0]
        total = np.sum(chunks, axis=0, dtype=np.int32)
        return np.clip(total, -32768, 32767).astype(np.int16)

    @property
    def levels(self) -> dict[str, int]:
        """The number of buffered samples of each track."""
        with self._lock:
            return {track_id: track.level for track_id, track in self._tracks.items()}


def _stretched(samples: NDArray[np.int16], count: int) -> NDArray[np.int16]:
    at = np.linspace(0, len(samples) - 1, count)
    grid = np.arange(len(samples))
    both = [np.interp(at, grid, samples[:, side]) for side in (0, 1)]
    return np.stack(both, axis=1).round().astype(np.int16)
