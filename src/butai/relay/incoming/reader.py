"""Turns an encoder's messages into packets for outputs, without decoding: checked, cleaned, and placed in time. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from butai.errors import Code
from butai.relay.incoming import aac, h264
from butai.relay.incoming.figures import SourceFigures
from butai.relay.incoming.h264 import MediaUnreadable
from butai.relay.incoming.tags import SourceRefused, audio_tag, video_tag
from butai.relay.incoming.timeline import Timeline
from butai.relay.packets import AudioFormat, Kind, Packet, VideoFormat

RARE_KEYFRAMES_MS = 4000
"""Key frames further apart make viewers wait; YouTube and Twitch ask for 2 s and warn from 4 s on."""
_MOST_UNREADABLE = 50
"""Pictures, or sounds, one after another that cannot be read, after which the source is refused: two seconds of either."""
_PROFILES = frozenset((66, 77, 100))
_RATES = frozenset((44100, 48000))


class SourceReader:
    """Reads one source: one connection of an encoder, from its publish on. `timeline`: that of the broadcast, which goes on over
    all its sources."""

    def __init__(self, timeline: Timeline) -> None:
        self.figures = SourceFigures()
        self.video: h264.PictureFormat | None = None
        """The format of the picture; None before its header."""
        self.audio: aac.SoundFormat | None = None
        self._timeline = timeline
        timeline.begin_source()
        self._sets: h264.ParameterSets | None = None
        self._record = b""
        self._asc = b""
        self._length_size = 4
        self._video_format: VideoFormat | None = None
        self._audio_format: AudioFormat | None = None
        self._framerate = self._video_kbps = self._audio_kbps = 0
        self._unreadable = 0
        self._unreadable_in_turn: dict[Kind, int] = {"audio": 0, "video": 0}

    def metadata(self, values: Mapping[str, Any]) -> None:
        """Takes what the encoder says of its frame rate and bitrates, which only goes into our own metadata."""
        self._framerate = _number(values.get("framerate"), 240)
        self._video_kbps = _number(values.get("videodatarate"), 100_000)
        self._audio_kbps = _number(values.get("audiodatarate"), 2_000)

    def feed(self, kind: Kind, timestamp: int, body: bytes, now: int) -> list[Packet]:
        """Returns what a message gives for outputs: at most one packet, with its format. `now`: milliseconds of
        our monotonic clock. Raises `SourceRefused`."""
        try:
            passed = self._video(timestamp, body, now) if kind == "video" else self._audio(timestamp, body, now)
        except MediaUnreadable as error:
            self._unreadable += 1
            self._unreadable_in_turn[kind] += 1
            if self._unreadable_in_turn[kind] > _MOST_UNREADABLE:
                raise SourceRefused(Code.CODEC_UNSUPPORTED, f"What the encoder sends cannot be read: {error}") from None
            return []
        if passed:
            self._unreadable_in_turn[kind] = 0
        return passed

    def misfits(self) -> frozenset[Code]:
        """What platforms may not take of the source as it is now."""
        video, audio = self.video, self.audio
        found = {
            Code.RARE_KEYFRAMES: self.figures.keyframe_interval_ms > RARE_KEYFRAMES_MS,
            Code.CLOCKS_APART: self._timeline.apart,
            Code.MEDIA_UNREADABLE: self._unreadable > 0,
        }
        if video is not None:
            found |= {
                Code.PROFILE_UNUSUAL: video.profile not in _PROFILES,
                Code.CHROMA_UNUSUAL: video.chroma != 1,
                Code.DEPTH_UNUSUAL: video.depth != 8,
                Code.INTERLACED: video.interlaced,
            }
        if audio is not None:
            found |= {
                Code.SOUND_RATE_UNUSUAL: audio.rate not in _RATES,
                Code.SOUND_CHANNELS_UNUSUAL: audio.channels not in (1, 2),
                Code.SOUND_CODEC_UNUSUAL: audio.object_type != aac.LC,
            }
        return frozenset(misfit for misfit, there in found.items() if there)

    def _video(self, timestamp: int, body: bytes, now: int) -> list[Packet]:
        tag = video_tag(body)
        if tag is None:
            return []
        if tag.kind == "header":
            sets, self._length_size = h264.read_record(tag.data)
            self._take(sets, tag.data if self._length_size == 4 else b"")
            return []
        unit = h264.access_unit(tag.data, self._length_size)
        if unit.sets:
            sets = (self._sets or h264.ParameterSets()).with_units(unit.sets)
            if sets is not self._sets:
                self._take(sets)
        if not unit.data or self._sets is None or self.video is None:
            return []
        keyframe = tag.keyframe or unit.idr
        dts = self._timeline.place("video", timestamp, now, keyframe=keyframe)
        if dts is None:
            return []
        self.figures.picture(len(body), dts, now, keyframe=keyframe)
        if self._video_format is None or self._video_format.avcc != self._record:
            size = self.video
            self._video_format = VideoFormat(size.width, size.height, self._framerate, self._video_kbps, self._record)
        return [Packet("video", unit.data, dts, dts + tag.offset, keyframe, self._video_format)]

    def _take(self, sets: h264.ParameterSets, record: bytes = b"") -> None:
        """Takes parameter sets; `record`: as the encoder wrote it, where it can be passed on."""
        if not sets.pictures or not sets.sequences:
            # The other half is still to come.
            self._sets = sets
            return
        found = sets.format
        self._record = record or sets.record()
        self._sets, self.video = sets, found

    def _audio(self, timestamp: int, body: bytes, now: int) -> list[Packet]:
        tag = audio_tag(body)
        if tag is None:
            return []
        if tag.kind == "header":
            self.audio, self._asc = aac.sound_format(tag.data), tag.data
            return []
        if self.audio is None:
            return []
        dts = self._timeline.place("audio", timestamp, now)
        if dts is None:
            return []
        self.figures.sound(len(body), now)
        if self._audio_format is None or self._audio_format.asc != self._asc:
            self._audio_format = AudioFormat(self.audio.rate, self.audio.channels, self._audio_kbps, self._asc)
        return [Packet("audio", tag.data, dts, dts, keyframe=True, format=self._audio_format)]


def _number(value: Any, most: int) -> int:
    """A number that an encoder gave, rounded; 0 for anything that it cannot be."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return 0
    return round(value) if 0 < value <= most else 0
