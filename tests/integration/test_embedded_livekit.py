"""The embedded LiveKit: a real server on loopback, with a key of its own, that dies with its parent."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from livekit import api, rtc

from butai.embedded import livekit
from butai.embedded.livekit import EmbeddedLiveKit, LiveKit, livekit_binary
from butai.embedded.process import StartError
from tests.embedded_servers import holder, said, temporary_folder
from tests.waiting import holds_within


@pytest.fixture
def folder() -> Iterator[Path]:
    with temporary_folder("livekit") as path:
        yield path


@pytest.fixture(scope="module")
def running() -> Iterator[EmbeddedLiveKit]:
    with temporary_folder("livekit") as path, EmbeddedLiveKit(path / "livekit") as server:
        yield server


def token(server: LiveKit, room: str, identity: str) -> str:
    grants = api.VideoGrants(room_join=True, room=room)
    return api.AccessToken(server.api_key, server.api_secret).with_identity(identity).with_grants(grants).to_jwt()


async def rooms(server: LiveKit, secret: str = "") -> list[str]:
    url = server.url.replace("ws://", "http://")
    async with api.LiveKitAPI(url, server.api_key, secret or server.api_secret) as client:
        return [room.name for room in (await client.room.list_rooms(api.ListRoomsRequest())).rooms]


async def test_it_takes_its_own_key_and_no_other(running: EmbeddedLiveKit) -> None:
    assert isinstance(await rooms(running.livekit), list)
    with pytest.raises(api.TwirpError) as refused:
        await rooms(running.livekit, secret="x" * 48)
    assert refused.value.status == 401


async def test_two_people_meet_in_a_room_and_data_goes_over_its_media_port(running: EmbeddedLiveKit) -> None:
    server = running.livekit
    first, second = rtc.Room(), rtc.Room()
    heard: list[bytes] = []
    second.on("data_received", lambda packet: heard.append(packet.data))
    await second.connect(server.url, token(server, "meeting", "second"))
    await first.connect(server.url, token(server, "meeting", "first"))
    try:
        deadline = time.monotonic() + 10
        while not heard and time.monotonic() < deadline:
            await first.local_participant.publish_data(b"hello", reliable=True)
            await asyncio.sleep(0.1)
        assert heard[0] == b"hello"
    finally:
        await first.disconnect()
        await second.disconnect()


def sockets(server: EmbeddedLiveKit) -> set[tuple[str, str, int]]:
    assert server.child is not None
    names = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
    return {
        (names[connection.type], connection.laddr.ip, connection.laddr.port)
        for connection in psutil.Process(server.child.pid).net_connections(kind="inet")
        if connection.status == psutil.CONN_LISTEN or connection.type == socket.SOCK_DGRAM
    }


def test_it_listens_on_loopback_alone_on_the_ports_it_was_given(running: EmbeddedLiveKit) -> None:
    port, udp_port = int(running._state["port"]), int(running._state["udp_port"])
    assert sockets(running) == {("tcp", "127.0.0.1", port), ("udp", "127.0.0.1", udp_port)}


def test_secrets_are_in_closed_files_and_neither_in_the_environment_nor_on_a_command_line(
    running: EmbeddedLiveKit,
) -> None:
    assert running.child is not None
    secret = running.livekit.api_secret
    assert len(secret) >= 32
    process = psutil.Process(running.child.pid)
    assert secret not in " ".join(process.cmdline()) + " ".join(process.environ().values())
    assert secret not in running.log_file.read_text() + repr(running.livekit)
    assert stat.S_IMODE(running.data_dir.stat().st_mode) == 0o700
    for name in ("livekit.json", "config.yaml", "livekit.log"):
        assert stat.S_IMODE((running.data_dir / name).stat().st_mode) == 0o600, name


async def test_key_and_ports_survive_a_stop_and_a_kill(folder: Path) -> None:
    server = EmbeddedLiveKit(folder / "livekit")
    before = server.start()
    try:
        assert server.child is not None
        os.kill(server.child.pid, signal.SIGKILL)
        assert holds_within(lambda: server.child is not None and server.child.poll() == -signal.SIGKILL, 30)
        server.launch()
        server.wait_ready()
        assert server.livekit == before
        assert await rooms(before) == []
    finally:
        server.stop()
    with EmbeddedLiveKit(folder / "livekit") as again:
        assert again.livekit == before


async def test_a_stop_does_not_wait_for_people_to_leave(folder: Path) -> None:
    with EmbeddedLiveKit(folder / "livekit") as server:
        guest = rtc.Room()
        await guest.connect(server.livekit.url, token(server.livekit, "stays", "guest"))
        try:
            began = time.monotonic()
            server.stop()
            assert time.monotonic() - began < 4
        finally:
            await guest.disconnect()


def test_taken_ports_are_left_to_whoever_has_them(folder: Path) -> None:
    first = EmbeddedLiveKit(folder / "livekit")
    first.start()
    first.stop()
    ports = json.loads((folder / "livekit" / "livekit.json").read_text())
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", int(ports["port"])))
        tcp.listen()
        udp.bind(("127.0.0.1", int(ports["udp_port"])))
        with EmbeddedLiveKit(folder / "livekit") as second:
            assert second._state["port"] != ports["port"]
            assert second._state["udp_port"] != ports["udp_port"]


def test_a_second_start_in_the_same_folder_is_one_clear_line(running: EmbeddedLiveKit) -> None:
    with pytest.raises(StartError, match="another process already runs LiveKit") as raised:
        EmbeddedLiveKit(running.data_dir).start()
    assert "\n" not in str(raised.value)


def test_nothing_outlives_its_killed_parent_and_the_next_start_works(folder: Path) -> None:
    parent = holder(EmbeddedLiveKit, folder / "livekit", ".url")
    assert said(parent).startswith("ws://")
    children = psutil.Process(parent.pid).children(recursive=True)
    assert len(children) == 1
    parent.kill()
    parent.wait()
    _, living = psutil.wait_procs(children, timeout=30)
    assert [process for process in living if process.status() != psutil.STATUS_ZOMBIE] == []
    with EmbeddedLiveKit(folder / "livekit") as server:
        assert server.child is not None


def test_a_server_that_ends_at_once_is_one_clear_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = folder / "livekit-server"
    broken.write_text("#!/bin/sh\necho 'no such thing as luck' >&2; exit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr(livekit, "livekit_binary", lambda: broken)
    with pytest.raises(StartError, match="LiveKit ended at once: no such thing as luck") as raised:
        EmbeddedLiveKit(folder / "livekit").start()
    assert "\n" not in str(raised.value)


def test_without_the_program_it_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(folder / "nowhere" / ".venv"))
    monkeypatch.setattr(livekit, "__file__", str(folder / "a" / "b" / "c" / "d" / "livekit.py"))
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("HOME", str(folder))
    assert livekit_binary() is None
    with pytest.raises(StartError, match="make livekit"):
        EmbeddedLiveKit(folder / "livekit").start()
    assert not (folder / "livekit").exists()


def test_the_name_that_go_gives_it_is_found_and_another_server_of_that_name_is_not(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = livekit_binary()
    assert real is not None
    monkeypatch.setattr(sys, "prefix", str(folder / "nowhere" / ".venv"))
    monkeypatch.setattr(livekit, "__file__", str(folder / "a" / "b" / "c" / "d" / "livekit.py"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(folder))
    named = folder / "go" / "bin" / "server"
    named.parent.mkdir(parents=True)
    named.write_text("#!/bin/sh\necho some server 1.0\n")
    named.chmod(0o755)
    assert livekit_binary() is None
    named.unlink()
    named.symlink_to(real)
    assert livekit_binary() == named
