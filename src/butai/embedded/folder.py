"""A folder that one process owns: its lock, its secrets, and the ports it had before.

Every fault of a folder becomes a `StartError` of one line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import random
import socket
import sys
import time
from collections import deque
from collections.abc import Generator, Mapping
from pathlib import Path

from butai.embedded.process import StartError, pause

_PORTS = range(20000, 32768)
"""The range of remembered ports: below the range that Linux gives to outgoing connections (32768 and up),
so that no connection takes a remembered port while Butai is stopped."""

PORTS_FOR_ONE_RUN = range(10000, 20000)
"""The range of ports for one run: apart from the remembered ones, which a service that has not started yet may need."""

_given: set[int] = set()
"""Ports that this process has chosen at random. Services choose theirs before any of them listens, so a port that looks
free may be chosen already."""

_told: deque[socket.socket] = deque()
"""The newest of these, announced to other processes that choose at the same time: each is an abstract socket, whose
name only one process on this machine can have, and which ends with the process."""

_MOST_TOLD = 64
"""Most announced ports. When there are so many, the first already listens."""


def make_folder(path: Path, *, needed_bytes: int) -> Path:
    """Creates the folder (0700) if it is missing; checks that it can be written to and has `needed_bytes` free.

    Returns the absolute path. Raises `StartError`.
    """
    path = path.expanduser().absolute()
    with folder_errors(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe-{os.getpid()}"
        try:
            probe.write_bytes(b"x" * 4096)
        finally:
            with contextlib.suppress(OSError):
                probe.unlink()
        space = os.statvfs(path)
    free = space.f_bavail * space.f_frsize
    if free < needed_bytes:
        raise full(path, f"{free // 1024**2} MiB are free, {needed_bytes // 1024**2} MiB are required")
    return path


@contextlib.contextmanager
def folder_errors(path: Path) -> Generator[None]:
    """Turns an `OSError` from below `path` into a `StartError` of one line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise full(path, "nothing more can be written") from error
        if error.errno == errno.EROFS:
            raise read_only(path) from error
        if error.errno in (errno.EACCES, errno.EPERM):
            raise StartError(
                f"the data folder {path} may not be written to by this user: change its owner, "
                "or choose another with --data-dir"
            ) from error
        if error.errno in (errno.ENOTDIR, errno.EEXIST):
            raise StartError(f"the data folder {path} is not a folder: choose another with --data-dir") from error
        raise StartError(f"the data folder {path} cannot be used: {error.strerror or error}") from error


def full(path: Path, detail: str) -> StartError:
    """The error of a full disk below `path`."""
    return StartError(f"the data folder {path} is full ({detail}): make room, or choose another with --data-dir")


def read_only(path: Path) -> StartError:
    """The error of a read-only file system."""
    return StartError(f"the data folder {path} is read-only: choose another with --data-dir")


def take_lock(path: Path, *, wait: float = 0.0) -> int | None:
    """The descriptor that holds the lock on the file `path`, or None when another process still holds it after `wait`
    seconds.

    The lock belongs to the open file: a child that inherits the descriptor keeps it until it exits,
    by which the next start knows that no process of the last one still runs.
    """
    with folder_errors(path.parent):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            pause(0.01)


def read_state(path: Path) -> dict[str, str]:
    """The names and values of a state file; empty without one. Raises `StartError` for a torn or foreign file."""
    with folder_errors(path.parent):
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError:
            return {}
        except ValueError:
            state = None
    if not isinstance(state, dict) or not all(isinstance(value, str) for value in state.values()):
        raise StartError(f"{path} cannot be read as JSON: restore it from a copy, or remove it to start afresh")
    return state


def write_state(path: Path, state: Mapping[str, str]) -> None:
    """Writes a state file completely or not at all; it is on disk when this returns, and readable by its owner only."""
    scratch = path.with_name(path.name + ".new")
    with folder_errors(path.parent):
        write_secret_json(scratch, dict(state))
        scratch.replace(path)
        sync_folder(path.parent)


def write_secret_json(path: Path, content: object) -> None:
    """Writes a file with secrets: on disk when this returns, readable by its owner only. Raises `OSError`."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable (a rename is not, until its folder is synced)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def port_is_free(port: int) -> bool:
    """Whether a server could listen on 127.0.0.1:`port` now."""
    with socket.socket() as probe:
        # With the option that servers use: a port whose last connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen(1)
        except OSError:
            return False
    return True


def choose_port(
    remembered: str | None = None, *, avoid: set[int] | None = None, twin: int = 0, among: range = _PORTS
) -> int:
    """The remembered port if it is free, else any free one that was not chosen yet, by this process or another.

    With `twin`, the port `twin` above it is free and not chosen either, and counts as chosen from now on.
    """
    avoid = avoid or set()

    def fits(port: int) -> bool:
        return port not in avoid and port_is_free(port) and (not twin or port_is_free(port + twin))

    if remembered and fits(int(remembered)):
        return int(remembered)
    for _ in range(200):
        port = random.randrange(among.start, among.stop - twin)  # noqa: S311 - any free port will do
        both = {port, port + twin}
        if both.isdisjoint(_given) and fits(port) and all(_tell(one) for one in both):
            _given.update(both)
            return port
    raise StartError(f"no free port found between {among.start} and {among.stop} on 127.0.0.1")


def _tell(port: int) -> bool:
    """Announces a port. Returns False when another process has just chosen it."""
    if sys.platform != "linux":
        return True
    name = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        name.bind(f"\0butai-port-{port}")
    except OSError:
        name.close()
        return False
    _told.append(name)
    if len(_told) > _MOST_TOLD:
        _told.popleft().close()
    return True
