"""The bodies of RTMP's audio, video and data messages, which are those of FLV tags ("Video File Format Specification" 10.1,
annex E.4). Pure.
"""

from __future__ import annotations

from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp import amf0

_AVC, _AAC = 0x07, 0xAF
"""Codec 7; codec 10 with 44 kHz, 16 bit, stereo, which the specification prescribes for every AAC."""


def video_header(video: VideoFormat) -> bytes:
    """The AVC sequence header."""
    return bytes((0x10 | _AVC, 0, 0, 0, 0)) + video.avcc


def audio_header(audio: AudioFormat) -> bytes:
    """The AAC sequence header."""
    return bytes((_AAC, 0)) + audio.asc


def body(packet: Packet) -> bytes:
    """The tag body of a packet."""
    if packet.kind == "audio":
        return bytes((_AAC, 1)) + packet.data
    frame = 0x10 if packet.keyframe else 0x20
    return bytes((frame | _AVC, 1)) + ((packet.pts - packet.dts) & 0xFFFFFF).to_bytes(3, "big") + packet.data


def metadata(video: VideoFormat | None, audio: AudioFormat | None) -> bytes:
    """`onMetaData`, as a data message that the platform keeps for its viewers (annex E.5: an ECMA array). Without the values that
    are not known."""
    values = dict[str, amf0.Value]()
    if video is not None:
        values |= {"width": video.width, "height": video.height, "framerate": video.fps, "videodatarate": video.kbps}
        values["videocodecid"] = 7
    if audio is not None:
        values |= {"audiodatarate": audio.kbps, "audiosamplerate": audio.rate, "audiosamplesize": 16}
        values |= {"stereo": audio.channels == 2, "audiocodecid": 10}
    known = {name: value for name, value in values.items() if value != 0 or name == "stereo"}
    known["encoder"] = "Butai"
    return amf0.encode("@setDataFrame", "onMetaData", amf0.EcmaArray(known))
