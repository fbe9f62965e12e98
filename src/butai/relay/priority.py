"""The priority of a relay while it starts: below that of the relays on the same cores that are on air."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Generator
from pathlib import Path

STEPS = 10
"""Steps of nice(2) below the usual one: a tenth of the processor's time where others want all of it."""

LIMIT = 4.0
"""Most seconds at the low priority: where others want all of the processors, a relay needs more than the time that its
controller waits for it (`Timing.relay_start_limit`), in which it would never start. Loading takes one second of a
processor."""

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
def low_priority(limit: float = LIMIT) -> Generator[None]:
    """Lowers the priority of the calling thread, of threads begun meanwhile, and of the process's session if it leads one,
    while the block runs, but for at most `limit` seconds."""
    set_back = [_lower_group(), _lower_thread(threading.get_native_id())]
    once = threading.Lock()

    def end() -> None:
        with once:
            while set_back:
                set_back.pop()()

    late = threading.Timer(limit, end)
    late.daemon = True
    late.start()
    try:
        yield
    finally:
        late.cancel()
        end()


def _lower_thread(thread: int) -> Callable[[], None]:
    """Returns what sets it back. Does nothing where the process may not raise it again: without CAP_SYS_NICE that needs
    RLIMIT_NICE."""
    usual = os.getpriority(os.PRIO_PROCESS, thread)
    if not _may_return(usual):
        return _nothing
    os.setpriority(os.PRIO_PROCESS, thread, min(usual + STEPS, 19))
    return lambda: os.setpriority(os.PRIO_PROCESS, thread, usual)


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


def _lower_group() -> Callable[[], None]:
    """Returns what sets it back. Does nothing in a session that others lead, and where Linux makes no such groups. One with a
    nice value of 0 or more may be set back by its user."""
    usual = _group() if os.getsid(0) == os.getpid() else None
    if usual is None or usual < 0 or not _set_group(min(usual + STEPS, 19)):
        return _nothing
    return lambda: _set_group_back(usual)


def _nothing() -> None:
    """Sets nothing back."""


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
