"""The priority of a relay while it starts: below that of the relays on the same cores that are on air."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Generator

STEPS = 10
"""Steps of nice(2) below the usual one: a tenth of the processor's time where others want all of it."""


@contextlib.contextmanager
def low_priority() -> Generator[None]:
    """Lowers the priority of the calling thread, and of threads begun meanwhile, while the block runs. Does nothing where
    the process may not raise it again: without CAP_SYS_NICE that needs RLIMIT_NICE."""
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    if not _may_return(usual):
        yield
        return
    os.setpriority(os.PRIO_PROCESS, 0, min(usual + STEPS, 19))
    try:
        yield
    finally:
        os.setpriority(os.PRIO_PROCESS, 0, usual)


def _may_return(usual: int) -> bool:
    """Tries it in another thread, since on Linux each has a priority of its own: limits, capabilities, user namespaces and
    filters of system calls decide together."""
    returned = False

    def attempt() -> None:
        nonlocal returned
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, min(usual + 1, 19))
            os.setpriority(os.PRIO_PROCESS, 0, usual)
            returned = True

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return returned
