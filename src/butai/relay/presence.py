"""Decides the phase of the host's media from what was received, and when. Pure.

Each kind of media has its own evidence. The media are live while something arrives and no picture that should come is
missing. A picture that came and then stands still sends nothing, as a host whose process was killed: it counts as there
once something else has shown that the host is.
"""

from __future__ import annotations

import math
from typing import Literal

from butai.errors import Code
from butai.relay.messages import SourcePhase
from butai.relay.timing import RelayTiming
from butai.relay.tracks import Choice

NOTHING = Choice()


class Presence:
    """Records media and presence, and computes the phase. Times are seconds of one monotonic clock. `grace`: as in
    `ConfigureLine`.
    """

    def __init__(
        self, grace: float, on_lost: Literal["end", "stay"], now: float, timing: RelayTiming | None = None
    ) -> None:
        self._grace, self._on_lost, self._timing = grace, on_lost, timing or RelayTiming()
        self._here = False
        self._choice = NOTHING
        self._was_live = False
        self._away_since: float | None = now
        self._picture_at = self._sound_at = -math.inf
        self._came: str | None = None
        self._expected: str | None = None
        self._expected_since = now
        self._still = self._unshown = False

    def picture(self, now: float, sid: str) -> None:
        """Records a picture of the video track `sid`."""
        # A slow picture, such as a slide: its pauses are no sign of anything.
        self._still = now - self._picture_at >= self._timing.lost_after
        self._picture_at, self._came, self._unshown = now, sid, False

    def unshown(self) -> None:
        """Records that frames of the video track arrive and give no picture, so that it does not stand still."""
        self._unshown = True

    def sound(self, now: float) -> None:
        """Records that sound of the host arrived, or silence."""
        self._sound_at = now

    def host(self, now: float, *, here: bool, choice: Choice = NOTHING) -> None:
        """Records whether the host is in the room, and what is expected of its tracks. To be called several times a
        second."""
        self._here, self._choice = here, choice
        if not here:
            self._came = self._expected = None
        expected = choice.picture if choice.shown else None
        if expected is not None and expected != self._expected:
            self._expected, self._expected_since, self._unshown = expected, now, False
        if self._is_quiet(self._picture_at, now) and self._is_shown_to_be_here(now):
            self._still = True

    def phase(self, now: float) -> tuple[SourcePhase, Code | None]:
        """The phase at `now`, and what is wrong with the media, or why they ended. Must be called several times a
        second, since the grace is counted here."""
        arriving = self._here and self._is_arriving(now)
        missing = self._missing_picture(now)
        if arriving and missing is None:
            self._was_live, self._away_since = True, None
            return "live", self._choice.sound_refused
        fault = missing or (self._choice.sound_refused if self._here else None)
        if arriving or (self._here and self._choice.muted):
            # A host who muted everything, or of whom only sound comes, is present: the grace does not run.
            self._away_since = None
        elif self._away_since is None:
            self._away_since = now
        if self._on_lost == "end" and self._away_since is not None and now - self._away_since >= self._grace:
            return "ended", fault or (Code.SOURCE_ENDED if self._was_live else Code.NO_MEDIA)
        return ("lost" if self._was_live else "waiting"), fault

    def _missing_picture(self, now: float) -> Code | None:
        """The reason for which a picture that is published, wanted and not muted does not come."""
        if not self._here:
            return None
        if self._choice.picture_refused is not None:
            return self._choice.picture_refused
        if not self._choice.shown or (self._came == self._choice.picture and not self._unshown):
            return None
        since = self._picture_at if self._came == self._choice.picture else self._expected_since
        return Code.NO_PICTURE if now - since >= self._timing.picture_within else None

    def _is_quiet(self, since: float, now: float) -> bool:
        return now - since >= self._timing.lost_after

    def _is_arriving(self, now: float) -> bool:
        newest = max(self._picture_at, self._sound_at)
        if not self._is_quiet(newest, now):
            return True
        if not self._choice.shown or self._came != self._choice.picture or not self._still:
            return False
        # A sound that stopped without being muted is a sign that the host's process was killed.
        sound_stopped = self._choice.heard and self._sound_at >= self._picture_at
        return not sound_stopped or now - newest >= self._timing.dropped_after

    def _is_shown_to_be_here(self, now: float) -> bool:
        """Whether the host must be running: its sound comes, or LiveKit would have removed a killed one by now."""
        if not self._here:
            return False
        newest = max(self._picture_at, self._sound_at)
        return not self._is_quiet(self._sound_at, now) or now - newest >= self._timing.dropped_after
