"""Relays outlive a controller, and never the `butai up` that they belong to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from butai.embedded.lifeline import ControllerProgram, Lifeline
from tests.embedded_servers import SOURCES
from tests.waiting import holds_within

RELAY = """
import os, sys
os.read(int(os.environ["BUTAI_LIFELINE_FD"]), 1)
open(sys.argv[1], "w").write("ended")
"""

CONTROLLER = """
import os, subprocess, sys, time
relay = subprocess.Popen([sys.executable, "-c", os.environ["RELAY"], sys.argv[1]], start_new_session=True,
                         pass_fds=[int(os.environ["BUTAI_LIFELINE_FD"])])
print(relay.pid, flush=True)
time.sleep(600)
"""

UP = """
import os, sys, time
from pathlib import Path
from butai.embedded.lifeline import ControllerProgram
log = Path(sys.argv[1])
ControllerProgram([sys.executable, "-c", os.environ["CONTROLLER"], sys.argv[2]], dict(os.environ), log).launch()
time.sleep(600)
"""


def gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def relay_pid(log: Path) -> int:
    assert holds_within(lambda: log.exists() and log.read_text().endswith("\n"), 60)
    return int(log.read_text())


def test_a_stop_ends_the_controller_and_then_waits_for_its_relays(tmp_path: Path) -> None:
    log, said = tmp_path / "controller.log", tmp_path / "said"
    program = ControllerProgram(
        [sys.executable, "-c", CONTROLLER, str(said)], {"PATH": os.environ["PATH"], "RELAY": RELAY}, log
    )
    program.launch()
    relay = psutil.Process(relay_pid(log))
    program.stop()
    assert said.read_text() == "ended"
    assert holds_within(lambda: gone(relay), 30)
    program.stop()


def test_a_relay_outlives_a_killed_controller_and_ends_with_a_killed_up(tmp_path: Path) -> None:
    log, said = tmp_path / "controller.log", tmp_path / "said"
    up = subprocess.Popen(
        [sys.executable, "-c", UP, str(log), str(said)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": SOURCES, "RELAY": RELAY, "CONTROLLER": CONTROLLER},
    )
    try:
        relay = psutil.Process(relay_pid(log))
        (controller,) = psutil.Process(up.pid).children()
        controller.kill()
        assert holds_within(lambda: controller.status() == psutil.STATUS_ZOMBIE, 30)
        with pytest.raises(psutil.TimeoutExpired):
            relay.wait(0.5)
    finally:
        up.send_signal(signal.SIGKILL)
        up.wait()
    assert holds_within(said.exists, 30)
    assert holds_within(lambda: said.read_text() == "ended", 30)


def test_whoever_does_not_let_go_is_not_waited_for_longer_than_that() -> None:
    line = Lifeline()
    held = os.dup(line.descriptor)
    try:
        began = time.monotonic()
        assert not line.cut(0.3)
        assert time.monotonic() - began > 0.25
        assert os.read(held, 1) == b""
    finally:
        os.close(held)
    assert line.cut(1.0)
    assert line.cut(1.0)
