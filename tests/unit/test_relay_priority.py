"""The priority of a relay's threads while it starts and afterwards."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from butai.relay import priority
from butai.relay.priority import STEPS, low_priority


def current() -> int:
    return os.getpriority(os.PRIO_PROCESS, 0)


def begun_now() -> int:
    """The priority of a thread that begins now."""
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(current()))
    thread.start()
    thread.join()
    return found[0]


@pytest.fixture
def settable(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A process that may set any priority: what it has set, the latest one last."""
    usual = current()
    calls = [usual]

    def getpriority(which: int, who: int) -> int:
        assert which == os.PRIO_PROCESS and who in {0, threading.get_native_id()}
        return calls[-1]

    def setpriority(which: int, who: int, value: int) -> None:
        assert which == os.PRIO_PROCESS
        calls.append(value)

    monkeypatch.setattr(priority.os, "getpriority", getpriority)
    monkeypatch.setattr(priority.os, "setpriority", setpriority)
    return calls


def test_the_priority_is_low_during_the_block_and_usual_afterwards(settable: list[int]) -> None:
    usual = settable[-1]
    with low_priority():
        assert settable[-1] == min(usual + STEPS, 19)
    assert settable[-1] == usual
    with pytest.raises(ImportError), low_priority():
        raise ImportError
    assert settable[-1] == usual


def test_where_it_could_not_be_raised_again_it_is_not_lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[int] = []

    def setpriority(_which: int, _who: int, value: int) -> None:
        if value <= usual:
            refused.append(value)
            raise PermissionError
        lowered.append(threading.current_thread())

    usual, lowered = current(), list[threading.Thread]()
    monkeypatch.setattr(priority.os, "setpriority", setpriority)
    with low_priority():
        pass
    assert refused == [usual]
    assert threading.main_thread() not in lowered


def test_a_session_that_it_leads_is_lowered_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group = tmp_path / "autogroup"
    group.write_text("/autogroup-25 nice 2\n")
    monkeypatch.setattr(priority, "GROUP", group)
    with low_priority():
        assert group.read_text() == "/autogroup-25 nice 2\n"
    monkeypatch.setattr(priority.os, "getsid", lambda _: os.getpid())
    with low_priority():
        assert group.read_text() == str(2 + STEPS)
    assert group.read_text() == "2"
    # One of an operator, that only root may set back.
    group.write_text("/autogroup-25 nice -3\n")
    with low_priority():
        assert group.read_text() == "/autogroup-25 nice -3\n"
    group.unlink()
    with low_priority():
        assert not group.exists()


class BusyGroup:
    """A group that takes a change only after some that the system refused, since another process made one just before."""

    def __init__(self, nice: int, refusals: int) -> None:
        self.nice, self.refusals, self.left = nice, refusals, 0
        self.usual = threading.Event()

    def read_text(self) -> str:
        return f"/autogroup-25 nice {self.nice}\n"

    def write_text(self, text: str) -> None:
        if self.left:
            self.left -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.nice, self.left = int(text), self.refusals
        if self.nice == 0:
            self.usual.set()


def test_a_group_is_set_back_in_the_end_where_others_change_theirs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses = list[float]()
    monkeypatch.setattr(priority.os, "getsid", lambda _: os.getpid())
    monkeypatch.setattr(priority.time, "sleep", pauses.append)
    group = BusyGroup(0, refusals=9)
    monkeypatch.setattr(priority, "GROUP", group)
    with low_priority():
        assert group.nice == STEPS
    assert group.nice == 0 and not caplog.messages
    # Those that were refused together try again at moments of their own.
    assert len(set(pauses)) == len(pauses) == 9 and 0 < min(pauses) <= max(pauses) <= priority.GROUP_PAUSE
    group = BusyGroup(0, refusals=1000)
    monkeypatch.setattr(priority, "GROUP", group)
    with low_priority():
        pass
    assert group.nice == STEPS and len(caplog.messages) == 1


def test_the_priority_is_usual_again_during_a_block_that_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priority.os, "getsid", lambda _: os.getpid())
    group = BusyGroup(0, refusals=0)
    monkeypatch.setattr(priority, "GROUP", group)
    usual = current()
    with low_priority(limit=0.05):
        assert group.usual.wait(timeout=10)
        # The thread's was set back before the group's.
        assert current() == usual
    assert group.nice == 0 and current() == usual


PROGRAM = """
from butai.relay import priority
with priority.low_priority():
    print(priority.GROUP.read_text().split()[-1])
print(priority.GROUP.read_text().split()[-1])
"""


@pytest.mark.skipif(not priority.GROUP.exists(), reason="this system makes no groups of sessions")
def test_a_group_of_the_system_is_lowered_and_set_back() -> None:
    argv = [sys.executable, "-c", PROGRAM]
    ran = subprocess.run(argv, start_new_session=True, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == [str(STEPS), "0"]


def test_the_system_gives_threads_priorities_of_their_own() -> None:
    usual = current()
    with low_priority():
        low = current()
        assert begun_now() == low
    assert current() == begun_now() == usual
    # Root, and whoever has the limit, may.
    assert low in {usual, min(usual + STEPS, 19)}
