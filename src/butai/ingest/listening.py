"""The listening socket of the ingest, and how a new process takes it over from the one that runs.

The processes talk over a unix socket in a folder of theirs (mode 0700). The new one connects; the old one passes its listening
socket on and waits for an answer, after which it accepts no more. Both accept from one queue meanwhile, so no encoder is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

_NAME = "ingest.sock"
_ANSWER_WITHIN = 3.0
"""Seconds for the other process; one that is stopped or hangs keeps its socket."""
_BACKLOG = 1024
_READY = b"y"
_PAUSE = 0.1
"""Seconds after a failed accept, as where no descriptor is left."""


class FolderUnusable(Exception):
    """The socket for a successor cannot be made. The text names its path."""


def control_path(folder: Path) -> Path:
    """The socket at which a running ingest waits for its successor."""
    return folder / _NAME


class Listening:
    """A listening socket, and the right to it until a successor has it. A successor finds it once `announce` was called."""

    def __init__(self, folder: Path, listening: socket.socket) -> None:
        """Raises `FolderUnusable`."""
        self.socket = listening
        self._path = control_path(folder)
        self._bound_at = self._path.with_name(f"{_NAME}.{os.getpid()}")
        try:
            self._control = _bound(self._bound_at)
        except OSError as error:
            raise FolderUnusable(f"{self._path}: {error.strerror or error}") from error
        self._inode: int | None = self._bound_at.stat().st_ino

    def announce(self) -> None:
        """Takes the place of the process that was there."""
        self._bound_at.replace(self._path)

    @property
    def port(self) -> int:
        """The port that encoders connect to."""
        return self.socket.getsockname()[1]

    async def wait_for_successor(self) -> None:
        """Returns when another process has taken the socket over."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                peer, _ = await loop.sock_accept(self._control)
            except OSError as error:
                log.warning("ingest.not_taken_over", error=type(error).__name__)
                await asyncio.sleep(_PAUSE)
                continue
            with peer:
                peer.setblocking(False)  # noqa: FBT003 - has no other form
                try:
                    socket.send_fds(peer, [_READY], [self.socket.fileno()])
                    async with asyncio.timeout(_ANSWER_WITHIN):
                        if await loop.sock_recv(peer, 1) == _READY:
                            return
                except (OSError, TimeoutError) as error:
                    log.warning("ingest.not_taken_over", error=type(error).__name__)

    def close(self) -> None:
        """Closes our descriptors; a successor has its own. May be called again."""
        self.socket.close()
        self._control.close()
        # Once: the number of our file is given to another one later.
        inode, self._inode = self._inode, None
        for path in (self._bound_at, self._path):
            with contextlib.suppress(OSError):
                if path.stat().st_ino == inode:
                    path.unlink()


async def listen(folder: Path, host: str, port: int) -> Listening:
    """Listens at an address, with the socket of the process that does so already if there is one: it accepts no more then. Raises
    `FolderUnusable`, and `OSError`, also where the other process has waited too long."""
    loop = asyncio.get_running_loop()
    predecessor = await _predecessor(folder)
    if predecessor is None:
        found = Listening(folder, _listening(host, port))
        found.announce()
        return found
    with predecessor:
        inherited = await _inherited(predecessor)
        listening = inherited if inherited is not None and await _is_at(inherited, host, port) else None
        if listening is None:
            if inherited is not None:
                inherited.close()
            listening = _listening(host, port)
        taken = Listening(folder, listening)
        if inherited is not None:
            try:
                await loop.sock_sendall(predecessor, _READY)
            except OSError:
                # It accepts still, and is to be found by the next one.
                taken.close()
                raise
        taken.announce()
        log.info("ingest.taken_over", same_socket=listening is inherited)
        return taken


async def _predecessor(folder: Path) -> socket.socket | None:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    peer.setblocking(False)  # noqa: FBT003
    try:
        await asyncio.get_running_loop().sock_connect(peer, str(control_path(folder)))
    except OSError:
        peer.close()
        return None
    return peer


async def _inherited(predecessor: socket.socket) -> socket.socket | None:
    """The listening socket that the other process passes on; None where it does not answer."""
    readable = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(predecessor, readable.set)
    try:
        async with asyncio.timeout(_ANSWER_WITHIN):
            await readable.wait()
        _, descriptors, _, _ = socket.recv_fds(predecessor, 1, 1)
    except (OSError, TimeoutError):
        return None
    finally:
        loop.remove_reader(predecessor)
    return socket.socket(fileno=descriptors[0]) if descriptors else None


async def _is_at(listening: socket.socket, host: str, port: int) -> bool:
    """Whether a socket listens where we are to listen. Port 0: anywhere at this address."""
    at = listening.getsockname()
    with contextlib.suppress(OSError):
        ask = asyncio.get_running_loop().getaddrinfo
        found = await ask(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        return any(family == listening.family and at[0] == to[0] and port in (0, at[1]) for family, *_, to in found)
    return False


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server(
        (host, port), family=family, backlog=_BACKLOG, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
    )


def _bound(path: Path) -> socket.socket:
    """A listening unix socket, in the place of one that a process of the same number has left."""
    path.unlink(missing_ok=True)
    control = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        control.bind(str(path))
        control.listen(4)
    except OSError:
        control.close()
        raise
    finally:
        os.umask(before)
    control.setblocking(False)  # noqa: FBT003
    return control
