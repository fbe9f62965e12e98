"""The publisher and servers that break a publish, each in its own way: what it is called, and what becomes of the next."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable

import pytest

from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, Message
from butai.relay.rtmp.connection import Limits
from tests.fakes.odd_rtmp_servers import (
    Confused,
    EndsInMidStream,
    HoldsSessions,
    Late,
    half_closes,
    resets,
    says,
)
from tests.fakes.rtmp_server import Server
from tests.pushes import HANDSHAKE, listening, pushing
from tests.waiting import until

LIVE = ["connecting", "publishing", "live"]

ENDS: dict[str, Callable[[Server, asyncio.StreamWriter], None]] = {
    "hangs up": lambda _, writer: writer.close(),
    "resets": resets,
    "half-closes": half_closes,
    "bad name": says("NetStream.Publish.BadName"),
    "failed": says("NetStream.Failed"),
}


async def test_a_session_that_is_still_held_is_no_wrong_key() -> None:
    server = HoldsSessions(acks=65536, pongs=True, held=60)
    async with server.running() as url:
        async with pushing(url) as push:
            await until(lambda: push.phase == "live", "live")
            server.cut()
            error = await push.error()
            assert (error.code, error.retryable) == ("destination_closed", True)
        for _ in range(2):
            async with pushing(url) as push:
                error = await push.error()
            assert (error.if_key_worked, error.retryable) == ("destination_closed", True)
        assert server.refused == 2
        server.held = 0
        server.cut()
        async with pushing(url) as push:
            await until(lambda: push.phase == "live", "live")


@pytest.mark.parametrize("how", ENDS)
async def test_one_that_ends_each_publish_is_closed_each_time(how: str) -> None:
    server = EndsInMidStream(acks=16384, pongs=True, how=ENDS[how], after=15)
    async with server.running() as url:
        for number in (1, 2):
            async with pushing(url) as push:
                error = await push.error()
            assert (error.code, error.retryable) == ("destination_closed", True)
            assert (error.if_key_worked or error.code, push.phases) == ("destination_closed", LIVE)
            assert server.publishes == number


@pytest.mark.parametrize("offset", [0, 400_000])
async def test_numbers_of_31_bits_that_begin_again_are_no_stall(offset: int) -> None:
    server = Server(acks=65536, counts=lambda total: (2**31 - offset + total) % 2**31)
    async with server.running() as url, pushing(url, kbps=8000) as push:
        await until(lambda: server.bytes > 900_000, "bytes on both sides of the wrap")
        assert push.phases == LIVE


async def test_one_that_acknowledges_nothing_and_answers_nothing_stays_live() -> None:
    server = Server()
    async with server.running() as url, pushing(url, kbps=8000, limits=Limits(ignored_after=0.5)) as push:
        await until(lambda: push.phase == "live", "live")
        await until(lambda: server.bytes > 900_000, "bytes")
        assert push.phases == LIVE


async def test_a_name_that_is_refused_late_is_in_use() -> None:
    no = {"level": "error", "code": "NetStream.Publish.BadName", "description": "stream busy"}

    class Refuses(Late):
        def say(self, writer: asyncio.StreamWriter, message: Message) -> None:
            if self.commands[-1:] == ["publish"] and message.kind == COMMAND:
                message = Message(COMMAND, 1, 0, amf0.encode("onStatus", 0, None, no))
            super().say(writer, message)

    server = Refuses(late="publish", seconds=0.8)
    limits = Limits(silence_timeout=0.3, publish_timeout=5)
    async with server.running() as url, pushing(url, limits=limits) as push:
        error = await push.error()
    # Also where the key never worked: the server says what it means.
    assert (error.code, error.if_key_worked, error.retryable) == ("already_publishing", None, True)
    assert push.phases == ["connecting"]


async def test_answers_to_calls_that_were_never_made_are_passed_over() -> None:
    async with Confused(acks=65536).running() as url, pushing(url) as push:
        await until(lambda: push.phase == "live", "live")
        assert push.phases == LIVE


@pytest.mark.parametrize("after", ["connection", "handshake"])
async def test_one_that_accepts_and_resets_has_closed_the_connection(after: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        if after == "handshake":
            writer.write(HANDSHAKE)
            await reader.readexactly(1536)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async with listening(serve) as url, pushing(url) as push:
        error = await push.error()
    assert (error.code, error.retryable) == ("destination_closed", True)


async def test_one_that_is_silent_in_tls_is_given_up_in_time() -> None:
    gone = asyncio.Event()

    async def serve(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await gone.wait()

    async with listening(serve) as url:
        limits = Limits(connect_timeout=0.5)
        async with pushing(url.replace("rtmp://", "rtmps://"), limits=limits) as push:
            error = await push.error()
        gone.set()
    assert (error.code, error.retryable, push.phases) == ("tls_failed", True, ["connecting"])


async def test_a_window_that_closes_for_a_while_is_a_stall_and_no_end() -> None:
    server = Server(acks=65536, pongs=True)
    async with server.running() as url, pushing(url, kbps=40_000, limits=Limits(give_up_stalled=30)) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 400_000, "acknowledgements")
        server.reads.clear()
        await until(lambda: push.phase == "stalled", "stalled")
        # So much that both kernels' buffers are full: the window is zero.
        await until(lambda: push.publisher.stats.queue_ms > 500, "a full window")
        server.reads.set()
        await until(lambda: push.phase == "live", "live again")
    assert push.phases == [*LIVE, "stalled", "live"]
