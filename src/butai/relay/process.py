"""The relay as a process: its lock, its signals, its log, and an end that never looks like a crash.

Exit status: 0 after any end that was asked for or is in order; 1 when the media broke; 2 when it cannot start; 3 when
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
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

import av.logging
import structlog
import uvloop

from butai.config import LogSettings
from butai.log import configure
from butai.relay.server import Relay

log = structlog.get_logger(__name__)

END_PATIENCE = 8.0
"""Seconds that the end may take: 2 for the outputs, 2 for each stream and for leaving the room, some to spare."""
LONGEST_SOCKET_PATH = 107
"""Bytes (unix(7): `sun_path` has 108, one is the end)."""

EXIT_CRASHED, EXIT_CANNOT_START, EXIT_RUNNING_ALREADY = 1, 2, 3


class RelayStartError(Exception):
    """The relay cannot start. `status`: to exit with. The text is one line for a person."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def main(arguments: Sequence[str] | None = None) -> int:
    """`python -m butai.relay`. Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="butai.relay", description="Carries one broadcast from a LiveKit room to RTMP."
    )
    parser.add_argument("--folder", type=Path, required=True, help="where its socket and lock are")
    parser.add_argument("--broadcast", required=True, help="the broadcast's id")
    parser.add_argument("--lifeline-fd", type=int, help="a pipe whose end means that the parent is gone")
    given = parser.parse_args(arguments)
    sys.stderr = _Lasting(sys.stderr)
    configure(LogSettings())
    for noisy in ("livekit", "libav"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    av.logging.set_level(av.logging.ERROR)
    structlog.contextvars.bind_contextvars(broadcast_id=given.broadcast)
    try:
        with _lock(given.folder, given.broadcast) as socket_path:
            reason = uvloop.run(_serve(socket_path, given.broadcast, given.lifeline_fd))
    except RelayStartError as error:
        print(f"butai relay: {error}", file=sys.stderr)  # noqa: T201
        return error.status
    return EXIT_CRASHED if reason == "crashed" else 0


class _Lasting(io.TextIOBase):
    """stderr, and nothing once nobody reads it: a relay outlives the controller that holds the other end."""

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stderr.flush()


async def _serve(socket_path: Path, broadcast_id: str, lifeline: int | None) -> str:
    loop = asyncio.get_running_loop()

    def limit() -> None:
        # Whatever hangs in native code, the process goes.
        late = threading.Timer(END_PATIENCE, os._exit, (EXIT_CRASHED,))
        late.daemon = True
        late.start()

    relay = Relay(socket_path, broadcast_id, ending=limit)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, relay.end, "stopped")
    if lifeline is not None:
        _watch(loop, lifeline, relay.end)
    try:
        reason = await relay.run()
    except OSError as error:
        raise RelayStartError(EXIT_CANNOT_START, f"the socket cannot be made: {error.strerror}") from error
    log.info("relay.ended", reason=reason)
    return reason


def _watch(loop: asyncio.AbstractEventLoop, lifeline: int, end: Callable[[str], None]) -> None:
    try:
        os.set_blocking(lifeline, False)
    except OSError as error:
        raise RelayStartError(EXIT_CANNOT_START, f"--lifeline-fd: {error.strerror}") from error

    def readable() -> None:
        with contextlib.suppress(BlockingIOError):
            if os.read(lifeline, 1024):
                return
            loop.remove_reader(lifeline)
            end("stopped")

    loop.add_reader(lifeline, readable)


@contextlib.contextmanager
def _lock(folder: Path, broadcast_id: str) -> Iterator[Path]:
    """Holds the broadcast for this process; gives the path of its socket. Raises `RelayStartError`."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", broadcast_id):
        raise RelayStartError(EXIT_CANNOT_START, "a broadcast's id has letters, digits, - and _, at most 64")
    socket_path = folder.absolute() / f"{broadcast_id}.sock"
    if len(os.fsencode(socket_path)) > LONGEST_SOCKET_PATH:
        raise RelayStartError(
            EXIT_CANNOT_START, f"{socket_path} is longer than {LONGEST_SOCKET_PATH} bytes: take a shorter folder"
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
        # Still ours: who waits for it sees that its file is gone and makes another.
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
        # The one before may have removed the file between our open and our lock.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock_path.stat()):
                return descriptor
        os.close(descriptor)
