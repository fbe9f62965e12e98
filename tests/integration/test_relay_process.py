"""The relay as a process: one for each broadcast, adopted, abandoned, ended; without a room."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from butai.relay.messages import (
    ByeLine,
    ConfigureLine,
    OutputLine,
    PingLine,
    Preset,
    SourceLine,
    StartOutputLine,
    StopLine,
    WelcomeLine,
)
from tests.relay_stage import Controller, until

TOKEN, KEY = "canary-token-5e0a", "canary-key-9d41"
CONFIGURE = ConfigureLine("b1", "ws://127.0.0.1:9", TOKEN, "host", Preset(320, 180, 30, 500))


class RelayProcess:
    def __init__(self, folder: Path, *arguments: str, pass_fds: tuple[int, ...] = ()) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "butai.relay", "--folder", str(folder), "--broadcast", "b1", *arguments],
            stderr=subprocess.PIPE,
            pass_fds=pass_fds,
        )

    @property
    def socket(self) -> Path:
        return self.folder / "b1.sock"

    async def ended(self, within: float = 10.0) -> int:
        await until(lambda: self.process.poll() is not None, within)
        assert self.process.returncode is not None
        return self.process.returncode

    def stderr(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read().decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    relay = RelayProcess(tmp_path / "relays")
    yield relay
    relay.close()


async def test_the_folder_is_closed_and_left_as_it_was(relay: RelayProcess) -> None:
    controller = await Controller.connect(relay.socket)
    assert (await controller.hear(WelcomeLine)).pid == relay.process.pid
    assert stat.S_IMODE(relay.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(relay.socket.stat().st_mode) == 0o600
    controller.say(StopLine())
    assert (await controller.hear(ByeLine)).reason == "stopped"
    assert await relay.ended() == 0
    assert list(relay.folder.iterdir()) == []


async def test_sigterm_is_an_end_in_order(relay: RelayProcess) -> None:
    controller = await Controller.connect(relay.socket)
    await controller.hear(WelcomeLine)
    controller.say(CONFIGURE)
    await controller.hear(SourceLine)
    relay.process.send_signal(signal.SIGTERM)
    assert (await controller.hear(ByeLine)).reason == "stopped"
    assert await relay.ended() == 0
    assert list(relay.folder.iterdir()) == []


async def test_there_is_never_a_second_one(relay: RelayProcess) -> None:
    await until(relay.socket.exists)
    second = RelayProcess(relay.folder)
    try:
        assert await second.ended() == 3
        assert second.stderr() == "butai relay: another relay runs b1\n"
    finally:
        second.close()
    controller = await Controller.connect(relay.socket)
    assert (await controller.hear(WelcomeLine)).pid == relay.process.pid


async def test_the_next_one_starts_after_a_sigkill(relay: RelayProcess) -> None:
    await until(relay.socket.exists)
    relay.process.kill()
    relay.process.wait()
    assert relay.socket.exists(), "a killed relay leaves its socket"
    second = RelayProcess(relay.folder)
    try:
        await until(lambda: _connects(relay.socket))
        controller = await Controller.connect(relay.socket)
        assert (await controller.hear(WelcomeLine)).pid == second.process.pid
    finally:
        second.close()


def _connects(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


async def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    ours, theirs = os.pipe()
    relay = RelayProcess(tmp_path / "relays", "--parent-pipe-fd", str(ours), pass_fds=(ours,))
    try:
        os.close(ours)
        await until(relay.socket.exists)
        os.close(theirs)
        assert await relay.ended(5) == 0
        assert list(relay.folder.iterdir()) == []
    finally:
        relay.close()


async def test_a_bad_start_is_one_line(tmp_path: Path) -> None:
    for folder, broadcast, word in (
        (tmp_path, "../x", "id"),
        (tmp_path / ("x" * 120), "b1", "shorter folder"),
        (Path("/proc/nothing"), "b1", "cannot be used"),
    ):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "butai.relay", "--folder", folder, "--broadcast", broadcast],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        assert done.returncode == 2
        assert word in done.stderr and done.stderr.count("\n") == 1


async def test_it_outlives_the_controller_that_read_its_log(relay: RelayProcess) -> None:
    controller = await Controller.connect(relay.socket, 1)
    await controller.hear(WelcomeLine)
    controller.say(CONFIGURE)
    await controller.hear(SourceLine)
    controller.writer.transport.abort()
    assert relay.process.stderr is not None
    relay.process.stderr.close()
    relay.process.stderr = None
    for epoch in (2, 3, 4):
        controller = await Controller.connect(relay.socket, epoch)
        assert (await controller.hear(WelcomeLine)).configured
        controller.say(PingLine())
    assert relay.process.poll() is None
    controller.say(StopLine())
    await controller.hear(ByeLine)
    assert await relay.ended() == 0


async def test_no_secret_is_in_argv_environment_or_log(relay: RelayProcess) -> None:
    controller = await Controller.connect(relay.socket)
    await controller.hear(WelcomeLine)
    controller.say(CONFIGURE)
    # No server listens there.
    controller.say(StartOutputLine("o1", 1, "rtmp://127.0.0.1:9/live2", KEY, True))
    failed = await controller.hear(OutputLine, lambda line: line.phase in ("failed", "live"))
    assert KEY not in repr(failed)
    process = psutil.Process(relay.process.pid)
    assert "canary" not in " ".join(process.cmdline()) + repr(process.environ())
    with contextlib.suppress(ConnectionError):
        controller.writer.write(b'{"type":"start_output","key":"' + KEY.encode() + b'"}\n')
    assert await controller.hung_up()
    relay.process.send_signal(signal.SIGTERM)
    assert await relay.ended() == 0
    log = relay.stderr()
    assert "canary" not in log
    events = [json.loads(line)["event"] for line in log.splitlines()]
    assert "controller.bad_line" in events and "relay.ended" in events
