"""A host for a demonstration: publishes a moving picture with a clock, and a soft tone, until its stdin ends.

`python -m butai.demo.host URL`, the token on the first line of stdin; prints `on` once it publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time

import numpy as np
from livekit import rtc
from numpy.typing import NDArray

WIDTH, HEIGHT, FPS = 1280, 720, 30
RATE = 48000
_DOT = 14
"""Size in pixels of one of a digit's 3 × 5 dots."""
# fmt: off
_DIGITS = {
    "0": ("###", "#.#", "#.#", "#.#", "###"), "1": (".#.", "##.", ".#.", ".#.", "###"),
    "2": ("###", "..#", "###", "#..", "###"), "3": ("###", "..#", "###", "..#", "###"),
    "4": ("#.#", "#.#", "###", "..#", "..#"), "5": ("###", "#..", "###", "..#", "###"),
    "6": ("###", "#..", "###", "#.#", "###"), "7": ("###", "..#", ".#.", ".#.", ".#."),
    "8": ("###", "#.#", "###", "#.#", "###"), "9": ("###", "#.#", "###", "..#", "###"),
    ":": ("...", ".#.", "...", ".#.", "..."),
}
# fmt: on
_STAMPS = {
    sign: np.kron(np.array([[dot == "#" for dot in row] for row in rows]), np.ones((_DOT, _DOT), bool))
    for sign, rows in _DIGITS.items()
}


class Picture:
    """Draws frames as I420: a dusk sky, a lantern that swings from side to side, a clock."""

    def __init__(self) -> None:
        self._data = np.empty(WIDTH * HEIGHT * 3 // 2, np.uint8)
        self._luma = self._data[: WIDTH * HEIGHT].reshape(HEIGHT, WIDTH)
        chroma = self._data[WIDTH * HEIGHT :].reshape(2, HEIGHT // 2, WIDTH // 2)
        chroma[0], chroma[1] = 150, 118
        self._sky = np.linspace(40, 120, HEIGHT).astype(np.uint8)[:, None]
        y, x = np.ogrid[-90:90, -90:90]
        self._lantern = x * x + y * y < 90 * 90

    def draw(self, at: float) -> bytearray:
        """The frame for a time, in seconds since 1970."""
        luma = self._luma
        luma[:] = self._sky
        left = int(WIDTH / 2 - 90 + np.sin(at * 1.5) * (WIDTH / 2 - 120))
        luma[300:480, left : left + 180][self._lantern] = 225
        self._write(time.strftime("%H:%M:%S", time.localtime(at)), 60, 80)
        self._write(f"{int(at % 1 * FPS):02d}", 60 + 8 * 4 * _DOT + _DOT, 80)
        return bytearray(self._data)

    def _write(self, text: str, left: int, top: int) -> None:
        for sign in text:
            stamp: NDArray[np.bool_] = _STAMPS[sign]
            height, width = stamp.shape
            self._luma[top : top + height, left : left + width][stamp] = 235
            left += width + _DOT


async def play(url: str, token: str, ended: asyncio.Event) -> None:
    """Joins and publishes until `ended`. Raises `rtc.ConnectError`, `rtc.PublishTrackError`."""
    room = rtc.Room()
    await room.connect(url, token, rtc.RoomOptions(auto_subscribe=False))
    picture, tone = rtc.VideoSource(WIDTH, HEIGHT), rtc.AudioSource(RATE, 1, queue_size_ms=100)
    tasks = [asyncio.create_task(_show(picture)), asyncio.create_task(_sing(tone))]
    try:
        await room.local_participant.publish_track(
            rtc.LocalVideoTrack.create_video_track("stage", picture),
            rtc.TrackPublishOptions(
                source=rtc.TrackSource.SOURCE_CAMERA,
                simulcast=False,
                video_encoding=rtc.VideoEncoding(max_framerate=FPS, max_bitrate=2_500_000),
            ),
        )
        await room.local_participant.publish_track(
            rtc.LocalAudioTrack.create_audio_track("voice", tone),
            rtc.TrackPublishOptions(source=rtc.TrackSource.SOURCE_MICROPHONE),
        )
        print("on", flush=True)  # noqa: T201
        await ended.wait()
    finally:
        # First the sources, then the room: otherwise the SDK's threads end the process.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await room.disconnect()


async def _show(source: rtc.VideoSource) -> None:
    picture, begun, number = Picture(), time.monotonic(), 0
    try:
        while True:
            source.capture_frame(rtc.VideoFrame(WIDTH, HEIGHT, rtc.VideoBufferType.I420, picture.draw(time.time())))
            number += 1
            await asyncio.sleep(max(0.0, begun + number / FPS - time.monotonic()))
    finally:
        await source.aclose()


async def _sing(source: rtc.AudioSource) -> None:
    """Plays a fifth that swells and fades. The source itself keeps the pace: its queue holds a tenth of a second."""
    chunk, sent = RATE // 100, 0
    try:
        while True:
            at = (sent + np.arange(chunk)) / RATE
            wave = (np.sin(2 * np.pi * 220 * at) + np.sin(2 * np.pi * 330 * at)) * (0.06 + 0.04 * np.sin(at))
            await source.capture_frame(rtc.AudioFrame((wave * 32767).astype(np.int16).tobytes(), RATE, 1, chunk))
            sent += chunk
    finally:
        await source.aclose()


async def _main(url: str) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    token = (await reader.readline()).decode().strip()
    ended = asyncio.Event()
    loop.create_task(reader.read()).add_done_callback(lambda _: ended.set())
    await play(url, token, ended)


def main() -> int:
    """Returns 0 when it was ordered to end."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
