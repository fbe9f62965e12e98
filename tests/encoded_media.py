"""Four seconds of picture and tone, encoded as the relay does it, for publishes whose arrival is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from butai.relay.encoder import SAMPLES, AudioEncoder, VideoEncoder
from butai.relay.messages import Preset
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.picture import as_frame
from tests.studio_host import TestCard

RATE = 48000
SECONDS = 4


@dataclass(frozen=True)
class Media:
    """Formats and packets, in the order of their time."""

    video: VideoFormat
    audio: AudioFormat
    packets: list[Packet]

    def endless(self) -> Iterator[Packet]:
        """Again and again, with times that go on."""
        return endless(self.packets, SECONDS * 1000)


def endless(packets: Sequence[Packet], length: int) -> Iterator[Packet]:
    """An endless repetition of packets that take `length` milliseconds."""
    round_ = 0
    while True:
        for packet in packets:
            yield replace(packet, dts=packet.dts + round_ * length, pts=packet.pts + round_ * length)
        round_ += 1


def encoded_media(preset: Preset) -> Media:
    """The tests' card with this encoding, and 440 Hz."""
    video, audio = VideoEncoder(preset), AudioEncoder(RATE, 128)
    card = TestCard(preset.width, preset.height)
    packets: list[Packet] = []
    for number in range(SECONDS * preset.fps):
        drawn = card.draw(1000 + number / preset.fps, number)
        picture = as_frame(np.frombuffer(drawn, np.uint8).reshape(preset.height * 3 // 2, preset.width))
        packets += video.encode(picture, number)
    tone = (np.sin(np.arange(RATE * SECONDS) * 2 * np.pi * 440 / RATE) * 8000).astype(np.int16)
    stereo = np.stack([tone, tone], 1)
    for start in range(0, len(stereo) - SAMPLES, SAMPLES):
        packets += audio.encode(stereo[start : start + SAMPLES], start)
    packets.sort(key=lambda packet: packet.dts)
    return Media(video.format, audio.format, [packet for packet in packets if packet.dts < SECONDS * 1000])
