"""The stand-in itself: answers, commands and counters. See the package's docstring for how to use it."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Self

from google.protobuf.message import Message
from livekit.protocol import egress as pb
from livekit.protocol import models
from livekit.protocol import room as room_pb
from livekit.protocol.webhook import WebhookEvent

from tests.fakes.livekit_egress.clock import Clock
from tests.fakes.livekit_egress.commands import Commands
from tests.fakes.livekit_egress.ingresses import Ingresses
from tests.fakes.livekit_egress.platforms import Script
from tests.fakes.livekit_egress.records import Records, ended
from tests.fakes.livekit_egress.requests import START_METHODS, Wanted, read
from tests.fakes.livekit_egress.rooms import Rooms
from tests.fakes.livekit_egress.twirp import TwirpError, TwirpServer
from tests.fakes.livekit_egress.urls import fault
from tests.fakes.livekit_egress.webhooks import Webhooks
from tests.fakes.livekit_egress.worker import Egress

PICKED_AFTER = 0.5  # s from StartEgress to a worker's taking it
ANSWERED_AFTER = 0.05  # s from there to the answer
NO_WORKER_AFTER = 21.7
NOBODY_ANSWERS_AFTER = 3.0  # s: StopEgress or UpdateStream for an egress that no worker has


@dataclass
class Start:
    """One StartEgress as it came in. `egress_id` is empty while or when none came of it; `error` is a Twirp code."""

    at: float  # wall clock, seconds
    method: str
    room: str
    identity: str
    urls: list[str]
    egress_id: str = ""
    error: str = ""


@dataclass(frozen=True)
class Call:
    at: float
    method: str
    request: Message


class StandIn(Commands):
    """A LiveKit server with an egress fleet behind it. `async with StandIn(...) as standin: standin.url`."""

    def __init__(
        self,
        *,
        key: str = "devkey",
        secret: str = "secretsecretsecretsecretsecretsecret",
        webhooks: Iterable[str] = (),
        speed: float = 1.0,
        port: int = 0,
        seed: int = 1,
        auto_rooms: bool = True,
    ) -> None:
        self.keys = {key: secret}
        self.auto_rooms = auto_rooms
        self.clock = Clock(speed)
        self.webhooks = Webhooks(self.clock, self.keys, list(webhooks), seed)
        self.rooms = Rooms(self.clock, self.webhooks)
        self.ingresses = Ingresses(self.clock, self.webhooks)
        self.records = Records()
        self.egresses: dict[str, Egress] = {}
        self.by_room: dict[str, set[str]] = defaultdict(set)
        self.platforms: dict[str, Script | list[Script]] = {}
        self.default: Script | None = None
        self.calls: Counter[str] = Counter()
        self.log: deque[Call] = deque(maxlen=50_000)
        self.starts: list[Start] = []
        self.history: list[tuple[float, pb.EgressInfo]] = []
        self.keep_history = False
        self.running: dict[str, list[str]] = {}
        self.high_water: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._set_defaults()
        self.rooms.on_joined = self._joined
        self.rooms.on_left = self._left
        self.rooms.on_closed = self._closed
        self.server = TwirpServer(self.keys, self.answer, port)
        self._answers: dict[str, Callable[[Any], Awaitable[Message | bytes]]] = {
            "Egress/ListEgress": self._list_egress,
            "Egress/StopEgress": self._stop_egress,
            "Egress/UpdateStream": self._update_stream,
            "RoomService/CreateRoom": self._create_room,
            "RoomService/DeleteRoom": self._delete_room,
            "RoomService/ListRooms": self._list_rooms,
            "RoomService/ListParticipants": self._list_participants,
            "RoomService/RemoveParticipant": self._remove_participant,
            "Ingress/CreateIngress": self.ingresses.create,
            "Ingress/ListIngress": self.ingresses.list,
            "Ingress/DeleteIngress": self.ingresses.delete,
        }

    @property
    def url(self) -> str:
        return self.server.url

    async def start(self) -> None:
        await self.webhooks.start()
        await self.server.start()

    async def close(self) -> None:
        self.rooms.finished()
        for one in self.egresses.values():
            one.alive = False
        await self.server.close()
        await self.clock.close()
        await self.webhooks.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # Answers

    async def answer(self, name: str, request: Message) -> Message | bytes:
        self.calls[name.partition("/")[2]] += 1
        self.log.append(Call(time.time(), name, request))
        if name in START_METHODS:
            # On its own: an egress is made whether or not the client still waits.
            return await asyncio.shield(self.clock.spawn(self._start_egress(name, request)))
        return await self._answers[name](request)

    async def _start_egress(self, name: str, request: Message) -> pb.EgressInfo:
        wanted = read(request)
        start = Start(time.time(), name.partition("/")[2], wanted.room, wanted.identity, wanted.urls)
        self.starts.append(start)
        picked_after = PICKED_AFTER if self._slow_pick is None else self._slow_pick
        try:
            egress = await self._make(wanted, picked_after)
        except TwirpError as problem:
            start.error = problem.code
            raise
        start.egress_id = egress.id
        answer = pb.EgressInfo()
        answer.CopyFrom(egress.info)
        await self.clock.sleep(max(ANSWERED_AFTER, self._slow - picked_after))
        return answer

    async def _make(self, wanted: Wanted, picked_after: float) -> Egress:
        room = wanted.room
        if room and self.rooms.get(room) is None:
            if not self.auto_rooms or room in self._absent_rooms:
                raise TwirpError("not_found", "twirp error unknown: requested room does not exist")
            self.rooms.join(room, wanted.identity or "host")
        elif room in self._absent_rooms:
            raise TwirpError("not_found", "twirp error unknown: requested room does not exist")
        if self._no_workers:
            await self.clock.sleep(NO_WORKER_AFTER)
            raise TwirpError("unavailable", "twirp error unknown: no response from servers")
        await self.clock.sleep(picked_after)
        problem = next(filter(None, map(fault, wanted.urls or [""])), None)
        if problem is not None:
            raise TwirpError("invalid_argument", f"twirp error unknown: {problem}")
        egress = Egress(wanted, self)
        self.egresses[egress.id] = egress
        self.by_room[room].add(egress.id)
        self.reported(egress, "egress_started")
        self.clock.later(ANSWERED_AFTER, egress.begin)
        return egress

    async def _list_egress(self, request: pb.ListEgressRequest) -> Message | bytes:
        if request.egress_id:
            info = self.records.get(request.egress_id)
            if info is None:
                raise TwirpError("not_found", "twirp error unknown: egress does not exist")
            return pb.ListEgressResponse(items=[info])
        return self.records.listing(room=request.room_name, active=request.active)

    async def _reach(self, egress_id: str, verb: str) -> Egress:
        """The worker of a running egress. Raises what LiveKit says, after its 3 s, when none answers."""
        egress = self.egresses.get(egress_id)
        if egress is not None and egress.alive:
            return egress
        await self.clock.sleep(NOBODY_ANSWERS_AFTER)
        info = self.records.get(egress_id)
        if info is None:
            raise TwirpError("not_found", "twirp error unknown: egress does not exist")
        if ended(info):
            status = pb.EgressStatus.Name(info.status)
            raise TwirpError("failed_precondition", f"egress with status {status} cannot be {verb}")
        raise TwirpError("deadline_exceeded", "twirp error unknown: request timed out")

    async def _stop_egress(self, request: pb.StopEgressRequest) -> pb.EgressInfo:
        hangs = self._stop_hangs
        if hangs is not None and not hangs[1]:
            await hangs[0].wait()
        egress = await self._reach(request.egress_id, "stopped")
        egress.stop()
        answer = pb.EgressInfo()
        answer.CopyFrom(egress.info)
        if hangs is not None:
            await hangs[0].wait()
        await self.clock.sleep(0.01)
        return answer

    async def _update_stream(self, request: pb.UpdateStreamRequest) -> pb.EgressInfo:
        egress = await self._reach(request.egress_id, "updated")
        added = [*request.add_output_urls, *(one.url for one in request.add_destinations)]
        for url in added:
            problem = fault(url)
            if problem is not None:
                raise TwirpError("invalid_argument", f"twirp error unknown: {problem}")
            egress.add_url(url)
        for url in request.remove_output_urls:
            if not egress.remove_url(url):
                raise TwirpError("not_found", f"twirp error unknown: stream {url} not found")
        answer = pb.EgressInfo()
        answer.CopyFrom(egress.info)
        return answer

    async def _create_room(self, request: room_pb.CreateRoomRequest) -> models.Room:
        found = self.rooms.create(
            request.name,
            departure_timeout=request.departure_timeout or 20,
            empty_timeout=request.empty_timeout or 300,
        )
        return found.info

    async def _delete_room(self, request: room_pb.DeleteRoomRequest) -> room_pb.DeleteRoomResponse:
        self.rooms.close(request.room)
        return room_pb.DeleteRoomResponse()

    async def _list_rooms(self, request: room_pb.ListRoomsRequest) -> room_pb.ListRoomsResponse:
        wanted = set(request.names)
        rooms = [one.info for one in self.rooms.all() if not wanted or one.info.name in wanted]
        return room_pb.ListRoomsResponse(rooms=rooms)

    async def _list_participants(self, request: room_pb.ListParticipantsRequest) -> Message:
        found = self.rooms.get(request.room)
        return room_pb.ListParticipantsResponse(participants=found.people.values() if found is not None else [])

    async def _remove_participant(self, request: room_pb.RoomParticipantIdentity) -> Message:
        if not self.rooms.has(request.room, request.identity):
            raise TwirpError("not_found", "participant does not exist")
        self.rooms.leave(request.room, request.identity, "PARTICIPANT_REMOVED")
        return room_pb.RemoveParticipantResponse()

    # What a worker needs

    def attempt(self, url: str) -> Script | None:
        """The next entry of the URL's script; the last one is used again for every later attempt."""
        script = self.platforms.get(url)
        nth = self._attempts[url]
        self._attempts[url] += 1
        if isinstance(script, list):
            return script[min(nth, len(script) - 1)] if script else self.default
        return script or self.default

    def reported(self, egress: Egress, event: str) -> None:
        if egress.id not in self._forgotten:
            self.records.put(egress.info)
        if self.keep_history:
            copy = pb.EgressInfo()
            copy.CopyFrom(egress.info)
            self.history.append((time.time(), copy))
        self.webhooks.emit(WebhookEvent(event=event, egress_info=egress.info))
        if event == "egress_ended":
            self.by_room[egress.wanted.room].discard(egress.id)
            del self.egresses[egress.id]

    def runs(self, url: str, egress_id: str) -> None:
        holders = self.running.setdefault(url, [])
        holders.append(egress_id)
        self.high_water[url] = max(self.high_water[url], len(holders))

    def rests(self, url: str, egress_id: str) -> None:
        holders = self.running.get(url, [])
        if egress_id in holders:
            holders.remove(egress_id)
        if not holders:
            self.running.pop(url, None)

    def is_running(self, url: str) -> bool:
        return url in self.running

    def is_gone(self, url: str) -> bool:
        return url in self._gone

    def _of_room(self, room: str) -> list[Egress]:
        return [self.egresses[one] for one in list(self.by_room.get(room, ())) if one in self.egresses]

    def _joined(self, room: str, identity: str) -> None:
        for egress in self._of_room(room):
            if egress.wanted.identity == identity:
                egress.host_came()

    def _left(self, room: str, identity: str, reason: str) -> None:
        """A participant egress ends with its host's leaving; a second tab of the same identity is no leaving."""
        if reason in ("DUPLICATE_IDENTITY", "ROOM_DELETED", "ROOM_CLOSED"):
            return
        for egress in self._of_room(room):
            if egress.wanted.source == "participant" and egress.wanted.identity == identity:
                self.clock.later(0.03, egress.source_closed, 0.75)

    def _closed(self, room: str, reason: str) -> None:
        for egress in self._of_room(room):
            self.clock.later(0.05, egress.source_closed, 0.06 if reason == "ROOM_DELETED" else 0.7)
