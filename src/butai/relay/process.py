"""The process of a relay: its lock, signals, log, and exit.

Exit status: 0 after an ordered or orderly end; 1 when the media pipeline failed; 2 when the relay cannot start; 3 when
another relay runs this broadcast.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TextIO

import av.logging
import structlog
import uvloop

from butai.config import LogSettings
from butai.log import configure
from butai.relay.server import Relay
from butai.relay.standby import RELAY_NAME, is_broadcast_id, name_process, wait_for_broadcast

log = structlog.get_logger(__name__)

LONGEST_SOCKET_PATH = 107
"""Bytes (unix(7): `sun_path` has 108, one of them for the NUL)."""

EXIT_CRASHED, EXIT_CANNOT_START, EXIT_RUNNING_ALREADY = 1, 2, 3


class RelayStartError(Exception):
    """The relay cannot start. `status`: the exit status. The text is one line for operators."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a relay until its end. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="butai.relay", description="Carries one broadcast from a LiveKit room to RTMP."
    )
    parser.add_argument("--folder", type=Path, required=True, help="the folder of its socket and lock")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--broadcast", help="the broadcast's id")
    which.add_argument("--standby", action="store_true", help="the id comes over a socket that is the standard input")
    parser.add_argument("--parent-pipe-fd", type=int, help="an inherited pipe, closed when the parent is gone")
    options = parser.parse_args(arguments)
    sys.stderr = _OptionalStderr(sys.stderr)
    configure(LogSettings())
    for noisy in ("livekit", "libav"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    av.logging.set_level(av.logging.ERROR)
    name_process(RELAY_NAME)
    broadcast_id = wait_for_broadcast(options.folder) if options.standby else options.broadcast
    if broadcast_id is None:
        return 0
    structlog.contextvars.bind_contextvars(broadcast_id=broadcast_id)
    try:
        with _lock(options.folder, broadcast_id) as socket_path:
            reason = uvloop.run(_serve(socket_path, broadcast_id, options.parent_pipe_fd))
    except RelayStartError as error:
        print(f"butai relay: {error}", file=sys.stderr)  # noqa: T201
        return error.status
    return EXIT_CRASHED if reason == "crashed" else 0


class _OptionalStderr(io.TextIOBase):
    """stderr that ignores write errors: a relay outlives the controller that reads its other end."""

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stderr.flush()


async def _serve(socket_path: Path, broadcast_id: str, parent_pipe: int | None) -> str:
    loop = asyncio.get_running_loop()

    def limit() -> None:
        # A call that hangs in native code must not keep the process alive.
        late = threading.Timer(relay.timing.end_limit, os._exit, (EXIT_CRASHED,))
        late.daemon = True
        late.start()

    relay = Relay(socket_path, broadcast_id, ending=limit)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, relay.end, "stopped")
    if parent_pipe is not None:
        _watch_parent(loop, parent_pipe, relay.end)
    try:
        reason = await relay.run()
    except OSError as error:
        raise RelayStartError(EXIT_CANNOT_START, f"the socket cannot be made: {error.strerror}") from error
    log.info("relay.ended", reason=reason)
    return reason


def _watch_parent(loop: asyncio.AbstractEventLoop, parent_pipe: int, end: Callable[[str], None]) -> None:
    try:
        os.set_blocking(parent_pipe, False)
    except OSError as error:
        raise RelayStartError(EXIT_CANNOT_START, f"--parent-pipe-fd: {error.strerror}") from error

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(parent_pipe, 1024):
                return
            loop.remove_reader(parent_pipe)
            end("stopped")

    loop.add_reader(parent_pipe, readable)


@contextlib.contextmanager
def _lock(folder: Path, broadcast_id: str) -> Generator[Path]:
    """Locks the broadcast for this process, and yields the path of its socket. Raises `RelayStartError`."""
    if not is_broadcast_id(broadcast_id):
        raise RelayStartError(EXIT_CANNOT_START, "a broadcast's id has letters, digits, - and _, at most 64")
    socket_path = folder.absolute() / f"{broadcast_id}.sock"
    if len(os.fsencode(socket_path)) > LONGEST_SOCKET_PATH:
        raise RelayStartError(
            EXIT_CANNOT_START, f"{socket_path} is longer than {LONGEST_SOCKET_PATH} bytes: choose a shorter folder"
        )
    lock_path = folder / f"{broadcast_id}.lock"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
        descriptor = _take(lock_path)
    except OSError as error:
        raise RelayStartError(EXIT_CANNOT_START, f"{folder} cannot be used: {error.strerror}") from error
    if descriptor is None:
        raise RelayStartError(EXIT_RUNNING_ALREADY, f"another relay runs {broadcast_id}")
    try:
        yield socket_path
    finally:
        with contextlib.suppress(FileNotFoundError):
            socket_path.unlink()
        # While still locked: a process that waits for the lock sees that the file is gone, and makes another.
        with contextlib.suppress(FileNotFoundError):
            lock_path.unlink()
        os.close(descriptor)


def _take(lock_path: Path) -> int | None:
    while True:
        descriptor = os.open(lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        # The previous holder may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock_path.stat()):
                return descriptor
        os.close(descriptor)
