"""Which process a controller kills when a relay does not answer: that relay, and no other process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import AsyncGenerator, Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from butai.live.egress.relay import process as relay_process
from butai.live.egress.relay.egress import RelayEgress
from butai.live.egress.relay.process import WatchedProcess, lock_holder
from butai.live.reconcile.timing import Timing
from tests.shows import PROJECTS

TIMING = replace(Timing(), welcome_limit=0.2, relay_lock_limit=0.1)

HANGS = """
import fcntl, signal, socket, sys
held = open(sys.argv[2], "w") if sys.argv[1] == "lock" else socket.socket(socket.AF_UNIX)
if sys.argv[1] == "lock":
    fcntl.flock(held, fcntl.LOCK_EX)
else:
    held.bind(sys.argv[2])
    held.listen()
print("ready", flush=True)
signal.pause()
"""
"""Holds a lock, or listens at a socket, and answers nothing."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="unreachable-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@contextlib.asynccontextmanager
async def hanging(what: str, path: Path, *arguments: str) -> AsyncGenerator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", HANGS, what, str(path), *arguments], stdout=subprocess.PIPE
    ) as running:
        try:
            assert running.stdout is not None
            assert await asyncio.to_thread(running.stdout.readline) == b"ready\n"
            yield running
        finally:
            running.kill()


async def found(folder: Path, broadcast_id: uuid.UUID) -> object:
    egress = RelayEgress(folder, PROJECTS, bytes.decode, controller="c1", timing=TIMING)
    try:
        return await egress.find(broadcast_id, 1)
    finally:
        await egress.close()


@pytest.mark.parametrize("what", ["lock", "sock"])
@pytest.mark.parametrize("which", ["--broadcast", "--standby"])
async def test_a_relay_that_hangs_is_killed_by_its_lock_or_its_socket_alone(
    folder: Path, what: str, which: str
) -> None:
    broadcast_id = uuid.uuid4()
    arguments = ("--folder", str(folder), *((which, str(broadcast_id)) if which == "--broadcast" else (which,)))
    async with hanging(what, folder / f"{broadcast_id}.{what}", *arguments) as relay:
        assert await found(folder, broadcast_id) is None
        assert relay.wait(30) == -signal.SIGKILL


@pytest.mark.parametrize("what", ["lock", "sock"])
async def test_a_process_that_is_no_relay_of_this_broadcast_is_left(folder: Path, what: str) -> None:
    broadcast_id, another = uuid.uuid4(), str(uuid.uuid4())
    for arguments in (
        (),
        ("--folder", str(folder), "--broadcast", another),
        ("--folder", f"{folder}-2", "--broadcast", str(broadcast_id)),
    ):
        path = folder / f"{broadcast_id}.{what}"
        path.unlink(missing_ok=True)
        async with hanging(what, path, *arguments) as stranger:
            assert await found(folder, broadcast_id) is None
            assert stranger.poll() is None, arguments


@contextlib.contextmanager
def locks(path: Path, monkeypatch: pytest.MonkeyPatch, *lines: tuple[int, str]) -> Generator[None]:
    """Holds a lock, and replaces the kernel's list of locks by one of these holders and devices, all of that inode."""
    listed = path.with_suffix(".list")
    with path.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        inode = path.stat().st_ino
        listed.write_text("".join(f"1: FLOCK  ADVISORY  WRITE {pid} {device}:{inode} 0 EOF\n" for pid, device in lines))
        monkeypatch.setattr(relay_process, "LOCKS", listed)
        yield


def device_of(folder: Path) -> str:
    device = folder.stat().st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


async def test_a_lock_of_the_same_inode_on_another_device_is_another_lock(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "b1.lock"
    arguments = ("--folder", str(folder), "--broadcast", "b1")
    async with hanging("lock", folder / "other", *arguments) as relay, hanging("lock", folder / "more") as stranger:
        with locks(path, monkeypatch, (stranger.pid, "ee:01"), (relay.pid, device_of(folder))):
            assert lock_holder(path) == relay.pid
        # As on btrfs, whose files have a device of their own in stat(2).
        with locks(path, monkeypatch, (stranger.pid, "00:fd"), (relay.pid, "00:fe")):
            assert lock_holder(path) == relay.pid
        with locks(path, monkeypatch, (stranger.pid, "00:fd")):
            assert lock_holder(path) == 0


async def test_a_process_that_may_not_be_killed_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, number: int) -> None:
        raise PermissionError(descriptor, number)

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    with subprocess.Popen(["/bin/sleep", "60"]) as running:
        try:
            process = WatchedProcess(running.pid)
            await process.end(0.05)
            assert not process.is_gone()
            process.close()
        finally:
            running.kill()
