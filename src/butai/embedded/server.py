"""The common part of the servers of `butai up`: a folder of one owner, values that outlive a restart, and the life of a
process.

Two locks guard a folder. `owner.lock` belongs to the process that runs the server. `alive.lock` is passed to the server
and held by it and all its processes until the last of them has ended, by which the next start knows that no process of
the last one still runs.
"""

from __future__ import annotations

import http.client
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Generic, Self, TypeVar

import structlog

from butai.embedded.folder import folder_errors, make_folder, read_state, take_lock, write_state
from butai.embedded.process import Child, StartError, log_tail, open_log, pause

log = structlog.get_logger(__name__)

_LEAVING = 10.0
"""Seconds for the processes of an earlier start to end."""

AddressT = TypeVar("AddressT")


class EmbeddedServer(ABC, Generic[AddressT]):
    """One server with one folder. A second `start` in a row is a no-op; `stop` keeps the data.

    A subclass configures, starts and tests its server; `AddressT` is what a client needs to reach it.
    """

    event_prefix: ClassVar[str]
    """The prefix of its log events: `store.launched`."""
    file_prefix: ClassVar[str]
    """The prefix of its files: `weed.json` holds the remembered values, `weed.log` the server's output."""
    called: ClassVar[str]
    """The server's name in sentences for the operator: `the store`."""
    patience: ClassVar[float]
    """Seconds from the launch within which it has to be ready."""

    def __init__(self, data_dir: Path, log_file: Path | None) -> None:
        """Changes no file before `prepare`."""
        self.data_dir = data_dir
        self._log_file = log_file
        self._log_from = 0
        self._state: dict[str, str] = {}
        self._child: Child | None = None
        self._owner_lock: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def child(self) -> Child | None:
        """The server, once launched; it may have ended."""
        return self._child

    @property
    def log_file(self) -> Path:
        """The file with the server's output."""
        return self._log_file or self.data_dir / f"{self.file_prefix}.log"

    @property
    @abstractmethod
    def port(self) -> int:
        """The port for clients, on 127.0.0.1. Known after `prepare`."""

    def start(self) -> AddressT:
        """Runs the server and waits until it is ready. Returns its address. Raises `StartError`."""
        try:
            self.launch()
            self.wait_ready()
        except BaseException:
            self.stop(fast=True)
            raise
        return self._address()

    def prepare(self) -> None:
        """Takes the folder for this process; chooses ports and secrets. Raises `StartError`."""
        if self._owner_lock is not None:
            return
        self._program()
        self.data_dir = make_folder(self.data_dir, needed_bytes=self._needed_bytes())
        lock = take_lock(self.data_dir / "owner.lock")
        if lock is None:
            raise StartError(f"another process already runs {self.called} in {self.data_dir}")
        try:
            before = read_state(self._state_file)
            self._state = self._settle(before)
            if self._state != before:
                self._remember()
        except BaseException:
            os.close(lock)
            raise
        self._owner_lock = lock

    def launch(self) -> None:
        """Starts the server process and returns at once. Also used to start it again after it died. Raises
        `StartError`."""
        if self._child is not None and self._child.poll() is None:
            return
        self.prepare()
        alive = take_lock(self.data_dir / "alive.lock", wait=0.5)
        if alive is None:
            self._end_orphans()
            alive = take_lock(self.data_dir / "alive.lock", wait=_LEAVING)
        if alive is None:
            raise StartError(f"{self.called} of an earlier start in {self.data_dir} still runs: try again in a moment")
        try:
            with folder_errors(self.data_dir):
                self._furnish(alive)
                with open_log(self.log_file) as output:
                    self._log_from = os.fstat(output).st_size
                self._child = self._spawn(alive)
        finally:
            os.close(alive)
        log.info(f"{self.event_prefix}.launched", port=self.port, pid=self._child.pid)  # noqa: G004 - the name of the event

    def wait_ready(self, timeout: float | None = None) -> None:
        """Waits until the server works, for `timeout` seconds (default: `patience`). Raises `StartError`."""
        child = self._child
        if child is None:
            raise StartError(f"{self.called} was not launched")
        wait_until_ready(
            child,
            self._ask,
            self._why_it_ended,
            self.called,
            self.log_file,
            self.patience if timeout is None else timeout,
        )
        log.info(f"{self.event_prefix}.ready", port=self.port, pid=child.pid)  # noqa: G004 - the name of the event

    def stop(self, *, fast: bool = False) -> None:
        """Stops the server and releases the folder. `fast` waits for nothing and loses nothing that was
        acknowledged."""
        if self._child is not None:
            self._end(self._child, fast=fast)
            self._child = None
            log.info(f"{self.event_prefix}.stopped", port=self.port)  # noqa: G004 - the name of the event
        if self._owner_lock is not None:
            os.close(self._owner_lock)
            self._owner_lock = None

    @property
    def _state_file(self) -> Path:
        return self.data_dir / f"{self.file_prefix}.json"

    def _remember(self) -> None:
        """Writes the values that must be the same at the next start."""
        write_state(self._state_file, self._state)

    def _said(self, lines: int) -> str:
        """The last lines that the server wrote since it was launched."""
        return log_tail(self.log_file, self._log_from, lines)

    @abstractmethod
    def _address(self) -> AddressT:
        """The server's address. Known after `prepare`."""

    @abstractmethod
    def _program(self) -> Path:
        """The server's program. Raises `StartError`, which names what to install."""

    @abstractmethod
    def _needed_bytes(self) -> int:
        """Bytes that must be free on the folder's disk."""

    @abstractmethod
    def _settle(self, before: Mapping[str, str]) -> dict[str, str]:
        """Chooses ports and secrets: the remembered ones, where they are still usable."""

    def _end_orphans(self) -> None:
        """Ends processes of an earlier start that would not end by themselves."""

    @abstractmethod
    def _furnish(self, alive: int) -> None:
        """Prepares the folder for the server. Children that write to it inherit `alive`."""

    @abstractmethod
    def _spawn(self, alive: int) -> Child:
        """Starts the process, which inherits `alive`."""

    @abstractmethod
    def _ask(self) -> str:
        """Empty when the server works; otherwise its answer. May raise the errors of a connection."""

    @abstractmethod
    def _why_it_ended(self) -> str:
        """A line for the operator with the reason from its log."""

    @abstractmethod
    def _end(self, child: Child, *, fast: bool) -> None:
        """Stops the process; `fast` kills it."""


def wait_until_ready(
    child: Child, ask: Callable[[], str], why_it_ended: Callable[[], str], called: str, log_file: Path, timeout: float
) -> None:
    """Waits until `ask` returns an empty text. Raises `StartError` when `child` ends first, and after `timeout`
    seconds."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            said = ask()
        except (OSError, http.client.HTTPException) as error:
            said = str(error) or type(error).__name__
        if not said:
            return
        if child.poll() is not None:
            raise StartError(why_it_ended())
        if time.monotonic() >= deadline:
            raise StartError(f"{called} is not ready after {timeout:.0f} s ({said}): see {log_file}")
        pause(0.01)
