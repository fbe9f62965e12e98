"""A user, a room, a host who publishes, destinations, and a watch over what the service says of them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import aiohttp

from tests.studio_host import HostProcess
from tests.waiting import eventually

SMALL = ("--width=640", "--height=360", "--kbps=800", "--fps=15")
"""What a host sends where only that it comes matters: 0.17 of a processor for its process, 0.25 with 30 pictures a second."""


@dataclass
class Seen:
    """One look at the status: when (seconds since 1970, as the request returned), and what it said."""

    at: float
    status: str
    outputs: dict[str, dict[str, Any]]
    """By label."""
    source: str = ""
    """The state of the host's media."""


@dataclass
class Change:
    """An output's state on the wire became another."""

    at: float
    label: str
    before: str
    after: str
    code: str


class Service(Protocol):
    """What a show needs to know of the service. `Stage` is one."""

    @property
    def url(self) -> str:
        """The URL of the API."""
        ...

    def cookie(self, user: str) -> dict[str, str]:
        """Headers that sign `user` in."""
        ...

    def tail(self, role: str) -> str:
        """The end of what a process wrote."""
        ...


class Show:
    """One room on its way to go live. `async with Show(stage) as show`."""

    def __init__(
        self,
        stage: Service,
        *,
        host: tuple[str, ...] = SMALL,
        every: float = 0.1,
    ) -> None:
        """`every`: seconds between two looks at the status."""
        self.stage = stage
        self._every = every
        self.user = f"user-{uuid.uuid4().hex[:12]}"
        self.room = ""
        self.host_token = ""
        self.livekit_url = ""
        self.session = ""
        self.host: HostProcess | None = None
        self.seen: list[Seen] = []
        self.changes: list[Change] = []
        self.failures = 0
        """Looks that got no answer."""
        self._host_arguments = host
        self._http: aiohttp.ClientSession
        self._watch: asyncio.Task[None] | None = None
        self._moved = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._http = aiohttp.ClientSession(headers=self.stage.cookie(self.user))
        await eventually(self._answers, 30, lambda: self.stage.tail("api"))
        made = await self.call("POST", "/api/live/rooms", {})
        self.room, self.host_token, self.livekit_url = made["room_id"], made["host_token"], made["livekit_url"]
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, aiohttp.ClientError, TimeoutError):
            if self.session:
                await self.call("POST", "/api/live/stop", {"session_id": self.session})
                await self.until(lambda: self.now.status in ("ended", "error"), 12)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        if self.host is not None:
            await self.host.kill()
        await self._http.close()

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            async with self._http.get(f"{self.stage.url}/readyz") as answer:
                return answer.status == 200
        return False

    async def call(self, method: str, path: str, body: object = None, *, expect: int | None = None) -> Any:
        """The answer's JSON; its status must be 2xx, or `expect`."""
        async with self._http.request(method, self.stage.url + path, json=body) as answer:
            said = await answer.text()
        assert answer.status == expect if expect else answer.status < 300, (method, path, answer.status, said)
        return json.loads(said) if said else None

    async def host_on(self) -> HostProcess:
        """The host joins and publishes."""
        self.host = await HostProcess.start(self.livekit_url, self.host_token, *self._host_arguments)
        return self.host

    async def destination(self, platform: str, url: str, key: str, label: str = "") -> str:
        """Saves one; its id."""
        body = {"platform": platform, "label": label or platform, "ingest_url": url, "stream_key": key}
        return (await self.call("POST", "/api/live/destinations", body))["id"]

    async def start(self, *destination_ids: str, **more: Any) -> dict[str, Any]:
        """Goes live, and watches from now on."""
        body = {"room_id": self.room, "destination_ids": list(destination_ids), **more}
        said = await self.call("POST", "/api/live/start", body)
        self.watch(said["session_id"])
        return said

    def watch(self, session: str) -> None:
        """Watches a broadcast, also one that another test client began."""
        self.session = session
        self._watch = asyncio.create_task(self._look())

    async def stop(self) -> None:
        """Asks for the end, and waits for it."""
        await self.call("POST", "/api/live/stop", {"session_id": self.session})
        await self.until(lambda: self.now.status == "ended", 12)

    async def _look(self) -> None:
        while True:
            try:
                async with self._http.get(
                    f"{self.stage.url}/api/live/status?session_id={self.session}",
                    timeout=aiohttp.ClientTimeout(total=3),
                ) as answer:
                    said = await answer.json() if answer.status == 200 else None
            except (aiohttp.ClientError, TimeoutError):
                said = None
            at = time.time()
            if said is None:
                self.failures += 1
            else:
                before = self.seen[-1].outputs if self.seen else {}
                outputs = {output["label"]: output for output in said["outputs"]}
                for label, output in outputs.items():
                    state = before.get(label, {}).get("state", "")
                    if output["state"] != state:
                        code = (output.get("error") or {}).get("code", "")
                        self.changes.append(Change(at, label, state, output["state"], code))
                self.seen.append(Seen(at, said["status"], outputs, said["source"]["state"]))
            async with self._moved:
                self._moved.notify_all()
            await asyncio.sleep(self._every)

    @property
    def now(self) -> Seen:
        """The newest look."""
        return self.seen[-1]

    def state(self, label: str) -> str:
        """An output's state now; empty before the first look."""
        return self.now.outputs[label]["state"] if self.seen else ""

    def code(self, label: str) -> str:
        """Its error's code now."""
        return (self.now.outputs[label].get("error") or {}).get("code", "") if self.seen else ""

    async def until(self, condition: Callable[[], bool], seconds: float) -> float:
        """Waits for something seen; when it was seen first (seconds since 1970)."""
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: bool(self.seen) and condition())
        except TimeoutError:
            last = (
                {name: (one["state"], one.get("error")) for name, one in self.now.outputs.items()} if self.seen else {}
            )
            raise AssertionError(
                f"not within {seconds} s; now {last}; changes {self.changes}; controller: {self.stage.tail('controller')}"
            ) from None
        return self.now.at

    async def until_live(self, *labels: str, seconds: float = 20) -> float:
        """Until all of these are live."""
        return await self.until(lambda: all(self.state(label) == "live" for label in labels), seconds)

    def changes_of(self, label: str, since: float = 0.0) -> list[str]:
        """What an output became since a moment."""
        return [change.after for change in self.changes if change.label == label and change.at >= since]


@contextlib.asynccontextmanager
async def events(show: Show, query: str = "", last_id: str = "") -> AsyncGenerator[list[dict[str, Any]]]:
    """The room's server-sent events, as they come: `id`, `event`, and the fields of `data`."""
    found: list[dict[str, Any]] = []

    async def listen() -> None:
        headers = show.stage.cookie(show.user) | ({"Last-Event-ID": last_id} if last_id else {})
        async with (
            aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=None)) as http,
            http.get(f"{show.stage.url}/api/live/events?room_id={show.room}{query}") as answer,
        ):
            assert answer.status == 200, await answer.text()
            fields: dict[str, str] = {}
            async for raw in answer.content:
                line = raw.decode().rstrip("\r\n")
                if line:
                    name, _, value = line.partition(":")
                    fields[name] = value.strip()
                    continue
                if "data" in fields:
                    found.append(
                        {
                            "id": fields.get("id", ""),
                            "event": fields.get("event", ""),
                            "data": json.loads(fields["data"]),
                        }
                    )
                fields = {}

    task = asyncio.create_task(listen())
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
