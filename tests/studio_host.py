"""A host for the tests: publishes a moving picture that carries its own time, and a tone, as a studio's page would.

In this process `StudioHost`; in one of its own (so that it can be killed, and so that its CPU is not the test's)
`HostProcess`, which runs `python -m tests.studio_host --url …` and speaks with it over stdin and stdout.

The picture: a grid of 16×9 squares over a gradient, with a bar that moves. The first four rows of squares are bits,
white for 1: two rows with the milliseconds since 1970 modulo 2³², two with the frame's number. `read_stamp` reads them
from luma, also when the picture was scaled (same shape) and compressed. The lower right square is white in the first
tenth of each second, and the tone is an octave higher and louder then: for measuring picture against sound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
import time
from pathlib import Path

import numpy as np
from livekit import rtc
from numpy.typing import NDArray

ROOT = Path(__file__).parents[1]
COLUMNS, ROWS = 16, 9
RATE = 48000
PULSE = 0.1
"""Seconds at the begin of each second in which picture and tone are marked."""
CODECS = {"vp8": rtc.VideoCodec.VP8, "h264": rtc.VideoCodec.H264, "vp9": rtc.VideoCodec.VP9, "av1": rtc.VideoCodec.AV1}
SOURCES = {"camera": rtc.TrackSource.SOURCE_CAMERA, "screen_share": rtc.TrackSource.SOURCE_SCREENSHARE}


class TestCard:
    """Draws the picture as I420."""

    __test__ = False

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self._data = np.empty(width * height * 3 // 2, np.uint8)
        luma = np.add.outer(np.arange(height) * 90 / height, np.arange(width) * 90 / width) + 40
        self._background = luma.astype(np.uint8)
        self._luma = self._data[: width * height].reshape(height, width)
        self._data[width * height : width * height * 5 // 4] = 110
        self._data[width * height * 5 // 4 :] = 150

    def draw(self, at: float, number: int) -> bytearray:
        """The picture of this time (seconds since 1970)."""
        luma = self._luma
        luma[:] = self._background
        bar = number * 8 % (self.width - 48)
        luma[self.height * 5 // ROWS : self.height * 8 // ROWS, bar : bar + 48] = 225
        milliseconds = int(at * 1000) & 0xFFFFFFFF
        for row, bits in enumerate((milliseconds >> 16, milliseconds & 0xFFFF, number >> 16 & 0xFFFF, number & 0xFFFF)):
            for column in range(COLUMNS):
                self._square(row, column, 235 if bits >> (COLUMNS - 1 - column) & 1 else 16)
        self._square(ROWS - 1, COLUMNS - 1, 235 if at % 1 < PULSE else 16)
        return bytearray(self._data)

    def _square(self, row: int, column: int, value: int) -> None:
        top, bottom = row * self.height // ROWS, (row + 1) * self.height // ROWS
        left, right = column * self.width // COLUMNS, (column + 1) * self.width // COLUMNS
        self._luma[top:bottom, left:right] = value


def read_stamp(luma: NDArray[np.uint8]) -> tuple[int, int, bool]:
    """Milliseconds (modulo 2³²), the frame's number, and the mark, from a picture's luma (height × width)."""
    height, width = luma.shape

    def bit(row: int, column: int) -> int:
        y, x = int((row + 0.5) * height / ROWS), int((column + 0.5) * width / COLUMNS)
        return int(luma[y - 3 : y + 4, x - 3 : x + 4].mean() > 128)

    values = [0, 0, 0, 0]
    for row in range(4):
        for column in range(COLUMNS):
            values[row] = values[row] << 1 | bit(row, column)
    return values[0] << 16 | values[1], values[2] << 16 | values[3], bool(bit(ROWS - 1, COLUMNS - 1))


class StudioHost:
    """Publishes into a room until `stop`."""

    def __init__(
        self,
        livekit_url: str,
        token: str,
        width: int = 1280,
        height: int = 720,
        fps: int = 30,
        codec: str = "vp8",
        simulcast: bool = False,
        *,
        audio_tracks: int = 1,
        video: bool = True,
        source: str = "camera",
        name: str = "stage",
        kbps: int = 3000,
        encrypted: bool = False,
        silent: bool = False,
    ) -> None:
        self._url, self._token = livekit_url, token
        self._width, self._height, self._fps, self._codec, self._simulcast = width, height, fps, codec, simulcast
        self._audio_tracks, self._with_video, self._kind, self._name, self._kbps = (
            audio_tracks,
            video,
            source,
            name,
            kbps,
        )
        self.room = rtc.Room()
        self._tasks: list[asyncio.Task[None]] = []
        self._video_task: asyncio.Task[None] | None = None
        self._video: tuple[rtc.LocalVideoTrack, str] | None = None
        self._audio: list[tuple[rtc.LocalAudioTrack, str]] = []
        self._muted: set[str] = set()
        self._number, self._encrypted, self._still = 0, encrypted, False
        self._silent = silent

    async def start(self) -> None:
        """Joins and publishes."""
        keys = rtc.KeyProviderOptions(shared_key=b"a secret of the guests")
        encryption = rtc.E2EEOptions(key_provider_options=keys) if self._encrypted else None
        await self.room.connect(self._url, self._token, rtc.RoomOptions(auto_subscribe=False, encryption=encryption))
        await self._publish_tones()
        if self._with_video:
            await self.publish()

    async def stop(self) -> None:
        """Leaves the room with a goodbye. Streams first, then the room: else the SDK's threads abort the process."""
        await self._end_video()
        await self._end_tones()
        await self.room.disconnect()

    async def publish(self, codec: str = "") -> None:
        """Publishes the picture (again)."""
        self._codec = codec or self._codec
        source = rtc.VideoSource(self._width, self._height)
        track = rtc.LocalVideoTrack.create_video_track(self._name, source)
        options = rtc.TrackPublishOptions(
            source=SOURCES[self._kind],
            video_codec=CODECS[self._codec],
            simulcast=self._simulcast,
            video_encoding=rtc.VideoEncoding(max_framerate=self._fps, max_bitrate=self._kbps * 1000),
        )
        # The frames must come before anybody subscribes: SIMULCAST layers are laid out by the first one.
        self._video_task = asyncio.create_task(self._draw(source))
        publication = await self.room.local_participant.publish_track(track, options)
        self._video = (track, publication.sid)

    async def unpublish(self) -> None:
        """Takes the picture away."""
        if self._video is not None:
            await self.room.local_participant.unpublish_track(self._video[1])
        await self._end_video()

    async def republish(self, codec: str = "") -> None:
        """Publishes the picture again, in another codec, as a studio changes it."""
        await self.unpublish()
        await self.publish(codec)

    async def change_scene(self) -> None:
        """Publishes picture and sound again, all with new tracks."""
        for _, sid in self._audio:
            await self.room.local_participant.unpublish_track(sid)
        await self._end_tones()
        await self._publish_tones()
        await self.republish()

    async def resize(self, width: int, height: int) -> None:
        """From the next frame on the picture has this size; the track stays."""
        self._width, self._height = width, height

    async def freeze(self) -> None:
        """The picture stands still, as a page's in a hidden tab: no frame is sent, and the track stays."""
        self._still = True

    async def thaw(self) -> None:
        """The way back from `freeze`."""
        self._still = False

    async def mute(self, what: str = "all") -> None:
        """`video`, `audio` or `all`: muted tracks send nothing."""
        self._set_muted(what, True)

    async def unmute(self, what: str = "all") -> None:
        """The way back from `mute`."""
        self._set_muted(what, False)

    def _set_muted(self, what: str, muted: bool) -> None:
        tracks: list[rtc.LocalVideoTrack | rtc.LocalAudioTrack] = []
        if what in ("video", "all") and self._video is not None:
            tracks.append(self._video[0])
        if what in ("audio", "all"):
            tracks += [track for track, _ in self._audio]
        for track in tracks:
            if muted:
                track.mute()
            else:
                track.unmute()
        kinds = {"video", "audio"} if what == "all" else {what}
        self._muted = self._muted | kinds if muted else self._muted - kinds

    async def _end_video(self) -> None:
        if self._video_task is not None:
            self._video_task.cancel()
            await asyncio.gather(self._video_task, return_exceptions=True)
        self._video_task, self._video = None, None

    async def _draw(self, source: rtc.VideoSource) -> None:
        card = TestCard(self._width, self._height)
        begun, first = time.monotonic(), self._number
        try:
            while True:
                if (card.width, card.height) != (self._width, self._height):
                    card = TestCard(self._width, self._height)
                # A muted camera captures nothing; the SDK would send black.
                if "video" not in self._muted and not self._still:
                    data = card.draw(time.time(), self._number)
                    source.capture_frame(rtc.VideoFrame(card.width, card.height, rtc.VideoBufferType.I420, data))
                self._number += 1
                await asyncio.sleep(max(0.0, begun + (self._number - first) / self._fps - time.monotonic()))
        finally:
            await source.aclose()

    async def _publish_tones(self) -> None:
        for index in range(self._audio_tracks):
            await self._publish_tone(index)

    async def _end_tones(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks, self._audio = [], []

    async def _publish_tone(self, index: int) -> None:
        # A short queue: what lies in it is delay of the sound against the picture.
        source = rtc.AudioSource(RATE, 1, queue_size_ms=0)
        track = rtc.LocalAudioTrack.create_audio_track(f"tone-{index}", source)
        kind = rtc.TrackSource.SOURCE_MICROPHONE if index == 0 else rtc.TrackSource.SOURCE_SCREENSHARE_AUDIO
        self._tasks.append(asyncio.create_task(self._sing(source, 440.0 if index == 0 else 660.0)))
        options = rtc.TrackPublishOptions(source=kind, dtx=False)
        publication = await self.room.local_participant.publish_track(track, options)
        self._audio.append((track, publication.sid))

    async def _sing(self, source: rtc.AudioSource, pitch: float) -> None:
        chunk = RATE // 100
        begun, sent = time.time(), 0
        try:
            while True:
                at = begun + (sent + np.arange(chunk)) / RATE
                pulse = at % 1 < PULSE
                phase = 2 * np.pi * (at % 1000)
                wave = np.where(pulse, 0.5 * np.sin(2 * pitch * phase), 0.1 * np.sin(pitch * phase))
                samples = (wave * (0 if self._silent else 32767)).astype(np.int16)
                await source.capture_frame(rtc.AudioFrame(samples.tobytes(), RATE, 1, chunk))
                sent += chunk
                behind = time.time() - begun - sent / RATE
                if behind > 0.2:
                    sent += int(behind * RATE)
                await asyncio.sleep(max(0.0, -behind))
        finally:
            await source.aclose()


class HostProcess:
    """A `StudioHost` in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, livekit_url: str, token: str, *arguments: str) -> HostProcess:
        """Starts one and returns when it has published. `arguments`: of `main`, such as `--codec=vp9`."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.studio_host",
            f"--url={livekit_url}",
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
        )
        host = cls(process)
        await host.command(token)
        return host

    async def command(self, line: str) -> None:
        """One of `mute`, `unmute`, `freeze`, `thaw`, `resize 640 360`, `republish h264`, `change_scene`, `unpublish`, `publish`;
        returns when it is done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(20):
            answer = await self.process.stdout.readline()
        assert answer.startswith(b'{"done"'), answer or f"the host ended with {await self.process.wait()}"

    async def stop(self) -> None:
        """Leaves the room with a goodbye."""
        assert self.process.stdin is not None
        if self.process.returncode is None:
            with contextlib.suppress(ConnectionError):
                self.process.stdin.write(b"stop\n")
                self.process.stdin.close()
            async with asyncio.timeout(10):
                status = await self.process.wait()
            assert status == 0, status

    async def kill(self) -> None:
        """SIGKILL: the room learns of it by silence."""
        if self.process.returncode is None:
            self.process.kill()
            await self.process.wait()


async def _serve(arguments: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    token = (await reader.readline()).decode().strip()
    host = StudioHost(
        arguments.url,
        token,
        arguments.width,
        arguments.height,
        arguments.fps,
        arguments.codec,
        arguments.simulcast,
        audio_tracks=arguments.audio_tracks,
        video=not arguments.no_video,
        source=arguments.source,
        name=arguments.name,
        kbps=arguments.kbps,
        encrypted=arguments.encrypted,
        silent=arguments.silent,
    )
    await host.start()
    print(json.dumps({"done": "start"}), flush=True)
    while words := (await reader.readline()).decode().split():
        if words[0] == "stop":
            break
        numbers = [int(word) if word.isdigit() else word for word in words[1:]]
        await getattr(host, words[0])(*numbers)
        print(json.dumps({"done": words[0]}), flush=True)
    await host.stop()


def main() -> None:
    """The token is the first line of stdin; the commands follow. The end of stdin is `stop`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--width", type=int, default=1280)
    parser.add_argument("--height", type=int, default=720)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--codec", default="vp8", choices=sorted(CODECS))
    parser.add_argument("--kbps", type=int, default=3000)
    parser.add_argument("--simulcast", action="store_true")
    parser.add_argument("--audio-tracks", type=int, default=1)
    parser.add_argument("--no-video", action="store_true")
    parser.add_argument("--encrypted", action="store_true")
    parser.add_argument("--silent", action="store_true")
    parser.add_argument("--source", default="camera", choices=sorted(SOURCES))
    parser.add_argument("--name", default="stage")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
