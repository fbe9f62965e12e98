"""What platforms get while a source is away, or has no sound: its last key frame again and again, and silence. Pure.

Both can be decoded, and their times rise, on the time line of the broadcast.
"""

from __future__ import annotations

from butai.relay.incoming.silence import OWN, silence
from butai.relay.incoming.timeline import Timeline
from butai.relay.packets import AudioFormat, Packet

PICTURE_EVERY_MS = 500
LATEST_MS = 1000
"""Silence that is later than this is left out, as after a time in which the process did not run."""


class Filler:
    """Fills one broadcast's time line. Times are milliseconds of our monotonic clock."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._keyframe: Packet | None = None
        self._shown_until = 0
        self._noted: AudioFormat | None = None
        self._take_format(OWN)
        self._heard_until: float | None = None

    @property
    def has_picture(self) -> bool:
        """Whether there is a picture to repeat."""
        return self._keyframe is not None

    def note(self, packet: Packet) -> None:
        """Records what a source sent. To be called with each of its packets."""
        if packet.kind == "video":
            if packet.keyframe:
                self._keyframe = packet
            # Pictures that are shown in another order than they are sent end later.
            self._shown_until = max(self._shown_until, packet.dts, packet.pts)
            if self._heard_until is None:
                self._heard_until = packet.dts
        else:
            if isinstance(packet.format, AudioFormat) and packet.format != self._noted:
                self._noted = packet.format
                self._take_format(packet.format)
            self._heard_until = packet.dts + self._length

    def picture(self, now: int) -> list[Packet]:
        """The last key frame once more, where it is due."""
        due = self._shown_until + PICTURE_EVERY_MS
        if self._keyframe is None or now < due:
            return []
        at = self._timeline.fill("video", max(due, now - LATEST_MS))
        self._shown_until = at
        found = self._keyframe
        return [Packet("video", found.data, at, at, keyframe=True, format=found.format)]

    def sound(self, until: int) -> list[Packet]:
        """Silence from the last sound on until `until`; none before the first picture."""
        if self._heard_until is None:
            return []
        self._heard_until = max(self._heard_until, until - LATEST_MS)
        found = list[Packet]()
        while self._heard_until <= until:
            at = self._timeline.fill("audio", round(self._heard_until))
            found.append(Packet("audio", self._frame, at, at, keyframe=True, format=self._format))
            self._heard_until = max(self._heard_until, at) + self._length
        return found

    def _take_format(self, format_: AudioFormat) -> None:
        known = silence(format_)
        if known is None:
            format_, known = OWN, silence(OWN)
        assert known is not None
        self._format, (self._frame, self._length) = format_, known
