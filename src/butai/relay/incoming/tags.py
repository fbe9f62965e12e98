"""The bodies of FLV tags, as encoders send them: headers, pictures and sounds, or codecs that are refused. Pure.

"Video File Format Specification" 10.1, annex E.4; "Enhanced RTMP" v2 for what has a FourCC.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from butai.errors import Code

_AVC, _HEVC_OF_SOME = 7, 12
_VIDEO_CODECS = {2: "H.263 (Sorenson)", 3: "Screen Video", 4: "VP6", 5: "VP6", 6: "Screen Video 2", 8: "H.263"}
_VIDEO_FOURCC = {b"hvc1": "HEVC (H.265)", b"av01": "AV1", b"vp09": "VP9", b"vp08": "VP8", b"vvc1": "VVC (H.266)"}
_AAC, _ENHANCED = 10, 9
_AUDIO_CODECS = {0: "PCM", 1: "ADPCM", 2: "MP3", 3: "PCM", 7: "G.711", 8: "G.711", 11: "Speex", 14: "MP3"}
_AUDIO_FOURCC = {b".mp3": "MP3", b"Opus": "Opus", b"fLaC": "FLAC", b"ac-3": "AC-3", b"ec-3": "E-AC-3"}
_KEYFRAME, _COMMAND = 1, 5
_SEQUENCE_START, _CODED, _SEQUENCE_END, _CODED_WITHOUT_TIME = 0, 1, 2, 3
_AUDIO_MULTITRACK, _VIDEO_MULTITRACK = 5, 6


class SourceRefused(Exception):
    """What the encoder sends cannot be passed on. `code`: a stable one; `text`: a sentence for the host."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


@dataclass(frozen=True, slots=True)
class Tag:
    """`header`: a configuration; `media`: a picture or a sound. `offset`: milliseconds from decoding to showing a picture, of
    24 bits with a sign."""

    kind: Literal["header", "media"]
    data: bytes = field(repr=False)
    keyframe: bool = False
    offset: int = 0


def video_tag(body: bytes) -> Tag | None:
    """Reads the body of a video message. None for what is no picture: ends, commands, empty ones. Raises `SourceRefused` for
    anything else than H.264."""
    if not body:
        return None
    frame = (body[0] >> 4) & 7
    if body[0] & 0x80:
        return _enhanced_video(body, frame)
    if frame == _COMMAND:
        return None
    codec = body[0] & 0x0F
    if codec != _AVC:
        name = _VIDEO_CODECS.get(codec, "HEVC (H.265)" if codec == _HEVC_OF_SOME else "an unknown codec")
        raise _refused(f"The picture is {name}: set the encoder to H.264")
    if len(body) <= 5:
        return None
    if body[1] == 0:
        return Tag("header", body[5:])
    if body[1] == 1:
        return Tag("media", body[5:], frame == _KEYFRAME, _signed(body[2:5]))
    return None


def _enhanced_video(body: bytes, frame: int) -> Tag | None:
    packet = body[0] & 0x0F
    if packet == _VIDEO_MULTITRACK:
        raise _refused("The encoder sends several pictures at once: turn multitrack video off")
    fourcc, rest = body[1:5], body[5:]
    if fourcc != b"avc1":
        raise _refused(f"The picture is {_VIDEO_FOURCC.get(fourcc, 'an unknown codec')}: set the encoder to H.264")
    if frame == _COMMAND or not rest:
        return None
    if packet == _SEQUENCE_START:
        return Tag("header", rest)
    if packet == _CODED and len(rest) > 3:
        return Tag("media", rest[3:], frame == _KEYFRAME, _signed(rest[:3]))
    return Tag("media", rest, frame == _KEYFRAME) if packet == _CODED_WITHOUT_TIME else None


def audio_tag(body: bytes) -> Tag | None:
    """Reads the body of an audio message. None for an empty one. Raises `SourceRefused` for anything else than AAC."""
    if not body:
        return None
    codec, packet = body[0] >> 4, body[0] & 0x0F
    if codec == _AAC:
        return Tag("media" if body[1] else "header", body[2:]) if len(body) > 2 else None
    if codec != _ENHANCED:
        raise _refused(f"The sound is {_AUDIO_CODECS.get(codec, 'an unknown codec')}: set the encoder to AAC")
    if packet == _AUDIO_MULTITRACK:
        raise _refused("The encoder sends several sounds at once: choose one audio track")
    fourcc, rest = body[1:5], body[5:]
    if fourcc != b"mp4a":
        raise _refused(f"The sound is {_AUDIO_FOURCC.get(fourcc, 'an unknown codec')}: set the encoder to AAC")
    if not rest or packet not in (_SEQUENCE_START, _CODED):
        return None
    return Tag("header" if packet == _SEQUENCE_START else "media", rest)


def _signed(three: bytes) -> int:
    return int.from_bytes(three, "big", signed=True)


def _refused(text: str) -> SourceRefused:
    return SourceRefused(Code.CODEC_UNSUPPORTED, text)
