"""What connections of encoders may take: their number, time, bytes and messages."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest

from butai.errors import Code
from butai.ingest.connection import Bounds, EncoderConnection
from butai.relay.incoming.h264 import ParameterSets
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, ChunkWriter, Message
from butai.relay.rtmp.session import Publishing
from tests.ingest_stage import HELLO, KEY, Show, counted, ingest, talk
from tests.waiting import until


async def test_bounds_of_connections() -> None:
    show = Show()
    async with ingest(show, Bounds(connections=3, connections_of_address=2)) as (server, port), asyncio.timeout(30):
        first, second = await talk(port), await talk(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        assert await reader.read() == b""
        writer.close()
        assert server.counts["address_full"] == 1
        first[2].transport.abort()
        await show.ends.get()
        await until(lambda: server.connections == 1, "the others are closed")
        third = await talk(port)
        assert isinstance(third[3][-1], Publishing)
        for one in (second, third):
            one[2].close()
    async with ingest(show, Bounds(connections=1)) as (server, port), asyncio.timeout(30):
        first = await talk(port)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert server.counts["full"] == 1
        for one in (writer, first[2]):
            one.close()


async def test_a_full_ingest_closes_the_oldest_connection_without_a_key() -> None:
    show = Show()
    async with ingest(show, Bounds(connections=3)) as (server, port), asyncio.timeout(30):
        first = await talk(port)
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        second = await talk(port)
        assert isinstance(second[3][-1], Publishing)
        with contextlib.suppress(ConnectionResetError):
            assert await waiting[0][0].read() == b""
        third = await talk(port)
        assert isinstance(third[3][-1], Publishing)
        with contextlib.suppress(ConnectionResetError):
            assert await waiting[1][0].read() == b""
        assert (server.counts["full"], server.connections) == (2, 3)
        assert show.ends.empty()
        for one in (*waiting, first[1:3], second[1:3], third[1:3]):
            one[1].close()


async def test_connections_without_a_key_have_a_bound_of_their_own() -> None:
    show = Show()
    async with ingest(show, Bounds(connections_without_key=1)) as (server, port), asyncio.timeout(30):
        publishers = [await talk(port) for _ in range(3)]
        assert all(isinstance(one[3][-1], Publishing) for one in publishers)
        waiting = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        with contextlib.suppress(ConnectionResetError):
            assert await waiting[0][0].read() == b""
        assert server.counts["full"] == 1
        assert show.ends.empty()
        for one in (*waiting, *(one[1:3] for one in publishers)):
            one[1].close()


CONNECT = ChunkWriter().write(3, Message(COMMAND, 0, 0, amf0.encode("connect", 1, {"app": "live"})))
DATA_OF_7_KB = b"\x03\0\0\0\0\x1b\x58\x12\0\0\0\0" + b"\xc3".join([*[bytes(128)] * 54, bytes(88)])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"", "late"),
        (b"\x03" + bytes(500), "late"),
        (b"GET / HTTP/1.1\r\n\r\n", "malformed"),
        (HELLO + b"\x03\0\0\0\xff\xff\xff\x14\0\0\0\0", "malformed"),
        # After connect, since an encoder says nothing before it.
        (HELLO + CONNECT + 10 * DATA_OF_7_KB, "too_much"),
    ],
    ids=["nothing", "half a handshake", "HTTP", "a message too long", "messages"],
)
async def test_what_is_no_publish_ends_and_is_counted(said: bytes, reason: str) -> None:
    show = Show()
    async with ingest(show, Bounds(publish_within=0.5)) as (server, port), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        await counted(server, reason)
        with contextlib.suppress(ConnectionResetError):
            await reader.read()
        writer.close()
        await server.finished()
        assert server.counts == {"connections": 1, reason: 1}
        assert show.addresses == []


class Closed(asyncio.Transport):
    """Remembers that it was closed at once."""

    aborted = False

    def abort(self) -> None:
        self.aborted = True

    def is_closing(self) -> bool:
        return self.aborted

    def write(self, data: object) -> None:
        """Sends nothing."""

    def get_write_buffer_size(self) -> int:
        return 0


async def test_bytes_beyond_the_bound_are_not_looked_at() -> None:
    """A read has up to 256 KiB."""
    counts, transport = Counter[str](), Closed()
    limit = asyncio.get_running_loop().time() + 60
    connection = EncoderConnection(None, "192.0.2.1", Show().admit, Bounds(), counts, limit)
    connection.connection_made(transport)
    connection.data_received(HELLO + CONNECT + 10 * DATA_OF_7_KB + b"\xff")
    assert transport.aborted
    assert counts == {"too_much": 1}
    connection.connection_lost(None)
    assert connection.closed.done()


async def test_a_publisher_sends_a_number_of_messages_in_a_second() -> None:
    show = Show()
    async with ingest(show, Bounds(messages_per_second=500)) as (server, port), asyncio.timeout(30):
        for _ in range(2):
            _, reader, writer, _ = await talk(port)
            writer.write(b"\x07" + bytes(11) + 20_000 * b"\xc7")
            assert not await show.ends.get()
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        assert server.counts == {"connections": 2, "accepted": 2, "too_much": 2}


class Unready(Show):
    def ended(self, *, in_order: bool) -> None:
        super().ended(in_order=in_order)
        raise LookupError(KEY)


async def test_a_receiver_that_fails_at_the_end_keeps_no_connection() -> None:
    show = Unready()
    async with ingest(show) as (server, port), asyncio.timeout(30):
        _, _, writer, _ = await talk(port)
        writer.transport.abort()
        assert not await show.ends.get()
        _, reader, writer, _ = await talk(port)
        show.publications[-1].end(Code.KEY_INVALID, "A newer connection has taken over")
        await reader.read()
        writer.close()
        await server.finished()


async def test_a_flood_of_sockets_is_counted_and_harms_no_publisher() -> None:
    show = Show()
    bounds = Bounds(connections=120, connections_of_address=100, publish_within=1.0)
    async with ingest(show, bounds) as (server, port), asyncio.timeout(60):
        session, _, publisher, _ = await talk(port)
        config = ParameterSets().with_units(
            [bytes.fromhex("6742c015da06c7f93840000003004000000f03c58ba8"), b"\x68\xce\x0f\x2c\x80"]
        )
        session.formats(VideoFormat(426, 240, 30, 1000, config.record()), AudioFormat(48000, 2, 128, b"\x11\x90"))
        others = list[asyncio.StreamWriter]()
        for number in range(300):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write((b"", b"\x03" + bytes(900), b"GET", HELLO)[number % 4])
            others.append(writer)
            picture = b"\0\0\0\5\x65" + number.to_bytes(4, "big")
            session.media(Packet("video", picture, number, number, keyframe=True), number)
            publisher.write(session.data_to_send())
        await counted(server, "connections", 301)
        await until(lambda: server.connections == 1, "the others are closed")
        ended = {name: server.counts[name] for name in ("address_full", "late", "malformed")}
        assert sum(ended.values()) == 300 and all(ended.values())
        await until(lambda: len(show.packets) >= 300, "all pictures")
        assert [one.data[-4:] for one in show.packets] == [number.to_bytes(4, "big") for number in range(300)]
        assert show.ends.empty()
        for writer in (publisher, *others):
            writer.close()
