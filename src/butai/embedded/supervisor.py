"""Keeps a set of services running, and stops them in order.

Everything happens in the main thread: children die with the thread that forked them, and
a signal ends the current wait (`butai.embedded.process`).
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import structlog

from butai.config import SECRETS_FILE
from butai.embedded.process import Child, StartError, StopRequested, wait_for_any
from butai.embedded.unprivileged import secret_file

log = structlog.get_logger(__name__)

FIRST_DELAY = 0.2
"""Seconds before a service that died is started again; doubled each time it dies again soon."""
LONGEST_DELAY = 5.0
STEADY = 10.0
"""Seconds of running after which a service counts as healthy: its next restart waits `FIRST_DELAY` again."""


class Service(Protocol):
    """A service that can be kept running, such as `EmbeddedPostgres` or `Program`."""

    @property
    def child(self) -> Child | None:
        """The process, once launched; it may have ended."""
        ...

    def launch(self) -> None:
        """Starts the process and returns at once; again after it died. Raises `StartError`."""
        ...

    def stop(self, *, fast: bool = False) -> None:
        """Ends the process. `fast` kills it."""
        ...


def start_program(
    argv: Sequence[str],
    env: Mapping[str, str],
    secrets: Mapping[str, str],
    log_file: Path,
    pass_fds: Sequence[int] = (),
) -> Child:
    """Starts one of our own commands. It gets `secrets`, settings by their names in the environment, in a file in memory that it
    closes when it has read it: other processes of the same user can read an environment. Raises `StartError`."""
    with secret_file(json.dumps(dict(secrets)), None) as descriptor:
        environment = {**env, SECRETS_FILE: f"/proc/self/fd/{descriptor}"}
        return Child(argv, env=environment, log=log_file, pass_fds=[*pass_fds, descriptor])


class Program:
    """One of our own commands as a service: the API, the worker, the controller."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        log_file: Path,
        *,
        secrets: Mapping[str, str] | None = None,
        patience: float = 12.0,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """`secrets`: settings that are not to be in its environment. `patience`: seconds after SIGTERM before it is killed; our
        commands give their current work ten."""
        self._argv, self._env, self.log_file, self._patience = argv, env, log_file, patience
        self._secrets, self._pass_fds = secrets or {}, pass_fds
        self._child: Child | None = None

    @property
    def child(self) -> Child | None:
        """The process, once launched."""
        return self._child

    def launch(self) -> None:
        """Starts the process, without waiting."""
        self._child = start_program(self._argv, self._env, self._secrets, self.log_file, self._pass_fds)

    def stop(self, *, fast: bool = False) -> None:
        """Sends SIGTERM, or SIGKILL with `fast`."""
        if self._child is not None:
            self._child.stop(signal.SIGKILL if fast else signal.SIGTERM, self._patience)
            self._child = None


@dataclass
class _Watched:
    name: str
    service: Service
    delay: float = FIRST_DELAY
    launched_at: float = 0.0
    launch_at: float | None = None
    """The time of its next start (monotonic); None while it runs."""
    silent: bool = False
    """Whether the reason of a failed start was reported; not reported again until it ran."""


@dataclass
class Supervisor:
    """Runs services: `add` each, `launch` it, then `watch` until a signal comes; `stop` in any case.

    `say(name, text)` prints a line at the terminal.
    """

    say: Callable[[str, str], None]
    _watched: list[_Watched] = field(default_factory=list)

    def add(self, name: str, service: Service) -> None:
        """Adds a service. Services are stopped in the reverse order, so only later ones may depend on it."""
        self._watched.append(_Watched(name, service))

    def launch(self, service: Service) -> None:
        """Starts an added service and keeps it running. Raises `StartError`."""
        watched = next(one for one in self._watched if one.service is service)
        service.launch()
        watched.launched_at = time.monotonic()

    def launch_in(self, seconds: float, service: Service) -> None:
        """Lets `watch` start an added service so many seconds from now, and keep it running."""
        watched = next(one for one in self._watched if one.service is service)
        watched.launch_at = time.monotonic() + seconds

    def watch(self, look: Callable[[], None] | None = None, every: float = 30.0) -> None:
        """Restarts each service that dies, until `StopRequested`. `look` is called every `every` seconds."""
        next_look = time.monotonic() + every
        while True:
            now = time.monotonic()
            for watched in self._watched:
                self._tend(watched, now)
            if look is not None and now >= next_look:
                look()
                next_look = now + every
            due = [watched.launch_at for watched in self._watched if watched.launch_at is not None]
            running = [one.service.child for one in self._watched if one.launch_at is None and one.service.child]
            wait_for_any(running, min([*due, next_look]) - now)

    def _tend(self, watched: _Watched, now: float) -> None:
        child = watched.service.child
        if watched.launch_at is None:
            status = child.poll() if child is not None else None
            if child is None or status is None:
                return
            if now - watched.launched_at >= STEADY:
                watched.delay = FIRST_DELAY
            watched.launch_at = now + watched.delay
            log.warning("service.ended", service=watched.name, status=status, again_in=watched.delay)
            self.say(watched.name, f"ended ({describe(status)}); starting it again")
            watched.delay = min(watched.delay * 2, LONGEST_DELAY)
        elif now >= watched.launch_at:
            try:
                watched.service.launch()
            except StartError as error:
                watched.launch_at = now + LONGEST_DELAY
                if not watched.silent:
                    self.say(watched.name, f"cannot start: {error}")
                watched.silent = True
            else:
                watched.launch_at, watched.launched_at, watched.silent = None, time.monotonic(), False
                log.info("service.launched", service=watched.name)

    def stop(self) -> None:
        """Stops everything, the last added first. A signal meanwhile makes it fast."""
        fast = False
        while self._watched:
            try:
                self._watched[-1].service.stop(fast=fast)
                self._watched.pop()
            except StopRequested:
                self.say("butai", "stopping at once")
                fast = True


def describe(status: int) -> str:
    """`killed by SIGKILL`, or `exit status 3`."""
    if status < 0:
        try:
            return f"killed by {signal.Signals(-status).name}"
        except ValueError:
            return f"killed by signal {-status}"
    return f"exit status {status}"
