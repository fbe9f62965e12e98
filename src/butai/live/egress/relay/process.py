"""Processes of relays and the folder of their sockets: starts, finds, watches and kills them.

A relay outlives its controller, even a killed one, so it runs in a session of its own and without a parent-death
signal. Whether the relay of an earlier controller runs, and its process id, comes from the kernel (SO_PEERCRED, flock,
pidfd)."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import structlog

from butai.live.reconcile.timing import Timing

log = structlog.get_logger(__name__)

PARENT_PIPE = "BUTAI_LIFELINE_FD"
"""The environment variable with the descriptor of an inherited pipe or socket, whose other end is held by the parent of
all processes. Relays inherit it too, and end when the other end is closed."""

LOCKS = Path("/proc/locks")

_PASSED = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "SSL_CERT_", "BUTAI_LOG_")
EXIT_RUNNING_ALREADY = 3
"""A relay's exit status when another one runs this broadcast."""


_detached: list[subprocess.Popen[bytes]] = []
"""Children that run on without a watcher; reaped at the next start, once they have ended."""


class FolderRefused(Exception):
    """The relay folder belongs to another user, or cannot be made."""


def prepare_folder(folder: Path, logs_kept: float = Timing().logs_kept) -> Path:
    """Makes the folder, or checks that it is a directory of this user, and sets its mode to 0700.

    Deletes logs of relays that are older than `logs_kept` seconds.

    Returns its absolute path. Raises `FolderRefused`.
    """
    folder = folder.absolute()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise FolderRefused(f"{folder}: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise FolderRefused(f"{folder} is not a directory of this user: name another one in BUTAI_RELAY_FOLDER")
    folder.chmod(0o700)
    for old in folder.glob("*.log"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > logs_kept:
                old.unlink()
    return folder


def relay_environment() -> dict[str, str]:
    """The environment of a relay: an allowlist, without secrets and without the database's URL."""
    return {
        name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    } | {"PYTHONUNBUFFERED": "1"}


def parent_pipe() -> int | None:
    """The inherited descriptor that `PARENT_PIPE` names; None without one."""
    given = os.environ.get(PARENT_PIPE, "")
    if not given.isdigit():
        return None
    with contextlib.suppress(OSError):
        os.fstat(int(given))
        return int(given)
    log.warning("relay.no_parent_pipe", descriptor=given)
    return None


def spawn(command: Sequence[str], folder: Path, broadcast_id: str) -> subprocess.Popen[bytes]:
    """Starts a relay's process, which logs to `<broadcast_id>.log`. Raises `OSError`."""
    return _spawn(command, folder, ["--broadcast", broadcast_id], broadcast_id)


def spawn_standby(command: Sequence[str], folder: Path, channel: socket.socket) -> subprocess.Popen[bytes]:
    """Starts a relay's process that takes its broadcast's id over `channel` (`butai.relay.standby`). Raises `OSError`."""
    return _spawn(command, folder, ["--standby"], "standby", channel)


def _spawn(
    command: Sequence[str], folder: Path, which: Sequence[str], log_name: str, channel: socket.socket | None = None
) -> subprocess.Popen[bytes]:
    _detached[:] = [child for child in _detached if child.poll() is None]
    argv = [*command, "--folder", str(folder), *which]
    descriptor = parent_pipe()
    if descriptor is not None:
        argv += ["--parent-pipe-fd", str(descriptor)]
    out = os.open(folder / f"{log_name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL if channel is None else channel.fileno(),
            stdout=out,
            stderr=out,
            env=relay_environment(),
            start_new_session=True,
            pass_fds=() if descriptor is None else (descriptor,),
        )
    finally:
        os.close(out)


class WatchedProcess:
    """A process by its pidfd, child or not: `ended` is set as soon as it has ended."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Raises `ProcessLookupError`."""
        self.pid, self._child = pid, child
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._set_ended)

    def _set_ended(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._child is not None:
            self._child.poll()
        self.ended.set()

    @property
    def status(self) -> int | None:
        """The exit status of a child that has ended; None otherwise."""
        return self._child.poll() if self._child is not None else None

    def is_gone(self) -> bool:
        """Whether the process has ended, according to the kernel."""
        if not self.ended.is_set() and select.select([self._descriptor], [], [], 0)[0]:
            self._set_ended()
        return self.ended.is_set()

    def kill(self) -> None:
        """Sends SIGKILL to this process, never to another one that has its number by now."""
        if self._descriptor < 0:
            return
        # One with the rights of another user cannot be killed, and is waited for in vain.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    async def end(self, seconds: float) -> None:
        """Kills the process, and waits for at most `seconds` until the kernel has ended it."""
        self.kill()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()

    def close(self) -> None:
        """Stops watching. The process continues."""
        if not self.ended.is_set():
            self._loop.remove_reader(self._descriptor)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._child is not None and self._child.poll() is None:
            _detached.append(self._child)


def lock_holder(path: Path) -> int | None:
    """The id of the process that holds a lock file (flock); None if it is free, 0 if its holder cannot be seen."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
    elsewhere: list[int] = []
    # proc_locks(5): "1: FLOCK  ADVISORY  WRITE 2304 fe:01:131076 0 EOF"
    for line in LOCKS.read_text().splitlines():
        parts = line.split()
        if len(parts) > 5 and parts[1] == "FLOCK" and int(parts[4]) > 0:
            its_device, _, inode = parts[5].rpartition(":")
            if inode == str(found.st_ino):
                if its_device == device:
                    return int(parts[4])
                elsewhere.append(int(parts[4]))
    # Some filesystems (btrfs, overlay) have another device in stat(2) than in this list.
    return next((pid for pid in elsewhere if os.fsencode(path.parent) in _arguments(pid)), 0)


def is_relay(pid: int, folder: Path, broadcast_id: str) -> bool:
    """Whether a process is a relay with this folder, and has this broadcast or was started on standby: by its command line."""
    arguments = _arguments(pid)
    return os.fsencode(folder) in arguments and (broadcast_id.encode() in arguments or b"--standby" in arguments)


def _arguments(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return []


def peer_pid(writer: asyncio.StreamWriter) -> int:
    """The id of the process that listens at the other end of a unix socket (unix(7): SO_PEERCRED)."""
    size = struct.calcsize("3i")
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", credentials)[0]
