"""Chooses the host's tracks that are published. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from butai.errors import Code

Kind = Literal["video", "audio"]
TrackSource = Literal["camera", "microphone", "screen_share", "screen_share_audio", "unknown"]

ANY: Sequence[TrackSource] = ("camera", "screen_share", "unknown")
"""The order of preference with `video_source="any"`. A studio's stage is published as a camera, or without a source."""

SOUNDS: dict[str, frozenset[TrackSource]] = {
    "camera": frozenset({"microphone", "unknown"}),
    "screen_share": frozenset({"microphone", "screen_share_audio"}),
    "any": frozenset({"microphone", "screen_share_audio", "camera", "screen_share", "unknown"}),
}
"""The sources of sound that each `video_source` accepts: what a host did not choose must not become public."""

DECODED: frozenset[str] = frozenset(
    {"video/vp8", "video/vp9", "video/h264", "video/av1", "audio/opus", "audio/red", "audio/pcmu", "audio/pcma"}
)
"""The codecs that LiveKit's SDK decodes without a graphics card. It gives black pictures for H.265."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A track that the host publishes. `codec`: its media type, such as `video/VP8`; empty where LiveKit does not say.
    `encrypted`: end to end, so the relay would decode noise."""

    sid: str
    kind: Kind
    source: TrackSource
    name: str
    muted: bool
    codec: str = ""
    encrypted: bool = False

    @property
    def refused(self) -> Code | None:
        """The reason for which this track cannot be decoded."""
        if self.encrypted:
            return Code.MEDIA_ENCRYPTED
        return Code.CODEC_UNSUPPORTED if self.codec and self.codec.lower() not in DECODED else None


@dataclass(frozen=True, slots=True)
class Choice:
    """The tracks to subscribe to, and what is to be expected of them."""

    picture: str | None = None
    """The id of the video track."""
    sounds: frozenset[str] = frozenset()
    """The ids of the audio tracks."""
    shown: bool = False
    """Whether there is a video track and it is not muted, so that pictures are to come."""
    heard: bool = False
    """Whether at least one audio track is not muted."""
    muted: bool = False
    """Whether there are tracks of the chosen sources, and all are muted."""
    picture_refused: Code | None = None
    """The reason for which there is no picture, although one is published and not muted."""
    sound_refused: Code | None = None
    """The reason for which a published sound that is not muted is left out."""


def choose(offers: Iterable[Offer], video_source: str, video_name: str) -> Choice:
    """Chooses one video track, and all audio tracks of the accepted sources (`SOUNDS`), among those that can be
    decoded.

    The video track: one named `video_name` before all others; then one that is not muted; then by `video_source` (`camera` and
    `screen_share` accept no other source, since a picture that the host did not choose must not become public); then the newest.
    """
    allowed = ANY if video_source == "any" else (video_source,)
    wanted: list[Offer] = []
    best: tuple[tuple[bool, bool, int, int], Offer] | None = None
    sounds: list[Offer] = []
    for age, offer in enumerate(offers):
        if offer.kind == "audio":
            if offer.source in SOUNDS[video_source]:
                wanted.append(offer)
                if offer.refused is None:
                    sounds.append(offer)
            continue
        named = bool(video_name) and offer.name == video_name
        if not named and offer.source not in allowed:
            continue
        wanted.append(offer)
        preference = -allowed.index(offer.source) if offer.source in allowed else 0
        rank = (named, not offer.muted, preference, age)
        if offer.refused is None and (best is None or rank > best[0]):
            best = rank, offer
    picture = best[1] if best else None
    refused = {one.kind: one.refused for one in wanted if one.refused is not None and not one.muted}
    shown = picture is not None and not picture.muted
    return Choice(
        picture=picture.sid if picture else None,
        sounds=frozenset(one.sid for one in sounds),
        shown=shown,
        heard=any(not one.muted for one in sounds),
        muted=bool(wanted) and all(one.muted for one in wanted),
        picture_refused=None if shown else refused.get("video"),
        sound_refused=refused.get("audio"),
    )
