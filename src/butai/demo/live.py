"""`butai demo live`: a host goes live on two platforms; one fails and recovers, the other is not affected.

The platforms, called YouTube and Twitch, are programs on this machine that record what arrives (`butai.demo.platform`); the
host publishes a clock (`butai.demo.host`). Everything in between is the real service.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any

from butai.demo import recording
from butai.demo.screen import NAMES, Screen, coloured
from butai.demo.service import DemoFailed, Service

USER = "butai-demo"
LEAST_SECONDS = 20
STEADY = 8.0
"""Seconds on air before a platform is killed."""
BROKEN = 4.0
"""Seconds for which the killed platform stays away."""
_BROKEN, _OTHER = "twitch", "youtube"
"""The platform that is killed: Twitch, where a retry comes after a second; YouTube wants ten."""


def run(url: str, data_dir: Path, seconds: float) -> int:
    """Runs the demonstration in the terminal, `seconds` on air, with the service whose data is in `data_dir`.

    Returns 0 when every check passed, else 1.
    """
    with Screen() as screen:
        try:
            found = asyncio.run(_interruptible(url, data_dir, max(seconds, LEAST_SECONDS), screen))
        except DemoFailed as failure:
            screen.tell(f"[bold red]failed:[/] {failure}")
            return 1
        except KeyboardInterrupt:
            screen.tell("interrupted; the broadcast was stopped and everything removed")
            return 1
    good = all(ok for ok, _ in found)
    for ok, text in found:
        screen.tell(f"{'[green]✓[/]' if ok else '[bold red]✗[/]'} {text}")
    screen.tell(
        "[bold green]Both platforms got media.[/]" if good else "[bold red]Something is not as it should be.[/]"
    )
    return 0 if good else 1


async def _interruptible(url: str, data_dir: Path, seconds: float, screen: Screen) -> list[tuple[bool, str]]:
    """Makes SIGTERM and SIGHUP end it as Ctrl-C does: with everything cleaned up."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    try:
        return await _demonstrate(url, data_dir, seconds, screen)
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _demonstrate(url: str, data_dir: Path, seconds: float, screen: Screen) -> list[tuple[bool, str]]:
    """The whole demonstration. Returns its checks: whether each passed, and its text. Raises `DemoFailed`."""
    async with contextlib.AsyncExitStack() as opened:
        service = await opened.enter_async_context(Service(url, data_dir))
        await service.sign_in(USER)
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="butai-demo-")))
        platforms = {name: Platform(name, folder) for name in (_OTHER, _BROKEN)}
        for platform in platforms.values():
            opened.push_async_callback(platform.end)
            await platform.open()
            screen.tell(f"{NAMES[platform.name]} listens on port {platform.port} of this machine")
        room = await service.call("POST", "/api/live/rooms", {})
        destinations = []
        for platform in platforms.values():
            saved = await service.call("POST", "/api/live/destinations", platform.destination())
            destinations.append(saved["id"])
            opened.push_async_callback(_quietly, service, "DELETE", f"/api/live/destinations/{saved['id']}")
        await opened.enter_async_context(_host(room["livekit_url"], room["host_token"]))
        screen.tell("the host is in the room: a clock and a soft tone")
        # Stopped before the host leaves, whatever happens.
        opened.push_async_callback(_quietly, service, "POST", "/api/live/stop", {"room_id": room["room_id"]})
        watch = Watch(service, room["room_id"], screen)
        await opened.enter_async_context(watch.running())
        return await _play(service, room["room_id"], destinations, platforms, watch, screen, seconds=seconds)


async def _play(
    service: Service,
    room_id: str,
    destinations: Sequence[str],
    platforms: dict[str, Platform],
    watch: Watch,
    screen: Screen,
    *,
    seconds: float,
) -> list[tuple[bool, str]]:
    found: list[tuple[bool, str]] = []
    broken, other = NAMES[_BROKEN], NAMES[_OTHER]
    screen.tell("[bold]going live[/]")
    await service.call(
        "POST", "/api/live/start", {"room_id": room_id, "destination_ids": list(destinations), "preset": "720p30"}
    )
    took = await watch.until(lambda: watch.states() == {_OTHER: "live", _BROKEN: "live"}, 40, "both are live")
    found.append((True, f"both live {took:.1f} s after the start"))
    on_air = time.monotonic()
    await asyncio.sleep(STEADY)

    screen.tell(f"[bold]{broken} is killed now[/]")
    changes = len(watch.changes)
    await platforms[_BROKEN].kill()
    took = await watch.until(lambda: watch.states()[_BROKEN] == "interrupted", 20, f"{broken} is interrupted")
    found.append((took < 5, f"{broken}'s end was seen after {took * 1000:.0f} ms"))
    await asyncio.sleep(BROKEN)
    screen.tell(f"[bold]{broken} is back[/]")
    await platforms[_BROKEN].open()
    took = await watch.until(lambda: watch.states()[_BROKEN] == "live", 90, f"{broken} is live again")
    touched = [name for name, *_ in watch.changes[changes:] if name == _OTHER]
    found.append((True, f"{broken} live again {took:.1f} s after it came back"))
    found.append((not touched, f"{other} stayed live meanwhile" if not touched else f"{other} changed meanwhile"))
    await asyncio.sleep(max(STEADY, seconds - (time.monotonic() - on_air)))

    screen.tell("[bold]stopping[/]")
    on_air = time.monotonic() - on_air
    await service.call("POST", "/api/live/stop", {"room_id": room_id})
    took = await watch.until(lambda: set(watch.states().values()) == {"ended"}, 20, "both have ended")
    found.append((took < 10, f"both ended {took:.1f} s after the stop"))
    found.extend([await platform.proof(on_air) for platform in platforms.values()])
    return found


class Platform:
    """One of the two platforms, and its recordings: a file for each time that it ran."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self._folder = name, folder
        self.port = 0
        self._recordings: list[Path] = []
        self._process: asyncio.subprocess.Process | None = None

    def destination(self) -> dict[str, str]:
        """The request that saves it as a destination. The key belongs to no account."""
        return {
            "platform": self.name,
            "label": "demonstration",
            "ingest_url": f"rtmp://127.0.0.1:{self.port}/live",
            "stream_key": f"demo-{secrets.token_hex(8)}",
        }

    async def open(self) -> None:
        """Starts it, on the same port as before. Raises `DemoFailed`."""
        self.port = self.port or _free_port()
        path = self._folder / f"{self.name}-{len(self._recordings)}.mkv"
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "butai.demo.platform", str(self.port), str(path), stderr=asyncio.subprocess.DEVNULL
        )
        self._recordings.append(path)
        deadline = time.monotonic() + 20
        while not _listens(self.port):
            if self._process.returncode is not None or time.monotonic() > deadline:
                raise DemoFailed(f"no platform could be started on port {self.port}")
            await asyncio.sleep(0.05)

    async def kill(self) -> None:
        """Sends SIGKILL, as a crash."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def end(self) -> None:
        """Ends it, at the end of the demonstration."""
        await self.kill()

    async def proof(self, on_air: float) -> tuple[bool, str]:
        """Whether the recorded media are the broadcast, and their description. `on_air`: the seconds of the broadcast."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                # The platform ends by itself after its publisher.
                async with asyncio.timeout(10):
                    await self._process.wait()
        parts = [await asyncio.to_thread(recording.read, path) for path in self._recordings]
        total = sum(part.seconds for part in parts)
        last = parts[-1]
        missed = on_air - total
        fit = {(part.video, part.width, part.height, part.audio) for part in parts} == {("h264", 1280, 720, "aac")}
        # Media between a platform's death and the next publish cannot arrive.
        good = fit and missed < (3 if len(parts) == 1 else BROKEN + 10)
        pieces = "" if len(parts) == 1 else f" in {len(parts)} parts"
        what = f"{last.video} {last.width}×{last.height}, {last.audio}" if last.video else "nothing that can be played"
        return good, f"{NAMES[self.name]} got {total:.1f} s of {on_air:.1f} on air{pieces}: {what}"


class Watch:
    """The room's status, read at each event and each half second; every change is printed."""

    def __init__(self, service: Service, room_id: str, screen: Screen) -> None:
        self._service, self._room_id, self._screen = service, room_id, screen
        self._status: dict[str, Any] = {"status": "", "platforms": {}}
        self._look = asyncio.Event()
        self._looked = asyncio.Condition()
        self.changes: list[tuple[str, str, str]] = []
        """Platform, state before, state after."""

    def states(self) -> dict[str, str]:
        """The states by platform, as the service names them."""
        return {name: output["state"] for name, output in self._status["platforms"].items()}

    async def until(self, condition: Callable[[], bool], patience: float, what: str) -> float:
        """Waits for a condition; returns the seconds that it took. Raises `DemoFailed`."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(patience), self._looked:
                await self._looked.wait_for(lambda: bool(self._status["platforms"]) and condition())
        except TimeoutError:
            errors = [
                f"{NAMES.get(name, name)}: {output['state']} {(output.get('error') or {}).get('message', '')}".strip()
                for name, output in self._status["platforms"].items()
            ]
            raise DemoFailed(f"after {patience:.0f} s it is still not true that {what} ({'; '.join(errors)})") from None
        return time.monotonic() - began

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[None]:
        """Reads the status until the block ends."""
        tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._follow())]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self) -> None:
        async for _ in self._service.hints(self._room_id):
            self._look.set()

    async def _follow(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await self._look.wait()
            self._look.clear()
            try:
                status = await self._service.call("GET", f"/api/live/status?room_id={self._room_id}")
            except DemoFailed:
                # The broadcast is not started yet, or the service is restarting.
                continue
            before, self._status = self.states(), status
            for name, state in self.states().items():
                if state != before.get(name):
                    self._tell(name, before.get(name, ""), state)
            self._screen.show(status)
            async with self._looked:
                self._looked.notify_all()

    def _tell(self, name: str, before: str, state: str) -> None:
        self.changes.append((name, before, state))
        error = self._status["platforms"][name].get("error") or {}
        because = f"  [dim]{error['code']}: {error['message']}[/]" if error else ""
        arrow = f"{before} → " if before else ""
        self._screen.tell(f"  {NAMES.get(name, name):8} {arrow}{coloured(state)}{because}")


@contextlib.asynccontextmanager
async def _host(livekit_url: str, token: str) -> AsyncGenerator[None]:
    """A host who publishes until the block ends. Raises `DemoFailed` when that does not begin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "butai.demo.host",
        livekit_url,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # Not on the command line, which every user of this machine can read.
        process.stdin.write(token.encode() + b"\n")
        said = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(30):
                said = await process.stdout.readline()
        if said.strip() != b"on":
            raise DemoFailed(f"the host could not publish into the room at {livekit_url}")
        yield
    finally:
        if process.returncode is None:
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(5):
                    await process.wait()
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _quietly(service: Service, method: str, path: str, body: object = None) -> None:
    """A request for cleaning up: ignores failures, since the object may be gone already."""
    with contextlib.suppress(DemoFailed):
        await service.call(method, path, body)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _listens(port: int) -> bool:
    """Whether a server listens. Does not connect, which the platform would take for its publisher."""
    wanted = f"0100007F:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any((fields := line.split())[1] == wanted and fields[3] == "0A" for line in lines)
