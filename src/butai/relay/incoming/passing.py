"""The media of one broadcast from the encoders that publish for it, passed on without decoding. Pure.

    waiting ─(first key frame)─▶ live ⇄ lost (`source_closed`, `source_quiet`: filler) ─(grace is over)─▶ ended

One link is on air, the others stand by; when it closes, or is quiet while another one sends, the next one follows at its next
key frame. While none sends, platforms get filler.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from butai.errors import Code
from butai.relay.incoming.filler import Filler
from butai.relay.incoming.kept_group import KeptGroup
from butai.relay.incoming.reader import SourceReader
from butai.relay.incoming.tags import SourceRefused, audio_tag, video_tag
from butai.relay.incoming.timeline import Timeline
from butai.relay.incoming.wire import Hello, Opening
from butai.relay.messages import SourceDetails, SourcePhase
from butai.relay.packets import Packet
from butai.relay.rtmp.server_session import Media, Metadata

QUIET_AFTER_MS = 2500
"""Time without media after which an open link is quiet: LiveKit fills the hole of a host that died after 2.0 s."""
MISSING_AFTER_MS = 5000
"""Time after which a source that sends no sound, or no picture, is said to send none."""
SILENCE_AFTER_MS = 1000
"""Time without sound after which silence is added to a picture: platforms want a sound from the beginning."""
MOST_LINKS = 8
"""Links at a time. A room's host has an encoder or two; a replaced one may linger."""


@dataclass
class _Link:
    hello: Hello
    opening: Opening = field(default_factory=Opening)
    since: int = 0
    heard_at: int = 0


class Passing:
    """The sources of one broadcast. Times are milliseconds of our monotonic clock, and rise from call to call.

    `grace_ms`: time without media until the phase is `ended`, if `on_lost` is `end`; with `stay` it remains `lost`."""

    def __init__(self, grace_ms: int, on_lost: Literal["end", "stay"], now: int) -> None:
        self._grace, self._on_lost = grace_ms, on_lost
        self._timeline = Timeline()
        self._filler = Filler(self._timeline)
        self._kept = KeptGroup()
        self._links: dict[int, _Link] = {}
        self._on_air: int | None = None
        self._reader: SourceReader | None = None
        self._flowing = False
        self._away_since: int | None = now
        self._sound_at = self._picture_at = self._picture_dts = now
        self._fault: tuple[Code, str] | None = None
        self.pictures = 0
        """Pictures that sources have sent since the beginning, filler left out."""

    def open(self, link: int, hello: Hello, now: int) -> int | None:
        """Takes a new link. Returns the older one of the same publisher, which it replaces and which is closed."""
        replaced = next((one for one, known in self._links.items() if known.hello.source_id == hello.source_id), None)
        if replaced is None and len(self._links) >= MOST_LINKS:
            raise SourceRefused(Code.TOO_MANY_CONNECTIONS, "Too many encoders are connected to this broadcast")
        if replaced is not None:
            del self._links[replaced]
        takes_over = self._on_air is None or self._on_air == replaced
        if takes_over:
            self._leave_air(now)
        self._links[link] = _Link(hello, since=now, heard_at=now)
        if takes_over:
            self._fault = None
            self._put_on_air(link, now)
        return replaced

    def take(self, link: int, frame: Media | Metadata, now: int) -> list[Packet]:
        """Takes what came on a link. Returns packets for outputs. Raises `SourceRefused`; `refuse` the link then."""
        known = self._links.get(link)
        if known is None:
            return []
        known.opening.note(frame)
        if isinstance(frame, Media):
            known.heard_at = now
        if link != self._on_air:
            if isinstance(frame, Media):
                _check(frame)
            return []
        return self._pass_on(frame, now)

    def close(self, link: int, now: int) -> None:
        """The link is closed, or its publish has ended."""
        if self._links.pop(link, None) is None or link != self._on_air:
            return
        self._leave_air(now)
        self._fault = Code.SOURCE_CLOSED, "the encoder's connection has ended"
        if self._links:
            self._put_on_air(next(iter(self._links)), now)

    def refuse(self, link: int, error: SourceRefused, now: int) -> None:
        """Closes a link whose media cannot be passed on, and tells why until another link comes."""
        on_air = link == self._on_air
        self.close(link, now)
        if on_air and self._on_air is None:
            self._fault = error.code, error.text

    def tick(self, now: int) -> list[Packet]:
        """To be called 20 times a second. Returns filler for outputs."""
        self._notice_silence(now)
        if self._flowing:
            if now - self._sound_at < SILENCE_AFTER_MS:
                return []
            # Not beyond the picture, beside which sound that comes after all is placed.
            return self._keep(self._filler.sound(self._picture_dts))
        return self._keep(self._filler.picture(now) + self._filler.sound(now))

    def kept(self) -> tuple[Packet, ...]:
        """What a new output begins with, the last key frame first; empty before there was one."""
        return self._kept.packets()

    def phase(self, now: int) -> tuple[SourcePhase, Code | None, str]:
        """The phase, what is wrong, and a detail. `live` and a code: sound or picture is missing, and the other comes."""
        if self._flowing:
            if now - self._picture_at >= MISSING_AFTER_MS:
                return "live", Code.NO_PICTURE, ""
            return "live", Code.NO_AUDIO if now - self._sound_at >= MISSING_AFTER_MS else None, ""
        was_live = self.pictures > 0
        fault, detail = self._fault or (self._no_picture(now), "")
        if self._on_lost == "end" and self._away_since is not None and now - self._away_since >= self._grace:
            ended = fault if fault in _OF_WHAT_IS_SENT else Code.SOURCE_ENDED if was_live else Code.NO_MEDIA
            return "ended", ended, f"no media of an encoder for {self._grace / 1000:g} s"
        return ("lost" if was_live else "waiting"), fault, detail

    def _no_picture(self, now: int) -> Code | None:
        """Says so of a source that is not taken since it sends sound alone."""
        link = self._links.get(self._on_air) if self._on_air is not None else None
        if link is None or now - link.heard_at >= QUIET_AFTER_MS or now - link.since < MISSING_AFTER_MS:
            return None
        return Code.NO_PICTURE

    def details(self, now: int) -> SourceDetails | None:
        """The source on air as it is now; None where none is connected."""
        link = self._links.get(self._on_air) if self._on_air is not None else None
        reader = self._reader
        if link is None or reader is None:
            return None
        video, audio = reader.video, reader.audio
        return SourceDetails(
            kind=link.hello.source,
            id=link.hello.source_id,
            label=link.hello.label,
            since=link.hello.since,
            standby=len(self._links) - 1,
            codec="H.264" if video is not None else "",
            width=video.width if video is not None else 0,
            height=video.height if video is not None else 0,
            fps=round(reader.figures.fps(now), 1),
            kbps=reader.figures.kbps(now),
            keyframe_s=round(reader.figures.keyframe_interval_ms / 1000, 1),
            sound_codec="AAC" if audio is not None else "",
            sound_rate=audio.rate if audio is not None else 0,
            sound_channels=audio.channels if audio is not None else 0,
            warnings=sorted(reader.misfits()),
        )

    # Media

    def _pass_on(self, frame: Media | Metadata, now: int) -> list[Packet]:
        assert self._reader is not None
        if isinstance(frame, Metadata):
            self._reader.metadata(frame.values)
            return []
        packets = self._reader.feed(frame.kind, frame.timestamp, frame.payload, now)
        for packet in packets:
            if packet.kind == "video":
                self.pictures += 1
                self._picture_at, self._picture_dts = now, packet.dts
                if not self._flowing:
                    self._flowing, self._away_since, self._fault = True, None, None
                    self._sound_at = now
            else:
                self._sound_at = now
            self._filler.note(packet)
        return self._keep(packets)

    def _keep(self, packets: list[Packet]) -> list[Packet]:
        for packet in packets:
            self._kept.add(packet)
        return packets

    def _notice_silence(self, now: int) -> None:
        """Finds a link on air that is quiet, and one that sends instead."""
        link = self._links.get(self._on_air) if self._on_air is not None else None
        if link is None or now - link.heard_at < QUIET_AFTER_MS:
            return
        if self._flowing:
            self._leave_air(now)
            self._fault = Code.SOURCE_QUIET, "the encoder is connected, and sends nothing"
            # It may send again: from its next key frame on, as any source that begins.
            assert self._on_air is not None
            self._put_on_air(self._on_air, now)
        sends = [one for one, known in self._links.items() if now - known.heard_at < SILENCE_AFTER_MS]
        if sends:
            self._put_on_air(sends[0], now)

    def _put_on_air(self, link: int, now: int) -> None:
        self._on_air, self._reader = link, SourceReader(self._timeline)
        for frame in self._links[link].opening.frames():
            self._pass_on(frame, now)

    def _leave_air(self, now: int) -> None:
        if self._flowing:
            self._flowing, self._away_since = False, now
        self._reader = None
        if not self._links:
            self._on_air = None


_OF_WHAT_IS_SENT = frozenset((Code.CODEC_UNSUPPORTED,))
"""Codes that tell more of an end than that the source is away."""


def _check(frame: Media) -> None:
    """Refuses a codec of a link that stands by, before it is needed. Raises `SourceRefused`."""
    if frame.kind == "video":
        video_tag(frame.payload)
    else:
        audio_tag(frame.payload)
