"""Encoded media, shared by all outputs of a broadcast. Pure values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture or AAC frame. Times are milliseconds since the broadcast's clock began.

    `data`: length-prefixed NAL units without parameter sets (video), a raw AAC access unit (audio).
    """

    kind: Literal["video", "audio"]
    data: bytes
    dts: int
    pts: int
    keyframe: bool


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """The format of the video. `avcc`: the AVCDecoderConfigurationRecord (ISO 14496-15, 5.2.4.1)."""

    width: int
    height: int
    fps: int
    kbps: int
    avcc: bytes


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The format of the audio. `asc`: the AudioSpecificConfig (ISO 14496-3, 1.6.2.1)."""

    rate: int
    channels: int
    kbps: int
    asc: bytes
