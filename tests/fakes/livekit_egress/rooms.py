"""Rooms and who is in them: hosts put there by a test, and the egresses' own participants. `StandIn.rooms` is one of
these.

Every coming and going sends the webhook that LiveKit sends. A room closes `departure_timeout` seconds after the last
person has left (20 s by default, as LiveKit's); an egress's participant does not keep it open.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from livekit.protocol import models
from livekit.protocol.webhook import WebhookEvent

from tests.fakes.livekit_egress.clock import Clock, new_id
from tests.fakes.livekit_egress.webhooks import Webhooks

_MIMES = [
    "audio/PCMU",
    "audio/PCMA",
    "audio/opus",
    "audio/red",
    "video/VP8",
    "video/H264",
    "video/VP9",
    "video/AV1",
    "video/H265",
    "video/rtx",
]
_TRACKS = (("cam", models.VIDEO, models.CAMERA, "video/VP8"), ("mic", models.AUDIO, models.MICROPHONE, "audio/red"))


@dataclass
class LiveRoom:
    info: models.Room
    people: dict[str, models.ParticipantInfo] = field(default_factory=dict)
    closing: asyncio.TimerHandle | None = None

    def persons(self) -> list[models.ParticipantInfo]:
        """Without the egresses' participants."""
        return [one for one in self.people.values() if one.kind != models.ParticipantInfo.EGRESS]


class Rooms:
    """By name. The workers' ears: `on_joined(room, identity)`, `on_left(room, identity, reason)`, `on_closed(room,
    reason)`."""

    def __init__(self, clock: Clock, webhooks: Webhooks) -> None:
        self._clock = clock
        self._webhooks = webhooks
        self._rooms: dict[str, LiveRoom] = {}
        self.on_joined: Callable[[str, str], None] = lambda *_: None
        self.on_left: Callable[[str, str, str], None] = lambda *_: None
        self.on_closed: Callable[[str, str], None] = lambda *_: None

    def get(self, name: str) -> LiveRoom | None:
        return self._rooms.get(name)

    def all(self) -> list[LiveRoom]:
        return list(self._rooms.values())

    def has(self, name: str, identity: str) -> bool:
        found = self._rooms.get(name)
        return found is not None and identity in found.people

    def create(self, name: str, *, departure_timeout: int = 20, empty_timeout: int = 300) -> LiveRoom:
        """The room of that name, made if it is not there; `room_started` is sent for a new one."""
        found = self._rooms.get(name)
        if found is not None:
            return found
        now = time.time()
        info = models.Room(
            sid=new_id("RM"),
            name=name,
            empty_timeout=empty_timeout,
            departure_timeout=departure_timeout,
            creation_time=int(now),
            creation_time_ms=int(now * 1000),
            turn_password=new_id("turn"),
            enabled_codecs=[models.Codec(mime=mime) for mime in _MIMES],
        )
        found = self._rooms[name] = LiveRoom(info)
        self._emit("room_started", found)
        return found

    def join(self, room: str, identity: str = "host", *, publish: bool = True) -> None:
        """A person comes in (a second one of the same identity throws the first out), with a camera and a
        microphone."""
        if self.has(room, identity):
            self.leave(room, identity, "DUPLICATE_IDENTITY")
        found = self.create(room)
        if found.closing is not None:
            found.closing.cancel()
            found.closing = None
        person = self._participant(identity)
        person.permission.can_subscribe = person.permission.can_publish = person.permission.can_publish_data = True
        found.people[identity] = person
        self._emit("participant_joined", found, person)
        if publish:
            for name, kind, source, mime in _TRACKS:
                track = models.TrackInfo(sid=new_id("TR"), type=kind, name=name, source=source, mime_type=mime)
                person.tracks.append(track)
                self._emit_track("track_published", found, person, track)
        person.is_publisher = publish
        self._count(found)
        self.on_joined(room, identity)

    def join_egress(self, room: str, egress_id: str) -> None:
        found = self._rooms.get(room)
        if found is None:
            return
        person = self._participant(egress_id)
        person.kind = models.ParticipantInfo.EGRESS
        person.permission.can_subscribe = person.permission.hidden = person.permission.recorder = True
        found.people[egress_id] = person
        self._count(found)
        self._emit("participant_joined", found, person)

    def leave(self, room: str, identity: str, reason: str = "CLIENT_INITIATED") -> None:
        """`reason` is one of LiveKit's DisconnectReason; does nothing when they are not there."""
        found = self._rooms.get(room)
        if found is None or identity not in found.people:
            return
        person = found.people.pop(identity)
        for track in person.tracks:
            self._emit_track("track_unpublished", found, person, track)
        del person.tracks[:]
        person.state = models.ParticipantInfo.DISCONNECTED
        person.version += 1
        person.disconnect_reason = models.DisconnectReason.Value(reason)  # pyright: ignore[reportAttributeAccessIssue]
        self._count(found)
        self._emit("participant_left", found, person)
        self.on_left(room, identity, reason)
        if room in self._rooms and person.kind != models.ParticipantInfo.EGRESS and not found.persons():
            timeout = found.info.departure_timeout
            found.closing = self._clock.later(timeout, self.close, room, "ROOM_CLOSED")

    def close(self, room: str, reason: str = "ROOM_DELETED") -> None:
        """Makes all participants leave with that reason, sends `room_finished`, and closes the source of the
        egresses."""
        found = self._rooms.get(room)
        if found is None:
            return
        if found.closing is not None:
            found.closing.cancel()
        for identity in sorted(found.people, key=lambda one: one.startswith("EG_")):
            self.leave(room, identity, reason)
        if found.closing is not None:
            found.closing.cancel()
        del self._rooms[room]
        self._emit("room_finished", found)
        self.on_closed(room, reason)

    def put(self, room: models.Room, person: models.ParticipantInfo | None) -> None:
        """The room, and the person in it, as a replayed webhook has them; nothing is sent."""
        found = self._rooms.setdefault(room.name, LiveRoom(room))
        found.info.CopyFrom(room)
        if person is not None:
            found.people[person.identity] = person

    def take(self, room: models.Room, identity: str) -> None:
        """The person has left, as a replayed webhook has it; nothing is sent."""
        self.put(room, None)
        self._rooms[room.name].people.pop(identity, None)

    def put_away(self, room: str) -> None:
        self._rooms.pop(room, None)

    def finished(self) -> None:
        for found in self._rooms.values():
            if found.closing is not None:
                found.closing.cancel()

    def _participant(self, identity: str) -> models.ParticipantInfo:
        now = time.time()
        return models.ParticipantInfo(
            sid=new_id("PA"),
            identity=identity,
            state=models.ParticipantInfo.ACTIVE,
            joined_at=int(now),
            joined_at_ms=int(now * 1000),
            version=2,
        )

    def _count(self, found: LiveRoom) -> None:
        persons = found.persons()
        found.info.num_participants = len(persons)
        found.info.num_publishers = sum(1 for one in persons if one.is_publisher)
        found.info.active_recording = len(persons) < len(found.people)

    def _emit(self, event: str, found: LiveRoom, person: models.ParticipantInfo | None = None) -> None:
        self._webhooks.emit(WebhookEvent(event=event, room=found.info, participant=person))

    def _emit_track(self, event: str, found: LiveRoom, person: models.ParticipantInfo, track: models.TrackInfo) -> None:
        room = models.Room(sid=found.info.sid, name=found.info.name)
        who = models.ParticipantInfo(sid=person.sid, identity=person.identity)
        self._webhooks.emit(WebhookEvent(event=event, room=room, participant=who, track=track))
