"""The priority of a relay while it starts: below that of the relays on the same cores that are on air."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Generator
from pathlib import Path

STEPS = 10
"""Steps of nice(2) below the usual one: a tenth of the processor's time where others want all of it."""

GROUP = Path("/proc/self/autogroup")
"""The nice value of the session's group, by sched(7): where Linux makes such groups, that of a thread counts within its
group alone."""

GROUP_PAUSE = 0.15
"""Most seconds between two tries to set a group back. Linux takes ten changes a second from all users but root together, of
all groups of the machine (proc_sched_autogroup_set_nice)."""

GROUP_TRIES = 30
"""Tries to set a group back: relays that started together do so at the same moment."""

log = logging.getLogger(__name__)
"""Not structlog's, which is not loaded yet, or not set up."""


@contextlib.contextmanager
def low_priority() -> Generator[None]:
    """Lowers the priority of the calling thread, of threads begun meanwhile, and of the process's session if it leads one,
    while the block runs."""
    with _low_group(), _low_thread():
        yield


@contextlib.contextmanager
def _low_thread() -> Generator[None]:
    """Does nothing where the process may not raise it again: without CAP_SYS_NICE that needs RLIMIT_NICE."""
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


@contextlib.contextmanager
def _low_group() -> Generator[None]:
    """Does nothing in a session that others lead, and where Linux makes no such groups. One with a nice value of 0 or more
    may be set back by its user."""
    usual = _group() if os.getsid(0) == os.getpid() else None
    if usual is None or usual < 0 or not _set_group(min(usual + STEPS, 19)):
        yield
        return
    try:
        yield
    finally:
        _set_group_back(usual)


def _set_group_back(usual: int) -> None:
    for _ in range(GROUP_TRIES):
        if _set_group(usual):
            return
        time.sleep(random.uniform(0.02, GROUP_PAUSE))  # noqa: S311 - spreads the tries, keeps no secret
    log.warning("The priority of this relay stays low: the system refused to set it back %d times", GROUP_TRIES)


def _group() -> int | None:
    try:
        # Such as "/autogroup-25 nice 0".
        return int(GROUP.read_text().rsplit(maxsplit=1)[-1])
    except (OSError, ValueError, IndexError):
        return None


def _set_group(nice: int) -> bool:
    try:
        GROUP.write_text(str(nice))
    except OSError:
        return False
    return True
