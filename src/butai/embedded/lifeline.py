"""The controller as a service of `butai up`, and how its relays learn that `up` is gone.

A relay outlives its controller on purpose: the next one adopts it. `butai up` has no next one. It holds one end of a pair
of sockets and hands the other to the controller (`BUTAI_LIFELINE_FD`), which hands it on to every relay: when reading it
meets the end, `up` has stopped or died in whatever way, and the relay ends. Nothing is ever written to it.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from butai.embedded.process import pause
from butai.embedded.supervisor import Program

log = structlog.get_logger(__name__)

VARIABLE = "BUTAI_LIFELINE_FD"
_LAST_WORDS = 9.0
"""Seconds for relays to say goodbye to the platforms and the room. Each ends itself after 8, whatever hangs."""


class ControllerProgram(Program):
    """`butai controller` with a lifeline: `stop` ends the relays, too."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], log_file: Path) -> None:
        self._lifeline = Lifeline()
        descriptor = self._lifeline.descriptor
        super().__init__(argv, {**env, VARIABLE: str(descriptor)}, log_file, pass_fds=[descriptor])

    def stop(self, *, fast: bool = False) -> None:
        """The controller first, so that nobody starts anew what ends. `fast` waits for nothing."""
        super().stop(fast=fast)
        if not self._lifeline.cut(0.0 if fast else _LAST_WORDS):
            log.warning("controller.relays_left")


class Lifeline:
    """Held by one process until `cut`, or its end."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()

    @property
    def descriptor(self) -> int:
        """What children inherit, under the same number."""
        return self._theirs.fileno()

    def cut(self, patience: float) -> bool:
        """Tell whoever holds the other end. Returns whether nobody does any more, after `patience` seconds at most.

        May be called again, as after a `StopRequested`.
        """
        self._theirs.close()
        if self._ours.fileno() < 0:
            return True
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_WR)
        self._ours.settimeout(0)
        deadline = time.monotonic() + patience
        while True:
            try:
                # Nothing is ever sent here: readable is the end.
                self._ours.recv(1)
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                pause(left, [self._ours.fileno()])
                continue
            except OSError:
                pass
            self._ours.close()
            return True
