"""Decides the phase of the host's media from what was received, and when. Pure."""

from __future__ import annotations

from typing import Literal

from butai.relay.messages import SourcePhase
from butai.relay.timing import RelayTiming


class Presence:
    """Records media and presence, and computes the phase. Times are seconds of one monotonic clock. `grace`: as in
    `ConfigureLine`. `lost_after`: as in `RelayTiming`.
    """

    def __init__(
        self,
        grace: float,
        on_lost: Literal["end", "stay"],
        now: float,
        lost_after: float = RelayTiming().lost_after,
    ) -> None:
        self._grace, self._on_lost, self._lost_after = grace, on_lost, lost_after
        self._seen = False
        self._last_media = 0.0
        self._here = False
        self._muted = False
        self._away_since: float | None = now

    def media(self, now: float) -> None:
        """Records that a picture or sound of the host arrived."""
        self._seen = True
        self._last_media = now

    def host(self, *, here: bool, muted: bool) -> None:
        """Records whether the host is in the room, and whether it publishes tracks that are all muted."""
        self._here, self._muted = here, muted

    def phase(self, now: float) -> SourcePhase:
        """The phase at `now`. Must be called several times a second, since the grace is counted here."""
        if self._seen and self._here and now - self._last_media < self._lost_after:
            self._away_since = None
            return "live"
        if self._here and self._muted:
            # A host who muted everything is present: the grace does not run.
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        if self._on_lost == "end" and self._away_since is not None and now - self._away_since >= self._grace:
            return "ended"
        return "lost" if self._seen else "waiting"
