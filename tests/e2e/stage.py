"""The whole service for the tests of going live: real processes, each of which a test may break.

`Stage` is what modules share: Postgres, LiveKit, API, controller. `Show` is a user, a room, a host who publishes,
destinations, and a watch over what the service says of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import aiohttp
import psutil
from livekit import api
from pydantic import SecretStr

from butai import database
from butai.config import IdentitySettings
from butai.embedded.livekit import EmbeddedLiveKit
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from butai.live.egress.relay.process import lock_holder
from butai.relay.standby import RELAY_NAME
from tests.processes import free_port
from tests.studio_host import HostProcess

SECRET = "canary-nextauth-secret-live-9c"
IDENTITY = IdentitySettings(NEXTAUTH_SECRET=SecretStr(SECRET))  # pyright: ignore[reportCallIssue]


SMALL = ("--width=640", "--height=360", "--kbps=800", "--fps=15")
"""What a host sends where only that it comes matters: 0.17 of a processor for its process, 0.25 with 30 pictures a second."""


class Stage:
    """Started once for many tests. `more`: settings, as environment variables."""

    def __init__(self, seaweed: EmbeddedSeaweed, **more: str) -> None:
        # Short: relays have their sockets in it.
        self.folder = Path(tempfile.mkdtemp(prefix="butai-live-"))
        self.folder.chmod(0o711)
        # Commits are in the kernel's hands when they return: a test kills Postgres, not the machine.
        self.postgres = EmbeddedPostgres(self.folder / "postgres", settings={"fsync": "off"})
        self.livekit = EmbeddedLiveKit(self.folder / "livekit")
        self.relays_folder = self.folder / "relays"
        self._seaweed, self._more = seaweed, more
        self._port = free_port()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def url(self) -> str:
        """The URL of the API."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        try:
            self.postgres.start()
            database.migrate(self.postgres.owner_url, service_url=self.postgres.url)
            self.livekit.start()
            self.start("api")
            self.start("controller")
        except BaseException:
            self.__exit__()
            raise
        return self

    def mend(self) -> None:
        """Starts whatever does not run any more."""
        for server in (self.postgres, self.livekit):
            if server.child is None or server.child.poll() is not None:
                server.start()
        for role in ("api", "controller"):
            if not self.alive(role):
                self.start(role)

    def __exit__(self, *_: object) -> None:
        for role in ("controller", "api"):
            self.end(role)
        for relay in self.relays():
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.kill()
        self.livekit.stop(fast=True)
        self.postgres.stop(fast=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self, role: str) -> None:
        """`api`, `controller`, or another controller under a name of its own (`controller-2`). It may not be ready
        yet."""
        with self.log(role).open("ab") as log:
            self._running[role] = subprocess.Popen(
                [sys.executable, "-m", "butai.cli", role.partition("-")[0]],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self, role: str) -> None:
        """SIGKILL; gone when this returns."""
        process = self._running.pop(role)
        assert process.poll() is None, self.tail(role)
        process.kill()
        process.wait()

    def end(self, role: str) -> None:
        """Politely."""
        process = self._running.pop(role, None)
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def alive(self, role: str) -> bool:
        """Whether it runs."""
        return role in self._running and self._running[role].poll() is None

    def pid(self, role: str) -> int:
        """The process id of a running process."""
        return self._running[role].pid

    def log(self, role: str) -> Path:
        """What a process wrote."""
        return self.folder / f"{role}.log"

    def tail(self, role: str) -> str:
        """The end of that."""
        return self.log(role).read_text(errors="replace")[-3000:] if self.log(role).exists() else ""

    def relays(self, broadcast: str = "") -> list[psutil.Process]:
        """The relays of this stage that run, or that of one broadcast."""
        return relays_in(self.relays_folder, broadcast)

    def _environment(self) -> dict[str, str]:
        foreign = ("BUTAI_", "LIVEKIT_", "NEXTAUTH_", "AUTH_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
        store, livekit = self._seaweed.store, self.livekit.livekit
        return kept | {
            "BUTAI_DATABASE_URL": self.postgres.url,
            "BUTAI_S3_ENDPOINT": store.endpoint,
            "BUTAI_S3_BUCKET": store.bucket,
            "BUTAI_S3_ACCESS_KEY_ID": store.credentials.access_key_id,
            "BUTAI_S3_SECRET_ACCESS_KEY": store.credentials.secret_access_key,
            "BUTAI_PORT": str(self._port),
            "NEXTAUTH_SECRET": SECRET,
            "LIVEKIT_URL": livekit.url,
            "LIVEKIT_API_KEY": livekit.api_key,
            "LIVEKIT_API_SECRET": livekit.api_secret,
            "BUTAI_ALLOW_PRIVATE_INGEST": "true",
            "BUTAI_SECRET_KEY_FILE": str(self.folder / "secret.key"),
            "BUTAI_RELAY_FOLDER": str(self.relays_folder),
            # These tests bring more broadcasts on air than two busy cores carry well, and look at other things.
            "BUTAI_CAPACITY": "100",
            "BUTAI_ADMIT_WHEN_LATE": "true",
            # Tests of their own have it; here loading one for each host would take the processors of what is looked at.
            "BUTAI_RELAY_STANDBY": "false",
            **self._more,
        }

    def cookie(self, user: str) -> dict[str, str]:
        """Headers that sign `user` in."""
        return {"Cookie": f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(IDENTITY, user)}"}

    def livekit_api(self) -> api.LiveKitAPI:
        """LiveKit's own service API, as its operator."""
        livekit = self.livekit.livekit
        return api.LiveKitAPI(livekit.url.replace("ws://", "http://"), livekit.api_key, livekit.api_secret)


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


def relays_in(folder: Path, broadcast: str = "") -> list[psutil.Process]:
    """The relays that run with this folder for their sockets, or that of one broadcast. Not one on standby, which has none."""
    holder = lock_holder(folder / f"{broadcast}.lock") if broadcast else None
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if (
                is_relay(process)
                and str(folder) in words
                and (not broadcast or broadcast in words or process.pid == holder)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found


def is_relay(process: psutil.Process) -> bool:
    """Whether it is a relay that has a broadcast. Raises `psutil.Error`."""
    words = process.cmdline()
    return "butai.relay" in words and ("--standby" not in words or process.name() == RELAY_NAME)


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


async def eventually(
    condition: Callable[[], bool | Awaitable[bool]],
    seconds: float,
    why: Callable[[], str] = str,
    *,
    every: float = 0.05,
) -> float:
    """Waits for something that the service does not tell; how long that took. `every`: seconds between two looks."""
    began = time.monotonic()
    while True:
        met = condition()
        if await met if isinstance(met, Awaitable) else met:
            return time.monotonic() - began
        assert time.monotonic() - began < seconds, why() or f"not within {seconds} s"
        await asyncio.sleep(every)


@contextlib.asynccontextmanager
async def rising(count: Callable[[], int], *, pause: float = 4.0) -> AsyncGenerator[None]:
    """Asserts that a count of bytes keeps rising during the block: never the same for `pause` seconds of looking."""
    longest, seen = 0.0, list[tuple[float, int]]()

    async def watch() -> None:
        nonlocal longest
        last, still, looked = count(), 0.0, time.monotonic()
        while True:
            await asyncio.sleep(0.2)
            value = await asyncio.to_thread(count)
            since, looked = time.monotonic() - looked, time.monotonic()
            if value > last:
                last, still = value, 0.0
            elif since < 1:
                still += since
            # A look that is late says nothing: once a whole machine stood still for 9 s, this process with it.
            longest = max(longest, still)
            seen.append((since, value))

    begin = count()
    task = asyncio.create_task(watch())
    try:
        yield
        await eventually(lambda: count() > begin, pause)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
    looks = ", ".join(f"{value} after {since:.1f} s" for since, value in seen)
    assert longest < pause, f"no byte came for {longest:.1f} s: {looks}"
