"""The supervisor of `butai up`: how it starts a part again that ended."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest

from butai.embedded.process import StartError, StopRequested
from butai.embedded.supervisor import Program, Supervisor


def test_a_service_that_keeps_dying_is_started_ever_more_seldom(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    supervisor = Supervisor(lambda name, text: told.append((name, text)))
    log = tmp_path / "started.log"
    dying = Program(["/bin/sh", "-c", "date +%s.%N; exit 3"], {"PATH": os.environ["PATH"]}, log)
    supervisor.add("dying", dying)
    supervisor.launch(dying)

    def stop_after_four_starts() -> None:
        if len(log.read_text().splitlines()) >= 4:
            raise StopRequested

    with pytest.raises(StopRequested):
        supervisor.watch(stop_after_four_starts, every=0.1)
    supervisor.stop()
    starts = [float(line) for line in log.read_text().splitlines()]
    # At 0, 0.2, 0.6 and 1.4 s at the soonest; a shell takes some milliseconds until it tells.
    for earliest, pause in zip((0.2, 0.4, 0.8), (later - before for before, later in pairwise(starts)), strict=True):
        assert pause > earliest - 0.1
    assert told[0] == ("dying", "ended (exit status 3); starting it again")


def test_a_service_that_cannot_start_again_is_told_once(tmp_path: Path) -> None:
    class Broken(Program):
        launches = 0

        def launch(self) -> None:
            self.launches += 1
            if self.launches > 1:
                raise StartError("no room")
            super().launch()

    told: list[str] = []
    supervisor = Supervisor(lambda _name, text: told.append(text))
    broken = Broken(["/bin/true"], {}, tmp_path / "log")
    supervisor.add("broken", broken)
    supervisor.launch(broken)

    def stop_once_told() -> None:
        if len(told) >= 2:
            raise StopRequested

    with pytest.raises(StopRequested):
        supervisor.watch(stop_once_told, every=1.0)
    assert told == ["ended (exit status 0); starting it again", "cannot start: no room"]
    assert broken.launches == 2
