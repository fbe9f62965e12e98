"""The controller as a service of `butai up`, and how its relays learn that `up` has ended.

A relay outlives its controller on purpose: the next one adopts it. After `butai up` there is no next one. It holds one
end of a pair of sockets and gives the other to the controller (`BUTAI_LIFELINE_FD`), which passes it to every relay:
when a read returns the end of file, `up` has stopped or died in any way, and the relay ends. No data is ever written to
it."""

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
"""Seconds for relays to end at the platforms and in the room. Each ends itself after 8, even if a call hangs."""


class ControllerProgram(Program):
    """`butai controller` with a lifeline: `stop` ends the relays, too."""

    def __init__(
        self, argv: Sequence[str], env: Mapping[str, str], log_file: Path, *, secrets: Mapping[str, str] | None = None
    ) -> None:
        self._lifeline = Lifeline()
        descriptor = self._lifeline.descriptor
        super().__init__(argv, {**env, VARIABLE: str(descriptor)}, log_file, secrets=secrets, pass_fds=[descriptor])

    def stop(self, *, fast: bool = False) -> None:
        """Stops the controller first, so that no relay is started again. `fast` waits for nothing."""
        super().stop(fast=fast)
        if not self._lifeline.cut(0.0 if fast else _LAST_WORDS):
            log.warning("controller.relays_left")


class Lifeline:
    """A pair of sockets, held by one process until `cut`, or its end."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()

    @property
    def descriptor(self) -> int:
        """The descriptor that children inherit, under the same number."""
        return self._theirs.fileno()

    def cut(self, patience: float) -> bool:
        """Closes our end, which tells all holders of the other end. Returns whether none holds it any more, after at
        most `patience` seconds.

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
                # No data is ever sent here: readable means the end of file.
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
