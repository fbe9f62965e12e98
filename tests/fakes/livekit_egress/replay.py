"""Plays a recording: the same calls in, the same answers, polls and webhooks out, at the recorded times behind each call."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message
from livekit.protocol import egress as pb
from livekit.protocol.webhook import WebhookEvent

from tests.fakes.livekit_egress.clock import ns
from tests.fakes.livekit_egress.recordings import Entry, Names, identity_of, load, urls_of
from tests.fakes.livekit_egress.records import ended
from tests.fakes.livekit_egress.requests import START_METHODS, read
from tests.fakes.livekit_egress.standin import StandIn, Start
from tests.fakes.livekit_egress.twirp import TwirpError
from tests.fakes.livekit_egress.worker import FINISH_AFTER

_METHODS = {
    "start_egress": "Egress/StartEgress",
    "start_participant_egress": "Egress/StartParticipantEgress",
    "stop_egress": "Egress/StopEgress",
    "update_stream": "Egress/UpdateStream",
}


@dataclass
class _Asked:
    """A recorded request: whether it has been made again, or passed over because a later one was."""

    entry: Entry
    made: asyncio.Event = field(default_factory=asyncio.Event)
    answered: asyncio.Event = field(default_factory=asyncio.Event)
    skipped: bool = False
    message: Message | None = None


class Replay(StandIn):
    """`room`: what the recording's room is called here. Without it, what came before the first request is played when that
    request comes. A request made before its time hurries the recording on to it. `done` is set behind the last line; then,
    with `finish`, an egress that the recording left ENDING becomes COMPLETE, and one left running can be stopped.
    """

    def __init__(
        self, path: Path | str, *, room: str | None = None, identity: str = "host", finish: bool = True, **others: Any
    ) -> None:
        super().__init__(**others)
        self.recording = load(path)
        self.names = Names(self.clock.speed)
        self.names.identities["host"] = identity
        self._room = room
        if room is not None:
            self.names.rooms["r1"] = room
        self._finish = finish
        self._worker_dead = False
        # What needs no player: tokens are checked by the server, and a list of an unknown egress fails by itself.
        self._asked = [_Asked(one) for one in self.recording.requests if one.method in _METHODS and not _refused(one)]
        self.done = asyncio.Event()
        self.first_asked: float | None = None  # monotonic
        self._last_poll = {
            item["egressId"]: entry.t
            for entry in self.recording.entries
            if entry.kind == "poll"
            for item in entry.body.get("items", [])
        }
        self.webhooks.one_lane = True

    async def start(self) -> None:
        await super().start()
        self.clock.spawn(self._play())

    # Requests

    async def answer(self, name: str, request: Message) -> Message | bytes:
        asked = self._match(name, request)
        if asked is None:
            row = self.records.get(request.egress_id) if isinstance(request, pb.StopEgressRequest) else None
            if row is not None and self._finish and not ended(row) and not self._worker_dead:
                self.calls["StopEgress"] += 1
                return self._stop_left_over(row)
            return await super().answer(name, request)
        self.calls[name.partition("/")[2]] += 1
        self._learn(asked, name, request)
        asked.made.set()
        await asyncio.shield(self.clock.spawn(asked.answered.wait()))
        recorded = asked.entry.answer
        assert recorded is not None
        if recorded.kind == "error":
            text = self.names.text(recorded.data["message"])
            raise TwirpError(recorded.data["code"], text)
        return json_format.ParseDict(self.names.translate(recorded.body), pb.EgressInfo())

    def _match(self, name: str, request: Message) -> _Asked | None:
        for position, asked in enumerate(self._asked):
            if asked.made.is_set() or asked.skipped or _METHODS[asked.entry.method] != name:
                continue
            if not self._same_shape(asked.entry, name, request):
                continue
            for earlier in self._asked[:position]:
                if not earlier.made.is_set():
                    earlier.skipped = True
                    earlier.made.set()
            return asked
        return None

    def _same_shape(self, entry: Entry, name: str, request: Any) -> bool:
        if name in START_METHODS:
            return len(read(request).urls) == len(urls_of(entry.body))
        known = self.names.ids.get(entry.body["egressId"])
        if known != request.egress_id and (known is not None or self.records.get(request.egress_id) is not None):
            return False
        if name == "Egress/UpdateStream":
            added, removed = len(request.add_output_urls), len(request.remove_output_urls)
            return added == len(entry.body.get("addOutputUrls", [])) and removed == len(
                entry.body.get("removeOutputUrls", [])
            )
        return True

    def _learn(self, asked: _Asked, name: str, request: Any) -> None:
        recorded = asked.entry.body
        if name in START_METHODS:
            wanted = read(request)
            self.names.rooms[recorded["roomName"]] = wanted.room
            if identity_of(recorded):
                self.names.identities[identity_of(recorded)] = wanted.identity
            for old, new in zip(urls_of(recorded), wanted.urls, strict=True):
                self.names.url(old, new)
            start = Start(time.time(), name.partition("/")[2], wanted.room, wanted.identity, wanted.urls)
            self.starts.append(start)
            answer = asked.entry.answer
            if answer is not None and answer.kind == "response":
                kept = json_format.MessageToDict(wanted.info)
                kept = {key: kept[key] for key in ("participant", "egress", "roomComposite", "web") if key in kept}
                self.names.requests[answer.body["egressId"]] = kept
                start.egress_id = self.names.id(answer.body["egressId"])
            elif answer is not None:
                start.error = answer.data["code"]
            return
        self.names.ids.setdefault(recorded["egressId"], request.egress_id)
        if name == "Egress/UpdateStream":
            for old, new in zip(
                urls_of(recorded), [*request.add_output_urls, *request.remove_output_urls], strict=True
            ):
                self.names.url(old, new)

    # The recording

    async def _play(self) -> None:
        began, wall = 0.0, time.monotonic()
        self.names.anchor(self.recording.epoch)
        waiting = list(self._asked)
        if self._room is None and waiting:
            await waiting[0].made.wait()
        for entry in self.recording.entries:
            asked = next((one for one in self._asked if one.entry is entry), None)
            if asked is not None:
                await asked.made.wait()
                waiting.remove(asked)
                if not asked.skipped:
                    began, wall = entry.t, time.monotonic()
                    self.first_asked = self.first_asked or wall
                    self.names.anchor(self.recording.epoch + entry.t)
                continue
            due = wall + (entry.t - began) / self.clock.speed
            await self._until(due, waiting[0].made if waiting else None)
            self._apply(entry)
        self.done.set()
        if self._finish:
            for info in self.records.all():
                if info.status == pb.EGRESS_ENDING:
                    self.clock.later(FINISH_AFTER, self._complete, info.egress_id)

    async def _until(self, due: float, hurry: asyncio.Event | None) -> None:
        """Wait for the moment, or for the next request to come before it."""
        left = due - time.monotonic()
        if left <= 0 or (hurry is not None and hurry.is_set()):
            return
        if hurry is None:
            await asyncio.sleep(left)
            return
        try:
            async with asyncio.timeout(left):
                await hurry.wait()
        except TimeoutError:
            return

    def _apply(self, entry: Entry) -> None:
        if entry.kind in ("response", "error"):
            if entry.kind == "response":
                self._show_if_last(entry.body, entry.t)
            for asked in self._asked:
                if asked.entry.answer is entry:
                    asked.answered.set()
        elif entry.kind == "poll":
            for item in entry.body.get("items", []):
                self._show(item)
        elif entry.kind == "webhook":
            self._webhook(entry)
        elif entry.kind == "worker":
            self._worker_dead = True
        elif entry.kind == "platform":
            self._platform(entry)

    def _show(self, recorded: dict[str, Any]) -> None:
        info = json_format.ParseDict(self.names.translate(recorded), pb.EgressInfo())
        before = self.records.get(info.egress_id)
        if before is not None:
            # A second stop, which no recording has, is shown with the moment at which it came: on a busy machine, behind
            # the recorded end.
            info.updated_at = max(info.updated_at, before.updated_at)
        self.records.put(info)
        if self.keep_history:
            self.history.append((time.time(), info))

    def _show_if_last(self, recorded: dict[str, Any], t: float) -> None:
        """What no poll has shown yet, or no later one shows, is shown from the answer or webhook: an egress is there once
        it has been told of, and none stays as it was for ever."""
        egress_id = recorded["egressId"]
        if egress_id not in self.names.requests:
            return
        if self.records.get(self.names.id(egress_id)) is None or t > self._last_poll.get(egress_id, 0.0):
            self._show(recorded)

    def _webhook(self, entry: Entry) -> None:
        recorded = entry.event
        if "egressInfo" in recorded:
            self._show_if_last(recorded["egressInfo"], entry.t)
        event = json_format.ParseDict(self.names.translate(recorded), WebhookEvent(), ignore_unknown_fields=True)
        self._people(event)
        self.webhooks.emit(event)

    def _people(self, event: WebhookEvent) -> None:
        """ListRooms and ListParticipants show what the webhooks have said."""
        if event.event == "room_finished":
            self.rooms.put_away(event.room.name)
        elif event.event == "participant_left":
            self.rooms.take(event.room, event.participant.identity)
        elif event.event in ("room_started", "participant_joined"):
            self.rooms.put(event.room, event.participant if event.HasField("participant") else None)

    def _platform(self, entry: Entry) -> None:
        end = f"/{entry.data.get('app')}/{entry.data.get('name')}"
        url = next((new for old, new in self.names.urls.items() if old.endswith(end)), None)
        if url is None:
            return
        if entry.data["call"] == "publish" and entry.data["answer"] == 200:
            self.runs(url, self.recording.name)
        elif entry.data["call"] == "publish_done":
            self.rests(url, self.recording.name)

    # Behind its end

    def _stop_left_over(self, row: pb.EgressInfo) -> pb.EgressInfo:
        info = pb.EgressInfo()
        info.CopyFrom(row)
        info.status, info.details, info.updated_at = pb.EGRESS_ENDING, "End reason: StopEgress API", ns()
        self.records.put(info)
        self.webhooks.emit(WebhookEvent(event="egress_updated", egress_info=info))
        self.clock.later(FINISH_AFTER, self._complete, info.egress_id)
        return info

    def _complete(self, egress_id: str) -> None:
        row = self.records.get(egress_id)
        if row is None or row.status != pb.EGRESS_ENDING:
            return
        info = pb.EgressInfo()
        info.CopyFrom(row)
        info.status, info.ended_at, info.updated_at = pb.EGRESS_COMPLETE, ns(), ns()
        for stream in [*info.stream_results, *info.stream.info]:
            if stream.status == pb.StreamInfo.ACTIVE:
                stream.status, stream.ended_at = pb.StreamInfo.FINISHED, info.ended_at
        self.records.put(info)
        self.webhooks.emit(WebhookEvent(event="egress_ended", egress_info=info))


def _refused(request: Entry) -> bool:
    return request.answer is not None and request.answer.data.get("status") == 401
