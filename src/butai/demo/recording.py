"""Reads what arrived at a platform of a demonstration, from its recording."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import av
import av.error


@dataclass(frozen=True)
class Arrived:
    """`seconds` of media; 0 with empty names when no readable media arrived."""

    video: str
    width: int
    height: int
    audio: str
    seconds: float


def read(path: Path) -> Arrived:
    """Reads every packet; decodes the first picture, to prove that it is one."""
    nothing = Arrived("", 0, 0, "", 0.0)
    try:
        with av.open(path) as file:
            video = next((stream for stream in file.streams if stream.type == "video"), None)
            audio = next((stream for stream in file.streams if stream.type == "audio"), None)
            if video is None or audio is None:
                return nothing
            times = [
                float(packet.pts * packet.time_base)
                for packet in file.demux(video)
                if packet.pts is not None and packet.time_base is not None
            ]
        with av.open(path) as file:
            picture = next(iter(file.decode(video=0)), None)
    except (av.error.FFmpegError, OSError):
        return nothing
    if picture is None or not times:
        return nothing
    return Arrived(
        video.codec_context.name, picture.width, picture.height, audio.codec_context.name, max(times) - min(times)
    )
