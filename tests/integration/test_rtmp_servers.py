"""The publisher and servers that follow RTMP in their own way (it goes on), or mean harm (it ends with a code, soon)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import struct
from collections.abc import Generator
from dataclasses import dataclass

import psutil
import pytest

from butai.relay.rtmp import addresses, amf0, resolver
from butai.relay.rtmp.chunks import ACKNOWLEDGEMENT, COMMAND, VIDEO, ChunkWriter, Message
from butai.relay.rtmp.connection import Limits, Target
from butai.relay.rtmp.preflight import check
from butai.relay.rtmp.resolver import resolve
from tests.fakes.rtmp_server import Server
from tests.platforms import Platform
from tests.processes import free_port
from tests.pushes import HANDSHAKE, HARM, KEY, PING, accepted, flood, listening, pushing
from tests.waiting import until

# Servers that follow RTMP in their own way


async def test_a_server_that_acknowledges_by_its_own_large_window_is_live_without_a_break() -> None:
    """2 s from one to the next, longer than a stall."""
    server = Server(acks=1_000_000)
    async with server.running() as url, pushing(url, kbps=4000, limits=Limits(ignored_after=1)) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 4_500_000, "four acknowledgements", 15)
    assert push.phases == ["connecting", "publishing", "live"]


@pytest.mark.parametrize("number", [0, 2**31 - 1, 65536])
async def test_a_server_that_counts_in_its_own_way_is_live_and_seen_when_it_stops_reading(number: int) -> None:
    server = Server(acks=65536, counts=lambda _: number)
    async with server.running() as url, pushing(url, limits=Limits(ignored_after=60, give_up_stalled=30)) as push:
        await until(lambda: server.bytes > 700_000, "ten acknowledgements")
        assert push.phases == ["connecting", "publishing", "live"]
        server.reads.clear()
        await until(lambda: push.phase == "stalled", "stalled")
        server.reads.set()
        await until(lambda: push.phase == "live", "live again")


async def test_a_server_that_acknowledges_once_and_never_again_stays_live() -> None:
    early = Message(ACKNOWLEDGEMENT, 0, 0, struct.pack(">I", 3500))
    server = Server(said_at_publish=[early])
    async with server.running() as url, pushing(url, limits=Limits(ignored_after=1, give_up_stalled=2)) as push:
        await until(lambda: server.bytes > 1_300_000, "bytes", 15)
        assert not push.task.done()
    assert push.phases == ["connecting", "publishing", "live"]


async def test_few_bytes_and_no_pongs_are_no_stall() -> None:
    """64 KiB take 3 s at this rate: no acknowledgement is due before that."""
    server = Server(acks=65536)
    async with server.running() as url, pushing(url, kbps=170, limits=Limits(ignored_after=1)) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 120_000, "two acknowledgements", 16)
    assert push.phases == ["connecting", "publishing", "live"]


async def test_a_server_that_acknowledges_and_answers_no_ping_is_seen_when_it_stops_reading() -> None:
    server = Server(acks=65536)
    async with server.running() as url, pushing(url) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 400_000, "acknowledgements")
        server.reads.clear()
        await until(lambda: push.phase == "stalled", "stalled")
        assert push.codes[-1] == "destination_stalled"
        server.reads.set()
        await until(lambda: push.phase == "live", "live again")


async def test_an_acknowledgement_that_goes_back_counts_for_nothing() -> None:
    back = [Message(ACKNOWLEDGEMENT, 0, 0, struct.pack(">I", number)) for number in (3400, 3000)]
    server = Server(said_at_publish=back)
    async with server.running() as url, pushing(url, limits=Limits(ignored_after=60)) as push:
        await until(lambda: server.bytes > 300_000, "bytes")
        assert push.publisher.stats.bytes_acked < 4000
        assert "live" not in push.phases


async def test_a_late_no_to_a_courtesy_ends_nothing() -> None:
    unknown = {"level": "error", "code": "NetConnection.Call.Failed"}
    late = [Message(COMMAND, 0, 0, amf0.encode("_error", number, None, unknown)) for number in (2, 3)]
    server = Server(acks=65536, pongs=True, said_at_publish=late)
    async with server.running() as url, pushing(url) as push:
        await until(lambda: push.phase == "live", "live")
        await until(lambda: push.publisher.stats.bytes_acked > 200_000, "acknowledgements")
        assert not push.task.done()


async def test_a_refusal_without_a_level_is_a_refusal() -> None:
    no = {"code": "NetStream.Publish.BadName", "description": f"no such stream {KEY}"}
    server = Server(said_at_publish=[Message(COMMAND, 1, 0, amf0.encode("onStatus", 0, None, no))])
    async with server.running() as url, pushing(url, limits=Limits(ignored_after=60)) as push:
        assert (await push.error()).code in ("key_rejected", "destination_closed")


async def test_a_peer_bandwidth_is_answered_with_our_window() -> None:
    server = Server(acks=65536, pongs=True, said_at_publish=[Message(6, 0, 0, struct.pack(">IB", 2_500_000, 2))])
    async with server.running() as url, pushing(url):
        await until(lambda: sum(message.kind == 5 for message in server.controls) == 2, "the answer")
    assert all(message.payload == struct.pack(">I", 65536) for message in server.controls if message.kind == 5)


# Slow ones, and the end


async def test_a_slow_reader_drops_to_keyframes_and_another_platform_does_not_notice() -> None:
    slow, quick = Server(acks=65536, pongs=True, rate=150_000), Server(acks=65536, pongs=True)
    limits = Limits(queue_ms=1000, stall_after=6)
    async with (
        slow.running() as slow_url,
        quick.running() as quick_url,
        pushing(slow_url, kbps=8000, limits=limits) as one,
        pushing(quick_url, kbps=8000, limits=limits) as other,
    ):
        most = 0.0

        def dropped() -> bool:
            nonlocal most
            most = max(most, one.publisher.stats.queue_ms)
            return one.publisher.stats.dropped_frames > 90

        await until(dropped, "drops", 25)
        assert most <= 1100
        assert other.publisher.stats.dropped_frames == 0
        assert other.publisher.stats.bytes_acked > 4 * slow.bytes
        # What is in the buffers of two kernels comes through, too.
        slow.rate = None
        last = one.publisher.stats.frames_sent
        await until(lambda: one.publisher.stats.frames_sent > last + 60, "frames again")
    pictures = [(stamp, head) for kind, stamp, head in slow.media if kind == VIDEO and head[1] == 1]
    gaps = [after for before, after in itertools.pairwise(pictures) if after[0] - before[0] > 200]
    assert gaps
    assert all(head[0] >> 4 == 1 for _, head in gaps)
    assert [stamp for stamp, _ in pictures] == sorted(stamp for stamp, _ in pictures)


async def test_stop_ends_it_also_when_the_platform_takes_nothing() -> None:
    server = Server(acks=65536, pongs=True)
    limits = Limits(queue_ms=500, give_up_stalled=30)
    async with server.running() as url, pushing(url, kbps=60_000, limits=limits) as push:
        await until(lambda: push.publisher.stats.bytes_acked > 400_000, "acknowledgements")
        server.reads.clear()
        # Both kernels are full, and the publisher waits for the socket.
        await until(lambda: push.publisher.stats.dropped_frames > 0, "drops", 15)
        await push.stopped()
        assert not server.reads.is_set()


async def test_stop_says_goodbye_where_the_platform_answers() -> None:
    server = Server(acks=65536, pongs=True)
    async with server.running() as url, pushing(url) as push:
        await until(lambda: push.phase == "live", "live")
        await push.stopped()
        await until(lambda: server.closed, "the end of the connection")
        assert server.commands[-2:] == ["FCUnpublish", "deleteStream"]


async def test_nothing_of_the_end_is_lost_at_a_real_platform() -> None:
    with Platform("bye") as platform:
        async with pushing(platform.url) as push:
            await until(lambda: push.phase == "live", "live")
            await push.stopped()
        await until(lambda: platform.published(KEY, "publish_done"), "the end of the publish")


async def test_a_name_whose_first_address_swallows_everything_is_reached_by_its_second(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Server(acks=65536, pongs=True)
    with socket.socket() as full:
        # A listener whose queue is full answers no further SYN.
        port = free_port()
        full.bind(("127.0.0.2", port))
        full.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", port))
        with pytest.raises(TimeoutError):
            socket.create_connection(("127.0.0.2", port), timeout=0.5)

        async def both(_host: str, _port: int, _timeout: float = 5.0) -> list[str]:
            return ["127.0.0.2", "127.0.0.1"]

        monkeypatch.setattr("butai.relay.rtmp.connection.resolve", both)
        bound = await asyncio.start_server(server._serve, "127.0.0.1", port)
        try:
            async with pushing(f"rtmp://platform.example:{port}/live", limits=Limits(connect_timeout=4)) as push:
                await until(lambda: push.phase == "live", "live", 8)
        finally:
            bound.close()
            for filler in fillers:
                filler.close()


@dataclass
class SilentNameserver:
    """A name server on loopback that takes every question and answers none."""

    address: str
    asked: list[bytes]


@contextlib.contextmanager
def silent_nameserver() -> Generator[SilentNameserver]:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.bind(("127.0.0.1", 0))
        wire.setblocking(False)
        server = SilentNameserver(f"127.0.0.1:{wire.getsockname()[1]}", [])
        loop.add_reader(wire, lambda: server.asked.append(wire.recv(4096)))
        yield server
        loop.remove_reader(wire)


def ask_only(server: SilentNameserver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "NAMESERVERS", [server.address])


async def test_a_name_that_nobody_answers_for_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_nameserver() as address:
        ask_only(address, monkeypatch)
        async with pushing("rtmp://platform.example/live", limits=Limits(connect_timeout=0.5)) as push:
            error = await push.error(3)
        assert address.asked
    assert (error.code, "dns" in error.detail) == ("destination_unreachable", True)


async def test_names_that_nobody_answers_for_hold_up_no_other_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve, where an event loop has four threads for look-ups, each held for as long as the system asks."""
    with silent_nameserver() as address:
        ask_only(address, monkeypatch)
        names = [f"name{number}.example" for number in range(12)]
        silent = [asyncio.create_task(resolve(name, 1935, 60)) for name in names]
        await until(
            lambda: {name for name in names if name.encode().split(b".")[0] in b"".join(address.asked)} == set(names),
            "asked",
        )
        assert await asyncio.get_running_loop().getaddrinfo("localhost", 1935)
        # No thread of the system's resolver is taken, so these cannot have ended before the one above.
        assert [task for task in silent if task.done()] == []
        for task in silent:
            task.cancel()
        assert all(
            isinstance(one, asyncio.CancelledError) for one in await asyncio.gather(*silent, return_exceptions=True)
        )


@pytest.mark.parametrize("allow_private", [False, True])
@pytest.mark.parametrize("where", ["169.254.169.254", "168.63.129.16", "fd00:ec2::254", "fe80::1", "::ffff:a9fe:a9fe"])
async def test_a_metadata_service_is_connected_to_under_no_name(
    monkeypatch: pytest.MonkeyPatch, where: str, allow_private: bool
) -> None:
    connected: list[object] = []

    async def found(_host: str, _port: int, _timeout: float) -> list[str]:
        return [where]

    async def connect(_sock: object, address: object) -> None:
        connected.append(address)

    monkeypatch.setattr("butai.relay.rtmp.connection.resolve", found)
    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", connect)
    steps = await check(Target("rtmp://platform.example/live", KEY, allow_private), publish=False)
    assert [(step.name, step.ok, step.code) for step in steps] == [("dns", False, "invalid_destination")]
    assert connected == []


async def test_the_address_that_was_looked_at_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that says something public first, and loopback when asked again."""
    asked: list[str] = []

    async def rebinding(host: str, *_: object) -> list[str]:
        asked.append(host)
        return ["192.0.2.1" if len(asked) > 1 else "127.0.0.1"]

    monkeypatch.setattr("butai.relay.rtmp.connection.resolve", rebinding)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebinding)
    monkeypatch.setattr("butai.relay.rtmp.connection.is_private", lambda one: one != "127.0.0.1")
    target = Target("rtmp://platform.example:9/live", KEY)
    steps = await check(target, publish=False, limits=Limits(connect_timeout=1))
    assert [(step.name, step.ok) for step in steps] == [("dns", True), ("tcp", False)]
    assert "refused" in steps[-1].detail.lower()
    assert asked == ["platform.example"]
    assert addresses.is_private("192.0.2.1")


# Servers that mean harm


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("early", [False, True], ids=["publishing", "connecting"])
@pytest.mark.parametrize("tried", [False, True], ids=["published", "tested"])
async def test_a_flood_without_end_ends_with_a_code_and_in_little_memory(
    harm: str, early: bool, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A flood is one for as much as is read of it: of pings 3 MB in a second of a processor, which a busy machine may give
    # seldom. Below the least flood, a server that reads nothing is stalled.
    monkeypatch.setattr("butai.relay.rtmp.connection._MAX_RECEIVED", 16 * 1024)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HANDSHAKE)
        await reader.readexactly(1537 + 1536)
        if not early:
            writer.write(accepted())
        await flood(writer, HARM[harm])

    process = psutil.Process()
    before = process.memory_info().rss
    limits = Limits(publish_timeout=3)
    async with listening(serve) as url:
        if tried:
            steps = await check(Target(url, KEY, True), publish=True, limits=limits)
            assert not steps[-1].ok
            code, detail = steps[-1].code, steps[-1].detail
        else:
            async with pushing(url, limits=limits) as push:
                error = await push.error()
                code, detail = error.code, error.detail
    assert (code, detail) == ("destination_unreachable", "it sends more than any platform needs to")
    assert process.memory_info().rss - before < 60_000_000


async def test_questions_without_reading_the_answers_end_it_also_with_false_acknowledgements() -> None:
    """Slow enough to be borne, and it says that it has read everything: the answers would pile up for a whole show."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HANDSHAKE)
        await reader.readexactly(1537 + 1536)
        writer.write(accepted())
        out = ChunkWriter()
        for second_half in itertools.count(1):
            writer.write(out.write(2, PING) * 14_000)
            lie = struct.pack(">I", second_half * 10_000_000)
            writer.write(out.write(4, Message(ACKNOWLEDGEMENT, 0, 0, lie)))
            await writer.drain()
            await asyncio.sleep(0.5)

    async with listening(serve) as url, pushing(url) as push:
        error = await push.error(30)
    assert (error.code, error.detail) == ("destination_stalled", "it sends requests, and does not read the answers")


async def test_a_handshake_that_drips_ends_in_time() -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x03")
        while True:
            writer.write(b"\x00")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with listening(serve) as url, pushing(url, limits=Limits(publish_timeout=1)) as push:
        error = await push.error()
    assert (error.code, error.detail) == ("destination_unreachable", "no answer in time (handshake)")
