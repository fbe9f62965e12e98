"""All relays of one controller: processes on this host that it starts, finds again, pings and connects to."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import msgspec
import structlog

from butai.live.egress.presets import RELAY_COSTS
from butai.live.egress.relay.engine import NAME, RelayContext, RelayEngine
from butai.live.egress.relay.process import (
    EXIT_RUNNING_ALREADY,
    WatchedProcess,
    is_relay,
    lock_holder,
    peer_pid,
    prepare_folder,
    spawn,
)
from butai.live.egress.relay.standby import Standby
from butai.live.projects import Projects
from butai.live.reconcile.capacity import EngineLoad
from butai.live.reconcile.port import EngineFenced, EngineUnavailable
from butai.live.reconcile.timing import Timing
from butai.live.tokens import Tokens
from butai.relay import messages

log = structlog.get_logger(__name__)

COMMAND = (sys.executable, "-m", "butai.relay")
STARTS_AT_ONCE = 4
"""Relays that are started concurrently. Loading one takes a core for most of a second, so more would slow each other
down."""


class RelayEgress:
    """All relays of one controller."""

    name = NAME

    def __init__(
        self,
        folder: Path,
        projects: Projects,
        open_key: Callable[[bytes], str],
        *,
        controller: str,
        allow_private: bool = False,
        command: Sequence[str] = COMMAND,
        timing: Timing | None = None,
        standby: bool = False,
    ) -> None:
        """`open_key`: unseals a stream key; any exception means that it cannot be unsealed. Raises `FolderRefused`.

        `timing`: the same as the controller's. `standby`: whether a process waits with its code loaded while a broadcast may
        begin soon.
        """
        self.timing = timing or Timing()
        self.folder = prepare_folder(folder, self.timing.logs_kept)
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        # Includes the folder, since a controller with another folder on this machine cannot find our relays.
        self.host = f"{socket.gethostname()} {boot} {self.folder}"
        self._context = RelayContext(projects, Tokens(projects), open_key, self.timing, allow_private)
        self._controller, self._command = controller, command
        self._standby = Standby(self._command, self.folder, self.timing) if standby else None
        self._starts = asyncio.Semaphore(STARTS_AT_ONCE)
        self._engines: set[RelayEngine] = set()
        self._keepalive_allowed = True
        self._pinging: asyncio.Task[None] | None = None

    @property
    def costs(self) -> dict[str, float]:
        """The relay's cores, by preset."""
        return RELAY_COSTS

    def loads(self) -> list[EngineLoad]:
        """The load of each relay that this controller is connected to and has configured."""
        return [engine.load for engine in self._engines if engine.load is not None]

    async def open(self) -> None:
        """No-op: relays need no preparation."""

    async def find(self, broadcast_id: UUID, epoch: int) -> RelayEngine | None:
        """Adopts a running relay. Kills one that does not answer, since it may push. Raises `EngineFenced`."""
        deadline = time.monotonic() + self.timing.relay_lock_limit
        while True:
            engine = await self._connect(broadcast_id, epoch)
            if engine is not None:
                log.info("relay.adopted", broadcast_id=str(broadcast_id), pid=engine.pid)
                return engine
            holder = lock_holder(self.folder / f"{broadcast_id}.lock")
            if holder is None:
                return None
            # It is starting or ending.
            if time.monotonic() >= deadline:
                await self._kill_unreachable(holder, broadcast_id, listens=False)
                return None
            await asyncio.sleep(self.timing.connect_pause)

    async def start(self, broadcast_id: UUID, epoch: int) -> RelayEngine:
        """Takes the process on standby, or starts one. Raises `EngineUnavailable`, `EngineFenced`."""
        waited = await self._standby.take(str(broadcast_id)) if self._standby is not None else None
        if waited is not None:
            try:
                engine = await self._answered(broadcast_id, epoch, waited, self.timing.standby_answer_limit)
            except EngineUnavailable as error:
                log.warning("relay.standby_failed", broadcast_id=str(broadcast_id), detail=str(error))
            else:
                log.info("relay.started", broadcast_id=str(broadcast_id), pid=engine.pid, standby=True)
                return engine
        async with self._starts:
            try:
                child = spawn(self._command, self.folder, str(broadcast_id))
            except OSError as error:
                raise EngineUnavailable(f"the relay does not start: {error.strerror}") from error
            process = WatchedProcess(child.pid, child)
            engine = await self._answered(broadcast_id, epoch, process, self.timing.relay_start_limit)
            log.info("relay.started", broadcast_id=str(broadcast_id), pid=engine.pid, standby=False)
            return engine

    def expect_start(self) -> None:
        """Keeps a process on standby for a while, where that is wanted."""
        if self._standby is not None:
            self._standby.expect()

    def allow_keepalive(self, *, allowed: bool) -> None:
        """Sends pings to relays, or stops sending them."""
        self._keepalive_allowed = allowed

    async def close(self) -> None:
        """Disconnects from all relays, which continue to run."""
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.gather(self._pinging, return_exceptions=True)
        if self._standby is not None:
            await self._standby.close()
        for engine in list(self._engines):
            engine.detach()

    async def _answered(self, broadcast_id: UUID, epoch: int, process: WatchedProcess, seconds: float) -> RelayEngine:
        """The engine of a process that has begun, once it answers. Otherwise kills the process."""
        try:
            async with asyncio.timeout(seconds):
                return await self._wait_until_it_answers(broadcast_id, epoch, process)
        except TimeoutError:
            await process.end(self.timing.kill_limit)
            raise EngineUnavailable(f"the relay did not answer within {seconds:g} s") from None
        except BaseException:
            process.kill()
            raise
        finally:
            process.close()

    async def _wait_until_it_answers(self, broadcast_id: UUID, epoch: int, process: WatchedProcess) -> RelayEngine:
        while True:
            engine = await self._connect(broadcast_id, epoch)
            if engine is not None:
                return engine
            # Another relay of this broadcast may be starting, by a controller that has died.
            if process.ended.is_set():
                other = lock_holder(self.folder / f"{broadcast_id}.lock") is not None
                if process.status != EXIT_RUNNING_ALREADY or not other:
                    raise EngineUnavailable(f"the relay ended at once with status {process.status}: see its log")
            await asyncio.sleep(self.timing.connect_pause)

    async def _connect(self, broadcast_id: UUID, epoch: int) -> RelayEngine | None:
        path = self.folder / f"{broadcast_id}.sock"
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=messages.LINE_LIMIT)
        except OSError:
            return None
        pid = peer_pid(writer)
        try:
            async with asyncio.timeout(self.timing.welcome_limit):
                writer.write(messages.encode(messages.HelloLine(self._controller, epoch)))
                line = await reader.readline()
            if not line:
                writer.close()
                return None
            answer = messages.read_by_controller(line)
            if isinstance(answer, messages.RefusedLine):
                raise EngineFenced
            if isinstance(answer, messages.WelcomeLine):
                process, forget = WatchedProcess(pid), self._engines.discard
                engine = RelayEngine(self._context, broadcast_id, reader, writer, process, answer, on_close=forget)
                self._engines.add(engine)
                self._pinging = self._pinging or asyncio.create_task(self._ping_all())
                return engine
        except (msgspec.MsgspecError, ValueError, OSError) as error:
            # TimeoutError is an OSError.
            log.warning("relay.no_welcome", broadcast_id=str(broadcast_id), error=type(error).__name__)
        except BaseException:
            writer.close()
            raise
        writer.close()
        await self._kill_unreachable(pid, broadcast_id, listens=True)
        return None

    async def _kill_unreachable(self, pid: int, broadcast_id: UUID, *, listens: bool) -> None:
        """Kills a relay of this broadcast that does not answer, and no other process. `listens`: it listens at the broadcast's
        socket, so its lock, which may have been removed, does not matter."""
        try:
            process = WatchedProcess(pid)
        except OSError:
            return
        try:
            # After the process was pinned: another one may have its number by now.
            holds = listens or lock_holder(self.folder / f"{broadcast_id}.lock") == pid
            if holds and is_relay(pid, self.folder, str(broadcast_id)):
                log.warning("relay.killed", broadcast_id=str(broadcast_id), pid=pid)
                await process.end(self.timing.kill_limit)
        finally:
            process.close()

    async def _ping_all(self) -> None:
        relay = self.timing.relay
        while True:
            due = _now() + self.timing.ping_every
            await asyncio.sleep(self.timing.ping_every)
            if _now() - due > relay.stood_still_after:
                # This process did not run. The leases are renewed meanwhile, and relays take no line before.
                await asyncio.sleep(relay.stale_for * 1.5)
            for engine in list(self._engines):
                engine.tick(ping=self._keepalive_allowed)


def _now() -> float:
    """Monotonic seconds, also of a suspended machine."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def default_folder() -> Path:
    """The default folder of sockets. Short, since a socket's path has at most 107 bytes (unix(7))."""
    return Path("/tmp") / f"butai-relays-{os.geteuid()}"  # noqa: S108 - who owns it is checked before use
