"""Checks of the servers of held outputs: they connect, say nothing of RTMP, stay connected, and tell of changes only."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import ssl
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from butai.errors import Code
from butai.relay import reachability
from butai.relay.messages import HeldOutput, OutputLine
from butai.relay.reachability import MOST_CHANGES, Reachability
from butai.relay.rtmp.addresses import server_of
from butai.relay.rtmp.connection import Connection
from butai.relay.rtmp.failures import PublishError
from butai.relay.timing import Limits, RelayTiming
from tests.platforms import Authority
from tests.relay_stage import until

OFTEN = RelayTiming(
    check_server_every=0.01, check_server_cap=0.02, check_again_after=0.01, rtmp=Limits(connect_timeout=2.0)
)


class Ingest:
    """A server that keeps what each connection has said when it ends."""

    def __init__(self, *, hangs_up: bool = False) -> None:
        self._hangs_up = hangs_up
        self.said: list[bytes] = []
        self.open = 0

    @contextlib.asynccontextmanager
    async def running(self, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.open += 1
            if self._hangs_up:
                writer.write_eof()
            with contextlib.suppress(OSError):
                self.said.append(await reader.read())
            self.open -= 1
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", port, ssl=tls)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()


@contextlib.asynccontextmanager
async def checking(
    *held: HeldOutput, timing: RelayTiming = OFTEN, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[tuple[Reachability, list[OutputLine]]]:
    told: list[OutputLine] = []
    made = Reachability(told.append, timing, tls)
    made.watch(held)
    try:
        yield made, told
    finally:
        await made.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_of_an_ingest_url_only_the_server_is_sent_to_the_relay() -> None:
    assert server_of("rtmps://b.rtmps.youtube.com/live2?backup=1") == "rtmps://b.rtmps.youtube.com:443/"
    assert server_of("rtmp://[2001:db8::1]:1936/app/***") == "rtmp://[2001:db8::1]:1936/"


async def test_a_server_is_reached_once_and_again_only_where_it_hangs_up_and_that_is_told_once() -> None:
    keeps, hangs_up = Ingest(), Ingest(hangs_up=True)
    async with keeps.running() as first, hangs_up.running() as second:
        held = [HeldOutput(f"o{port}", f"rtmp://127.0.0.1:{port}/", allow_private=True) for port in (first, second)]
        async with checking(*held) as (made, told):
            await until(lambda: keeps.open == 1 and bool(told))
            known = [one for one in held if one.output_id in {line.output_id for line in told}]
            made.watch(held)
            await until(lambda: len(hangs_up.said) >= 4)
            assert (keeps.open, keeps.said) == (1, []) and hangs_up.open <= 1
            # Again to a controller that orders the checks again, which may be another one.
            assert sorted((line.output_id, line.attempt, line.phase, line.code) for line in told) == sorted(
                (one.output_id, 0, "connecting", "") for one in [*held, *known]
            )
        await until(lambda: keeps.said == [b""])
    assert set(hangs_up.said) == {b""}


async def test_one_that_refuses_is_told_with_its_code_until_it_is_there() -> None:
    port, ingest = free_port(), Ingest()
    async with checking(HeldOutput("o1", f"rtmp://127.0.0.1:{port}/", allow_private=True)) as (_, told):
        await until(lambda: bool(told))
        assert (told[0].code, told[0].detail) == ("destination_unreachable", "tcp: Connection refused")
        async with ingest.running(port):
            await until(lambda: [line.code for line in told] == ["destination_unreachable", ""])


async def test_tls_is_part_of_it(tmp_path: Path) -> None:
    authority, ingest = Authority(tmp_path), Ingest()
    trusting = ssl.create_default_context(cafile=str(authority.file))
    async with ingest.running(tls=authority.context("127.0.0.1")) as port:
        one = HeldOutput("o1", f"rtmps://127.0.0.1:{port}/", allow_private=True)
        async with checking(one) as (_, told):
            await until(lambda: [line.code for line in told] == ["tls_failed"])
        async with checking(one, tls=trusting) as (_, told):
            await until(lambda: [line.code for line in told] == [""])


async def test_a_private_address_is_not_connected_to() -> None:
    ingest = Ingest()
    async with ingest.running() as port, checking(HeldOutput("o1", f"rtmp://127.0.0.1:{port}/")) as (_, told):
        await until(lambda: [line.code for line in told] == ["invalid_destination"])
    assert ingest.said == []


async def test_an_output_that_no_longer_waits_is_left_alone_and_one_that_waits_on_is_not_checked_anew() -> None:
    ingest = Ingest()
    slowly = RelayTiming(check_server_every=3600.0, kept_for=0.01)
    async with ingest.running() as port:
        first, second = (HeldOutput(name, f"rtmp://127.0.0.1:{port}/", allow_private=True) for name in ("o1", "o2"))
        async with checking(first, timing=slowly) as (made, told):
            await until(lambda: len(told) == 1)
            made.watch([first, second])
            await until(lambda: len(told) == 3)
            assert [line.output_id for line in told] == ["o1", "o1", "o2"]
            made.watch([])
            await until(lambda: not made._checks and len(ingest.said) == 2)


async def test_the_result_of_a_server_that_is_left_is_not_told_any_more() -> None:
    """It may come after that of the server that the output has now."""
    port, ingest = free_port(), Ingest()
    timing = RelayTiming(check_again_after=0.01, kept_for=3600.0)
    async with checking(HeldOutput("o1", f"rtmp://127.0.0.1:{port}/", allow_private=True), timing=timing) as (
        made,
        told,
    ):
        await until(lambda: [line.code for line in told] == ["destination_unreachable"])
        made.watch([])
        async with ingest.running(port):
            await until(lambda: ingest.open == 1)
            assert [line.code for line in told] == ["destination_unreachable"]


async def test_checks_of_a_server_that_changes_all_the_time_become_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = itertools.cycle((PublishError(Code.TLS_FAILED, ""), PublishError(Code.DESTINATION_UNREACHABLE, "")))
    slept: list[float] = []

    async def connect(*_: object) -> Connection:
        raise next(answers)

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2 * MOST_CHANGES:
            raise asyncio.CancelledError

    monkeypatch.setattr(reachability, "connect", connect)
    monkeypatch.setattr(reachability.asyncio, "sleep", sleep)
    timing, told = RelayTiming(), list[OutputLine]()
    made = Reachability(told.append, timing)
    made.watch([HeldOutput("o1", "rtmp://127.0.0.1:1935/", allow_private=True)])
    await asyncio.gather(*made._checks.values(), return_exceptions=True)
    assert slept == MOST_CHANGES * [timing.check_again_after] + MOST_CHANGES * [timing.check_server_cap]
    assert len(told) == len(slept)
