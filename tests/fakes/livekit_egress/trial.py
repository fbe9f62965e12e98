"""Makes a recording's calls again with the official client, on a `Replay` of it or on the scripted worker, and notes
what is seen; `test_livekit_standin.py` compares that with the recording."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from livekit import api

from tests.fakes.livekit_egress.platforms import Refuse, Unreachable
from tests.fakes.livekit_egress.recordings import Entry, Recording, load
from tests.fakes.livekit_egress.replay import Replay
from tests.fakes.livekit_egress.standin import StandIn
from tests.fakes.livekit_egress.webhooks import subject

KEY, SECRET = "trialkey", "trial-secret-of-at-least-32-characters"
POLL_EACH = 0.015  # s, real ones
WATCH_EACH = 0.005  # s, real ones
HELD_UP = 0.2  # s of the recording's
_REQUESTS: dict[str, tuple[str, type[Message]]] = {
    "start_egress": ("start_egress", api.StartEgressRequest),
    "start_participant_egress": ("start_participant_egress", api.ParticipantEgressRequest),
    "stop_egress": ("stop_egress", api.StopEgressRequest),
    "update_stream": ("update_stream", api.UpdateStreamRequest),
    "list_egress": ("list_egress", api.ListEgressRequest),
}
State = dict[str, Any]


def state(info: dict[str, Any], room: str = "r1") -> State:
    """What an EgressInfo (as protobuf-JSON) says, without ids and moments: whether a moment is there is kept."""
    streams = [
        (
            one["url"],
            one.get("status", "ACTIVE"),
            "startedAt" in one,
            "endedAt" in one,
            one.get("error", ""),
            one.get("retries", 0),
            "lastRetryAt" in one,
        )
        for one in info.get("streamResults", [])
    ]
    asked = info.get("participant") or info.get("egress") or {}
    outputs = [*asked.get("streamOutputs", []), *(one["stream"] for one in asked.get("outputs", []))]
    return {
        "status": info.get("status", "EGRESS_STARTING"),
        "room": "r1" if info.get("roomName") == room else info.get("roomName"),
        "asked": sorted(url for one in outputs for url in one.get("urls", [])),
        "streams": sorted(streams),
        "error": (info.get("errorCode", 0), info.get("error", "")),
        "details": info.get("details", ""),
        "moments": ("startedAt" in info, "endedAt" in info, "updatedAt" in info),
        "type": info.get("sourceType", ""),
    }


def distinct(states: list[State]) -> list[State]:
    return [one for position, one in enumerate(states) if position == 0 or one != states[position - 1]]


@dataclass
class Hook:
    """A webhook that came, or one of the recording."""

    at: float  # seconds of the recording's clock
    event: str
    subject: str
    state: State | None
    moments: list[int]
    reason: str = ""


def hook(at: float, body: dict[str, Any], room: str) -> Hook:
    event = ParseDict(body, api.WebhookEvent(), ignore_unknown_fields=True)
    info = body.get("egressInfo")
    reason = body.get("participant", {}).get("disconnectReason", "")
    name = "room" if event.event.startswith("room_") else subject(event)
    return Hook(at, event.event, name, state(info, room) if info else None, _moments(info or {}), reason)


def _moments(info: dict[str, Any]) -> list[int]:
    found = [int(info.get(one, 0)) for one in ("startedAt", "endedAt", "updatedAt")]
    for stream in sorted(info.get("streamResults", []), key=lambda one: one["url"]):
        found += [int(stream.get(one, 0)) for one in ("startedAt", "endedAt", "lastRetryAt")]
    return found


@dataclass
class Seen:
    """`answers` in the order of the recorded requests: a state, or (status, code, message). By the place of the egress
    among the recording's: `states` that the client got from ListEgress, `stored` those that were there to be got.
    `late` is for how long in all the trial was held up by the machine, in the recording's seconds."""

    answers: list[State | tuple[int, str, str]] = field(default_factory=list)
    states: dict[int, list[State]] = field(default_factory=dict)
    stored: dict[int, list[State]] = field(default_factory=dict)
    hooks: list[Hook] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    unsigned: int = 0
    late: float = 0.0


class Trial:
    """`renamed`: the room, the host and the keys have names of their own, other than the recorded ones."""

    def __init__(self, name: str, *, scripted: bool, speed: float) -> None:
        self.recording: Recording = load(name)
        self.scripted = scripted
        self.speed = speed
        self.room = "r1" if scripted else "show of Aoi"
        self.identity = "host" if scripted else "aoi"
        self.seen = Seen()
        self._receiver = api.WebhookReceiver(api.TokenVerifier(KEY, SECRET))
        self._began = 0.0

    def rename(self, url: str) -> str:
        if self.scripted:
            return url
        return url.replace("yt-key-0001", "abcd-efgh-ijkl").replace("tw-key-0002", "live_1_zyxwvu")

    async def run(self) -> Seen:
        app = web.Application()
        app.router.add_post("/hook", self._hook)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert runner.addresses
        options: dict[str, Any] = {
            "key": KEY,
            "secret": SECRET,
            "speed": self.speed,
            "webhooks": [f"http://127.0.0.1:{runner.addresses[0][1]}/hook"],
        }
        if self.scripted:
            standin = StandIn(auto_rooms=False, **options)
            _prepare(standin, self.recording)
        else:
            standin = Replay(self.recording.name, room=self.room, identity=self.identity, finish=False, **options)
        standin.keep_history = True
        try:
            async with standin, api.LiveKitAPI(standin.url, KEY, SECRET) as client:
                self._began = time.monotonic()
                await self._follow(standin, client)
                await standin.webhooks.settled()
                for _, info in standin.history:
                    if info.egress_id in self.seen.ids:
                        shown = self.seen.stored.setdefault(self.seen.ids.index(info.egress_id), [])
                        shown.append(state(MessageToDict(info), self.room))
        finally:
            await runner.cleanup()
        return self.seen

    def now(self) -> float:
        return (time.monotonic() - self._began) * self.speed

    async def _follow(self, standin: StandIn, client: api.LiveKitAPI) -> None:
        beside = [asyncio.create_task(self._poll(client)), asyncio.create_task(self._watch())]
        try:
            for entry in self.recording.entries:
                wait = entry.t - self.now()
                if wait > 0:
                    await asyncio.sleep(wait / self.speed)
                if entry.kind == "request":
                    await self._ask(standin, client, entry)
                elif self.scripted:
                    self._do(standin, entry)
            if isinstance(standin, Replay):
                async with asyncio.timeout(5):
                    await standin.done.wait()
            else:
                await asyncio.sleep(1.0 / self.speed)  # the scripted worker may be a little later than the recorded one
            await asyncio.sleep(POLL_EACH * 4)
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        await self._look(client)

    async def _ask(self, standin: StandIn, client: api.LiveKitAPI, entry: Entry) -> None:
        name, kind = _REQUESTS[entry.method]
        assert entry.answer is not None
        request = ParseDict(self._renamed(entry.body), kind())
        refused = entry.answer.data.get("status") == 401
        if refused:
            first = not self.seen.answers
            pair = (KEY, "x" * 40) if first else ("nobody", SECRET)
            async with api.LiveKitAPI(standin.url, *pair) as other:
                await self._answer(other, name, request)
        else:
            await self._answer(client, name, request)

    async def _answer(self, client: api.LiveKitAPI, name: str, request: Message) -> None:
        try:
            answer = await getattr(client.egress, name)(request)
        except api.TwirpError as problem:
            self.seen.answers.append((problem.status, problem.code, problem.message))
            return
        if name.startswith("start_"):
            self.seen.ids.append(answer.egress_id)
        self.seen.answers.append(state(MessageToDict(answer), self.room))

    def _renamed(self, value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {one: self._renamed(inner, one) for one, inner in value.items()}
        if isinstance(value, list):
            return [self._renamed(one, key) for one in value]
        if key == "egressId":
            recorded = self.recording.egress_ids
            return self.seen.ids[recorded.index(value)] if value in recorded else value
        if key == "roomName" and value == "r1":
            return self.room
        if key in ("identity", "participantIdentity") and value == "host":
            return self.identity
        return self.rename(value) if isinstance(value, str) else value

    async def _poll(self, client: api.LiveKitAPI) -> None:
        while True:
            await self._look(client)
            await asyncio.sleep(POLL_EACH)

    async def _look(self, client: api.LiveKitAPI) -> None:
        for place, egress_id in enumerate(self.seen.ids):
            listed = await client.egress.list_egress(api.ListEgressRequest(egress_id=egress_id))
            self.seen.states.setdefault(place, []).append(state(MessageToDict(listed.items[0]), self.room))

    async def _watch(self) -> None:
        while True:
            asleep = time.monotonic()
            await asyncio.sleep(WATCH_EACH)
            over = time.monotonic() - asleep - WATCH_EACH
            if over > WATCH_EACH:
                self.seen.late += over * self.speed

    async def _hook(self, request: web.Request) -> web.Response:
        body = await request.text()
        at = self.now()
        try:
            event = self._receiver.receive(body, request.headers["Authorization"])
        except Exception:  # noqa: BLE001 - a trial notes what went wrong and goes on
            self.seen.unsigned += 1
            return web.Response(status=401)
        if request.content_type != "application/webhook+json":
            self.seen.unsigned += 1
        self.seen.hooks.append(hook(at, MessageToDict(event), self.room))
        return web.Response()

    # What the recording's world did, done to the scripted one

    def _do(self, standin: StandIn, entry: Entry) -> None:
        urls = {one for start in standin.starts for one in start.urls}
        what = entry.data.get("event") if entry.kind in ("host", "worker") else entry.data.get("call")
        if entry.kind == "webhook":
            event = entry.event
            reason = event.get("participant", {}).get("disconnectReason")
            if event["event"] == "participant_left" and event["participant"]["identity"] == "host":
                if reason == "CONNECTION_TIMEOUT":
                    standin.host_leaves("r1", "host", reason)
            elif event["event"] == "room_finished" and self.recording.name == "v2-media-nobody-then-host":
                standin.rooms.close("r1", "ROOM_CLOSED")
        elif entry.kind == "host":
            if what == "published":
                standin.host_joins("r1")
            elif what == "left cleanly (removed)":
                standin.host_leaves("r1", "host", "PARTICIPANT_REMOVED")
            elif what == "room deleted":
                standin.close_source("r1")
        elif entry.kind == "worker":
            assert standin.kill_worker(self.seen.ids[-1])
            standin.no_workers()
        elif entry.kind == "platform":
            command = {
                "drop": standin.drop,
                "ingest_gone": standin.platform_gone,
                "ingest_stalled": standin.stall,
                "ingest_back": standin.heal,
                "ingest_resumed": standin.heal,
            }.get(str(what))
            for url in [one for one in urls if f"/{entry.data['app']}/" in one] if command else []:
                touched = command(url) if command else None
                assert touched in (1, None), f"{what} touched {touched}"


def _prepare(standin: StandIn, recording: Recording) -> None:
    """The platforms, and who was in the room when the recording began; no webhook reports that."""
    for port in (1935, 1936):
        standin.platforms[f"rtmp://127.0.0.1:{port}/tw/bad"] = Refuse()
    standin.platforms["rtmp://127.0.0.1:1999/tw/tw-key-0003"] = Unreachable()
    events = [entry.event for entry in recording.entries if entry.kind == "webhook"]
    about_host = [one for one in events if one.get("participant", {}).get("identity") == "host"]
    about_room = [one["event"] for one in events if one["event"].startswith("room_")]
    standin.webhooks.policy.on = False
    if about_host and about_host[0]["event"] in ("track_unpublished", "participant_left"):
        standin.host_joins("r1")
    elif not about_room or about_room[0] == "room_finished":
        standin.rooms.create("r1")
    standin.webhooks.policy.on = True
    if recording.name == "platform-gone-40s":
        standin.clock.later(0.9, standin.rooms.close, "r1", "ROOM_CLOSED")


async def run_all(
    trials: list[Trial], at_once: int = 7, differs: Callable[[str, Seen], bool] = lambda _name, _seen: False
) -> dict[str, Seen]:
    """Each recording's trial, a few at a time. One that the machine held up says nothing when it differs from the recording,
    since the scripted worker's retries came later than they should: it is made again, slower and with fewer beside it."""
    slots = asyncio.Semaphore(at_once)

    async def one(trial: Trial) -> tuple[str, Seen]:
        async with slots:
            return trial.recording.name, await trial.run()

    longest = sorted(trials, key=lambda trial: -trial.recording.entries[-1].t)
    seen = dict(await asyncio.gather(*(one(trial) for trial in longest)))
    again = [
        Trial(trial.recording.name, scripted=trial.scripted, speed=trial.speed / 2)
        for trial in longest
        if seen[trial.recording.name].late > HELD_UP and differs(trial.recording.name, seen[trial.recording.name])
    ]
    if again and at_once > 1:
        seen |= await run_all(again, at_once // 2, differs)
    return seen
