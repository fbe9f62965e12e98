"""A relay's process on standby: real processes that wait, are taken, hang, are killed, and end with their controller."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import tempfile
import uuid
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from butai.config import DatabaseSettings
from butai.controller import Controller
from butai.database import Database
from butai.live.egress.relay.egress import COMMAND, RelayEgress
from butai.live.egress.relay.process import WatchedProcess, lock_holder, spawn_standby
from butai.live.expected import EXPECTED
from butai.live.reconcile.timing import Timing
from butai.relay.standby import RELAY_NAME, STANDBY_NAME, TAKEN, WAITING
from tests.shows import PROJECTS, Shows, shows, until

TIMING = replace(Timing(), standby_answer_limit=30.0, relay_start_limit=60.0)
"""A busy machine takes longer than operators would want."""
HANGS = replace(TIMING, standby_answer_limit=2.0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short enough for sockets."""
    folder = Path(tempfile.mkdtemp(prefix="standby-", dir="/tmp"))
    yield folder
    for process in processes(folder):
        process.kill()
    shutil.rmtree(folder)


def processes(folder: Path, name: str = "") -> list[psutil.Process]:
    """The relays with this folder that run, or those that have such a name by now."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            runs = str(folder) in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            if runs and name in ("", process.name()):
                found.append(process)
    return found


@contextlib.asynccontextmanager
async def egress_in(
    folder: Path, controller: str = "c1", *, timing: Timing = TIMING, standby: bool = True
) -> AsyncGenerator[RelayEgress]:
    made = RelayEgress(
        folder, PROJECTS, bytes.decode, controller=controller, command=COMMAND, timing=timing, standby=standby
    )
    try:
        yield made
    finally:
        await made.close()


async def waiting(folder: Path) -> psutil.Process:
    """Waits until a process has loaded and waits."""

    async def look() -> list[psutil.Process]:
        return processes(folder, STANDBY_NAME)

    (found,) = await until(look)
    return found


async def gone(process: psutil.Process) -> None:
    async def look() -> bool:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE

    await until(look)


async def test_a_start_takes_the_process_that_waits_and_the_next_one_another(folder: Path) -> None:
    async with egress_in(folder) as egress:
        assert processes(folder) == []
        egress.expect_start()
        standby = await waiting(folder)
        # It carries nothing, so it counts as nothing.
        assert egress.loads() == []
        assert list(folder.glob("*.sock")) == []
        first, second = uuid.uuid4(), uuid.uuid4()
        engine = await egress.start(first, 1)
        assert engine.pid == standby.pid
        assert standby.name() == RELAY_NAME
        assert lock_holder(folder / f"{first}.lock") == standby.pid
        assert f'"broadcast_id":"{first}"' in (folder / f"{first}.log").read_text()
        assert (folder / f"{first}.log").stat().st_mode & 0o777 == 0o600
        another = await egress.start(second, 1)
        assert another.pid != standby.pid
        assert psutil.Process(another.pid).cmdline()[-2:] == ["--broadcast", str(second)]
        assert standby.parent() == psutil.Process()
    # Both outlive their controller, and the next one adopts them.
    async with egress_in(folder, "c2", standby=False) as egress:
        for broadcast_id, pid in ((first, standby.pid), (second, another.pid)):
            adopted = await egress.find(broadcast_id, 2)
            assert adopted is not None and adopted.pid == pid
            adopted.stop()
            await gone(psutil.Process(pid))
    assert not list(folder.glob("*.sock"))


async def test_one_that_hangs_or_was_killed_costs_no_start(folder: Path) -> None:
    async with egress_in(folder, timing=HANGS) as egress:
        egress.expect_start()
        standby = await waiting(folder)
        standby.suspend()
        engine = await egress.start(uuid.uuid4(), 1)
        assert engine.pid != standby.pid
        await gone(standby)
        engine.kill()
    async with egress_in(folder) as egress:
        egress.expect_start()
        standby = await waiting(folder)
        standby.kill()
        await gone(standby)
        engine = await egress.start(uuid.uuid4(), 1)
        assert engine.pid != standby.pid
        engine.kill()


async def test_a_relay_that_was_on_standby_and_hangs_is_killed_by_the_next_controller(folder: Path) -> None:
    broadcast_id = uuid.uuid4()
    async with egress_in(folder) as egress:
        egress.expect_start()
        standby = await waiting(folder)
        assert (await egress.start(broadcast_id, 1)).pid == standby.pid
    standby.suspend()
    async with egress_in(folder, "c2", standby=False) as egress:
        assert await egress.find(broadcast_id, 2) is None
    await gone(standby)


async def test_there_is_one_on_a_machine(folder: Path) -> None:
    async with egress_in(folder) as first, egress_in(folder, "c2") as second:
        first.expect_start()
        standby = await waiting(folder)
        second.expect_start()
        # Started relays are the only others.
        engine = await second.start(uuid.uuid4(), 1)
        assert {one.pid for one in processes(folder)} == {standby.pid, engine.pid}
        engine.kill()
    await gone(standby)


async def test_it_ends_with_its_controller_and_holds_nothing_secret(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEKIT_API_SECRET", "canary-secret-6b20")
    monkeypatch.setenv("BUTAI_DATABASE_URL", "postgresql://canary-secret-6b20@127.0.0.1/x")
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            child = spawn_standby(COMMAND, folder, theirs)
        process = WatchedProcess(child.pid, child)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        assert await reader.readline() == WAITING
        writer.write(b"\n")
        assert await reader.readline() == WAITING
        inside = psutil.Process(child.pid)
        assert "canary" not in repr((inside.environ(), inside.cmdline()))
        # A controller that dies, however it does.
        writer.transport.abort()
    async with asyncio.timeout(60):
        await process.ended.wait()
    assert process.status == 0
    process.close()
    assert (folder / "standby.log").read_text() == ""


@pytest.mark.parametrize("line", [b"../x\n", b"x" * 200 + b"\n", b"\xff\xfe\n"])
async def test_it_takes_nothing_but_an_id(folder: Path, line: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        child = spawn_standby(COMMAND, folder, theirs)
    process = WatchedProcess(child.pid, child)
    reader, writer = await asyncio.open_unix_connection(sock=ours)
    assert await reader.readline() == WAITING
    writer.write(line)
    assert TAKEN not in await reader.read()
    async with asyncio.timeout(60):
        await process.ended.wait()
    assert process.status == 0
    process.close()
    writer.close()
    assert [path.name for path in folder.iterdir()] == ["standby.log"]


@contextlib.asynccontextmanager
async def controller_of(stage: Shows) -> AsyncGenerator[None]:
    """One in this process, with real relays."""
    settings = DatabaseSettings(url=SecretStr(stage.url), connect_timeout=2)
    async with Database(settings) as database, egress_in(stage.folder) as egress:
        controller = Controller(stage.live, database, [egress], "c1", TIMING)
        running = asyncio.create_task(controller.run())
        try:
            yield
        finally:
            controller.stop()
            await running


async def carried(stage: Shows, broadcast_id: uuid.UUID) -> psutil.Process:
    """Waits for the relay of a broadcast."""

    async def look() -> int | None:
        return lock_holder(stage.folder / f"{broadcast_id}.lock")

    return psutil.Process(await until(look))


async def test_controllers_keep_one_when_they_are_told_and_after_a_broadcast(database_url: str) -> None:
    with shows(database_url) as stage:
        try:
            async with controller_of(stage):
                first = await stage.begin("rtmp://127.0.0.1:9/app")
                relay = await carried(stage, first)
                assert processes(stage.folder) == [relay] and "--standby" not in relay.cmdline()
                await stage.stop(first)
                await stage.ended(first)
                standby = await waiting(stage.folder)
                second = await stage.begin("rtmp://127.0.0.1:9/app")
                assert await carried(stage, second) == standby
                await stage.stop(second)
                await stage.ended(second)
            await gone(standby)
            async with controller_of(stage):

                async def look() -> list[psutil.Process]:
                    # Again, since the controller may not listen yet.
                    await stage.do(f"NOTIFY {EXPECTED}")
                    return processes(stage.folder, STANDBY_NAME)

                assert await until(look)
            (standby,) = processes(stage.folder) or [standby]
            await gone(standby)
        finally:
            for process in processes(stage.folder):
                process.kill()
