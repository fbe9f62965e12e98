"""All addresses of a name are tried, each a moment after the one before."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Collection
from pathlib import Path

import pytest

from butai.relay.rtmp import connection
from butai.relay.rtmp.connection import Limits, Target, connect
from butai.relay.rtmp.failures import PublishError
from tests.platforms import Authority

TARGET = Target("rtmp://many.example/live", "key-71aa", True)


class Network:
    """Addresses of which some take a connection, some refuse it, and the others never answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *addresses: str, takes: str = "", refuses: str = "") -> None:
        self.tried: list[str] = []
        self.closed: list[str] = []
        self._ends: list[socket.socket] = []
        self._tls: dict[str, ssl.SSLContext] = {}
        self._speaking: list[asyncio.Task[object]] = []

        async def resolve(_host: str, _port: int, _timeout: float) -> list[str]:
            return list(addresses)

        async def tcp(host: str, _port: int) -> socket.socket:
            self.tried.append(host)
            try:
                if host in refuses.split():
                    raise ConnectionRefusedError(111, "")
                if host not in takes.split():
                    await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.closed.append(host)
                raise
            ours, theirs = socket.socketpair()
            ours.setblocking(False)
            if host in self._tls:
                loop = asyncio.get_running_loop()
                spoken = loop.connect_accepted_socket(asyncio.Protocol, theirs, ssl=self._tls[host])
                self._speaking.append(asyncio.create_task(spoken))
            else:
                self._ends.append(theirs)
            return ours

        monkeypatch.setattr(connection, "resolve", resolve)
        monkeypatch.setattr(connection, "_tcp", tcp)
        monkeypatch.setattr(connection, "_HEAD_START", 0.01)

    async def connect(
        self,
        without: Collection[str] = (),
        limits: Limits | None = None,
        target: Target = TARGET,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        try:
            _, writer = await connect(target, target.address(), limits or Limits(), tls, without=without)
            writer.transport.abort()
        finally:
            for end in self._ends:
                end.close()

    def speak_tls(self, address: str, context: ssl.SSLContext) -> None:
        """Makes one address speak TLS. The others take a connection and say nothing."""
        self._tls[address] = context


async def test_addresses_that_never_answer_hold_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    silent = [f"192.0.2.{number}" for number in range(1, 8)]
    network = Network(monkeypatch, *silent, "192.0.2.9", takes="192.0.2.9")
    await network.connect()
    assert network.tried == [*silent, "192.0.2.9"]
    assert sorted(network.closed) == silent


async def test_a_refusal_begins_the_next_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, "192.0.2.1", "192.0.2.2", takes="192.0.2.2", refuses="192.0.2.1")
    monkeypatch.setattr(connection, "_HEAD_START", 60.0)
    await network.connect()
    assert network.tried == ["192.0.2.1", "192.0.2.2"]


async def test_both_families_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, "2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", takes="192.0.2.1")
    await network.connect()
    assert network.tried == ["2001:db8::1", "192.0.2.1"]


async def test_when_all_fail_the_last_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, "192.0.2.1", "192.0.2.2", refuses="192.0.2.1 192.0.2.2")
    with pytest.raises(PublishError, match="tcp: Connection refused"):
        await network.connect()
    silent = Network(monkeypatch, "192.0.2.1", "192.0.2.2")
    with pytest.raises(PublishError, match="no answer in time"):
        await silent.connect(limits=Limits(connect_timeout=0.05))


async def test_an_address_that_failed_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch, "192.0.2.1", "192.0.2.2", takes="192.0.2.1 192.0.2.2")
    await network.connect({"192.0.2.1"})
    assert network.tried == ["192.0.2.2"]
    with pytest.raises(PublishError, match="no other address"):
        await network.connect({"192.0.2.1", "192.0.2.2"})


async def test_an_address_that_is_silent_in_tls_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    network = Network(monkeypatch, "192.0.2.1", "192.0.2.2", takes="192.0.2.1 192.0.2.2")
    network.speak_tls("192.0.2.2", authority.context("many.example"))
    monkeypatch.setattr(connection, "_HEAD_START", 60.0)
    target = Target("rtmps://many.example/live", "key-71aa", True)
    trusting = ssl.create_default_context(cafile=str(authority.file))
    await network.connect(limits=Limits(connect_timeout=1.5), target=target, tls=trusting)
    assert network.tried == ["192.0.2.1", "192.0.2.2"]
    # The last one has all the time.
    began = time.monotonic()
    with pytest.raises(PublishError) as caught:
        await network.connect({"192.0.2.2"}, Limits(connect_timeout=0.4), target, trusting)
    assert caught.value.code == "tls_failed" and time.monotonic() - began >= 0.4
