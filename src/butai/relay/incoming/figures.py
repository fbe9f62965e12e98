"""What a source really sends: bitrate, pictures a second, distance of key frames. Pure."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5
"""Seconds over which bitrate and pictures are averaged."""


class SourceFigures:
    """Figures of one source. Times are milliseconds; `now` is our monotonic clock."""

    def __init__(self) -> None:
        self.keyframe_interval_ms = 0
        """From the last key frame but one to the last, or to the newest picture if that is longer; 0 before the second."""
        self.pictures = 0
        self.sounds = 0
        self.bytes = 0
        self._seconds: deque[tuple[int, int, int]] = deque(maxlen=WINDOW_S + 1)
        self._keyframe: int | None = None
        self._began = 0

    def picture(self, size: int, dts: int, now: int, *, keyframe: bool) -> None:
        """Counts a picture."""
        self.pictures += 1
        if self._keyframe is not None and (keyframe or dts - self._keyframe > self.keyframe_interval_ms):
            self.keyframe_interval_ms = dts - self._keyframe
        if keyframe:
            self._keyframe = dts
        self._count(size, 1, now)

    def sound(self, size: int, now: int) -> None:
        """Counts a sound."""
        self.sounds += 1
        self._count(size, 0, now)

    def kbps(self, now: int) -> int:
        """Kilobits a second over the last whole seconds, picture and sound together."""
        return sum(size for _, size, _ in self._whole(now)) * 8 // 1000 // self._span(now)

    def fps(self, now: int) -> float:
        """Pictures a second over the last whole seconds."""
        return sum(pictures for _, _, pictures in self._whole(now)) / self._span(now)

    def _span(self, now: int) -> int:
        """Seconds that were counted, of those that are averaged."""
        return max(1, min(WINDOW_S, now // 1000 - self._began))

    def _whole(self, now: int) -> list[tuple[int, int, int]]:
        second = now // 1000
        return [one for one in self._seconds if second - WINDOW_S <= one[0] < second]

    def _count(self, size: int, pictures: int, now: int) -> None:
        self.bytes += size
        second = now // 1000
        if not self._seconds:
            self._began = second
        if self._seconds and self._seconds[-1][0] == second:
            _, sizes, counted = self._seconds.pop()
            size, pictures = size + sizes, pictures + counted
        self._seconds.append((second, size, pictures))
