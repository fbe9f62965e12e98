"""The ingest on a real socket: real encoders publish, and everything else is bounded, counted and told why."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes.util
import fcntl
import io
import socket
import ssl
import struct
import sys
import termios
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from av import CodecContext
from av import Packet as CodecPacket
from av.video.codeccontext import VideoCodecContext

from butai.errors import Code
from butai.ingest.connection import Bounds, EncoderConnection, KeyRefused, Publication
from butai.ingest.proxy_protocol import ProxyHeaderInvalid, client_address
from butai.ingest.server import Ingest
from butai.relay.incoming.h264 import ParameterSets
from butai.relay.incoming.reader import FormatChanged, SourceReader
from butai.relay.incoming.timeline import Timeline
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp import amf0
from butai.relay.rtmp.addresses import parse
from butai.relay.rtmp.chunks import COMMAND, ChunkWriter, Message
from butai.relay.rtmp.server_session import Media
from butai.relay.rtmp.session import Event, Publishing, PublishRefused, Session
from tests.platforms import Authority

KEY = "canary-3fa1-key"


@dataclass
class Show:
    """Takes what is published with `KEY`, and reads it as a broadcast does."""

    addresses: list[str] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    formats: list[VideoFormat | AudioFormat] = field(default_factory=list)
    told: list[Mapping[str, Any]] = field(default_factory=list)
    ends: asyncio.Queue[bool] = field(default_factory=asyncio.Queue[bool])
    counts: Mapping[str, int] = field(default_factory=dict[str, int])
    line: Timeline = field(default_factory=Timeline)

    async def admit(self, candidates: tuple[str, ...], publication: Publication) -> Show:
        self.addresses.append(publication.address)
        if KEY not in candidates:
            raise KeyRefused(Code.KEY_INVALID, "No encoder has this key")
        self.publications.append(publication)
        self.reader = SourceReader(self.line)
        return self

    def media(self, event: Media) -> None:
        for one in self.reader.feed(event.kind, event.timestamp, event.payload, int(time.monotonic() * 1000)):
            if isinstance(one, FormatChanged):
                self.formats.append(one.format)
            else:
                self.packets.append(one)

    def metadata(self, values: Mapping[str, Any]) -> None:
        self.told.append(values)
        self.reader.metadata(values)

    def ended(self, *, in_order: bool) -> None:
        self.ends.put_nowait(in_order)

    def pictures(self) -> int:
        """Decodes all pictures; raises at the first error."""
        (format_,) = (one for one in self.formats if isinstance(one, VideoFormat))
        decoder = CodecContext.create("h264", "r")
        assert isinstance(decoder, VideoCodecContext)
        decoder.extradata = format_.avcc
        decoder.options = {"err_detect": "explode"}
        count = 0
        for packet in self.packets:
            if packet.kind == "video":
                one = CodecPacket(packet.data)
                one.dts, one.pts, one.time_base = packet.dts, packet.pts, Fraction(1, 1000)
                count += len(decoder.decode(one))
        return count + len(decoder.decode(None))


@contextlib.asynccontextmanager
async def ingest(
    show: Show,
    bounds: Bounds | None = None,
    trusted: Callable[[str], bool] = lambda _: False,
    tls: ssl.SSLContext | None = None,
) -> AsyncGenerator[tuple[Ingest, int]]:
    """A running ingest, and its port."""
    server = Ingest(show.admit, bounds=bounds, trusted=trusted, tls=tls)
    listening = socket.create_server(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve(listening))
    try:
        yield server, listening.getsockname()[1]
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        await server.close()
        listening.close()


async def counted(server: Ingest, name: str, count: int = 1) -> None:
    async with asyncio.timeout(20):
        while server.counts[name] < count:
            await asyncio.sleep(0.01)


async def ffmpeg(port: int, *output: str, key: str = KEY, scheme: str = "rtmp") -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *("ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin"),
        *("-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30", "-f", "lavfi", "-i", "sine=sample_rate=48000"),
        *("-t", "2", *output, "-f", "flv", f"{scheme}://127.0.0.1:{port}/live/{key}"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "30", "-bf", "2", "-threads", "1", "-pix_fmt", "yuv420p")


async def test_ffmpeg_publishes_and_ends_in_order() -> None:
    show = Show()
    async with ingest(show) as (server, port), asyncio.timeout(90):
        assert await ffmpeg(port, *X264, "-c:a", "aac", "-b:a", "64k") == (0, "")
        assert await show.ends.get()
        assert show.pictures() == 60
        video, audio = show.formats
        assert isinstance(video, VideoFormat) and (video.width, video.height, video.fps) == (320, 180, 30)
        assert isinstance(audio, AudioFormat) and audio.rate == 48000
        assert sum(one.kind == "audio" for one in show.packets) > 80
        assert any(one.pts > one.dts for one in show.packets), "B-frames keep their times"
        assert len(show.told) == 1
        await server.finished()
        assert server.counts == {"connections": 1, "accepted": 1}


async def test_ffmpeg_publishes_over_tls_behind_a_proxy(tmp_path: Path) -> None:
    """The header of the proxy comes before TLS, and nothing of what follows it is taken with it."""
    show = Show()
    tls = Authority(tmp_path).context("127.0.0.1")
    async with ingest(show, trusted="127.0.0.1".__eq__, tls=tls) as (server, port), asyncio.timeout(90):

        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            inner_writer.write(b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935\r\n")
            await asyncio.gather(pipe(reader, inner_writer), pipe(inner_reader, writer))

        async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await reader.read(65536):
                    writer.write(data)
                    await writer.drain()
            writer.close()

        async with await asyncio.start_server(carry, "127.0.0.1", 0) as front:
            outer = front.sockets[0].getsockname()[1]
            assert await ffmpeg(outer, *X264, "-c:a", "aac", scheme="rtmps") == (0, "")
            assert await show.ends.get()
            await server.finished()
        assert show.pictures() == 60
        assert show.addresses == ["203.0.113.7"]
        assert server.counts == {"connections": 1, "accepted": 1}


async def test_a_failed_tls_handshake_is_counted(tmp_path: Path) -> None:
    show = Show()
    tls = Authority(tmp_path).context("127.0.0.1")
    async with ingest(show, Bounds(publish_within=0.5), tls=tls) as (server, port), asyncio.timeout(30):
        for said in (HELLO, b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            with contextlib.suppress(ConnectionResetError):
                await reader.read()
            writer.close()
        await server.finished()
        assert server.counts == {"connections": 2, "tls": 2}


async def test_ffmpeg_shows_why_a_key_is_refused() -> None:
    show = Show()
    async with ingest(show) as (server, port), asyncio.timeout(90):
        code, said = await ffmpeg(port, *X264, "-c:a", "aac", key="another")
        assert code and "key_invalid: No encoder has this key" in said
        assert server.counts["refused"] == 1


@pytest.mark.parametrize(("codec", "kind"), [(("-c:v", "flv1"), "video"), ((*X264, "-c:a", "libmp3lame"), "audio")])
async def test_other_codecs_of_ffmpeg_are_refused(codec: tuple[str, ...], kind: str) -> None:
    show = Show()
    async with ingest(show) as (_, port), asyncio.timeout(90):
        code, _ = await ffmpeg(port, *codec, "-ar", "44100")
        assert code
        assert not await show.ends.get()
        assert [one for one in show.packets if one.kind == kind] == []


def flv(seconds: int) -> bytes:
    """An FLV file of H.264."""
    file = io.BytesIO()
    with av.open(file, "w", format="flv") as out:
        video = out.add_stream("libx264", rate=30, options={"preset": "ultrafast", "threads": "1"})
        video.width, video.height, video.pix_fmt = 160, 90, "yuv420p"
        for number in range(30 * seconds):
            frame = av.VideoFrame(160, 90, "yuv420p")
            frame.pts = number
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return file.getvalue()


LIBRTMP = """
import ctypes, fcntl, struct, sys, termios, time
library = ctypes.CDLL(sys.argv[1])
library.RTMP_Alloc.restype = ctypes.c_void_p
for name in ("Init", "SetupURL", "EnableWrite", "Connect", "ConnectStream", "Write", "Socket", "Close"):
    getattr(library, f"RTMP_{name}").argtypes = [ctypes.c_void_p]
library.RTMP_SetupURL.argtypes += [ctypes.c_char_p]
library.RTMP_Connect.argtypes += [ctypes.c_void_p]
library.RTMP_ConnectStream.argtypes += [ctypes.c_int]
library.RTMP_Write.argtypes += [ctypes.c_char_p, ctypes.c_int]
session = library.RTMP_Alloc()
library.RTMP_Init(session)
url = ctypes.create_string_buffer(sys.argv[2].encode())  # changed and kept
assert library.RTMP_SetupURL(session, url)
library.RTMP_EnableWrite(session)
assert library.RTMP_Connect(session, None), "connect"
assert library.RTMP_ConnectStream(session, 0), "publish"
data, at = sys.stdin.buffer.read(), 0
end = 13
while at < len(data):
    end += 15 + int.from_bytes(data[end + 1 : end + 4], "big")
    assert library.RTMP_Write(session, data[at:end], end - at) == end - at, "media"
    at = end
# The kernel forgets what is unsent when a socket is closed with answers unread; an encoder in real time has nothing unsent.
while struct.unpack("i", fcntl.ioctl(library.RTMP_Socket(session), termios.TIOCOUTQ, bytes(4)))[0]:
    time.sleep(0.01)
library.RTMP_Close(session)
"""
"""Publishes an FLV file, tag by tag. In a process of its own: a mistake in C ends no tests."""


async def test_librtmp_publishes_which_obs_has_inside() -> None:
    name = ctypes.util.find_library("rtmp")
    if name is None:
        pytest.skip("librtmp, which libcurl brings, is not on this machine")
    show = Show()
    async with ingest(show) as (_, port), asyncio.timeout(60):
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", LIBRTMP, name, f"rtmp://127.0.0.1:{port}/live/{KEY}"),
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate(flv(2))
        assert process.returncode == 0, said
        assert await show.ends.get(), "in order"
        assert show.pictures() == 60


# With our own publisher's side, byte for byte


Talk = tuple[Session, asyncio.StreamReader, asyncio.StreamWriter, list[Event]]


async def talk(port: int, key: str = KEY, before: bytes = b"") -> Talk:
    """Publishes, until it is accepted, refused or closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(before)
    session, events = Session(parse(f"rtmp://127.0.0.1:{port}/live"), key), list[Event]()
    while not any(isinstance(one, Publishing | PublishRefused) for one in events):
        writer.write(session.data_to_send())
        try:
            data = await reader.read(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            break
        events += session.feed(data)
    return session, reader, writer, events


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
        while server.connections > 1:
            await asyncio.sleep(0.01)
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


HELLO = b"\x03" + bytes(3072)
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
    until = asyncio.get_running_loop().time() + 60
    connection = EncoderConnection(None, "192.0.2.1", Show().admit, Bounds(), counts, until)
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
        while server.connections > 1:
            await asyncio.sleep(0.01)
        ended = {name: server.counts[name] for name in ("address_full", "late", "malformed")}
        assert sum(ended.values()) == 300 and all(ended.values())
        while len(show.packets) < 300:
            await asyncio.sleep(0.01)
        assert [one.data[-4:] for one in show.packets] == [number.to_bytes(4, "big") for number in range(300)]
        assert show.ends.empty()
        for writer in (publisher, *others):
            writer.close()


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


HEADER_2 = b"\r\n\r\n\0\r\nQUIT\n"


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935\r\n", "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 5555 1935\r\n", "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (HEADER_2 + b"\x21\x11\x00\x0f" + bytes((203, 0, 113, 8, 10, 0, 0, 1, 0, 1, 0, 2)) + b"tlv", "203.0.113.8"),
        (HEADER_2 + b"\x21\x21\x00\x24" + bytes(15) + b"\x09" + bytes(20), "::9"),
        (HEADER_2 + b"\x20\x00\x00\x00", "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_says_whose_connection_it_is(header: bytes, address: str) -> None:
    show = Show()
    async with ingest(show, trusted="127.0.0.1".__eq__) as (_, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=header)
        assert isinstance(events[-1], Publishing)
        assert show.addresses == [address]
        writer.close()


async def test_others_may_not_say_so_and_a_proxy_says_it_well_or_not_at_all() -> None:
    """An encoder on the machine of a proxy may come without it."""
    show = Show()
    async with ingest(show) as (server, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935\r\n")
        assert (events, server.counts["malformed"]) == ([], 1)
        writer.close()
    async with ingest(show, trusted="127.0.0.1".__eq__) as (server, port), asyncio.timeout(30):
        *_, writer, events = await talk(port, before=b"PROXY TCP4 nobody 10.0.0.1 5555 1935\r\n")
        assert (events, server.counts["proxy"]) == ([], 1)
        writer.close()
        assert show.addresses == []
        *_, writer, events = await talk(port)
        assert isinstance(events[-1], Publishing)
        assert show.addresses == ["127.0.0.1"]
        writer.close()


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"PROXY TCP4\r\n12345",
        b"PROXY TCP4 203.0.113.7 10.0.0.1 5555 1935",
        b"PROXY TCP4 ::1 10.0.0.1 5555 1935\r\n",
        b"PROXY TCP4 nobody 10.0.0.1 5555 1935\r\n",
        b"PROXY TCP4 " + b"1" * 200 + b"\r\n",
        HEADER_2 + b"\x31\x11\x00\x0c" + bytes(12),
        HEADER_2 + b"\x21\x11\x00\x04" + bytes(4),
        HEADER_2 + b"\x21\x11\xff\xff" + bytes(4),
    ],
)
async def test_what_is_no_header_is_refused_after_a_few_bytes(said: bytes) -> None:
    left = io.BytesIO(said)

    async def receive(count: int) -> bytes:
        return left.read(min(count, 3))

    with pytest.raises(ProxyHeaderInvalid):
        await client_address(receive)
    assert left.tell() <= 120
