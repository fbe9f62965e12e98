"""Which modules of tests may run beside which, when pytest-xdist runs them in several processes; and which are slow.

What draws or sends pictures in real time needs both processors at times, so these modules are one group, whose tests run
one after another, in order; it is the longest and begins at once. Every other module is a group of its own. Those fill the
other processes, which leave the processors to the pictures: they run at a lower priority (`set_priority`).
"""

from __future__ import annotations

import contextlib
import os
import threading
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

MEDIA = (
    "e2e/test_console_stage",
    "e2e/test_console_up",
    "e2e/test_console_watch",
    "e2e/test_demo",
    "e2e/test_live*",
    "integration/test_egress_contract",
    # No pictures, but recorded conversations at a multiple of their speed, which other work holds up.
    "integration/test_livekit_recordings",
    "integration/test_livekit_standin",
    "integration/test_livekit_webhooks_processes",
    "integration/test_relay_broadcast",
    "integration/test_relay_ingest_source",
    "integration/test_relay_source",
    "integration/test_relay_still",
    "unit/test_relay_pipeline",
)
"""Modules below `tests`, as patterns of fnmatch."""

SLOW = (
    "integration/test_controller_takeover",  # controllers that are killed, and what their leases take to run out
    "integration/test_embedded_*",  # servers that are made, killed and made again
    "integration/test_library_commands",  # a process for each command
    "integration/test_livekit_engine",  # recorded conversations, at a multiple of their speed
    "integration/test_livekit_recordings",
    "integration/test_livekit_standin",
)
"""Modules whose tests are all left out of `make test-fast`. In other modules, single tests have the mark `slow`."""


def is_media(module: Path) -> bool:
    """Whether the tests of this file draw or send pictures in real time."""
    return _is_among(MEDIA, module)


def _is_among(patterns: tuple[str, ...], module: Path) -> bool:
    name = module.relative_to(ROOT).with_suffix("").as_posix()
    return any(fnmatch(name, pattern) for pattern in patterns)


def assign(items: list[pytest.Item]) -> None:
    """Marks every test with its group, and the slow modules' as slow; puts the media first, since groups are handed out
    in the order of their first tests.

    Must run before xdist's own hook of a worker, which writes the group into the test's id.
    """
    for item in items:
        if is_media(item.path):
            item.add_marker("media")
            item.add_marker(pytest.mark.xdist_group("media"))
        else:
            folder, name = item.path.parent.name, item.path.stem.removeprefix("test_")
            item.add_marker(pytest.mark.xdist_group(f"{folder}-{name}"))
        if _is_among(SLOW, item.path):
            item.add_marker("slow")
    items.sort(key=lambda item: not is_media(item.path))


def set_priority(item: pytest.Item) -> None:
    """Sets the priority of this process, and of all that it starts from now on, for a test, if other processes run tests too.

    Where it may be raised, that with media has a higher one than usual, and the others are held up by other work no more
    than that is by them. Elsewhere those without media have a lower one; a process that has run the media keeps its own.
    """
    global _usual, _raises  # noqa: PLW0603 - the process's own state
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return
    media = item.get_closest_marker("media") is not None
    if _usual is None:
        _usual = os.getpriority(os.PRIO_PROCESS, 0)
        _raises = _may_raise(_usual)
        if not _raises and not media:
            os.nice(NICE)
    if _raises:
        os.setpriority(os.PRIO_PROCESS, 0, _usual - NICE if media else _usual)


def _may_raise(usual: int) -> bool:
    """Tries it in another thread, since on Linux each has a priority of its own."""
    raised = False

    def attempt() -> None:
        nonlocal raised
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, usual - NICE)
            raised = True

    thread = threading.Thread(target=attempt)
    thread.start()
    thread.join()
    return raised


NICE = 5
"""By how much: a process with media gets three times the share of one without."""
_usual: int | None = None
_raises = False
