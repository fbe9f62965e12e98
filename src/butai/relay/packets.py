"""Encoded media, shared by all outputs of a broadcast. Pure values."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["video", "audio"]
KINDS: tuple[Kind, ...] = ("video", "audio")


@dataclass(frozen=True, slots=True)
class VideoFormat:
    """The format of the video. `fps` and `kbps`: 0 where they are not known. `avcc`: the AVCDecoderConfigurationRecord
    (ISO 14496-15, 5.2.4.1)."""

    width: int
    height: int
    fps: int
    kbps: int
    avcc: bytes


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """The format of the audio. `kbps`: 0 where it is not known. `asc`: the AudioSpecificConfig (ISO 14496-3, 1.6.2.1)."""

    rate: int
    channels: int
    kbps: int
    asc: bytes


@dataclass(frozen=True, slots=True)
class Packet:
    """One encoded picture or AAC frame. Times are milliseconds since the broadcast's clock began.

    `data`: length-prefixed NAL units without parameter sets (video), a raw AAC access unit (audio). `format`: what it needs to be
    decoded, so that it is known wherever a receiver begins, and whatever was dropped before; None for the same as before.
    """

    kind: Kind
    data: bytes
    dts: int
    pts: int
    keyframe: bool
    format: VideoFormat | AudioFormat | None = field(default=None, repr=False, compare=False)
