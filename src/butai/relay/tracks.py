"""Which of the host's tracks go out. Pure; asked by `butai.relay.room` whenever the host's tracks change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["video", "audio"]
TrackSource = Literal["camera", "microphone", "screen_share", "screen_share_audio", "unknown"]

ANY: Sequence[TrackSource] = ("camera", "screen_share", "unknown")
"""Order of preference of `video_source="any"`. A studio's stage is published as a camera or with no source at all."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A track that the host publishes."""

    sid: str
    kind: Kind
    source: TrackSource
    name: str
    muted: bool


def choose(offers: Iterable[Offer], video_source: str, video_name: str) -> tuple[str | None, set[str]]:
    """The picture's track, if any, and all tracks of sound.

    The picture: the one called `video_name` before all others; then one that is not muted; then by `video_source`
    (`camera` and `screen_share` take nothing else: what is not asked for must not be seen by the public); the newest.
    """
    allowed = ANY if video_source == "any" else (video_source,)
    sounds: set[str] = set()
    best: tuple[bool, bool, int, int] | None = None
    picture: str | None = None
    for age, offer in enumerate(offers):
        if offer.kind == "audio":
            sounds.add(offer.sid)
            continue
        named = bool(video_name) and offer.name == video_name
        if not named and offer.source not in allowed:
            continue
        preference = -allowed.index(offer.source) if offer.source in allowed else 0
        rank = (named, not offer.muted, preference, age)
        if best is None or rank > best:
            best, picture = rank, offer.sid
    return picture, sounds
