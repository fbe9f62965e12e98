"""A relay's process on standby: it has loaded its code, which takes a second or more, and waits for its broadcast.

There is at most one on a machine for each relay folder, and only for a while after a sign that a broadcast may begin
soon. A start takes it. Where it died or was never loaded, another process begins in its place, at once. Where it hangs, the
start waits for 3 s (`Timing.standby_answer_limit`) before, or up to 20 s while it loads (`Timing.relay_start_limit`).
"""

from __future__ import annotations

import asyncio
import fcntl
import math
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog

from butai.live.egress.relay.process import WatchedProcess, spawn_standby
from butai.live.reconcile.timing import Timing
from butai.relay.standby import LINE_LIMIT, TAKEN, WAITING

log = structlog.get_logger(__name__)


class Waiting(Protocol):
    """A process that waits. `WaitingProcess` is one, and tests have others."""

    begun: float
    """When its process was started, in seconds of the event loop."""
    loaded: bool

    @property
    def process(self) -> WatchedProcess:
        """The process itself."""
        ...

    async def ask(self) -> None:
        """Returns when it has loaded and answers. Raises `OSError` when it never will."""
        ...

    async def give(self, broadcast_id: str) -> None:
        """Makes it that broadcast's relay. Returns when it is, and raises as `ask`."""
        ...

    def release(self) -> None:
        """Lets go of a process that has its broadcast."""
        ...

    async def end(self, seconds: float) -> None:
        """Kills the process, and waits for at most `seconds` until it has ended."""
        ...


class WaitingProcess:
    """`python -m butai.relay --standby` on this machine, with the lock that no other controller has one in this folder."""

    def __init__(
        self, process: WatchedProcess, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, lock: int
    ) -> None:
        self._process, self._reader, self._writer, self._lock = process, reader, writer, lock
        self._turn = asyncio.Lock()
        self.begun, self.loaded = asyncio.get_running_loop().time(), False

    @classmethod
    async def start(cls, command: Sequence[str], folder: Path) -> WaitingProcess | None:
        """Starts one. Returns None where there is one of another controller. Raises `OSError`."""
        lock = os.open(folder / "standby.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(lock)
                return None
            ours, theirs = socket.socketpair()
            with theirs:
                reader, writer = await asyncio.open_unix_connection(sock=ours, limit=LINE_LIMIT)
                try:
                    child = spawn_standby(command, folder, theirs)
                    process = WatchedProcess(child.pid, child)
                except BaseException:
                    # Ends the process, if there is one.
                    writer.close()
                    raise
        except BaseException:
            os.close(lock)
            raise
        return cls(process, reader, writer, lock)

    @property
    def process(self) -> WatchedProcess:
        """The process itself."""
        return self._process

    async def ask(self) -> None:
        """Returns when it has loaded and answers. Raises `ConnectionError` when it never will."""
        await self._say(b"\n", WAITING)

    async def give(self, broadcast_id: str) -> None:
        """Makes it that broadcast's relay. Returns when it is, and raises as `ask`."""
        await self._say(broadcast_id.encode() + b"\n", TAKEN)

    async def _say(self, line: bytes, answer: bytes) -> None:
        async with self._turn:
            if not self.loaded:
                await self._hear(WAITING)
                self.loaded = True
            self._writer.write(line)
            await self._hear(answer)

    async def _hear(self, answer: bytes) -> None:
        # Before it, the answer to a question that was given up may come.
        while (line := await self._reader.readline()) != answer:
            if not line:
                raise ConnectionResetError("it has ended")

    def release(self) -> None:
        """Lets go of a process that has its broadcast. `process` goes on being watched."""
        self._writer.close()
        os.close(self._lock)

    async def end(self, seconds: float) -> None:
        """Kills the process, and waits for at most `seconds` until it has ended."""
        try:
            await self._process.end(seconds)
        finally:
            self._process.close()
            self.release()


class Standby:
    """Keeps one process on standby from each `expect` on, until `timing.standby_for` has passed or `close`."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        timing: Timing,
        make: Callable[[Sequence[str], Path], Awaitable[Waiting | None]] = WaitingProcess.start,
    ) -> None:
        self._command, self._folder, self._timing, self._make = command, folder, timing, make
        self._one: Waiting | None = None
        self._until = self._load_from = -math.inf
        self._keeping: asyncio.Task[None] | None = None

    def expect(self) -> None:
        """Notes a sign that a broadcast may begin soon."""
        self._until = self._now() + self._timing.standby_for
        if self._keeping is None or self._keeping.done():
            self._keeping = asyncio.create_task(self._keep())

    async def take(self, broadcast_id: str) -> WatchedProcess | None:
        """Makes the process that waits the relay of this broadcast. None where there is none that answers.

        Leaves nothing behind when cancelled.
        """
        one, self._one = self._one, None
        if one is None:
            return None
        self._load_from = self._now() + self._timing.standby_pause
        try:
            async with asyncio.timeout(self._patience(one, self._timing.relay_start_limit)):
                await one.give(broadcast_id)
        except BaseException as error:
            log.warning("relay.standby_lost", pid=one.process.pid, error=type(error).__name__)
            await one.end(self._timing.kill_limit)
            if isinstance(error, OSError):
                # TimeoutError, too.
                return None
            raise
        one.release()
        return one.process

    async def close(self) -> None:
        """Ends the process that waits."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)

    async def _keep(self) -> None:
        # Again where a sign came while the last one was ending.
        while self._until > self._now():
            try:
                while (rest := self._until - self._now()) > 0:
                    if self._one is None and self._now() >= self._load_from:
                        await self._load()
                    if self._one is not None:
                        await self._check(self._one)
                    await asyncio.sleep(min(self._timing.standby_check_every, rest))
            finally:
                one, self._one = self._one, None
                if one is not None:
                    await one.end(self._timing.kill_limit)

    async def _load(self) -> None:
        try:
            self._one = await self._make(self._command, self._folder)
        except OSError as error:
            log.warning("relay.standby_not_started", error=error.strerror)
            self._load_from = self._now() + self._timing.standby_pause

    async def _check(self, one: Waiting) -> None:
        was_loaded = one.loaded
        try:
            async with asyncio.timeout(self._patience(one, self._timing.standby_load_limit)):
                await one.ask()
        except OSError as error:
            # Unless a start has it by now, which finds out by itself.
            if self._one is one:
                log.warning("relay.standby_lost", pid=one.process.pid, error=type(error).__name__)
                self._one, self._load_from = None, self._now() + self._timing.standby_pause
                await one.end(self._timing.kill_limit)
        else:
            if not was_loaded:
                log.info("relay.standby_loaded", pid=one.process.pid, seconds=round(self._now() - one.begun, 2))

    def _patience(self, one: Waiting, loading: float) -> float:
        """The time for its next answer. `loading`: most seconds for loading."""
        least = self._timing.standby_answer_limit
        return least if one.loaded else max(one.begun + loading - self._now(), least)

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
