"""Chooses the host's tracks that are published. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["video", "audio"]
TrackSource = Literal["camera", "microphone", "screen_share", "screen_share_audio", "unknown"]

ANY: Sequence[TrackSource] = ("camera", "screen_share", "unknown")
"""The order of preference with `video_source="any"`. A studio's stage is published as a camera, or without a source."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A track that the host publishes."""

    sid: str
    kind: Kind
    source: TrackSource
    name: str
    muted: bool


def choose(offers: Iterable[Offer], video_source: str, video_name: str) -> tuple[str | None, set[str]]:
    """Returns the id of the video track, if any, and the ids of all audio tracks.

    The video track: one named `video_name` before all others; then one that is not muted; then by `video_source` (`camera` and
    `screen_share` accept no other source, since a picture that the host did not choose must not become public); then the newest.
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
