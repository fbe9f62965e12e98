"""The encoders that publish now, one for each key: where their messages go, and what they send."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from butai.errors import Code
from butai.ingest.connection import KeyRefused, Publication
from butai.ingest.links import RelayLink
from butai.relay.incoming.reader import SourceReader
from butai.relay.incoming.timeline import Timeline
from butai.relay.incoming.wire import Ended, Hello, Opening
from butai.relay.rtmp.server_session import Media, Metadata

log = structlog.get_logger(__name__)

SILENT_AFTER = 2.0
"""Seconds without a message after which a publisher may be replaced at any time: encoders send some each 50 ms, and try again
after two seconds when they have lost a connection that is still open here."""


_COUNTED_OVER = 1.0
"""Least seconds of a bitrate: calls for it come at any time, and a key frame has as many bytes as a second of others."""


@dataclass(frozen=True, slots=True)
class Source:
    """Whose media a publisher sends. `id`: of its key's row. `key_fingerprint`: tells a key from the one that replaced it."""

    id: UUID
    room_id: str
    label: str
    key_fingerprint: str


class Publisher:
    """One connection of an encoder, after its key was accepted. Its messages go to the relay of the room's broadcast, and where
    none takes them they are a rehearsal: measured, and sent nowhere."""

    def __init__(
        self,
        source: Source,
        publication: Publication,
        folder: Path,
        *,
        connection_id: UUID,
        took_over: bool,
        ended: Callable[[Publisher], None],
    ) -> None:
        """`connection_id`: this connection's own. `took_over`: another encoder, which was sending, was disconnected for this one.
        `ended`: is called once, when the publish is over."""
        self.source, self.address, self.took_over = source, publication.address, took_over
        self.connection_id = connection_id
        self.heard_at = time.monotonic()
        """When a message came last, in seconds of the monotonic clock."""
        self.bytes = 0
        self._publication, self._folder, self._when_ended = publication, folder, ended
        self._opening = Opening()
        self._hello = Hello("encoder", str(source.id), source.label, round(time.time(), 3))
        self._link: RelayLink | None = None
        self._reader: SourceReader | None = SourceReader(Timeline())
        self._over = False
        self._counted_at, self._counted, self._kbps = self.heard_at, 0, 0

    @property
    def broadcast_id(self) -> str | None:
        """The broadcast whose relay takes the messages now; None in a rehearsal."""
        return self._link.broadcast_id if self._link is not None and self._link.connected else None

    def media(self, event: Media) -> None:
        """Takes a message. Raises `SourceRefused` for what cannot be passed on; on air the relay says so."""
        self.heard_at = time.monotonic()
        self.bytes += len(event.payload)
        if self._link is not None and self._link.connected:
            self._reader = None
            self._opening.note(event)
            self._link.send(event)
            return
        reader = self._reader = self._reader or self._reader_in_mid_stream()
        self._opening.note(event)
        reader.feed(event.kind, event.timestamp, event.payload, _now_ms())

    def metadata(self, values: Mapping[str, Any]) -> None:
        """Takes what the encoder says of its stream."""
        self.heard_at = time.monotonic()
        told = Metadata(dict(values))
        self._opening.note(told)
        if self._link is not None:
            self._link.send(told)
        if self._reader is not None:
            self._reader.metadata(values)

    def ended(self, *, in_order: bool) -> None:
        """The publish is over. `in_order`: the encoder said so."""
        if self._over:
            return
        self._over = True
        if self._link is not None:
            self._link.close(Ended(in_order=in_order))
            self._link = None
        log.info(
            "ingest.ended",
            source_id=str(self.source.id),
            room_id=self.source.room_id,
            in_order=in_order,
            bytes=self.bytes,
        )
        self._when_ended(self)

    def end(self, code: Code, text: str) -> None:
        """Ends the publish in words."""
        if not self._over:
            self._publication.end(code, text)
            # A publish that is ended before its encoder was told that it is accepted has no receiver yet.
            self.ended(in_order=False)

    def assign(self, broadcast_id: str | None) -> None:
        """Sets the broadcast whose relay the messages go to, once it listens; None: a rehearsal."""
        if self._over or broadcast_id == (self._link.broadcast_id if self._link is not None else None):
            return
        if self._link is not None:
            self._link.close()
        self._link = (
            None
            if broadcast_id is None
            else RelayLink(self._folder, broadcast_id, self._hello, self._opening, self._refused)
        )

    def figures(self) -> dict[str, Any]:
        """What the encoder sends: `kbps` over a second at least, and in a rehearsal what the reader has found out."""
        now = time.monotonic()
        if (span := now - self._counted_at) >= _COUNTED_OVER:
            self._kbps = round((self.bytes - self._counted) * 8 / 1000 / span)
            self._counted_at, self._counted = now, self.bytes
        found: dict[str, Any] = {"bytes": self.bytes, "kbps": self._kbps}
        reader = self._reader
        if reader is not None:
            found["fps"] = round(reader.figures.fps(_now_ms()), 1)
            found["keyframe_interval_ms"] = reader.figures.keyframe_interval_ms
            found["misfits"] = sorted(reader.misfits())
            if reader.video is not None:
                found |= {"width": reader.video.width, "height": reader.video.height}
            if reader.audio is not None:
                found |= {"sound_rate": reader.audio.rate, "sound_channels": reader.audio.channels}
        return found

    def _reader_in_mid_stream(self) -> SourceReader:
        reader = SourceReader(Timeline())
        for frame in self._opening.frames():
            if isinstance(frame, Media):
                reader.feed(frame.kind, frame.timestamp, frame.payload, _now_ms())
            else:
                reader.metadata(frame.values)
        return reader

    def _refused(self, code: str, text: str) -> None:
        self.end(Code.received(code), text)


class Publishers:
    """The publishers of this process, one for each key."""

    def __init__(self, folder: Path) -> None:
        """`folder`: that of the relays' sockets."""
        self.when_ended: Callable[[Publisher], None] = lambda _: None
        """Is called with each publisher whose publish is over."""
        self._folder = folder
        self._of_source: dict[UUID, Publisher] = {}

    def all(self) -> list[Publisher]:
        """Those that publish now."""
        return list(self._of_source.values())

    def check(self, source_id: UUID) -> None:
        """Raises `KeyRefused` where an encoder sends with this key that has itself taken over from another one: two programs with
        one key would otherwise replace each other for ever."""
        present = self._of_source.get(source_id)
        if present is not None and present.took_over and _sends(present):
            raise KeyRefused(
                Code.ENCODER_KEY_IN_USE,
                "Another encoder publishes with this key: stop it first, or make another key",
            )

    def admit(self, source: Source, publication: Publication, connection_id: UUID | None = None) -> Publisher:
        """Makes the publisher of a connection, which takes over from an older one with the same key. Raises as `check` does."""
        self.check(source.id)
        present = self._of_source.get(source.id)
        took_over = present is not None and _sends(present)
        if present is not None:
            present.end(Code.ENCODER_REPLACED, "A newer connection publishes with this key")
        publisher = self._of_source[source.id] = Publisher(
            source,
            publication,
            self._folder,
            connection_id=connection_id or uuid4(),
            took_over=took_over,
            ended=self._forget,
        )
        log.info("ingest.publishes", source_id=str(source.id), room_id=source.room_id, address=publication.address)
        return publisher

    def _forget(self, publisher: Publisher) -> None:
        if self._of_source.get(publisher.source.id) is publisher:
            del self._of_source[publisher.source.id]
        self.when_ended(publisher)


def _sends(publisher: Publisher) -> bool:
    return time.monotonic() - publisher.heard_at < SILENT_AFTER


def _now_ms() -> int:
    return int(time.monotonic() * 1000)
