"""The ingest on a real socket: who may publish, and how a publish ends."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios

from butai.errors import Code
from butai.ingest.connection import Bounds, Publication
from butai.relay.packets import Packet
from butai.relay.rtmp.session import PublishRefused
from tests.ingest_stage import KEY, Show, ingest, talk


async def test_wrong_keys_are_told_so_and_leave_others_alone() -> None:
    show = Show()
    async with ingest(show, Bounds(linger=0.2)) as (server, port), asyncio.timeout(60):
        good, _, writer, _ = await talk(port)
        for _ in range(60):
            _, refused, closing, events = await talk(port, key=f"{KEY}x")
            assert events[-1] == PublishRefused("NetStream.Publish.BadName", "key_invalid: No encoder has this key")
            assert await refused.read() == b""
            closing.close()
        assert server.counts["refused"] == 60
        good.goodbye()
        writer.write(good.data_to_send())
        assert await show.ends.get()
        writer.close()


async def test_an_encoder_that_says_goodbye_closes_the_connection_itself_or_has_to() -> None:
    """GStreamer's pipeline fails when the server is the first to close."""
    show = Show()
    async with ingest(show, Bounds(close_within=0.4)) as (server, port), asyncio.timeout(30):
        session, reader, writer, _ = await talk(port)
        session.goodbye()
        writer.write(session.data_to_send())
        assert await show.ends.get()
        ended = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - ended > 0.3
        writer.close()
        await server.finished()


async def test_a_lost_connection_is_no_end_in_order_and_a_replaced_one_is_told() -> None:
    show = Show()
    async with ingest(show) as (_, port), asyncio.timeout(30):
        _, _, writer, _ = await talk(port)
        writer.transport.abort()
        assert not await show.ends.get()
        session, reader, writer, _ = await talk(port)
        show.publications[-1].end(Code.KEY_INVALID, "A newer connection has taken over")
        assert not await show.ends.get()
        events = session.feed(await reader.read(65536))
        assert events == [PublishRefused("NetStream.Publish.Denied", "key_invalid: A newer connection has taken over")]
        assert await reader.read() == b""
        writer.close()
        assert show.ends.empty()


async def test_a_goodbye_is_heard_from_an_encoder_that_has_read_nothing() -> None:
    """Its close is a reset, since our acknowledgements lie unread; what it sent before has arrived."""
    show = Show()
    async with ingest(show) as (_, port), asyncio.timeout(30):
        for _ in range(3):
            session, _, writer, _ = await talk(port)
            transport = writer.transport
            assert isinstance(transport, asyncio.Transport)
            transport.pause_reading()
            for number in range(40):
                session.media(Packet("video", bytes(30_000), number, number, keyframe=False), number)
            session.goodbye()
            writer.write(session.data_to_send())
            descriptor = writer.get_extra_info("socket").fileno()
            # Until the other kernel has everything: this one forgets what is unsent.
            while transport.get_write_buffer_size() or _outstanding(descriptor):
                await asyncio.sleep(0.005)
            transport.abort()
            assert await show.ends.get()


def _outstanding(descriptor: int) -> int:
    """Bytes that the other side's kernel has not acknowledged."""
    return int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])


async def test_a_publisher_that_says_nothing_more_is_lost() -> None:
    show = Show()
    async with ingest(show, Bounds(silent_after=0.3)) as (server, port), asyncio.timeout(30):
        _, _, writer, _ = await talk(port)
        assert not await show.ends.get()
        assert server.counts["silent"] == 1
        writer.close()


class Unavailable(Show):
    async def admit(self, candidates: tuple[str, ...], publication: Publication) -> Show:
        raise LookupError(candidates)


async def test_a_key_that_cannot_be_checked_is_no_wrong_key() -> None:
    async with ingest(Unavailable()) as (server, port), asyncio.timeout(30):
        *_, writer, events = await talk(port)
        assert events[-1] == PublishRefused(
            "NetStream.Publish.Denied", "internal: The key cannot be checked now: try again in a moment"
        )
        assert server.counts["failed"] == 1
        writer.close()
