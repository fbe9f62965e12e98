"""Real encoders publish to the ingest: ffmpeg, plain and over TLS, and librtmp."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes.util
import io
import sys
from pathlib import Path

import av
import pytest

from butai.errors import Code
from butai.ingest.connection import Bounds
from butai.relay.packets import AudioFormat, VideoFormat
from tests.ingest_stage import HELLO, KEY, Show, ingest
from tests.platforms import Authority


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
        assert show.refused == [Code.CODEC_UNSUPPORTED]
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
    assert name is not None, "Debian's librtmp1 is missing: make system"
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
