"""The encoding thread: takes picture and sound when they are due, encodes them, and delivers packets to the event loop.

In a thread of its own, so that the event loop (room, sockets) never waits for an encoder; x264 and libav run without
the interpreter's lock. Nothing is encoded while no output runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable

import structlog

from butai.relay.clock import FrameClock, SampleClock
from butai.relay.encoder import SAMPLES, AudioEncoder, VideoEncoder
from butai.relay.messages import Preset
from butai.relay.mixer import Mixer
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.picture import Screen
from butai.relay.timing import RelayTiming

log = structlog.get_logger(__name__)

HOLD = 0.2
"""Seconds that a packet waits at most for packets of the other kind."""

SOUND_LEAD = 0.045
"""Seconds by which sound is older than the picture when both are taken; it is stamped that much earlier. Measured with
a host that marks both at the same moment: with this value, sound is between 27 ms before and 38 ms after the picture,
depending on how full the SDK's buffers happen to be."""


class Interleaver:
    """Orders packets of picture and sound by their time stamps, as FLV has them.

    Sound is stamped with its beginning, taken at its end, and encoded two chunks later: pictures wait about 110 ms for
    it."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[Packet]] = {"video": [], "audio": []}
        self._newest = {"video": -1, "audio": -1}

    def put(self, packets: list[Packet]) -> list[Packet]:
        """Adds packets, and returns those that are due in order."""
        for packet in packets:
            self._waiting[packet.kind].append(packet)
            self._newest[packet.kind] = packet.dts
        # All up to the time that both kinds have reached; none waits longer than `HOLD` for a kind that does not come.
        reached = max(min(self._newest.values()), max(self._newest.values()) - int(HOLD * 1000))
        out: list[Packet] = []
        for waiting in self._waiting.values():
            ready = sum(1 for packet in waiting if packet.dts <= reached)
            out += waiting[:ready]
            del waiting[:ready]
        out.sort(key=lambda packet: packet.dts)
        return out


class Pipeline(threading.Thread):
    """Runs from `start` until `stop`, and calls `deliver` in the event loop with packets in order of their time
    stamps."""

    def __init__(
        self,
        preset: Preset,
        screen: Screen,
        mixer: Mixer,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[Packet]], None],
        failed: Callable[[str], None],
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """`failed`: called in the event loop with a reason if an encoder fails; no packets come afterwards."""
        super().__init__(name="pipeline", daemon=True)
        self._screen, self._mixer = screen, mixer
        self._loop, self._deliver, self._failed, self._now = loop, deliver, failed, now
        self._video = VideoEncoder(preset)
        self._audio = AudioEncoder(preset.audio_rate, preset.audio_kbps)
        self._preset = preset
        self._lead = int(SOUND_LEAD * preset.audio_rate)
        self._interleaver, self._encoding = Interleaver(), False
        self.begin(now())
        self._stopping = threading.Event()
        self._keyframe = threading.Event()
        self._wanted = threading.Event()
        self.frames = 0
        """Pictures that were encoded."""
        self.skipped = 0
        """Pictures that were skipped while packets were wanted, being late."""
        self._latest = 0.0

    @property
    def video_format(self) -> VideoFormat:
        """The format of the video packets."""
        return self._video.format

    @property
    def audio_format(self) -> AudioFormat:
        """The format of the audio packets."""
        return self._audio.format

    def want(self, wanted: bool) -> None:  # noqa: FBT001 - its one subject
        """Sets whether packets are wanted. While they are not, the clock continues and nothing is encoded."""
        if wanted and not self._wanted.is_set():
            self._keyframe.set()
            self._wanted.set()
        elif not wanted:
            self._wanted.clear()

    def force_keyframe(self) -> None:
        """Makes the next picture a keyframe, for an output that begins."""
        self._keyframe.set()

    def stop(self, seconds: float = RelayTiming().pipeline_stop_limit) -> None:
        """Ends the thread within the time of one frame, and waits for it, at most `seconds`."""
        self._stopping.set()
        if self.is_alive():
            self.join(seconds)

    def run(self) -> None:
        """The body of the thread."""
        try:
            self._run()
        except Exception as error:
            log.exception("pipeline.failed")
            self._call(self._failed, f"encoder: {type(error).__name__}")

    def _run(self) -> None:
        self.begin(self._now())
        while True:
            # Sound is made together with a picture, which halves the wake-ups of both threads.
            pause = self.next_at - self._now()
            if self._stopping.wait(pause) if pause > 0 else self._stopping.is_set():
                return
            if ready := self.step(self._now):
                self._call(self._deliver, ready)

    def take_lateness(self) -> float:
        """The most seconds by which a picture was late since the last call. For the event loop's thread."""
        latest, self._latest = self._latest, 0.0
        return latest

    def begin(self, now: float) -> None:
        """Starts both clocks at `now`."""
        self._frames = FrameClock(self._preset.fps, now)
        self._samples = SampleClock(self._preset.audio_rate, SAMPLES, now)

    @property
    def next_at(self) -> float:
        """When the next picture is due."""
        return self._frames.next_at

    def step(self, now: Callable[[], float]) -> list[Packet]:
        """Encodes what is due, and returns the packets that are due in order. `now` is read again after each
        encoding."""
        if self._wanted.is_set() != self._encoding:
            self._encoding = not self._encoding
            self._interleaver = Interleaver()
            self._audio.resume()
        packets: list[Packet] = []
        while (position := self._samples.due(now())) is not None:
            sound = self._mixer.take(SAMPLES)
            if self._encoding:
                packets += self._audio.encode(sound, position - self._lead)
        at, due, skipped = now(), self._frames.next_at, self._frames.skipped
        slot = self._frames.due(at)
        if slot is not None and self._encoding:
            self._latest = max(self._latest, at - due)
            self.skipped += self._frames.skipped - skipped
            keyframe = self._keyframe.is_set()
            if keyframe:
                self._keyframe.clear()
            packets += self._video.encode(self._screen.look(), slot, keyframe=keyframe)
            self.frames += 1
        # Sound from before the beginning is dropped.
        packets = [packet for packet in packets if packet.dts >= 0]
        return self._interleaver.put(packets) if packets else []

    def _call(self, function: Callable[..., None], argument: object) -> None:
        # The loop is closed already if the process ends.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, argument)
