"""Relay processes and their folder: made, found by their socket, watched, ended. Used by `butai.live.egress.relay.engine`.

A relay outlives its controller, even one that is killed, so it is in a session of its own and wants no death signal;
whether a relay of an earlier controller lives, and its process id, the kernel says (SO_PEERCRED, pidfd).
"""

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

log = structlog.get_logger(__name__)

LIFELINE = "BUTAI_LIFELINE_FD"
"""Names an inherited pipe or socket in our environment; relays get it too, and end when its other end is gone."""

_PASSED = ("PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH")
_PASSED_PREFIXES = ("LC_", "SSL_CERT_", "BUTAI_LOG_")
LOG_DAYS = 7
"""Days that a relay's log is kept."""
EXIT_RUNNING_ALREADY = 3
"""A relay's exit status when another one runs this broadcast."""


_left: list[subprocess.Popen[bytes]] = []
"""Children that run on without us; collected when they have ended, at the next start."""


class FolderRefused(Exception):
    """The relay folder is not this user's alone."""


def prepare_folder(folder: Path) -> Path:
    """Makes it, or holds it against the rules: ours, a directory, mode 0700. Raises `FolderRefused`."""
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
            if time.time() - old.stat().st_mtime > LOG_DAYS * 86400:
                old.unlink()
    return folder


def environment() -> dict[str, str]:
    """What a relay gets of ours: no secret, no address of the database."""
    return {
        name: value for name, value in os.environ.items() if name in _PASSED or name.startswith(_PASSED_PREFIXES)
    } | {"PYTHONUNBUFFERED": "1"}


def lifeline() -> int | None:
    """The inherited descriptor, where there is one."""
    given = os.environ.get(LIFELINE, "")
    if not given.isdigit():
        return None
    with contextlib.suppress(OSError):
        os.fstat(int(given))
        return int(given)
    log.warning("relay.no_lifeline", descriptor=given)
    return None


def spawn(command: Sequence[str], folder: Path, broadcast_id: str) -> subprocess.Popen[bytes]:
    """Starts a relay. Raises `OSError`."""
    _left[:] = [child for child in _left if child.poll() is None]
    argv = [*command, "--folder", str(folder), "--broadcast", broadcast_id]
    descriptor = lifeline()
    if descriptor is not None:
        argv += ["--lifeline-fd", str(descriptor)]
    out = os.open(folder / f"{broadcast_id}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=environment(),
            start_new_session=True,
            pass_fds=() if descriptor is None else (descriptor,),
        )
    finally:
        os.close(out)


class Watched:
    """A process by its pidfd: `ended` is set as soon as it is gone, whoever's child it is."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """Raises `ProcessLookupError`."""
        self.pid, self._child = pid, child
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._descriptor = os.pidfd_open(pid)
        self._loop.add_reader(self._descriptor, self._gone)

    def _gone(self) -> None:
        self._loop.remove_reader(self._descriptor)
        if self._child is not None:
            self._child.poll()
        self.ended.set()

    @property
    def status(self) -> int | None:
        """The exit status of a child that has ended."""
        return self._child.poll() if self._child is not None else None

    def is_gone(self) -> bool:
        """Whether it has ended, asked of the kernel."""
        if not self.ended.is_set() and select.select([self._descriptor], [], [], 0)[0]:
            self._gone()
        return self.ended.is_set()

    def kill(self) -> None:
        """SIGKILL, to this process and no other that may have its number by now."""
        if self._descriptor < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, signal.SIGKILL)

    def close(self) -> None:
        """No more watching. The child, if it is one, is left as it is."""
        if not self.ended.is_set():
            self._loop.remove_reader(self._descriptor)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        if self._child is not None and self._child.poll() is None:
            _left.append(self._child)


def lock_holder(path: Path) -> int | None:
    """The process that holds a lock file (flock); None when nobody does, 0 when who cannot be seen."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return None
    except BlockingIOError:
        inode = os.fstat(descriptor).st_ino
    finally:
        os.close(descriptor)
    # proc_locks(5): "1: FLOCK  ADVISORY  WRITE 2304 fe:01:131076 0 EOF"
    for line in Path("/proc/locks").read_text().splitlines():
        parts = line.split()
        if len(parts) > 5 and parts[1] == "FLOCK" and parts[5].rpartition(":")[2] == str(inode) and int(parts[4]) > 0:
            return int(parts[4])
    return 0


def peer(writer: asyncio.StreamWriter) -> int:
    """The process that listens at the other end of a unix socket (unix(7): SO_PEERCRED)."""
    size = struct.calcsize("3i")
    credentials = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    return struct.unpack("3i", credentials)[0]
