"""The picture on air: the newest frames of the host, scaled to the broadcast's size.

The event loop adds frames as they arrive; the encoder's thread takes one when a slot is due. A frame is copied once
(out of the SDK's memory), and scaled only if its size differs and it is taken.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import structlog
from av import VideoFrame
from av.error import FFmpegError
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

log = structlog.get_logger(__name__)

BLACK = (16, 128, 128)
"""Y, U and V of black in limited range (BT.709)."""

SMALLEST = 16
"""The smallest side of a picture in pixels. LiveKit sends black ones of 2×2 or 8×8 when a track begins or ends (seen
with VP9 and H.264)."""

WAITING = 2
"""Frames that may wait for a slot. With one, a frame that is a little late repeats its predecessor and is then replaced
by its successor: one in six at 30 frames per second here. Two add no delay, since sound is later than the picture."""


class Screen:
    """Holds the newest frames; black before the first one."""

    def __init__(self, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._waiting: deque[tuple[int, int, int, bytes | bytearray | memoryview]] = deque(maxlen=WAITING)
        self._frame = as_frame(black(width, height))
        self._reformatter = VideoReformatter()

    def show(self, width: int, height: int, i420: bytes | bytearray | memoryview, quarter_turns: int = 0) -> bool:
        """Adds a frame: planes Y, U, V without padding; chroma sizes are rounded up. The bytes must not change
        afterwards. Returns whether it is a picture of the host, and not one of LiveKit's own (`SMALLEST`).

        `quarter_turns`: clockwise, as a phone's camera asks for. Raises `ValueError` for too few bytes: here, since in
        the encoder's thread it would end the broadcast.
        """
        if min(width, height) < SMALLEST:
            return False
        even_planes(width, height, i420)
        # Atomic, so the other thread sees the whole frame or none of it.
        self._waiting.append((width, height, quarter_turns % 4, i420))
        return True

    def look(self) -> VideoFrame:
        """Takes the next frame, in the broadcast's size. Returns the same object again while no other has arrived."""
        try:
            newest = self._waiting.popleft()
        except IndexError:
            return self._frame
        try:
            self._frame = self._fitted(*newest)
        except FFmpegError as error:
            # A size that cannot be scaled. The previous picture remains.
            log.warning("picture.not_scaled", width=newest[0], height=newest[1], error=type(error).__name__)
        return self._frame

    def _fitted(self, width: int, height: int, turns: int, i420: bytes | bytearray | memoryview) -> VideoFrame:
        planes = even_planes(width, height, i420)
        if turns:
            planes = tuple(np.rot90(plane, -turns) for plane in planes)
        height, width = planes[0].shape
        if (width, height) == (self._width, self._height):
            if not turns:
                return as_frame(np.frombuffer(i420, np.uint8).reshape(height * 3 // 2, width))
            return as_frame(joined(planes))
        inner_width, inner_height = fitting(width, height, self._width, self._height)
        scaled = self._reformatter.reformat(
            as_frame(joined(planes)), inner_width, inner_height, "yuv420p", interpolation=Interpolation.BILINEAR
        )
        if (inner_width, inner_height) == (self._width, self._height):
            return scaled
        canvas = black(self._width, self._height)
        left = (self._width - inner_width) // 4 * 2
        top = (self._height - inner_height) // 4 * 2
        for index, target in enumerate(planes_of(canvas, self._width, self._height)):
            divided = 1 if index == 0 else 2
            rows, columns = inner_height // divided, inner_width // divided
            y, x = top // divided, left // divided
            source = scaled.planes[index]
            padded = np.frombuffer(memoryview(source), np.uint8)[: source.line_size * rows].reshape(
                rows, source.line_size
            )
            target[y : y + rows, x : x + columns] = padded[:, :columns]
        return as_frame(canvas)


def fitting(width: int, height: int, room_width: int, room_height: int) -> tuple[int, int]:
    """The largest size of that aspect ratio that fits, with even sides (as 4:2:0 needs), at least 2×2."""
    scale = min(room_width / width, room_height / height)
    inner_width = min(room_width, max(2, round(width * scale / 2) * 2))
    inner_height = min(room_height, max(2, round(height * scale / 2) * 2))
    return inner_width, inner_height


def black(width: int, height: int) -> NDArray[np.uint8]:
    """A black I420 picture: height × 3 / 2 rows of `width`."""
    picture = np.empty((height * 3 // 2, width), np.uint8)
    for plane, value in zip(planes_of(picture, width, height), BLACK, strict=True):
        plane[:] = value
    return picture


def planes_of(picture: NDArray[np.uint8], width: int, height: int) -> tuple[NDArray[np.uint8], ...]:
    """Views of Y, U and V of an I420 picture of even size."""
    flat = picture.reshape(-1)
    luma, chroma = width * height, width * height // 4
    return (
        flat[:luma].reshape(height, width),
        flat[luma : luma + chroma].reshape(height // 2, width // 2),
        flat[luma + chroma : luma + 2 * chroma].reshape(height // 2, width // 2),
    )


def even_planes(width: int, height: int, i420: bytes | bytearray | memoryview) -> tuple[NDArray[np.uint8], ...]:
    """Views of Y, U and V, without an odd last row or column. Raises `ValueError` for too few bytes."""
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    flat = np.frombuffer(i420, np.uint8)
    luma, chroma = width * height, half_width * half_height
    if width < 2 or height < 2 or len(flat) < luma + 2 * chroma:
        raise ValueError(f"{len(flat)} bytes are not an I420 picture of {width}×{height}")
    even_width, even_height = width // 2 * 2, height // 2 * 2
    return (
        flat[:luma].reshape(height, width)[:even_height, :even_width],
        flat[luma : luma + chroma].reshape(half_height, half_width)[: even_height // 2, : even_width // 2],
        flat[luma + chroma : luma + 2 * chroma].reshape(half_height, half_width)[: even_height // 2, : even_width // 2],
    )


def joined(planes: tuple[NDArray[np.uint8], ...]) -> NDArray[np.uint8]:
    """The three planes of an even size as one I420 picture."""
    height, width = planes[0].shape
    return np.concatenate([plane.reshape(-1) for plane in planes]).reshape(height * 3 // 2, width)


def as_frame(picture: NDArray[np.uint8]) -> VideoFrame:
    """A frame that shares the picture's memory."""
    return VideoFrame.from_numpy_buffer(picture, "yuv420p")
