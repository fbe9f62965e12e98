"""The publisher against real nginx-rtmp servers that fail on purpose, and against servers of our own that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import socket
import ssl
import struct
import time
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import pytest

from butai.relay.messages import Preset
from butai.relay.rtmp import amf0
from butai.relay.rtmp.chunks import COMMAND, USER_CONTROL, ChunkWriter, Message
from butai.relay.rtmp.publisher import Limits, Publisher, PublishError, Target
from tests.encoded_media import Media, encoded_media
from tests.platforms import Authority, Platform, probe, tls_front
from tests.processes import free_port
from tests.waiting import until

KEY = "live_canary-7d1f93a2-key"
PRESET = Preset(width=320, height=180, fps=30, video_kbps=1500)


@pytest.fixture(scope="module")
def media() -> Media:
    return encoded_media(PRESET)


@dataclass
class Push:
    """A publish that goes on, and what was reported of it."""

    publisher: Publisher
    task: asyncio.Task[None]
    phases: list[tuple[str, str, float]] = field(default_factory=list)

    def seen(self, phase: str) -> float | None:
        return next((at for name, _, at in self.phases if name == phase), None)

    @property
    def phase(self) -> str:
        return self.phases[-1][0] if self.phases else ""

    async def error(self, seconds: float = 15) -> PublishError:
        with pytest.raises(PublishError) as caught:
            async with asyncio.timeout(seconds):
                await asyncio.shield(self.task)
        assert KEY[:6] not in f"{caught.value!r} {caught.value.detail}"
        return caught.value


@contextlib.asynccontextmanager
async def pushing(
    media: Media,
    url: str,
    key: str = KEY,
    *,
    limits: Limits | None = None,
    tls: ssl.SSLContext | None = None,
    speed: float = 1.0,
    private: bool = True,
) -> AsyncGenerator[Push]:
    """Feeds a publisher in real time until the block ends."""
    phases: list[tuple[str, str, float]] = []
    publisher = Publisher(
        Target(url, key, private),
        report=lambda phase, code, _detail: phases.append((phase, code, time.monotonic())),
        limits=limits,
        tls=tls,
    )
    push = Push(publisher, asyncio.create_task(publisher.run()), phases)

    async def feed() -> None:
        began = time.monotonic()
        for packet in media.endless():
            await asyncio.sleep(max(0.0, began + packet.dts / 1000 / speed - time.monotonic()))
            publisher.send(packet)

    feeder = asyncio.create_task(feed())
    try:
        yield push
    finally:
        feeder.cancel()
        publisher.stop()
        async with asyncio.timeout(5):
            await asyncio.gather(push.task, feeder, return_exceptions=True)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform("yt", refuse={"live_canary-bad"}) as running:
        yield running


async def test_what_is_sent_arrives_and_is_acknowledged(platform: Platform, media: Media) -> None:
    async with pushing(media, platform.url) as push:
        await until(lambda: push.phase == "live", "live")
        assert [phase for phase, _, _ in push.phases] == ["connecting", "publishing", "live"]
        stats = push.publisher.stats
        await until(lambda: stats.bytes_acked > 600_000, "acknowledgements")
        assert stats.bytes_acked <= stats.bytes_sent
        assert stats.bytes_sent - stats.bytes_acked < 200_000
        assert 0 < stats.rtt_ms < 500
        assert stats.dropped_frames == 0
        push.publisher.stop()
        await asyncio.wait_for(asyncio.shield(push.task), 3)
    await until(lambda: platform.published(KEY, "publish_done"), "the end of the publish")
    found = probe(platform.recordings(KEY)[0])
    assert (found["video"]["codec_name"], found["video"]["width"], found["video"]["height"]) == ("h264", 320, 180)
    assert (found["audio"]["codec_name"], found["audio"]["sample_rate"], found["audio"]["channels"]) == (
        "aac",
        "48000",
        2,
    )
    assert float(found["format"]["duration"]) > 2.5


async def test_a_refused_key_is_key_rejected(platform: Platform, media: Media) -> None:
    async with pushing(media, platform.url, "live_canary-bad") as push:
        error = await push.error()
    assert (error.code, error.retryable) == ("key_rejected", True)
    assert platform.published("live_canary-bad", "refused")
    assert push.seen("publishing") is None


async def test_a_second_publish_with_one_key_is_already_publishing(platform: Platform, media: Media) -> None:
    async with pushing(media, platform.url, KEY + "2") as first:
        await until(lambda: first.phase == "live", "live")
        async with pushing(media, platform.url, KEY + "2") as second:
            assert (await second.error()).code == "already_publishing"
        assert first.phase == "live"


async def test_nobody_there_is_destination_unreachable(media: Media) -> None:
    async with pushing(media, f"rtmp://127.0.0.1:{free_port()}/live") as push:
        assert (await push.error()).code == "destination_unreachable"


async def test_an_unknown_host_is_destination_unreachable(media: Media) -> None:
    async with pushing(media, "rtmp://no-such-host.invalid/live") as push:
        error = await push.error()
    assert (error.code, error.detail.split(":")[0]) == ("destination_unreachable", "dns")


@pytest.mark.parametrize("url", ["rtmp://127.0.0.1/live", "rtmp://[::1]/live", "rtmp://localhost/live"])
async def test_a_private_address_is_refused_at_connect(media: Media, url: str) -> None:
    async with pushing(media, url, private=False) as push:
        assert (await push.error()).code == "invalid_destination"


async def test_a_dropped_connection_is_destination_closed(platform: Platform, media: Media) -> None:
    async with pushing(media, platform.url, KEY + "3") as push:
        await until(lambda: push.phase == "live", "live")
        platform.drop(KEY + "3")
        assert (await push.error()).code == "destination_closed"


async def test_a_killed_platform_is_destination_closed(media: Media) -> None:
    with Platform("killed") as platform:
        async with pushing(media, platform.url) as push:
            await until(lambda: push.phase == "live", "live")
            platform.kill()
            assert not platform.alive
            assert (await push.error()).code == "destination_closed"


def pictures(path: Path) -> list[tuple[float, bool]]:
    """When each picture of a recording comes, in seconds, and whether it is a key frame."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return [
            (float(packet.dts * packet.time_base), packet.is_keyframe)
            for packet in file.demux(stream)
            if packet.dts is not None and packet.time_base is not None
        ]


async def test_a_stalled_platform_is_seen_and_goes_on_at_a_keyframe(media: Media) -> None:
    with Platform("stalled") as platform:
        # Eight times as much as in real time: it fills both kernels' buffers, so that pictures have to be dropped.
        async with pushing(media, platform.url, limits=Limits(queue_ms=1500), speed=8) as push:
            await until(lambda: push.phase == "live", "live")
            before = platform.bytes_in(KEY)
            platform.stall()
            await until(lambda: push.phase == "stalled", "stalled")
            assert push.phases[-1][1] == "destination_stalled"
            await until(lambda: push.publisher.stats.dropped_frames > 0, "drops")
            platform.resume()
            await until(lambda: push.phase == "live", "live again", 5)
            frames = push.publisher.stats.frames_sent
            await until(lambda: platform.bytes_in(KEY) > before + 200_000, "bytes")
            await until(lambda: push.publisher.stats.frames_sent > frames + 60, "pictures")
            push.publisher.stop()
            await asyncio.wait_for(asyncio.shield(push.task), 3)
        await until(lambda: platform.published(KEY, "publish_done"), "the end of the publish")
        arrived = pictures(platform.recordings(KEY)[0])
        after_gaps = [later for earlier, later in itertools.pairwise(arrived) if later[0] - earlier[0] > 0.2]
        assert after_gaps
        assert all(keyframe for _, keyframe in after_gaps)


async def test_a_platform_that_stays_stalled_is_given_up_and_the_queue_stays_small(media: Media) -> None:
    with Platform("stuck") as platform:
        async with pushing(media, platform.url, limits=Limits(give_up_stalled=4, queue_ms=500), speed=8) as push:
            await until(lambda: push.phase == "live", "live")
            platform.stall()
            most = 0.0

            def full() -> bool:
                nonlocal most
                most = max(most, push.publisher.stats.queue_ms)
                return push.task.done()

            await until(full, "its end", 12)
            assert (await push.error()).code == "destination_stalled"
            assert push.publisher.stats.dropped_frames > 0
            assert most <= 600
            platform.resume()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


async def test_tls_with_a_good_certificate_and_with_bad_ones(
    platform: Platform, media: Media, authority: Authority
) -> None:
    trusting = ssl.create_default_context(cafile=str(authority.file))
    with tls_front(platform.port, authority.context("localhost")) as port:
        async with pushing(media, f"rtmps://localhost:{port}/live", KEY + "5", tls=trusting) as push:
            await until(lambda: push.phase == "live", "live")
            await until(lambda: platform.bytes_in(KEY + "5") > 100_000, "bytes")
        async with pushing(media, f"rtmps://127.0.0.1:{port}/live", tls=trusting) as push:
            error = await push.error()
            assert error.code == "tls_failed" and "certificate" in error.detail
        async with pushing(media, f"rtmps://localhost:{port}/live") as push:
            assert (await push.error()).code == "tls_failed"
    # A port that speaks no TLS.
    async with pushing(media, f"rtmps://127.0.0.1:{platform.port}/live", limits=Limits(connect_timeout=3)) as push:
        assert (await push.error()).code in ("tls_failed", "destination_unreachable")


class Mute:
    """A platform of our own that takes all, and answers neither windows nor pings."""

    def __init__(self, *, pongs: bool = False, reads: bool = True) -> None:
        self.pongs, self.reads, self.bytes = pongs, reads, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        out = ChunkWriter()
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readexactly(1537)
            writer.write(b"\x03" + bytes(1536) + bytes(1536))
            await reader.readexactly(1536)
            await reader.read(4096)
            ok = {"level": "status", "code": "NetConnection.Connect.Success"}
            writer.write(out.write(3, Message(COMMAND, 0, 0, amf0.encode("_result", 1, None, ok))))
            await reader.read(4096)
            writer.write(out.write(3, Message(COMMAND, 0, 0, amf0.encode("_result", 4, None, 1))))
            await reader.read(4096)
            started = {"level": "status", "code": "NetStream.Publish.Start"}
            writer.write(out.write(3, Message(COMMAND, 1, 0, amf0.encode("onStatus", 0, None, started))))
            while self.reads and (data := await reader.read(65536)):
                self.bytes += len(data)
                if self.pongs and (at := data.find(b"\x04\x00\x00\x00\x00\x00\x06")) >= 0:
                    number = data[at + 7 : at + 11]
                    if len(number) == 4:
                        pong = struct.pack(">H", 7) + number
                        writer.write(out.write(2, Message(USER_CONTROL, 0, 0, pong)))
            await asyncio.sleep(30)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0, limit=2**16)
        try:
            yield f"rtmp://127.0.0.1:{server.sockets[0].getsockname()[1]}/live"
        finally:
            server.close()


async def test_a_platform_that_acknowledges_nothing_is_judged_by_tcp(media: Media) -> None:
    mute = Mute()
    async with mute.running() as url, pushing(media, url, limits=Limits(ignored_after=1)) as push:
        await until(lambda: push.phase == "live", "live", 6)
        assert mute.bytes > 0
        assert push.publisher.stats.bytes_acked > 0


async def test_a_platform_that_takes_the_key_and_no_bytes_never_was_live(media: Media) -> None:
    limits = Limits(ignored_after=1.5, publish_timeout=3)
    async with Mute(reads=False).running() as url, pushing(media, url, limits=limits, speed=40) as push:
        error = await push.error(30)
        assert push.seen("publishing") and not push.seen("live")
    assert error.code == "destination_stalled"


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x03" + bytes(3072) + b"\xff" * 4096, b"\x06" * 100_000, b"\x03"],
    ids=["http", "rubbish", "version", "half"],
)
async def test_a_server_that_is_no_platform_ends_with_a_code(media: Media, said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with pushing(media, f"rtmp://127.0.0.1:{port}/live", limits=Limits(publish_timeout=1)) as push:
        assert (await push.error(5)).code == "destination_unreachable"
    server.close()


async def test_stop_while_connecting_ends_it(media: Media) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        async with pushing(media, f"rtmp://127.0.0.1:{silent.getsockname()[1]}/live") as push:
            await until(lambda: push.phase == "connecting", "connecting")
            push.publisher.stop()
            await asyncio.wait_for(asyncio.shield(push.task), 30)


async def test_the_key_is_in_no_log_and_no_representation(
    platform: Platform,
    media: Media,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    caplog.set_level(logging.DEBUG)
    async with pushing(media, platform.url, KEY + "9") as push:
        await until(lambda: push.phase == "live", "live")
        shown = repr(push.publisher) + repr(push.publisher.__dict__.get("_target"))
        platform.drop(KEY + "9")
        error = await push.error()
    out = capfd.readouterr()
    assert "canary" not in caplog.text + out.out + out.err + shown + repr(error)
