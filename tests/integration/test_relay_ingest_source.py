"""A relay whose source publishes to the ingest: over its real socket, from ffmpeg, to a real nginx-rtmp."""

from __future__ import annotations

import asyncio
import contextlib
import stat
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from butai.ingest.connection import Publication
from butai.relay.incoming import wire
from butai.relay.incoming.wire import Ended, FrameReader, Hello, Refused, source_socket
from butai.relay.messages import ConfigureLine, MetricsLine, OutputLine, Preset, SourceLine, StartOutputLine
from butai.relay.rtmp import flv
from butai.relay.rtmp.server_session import Media, Metadata
from butai.relay.server import Relay
from tests import ingest_stage
from tests.encoded_media import Media as Encoded
from tests.encoded_media import encoded_media
from tests.platforms import Platform
from tests.relay_stage import Controller
from tests.waiting import until

KEY = "live_canary-passed-51c8"
HELLO = Hello("encoder", "k1", "OBS", since=5.0)
CONFIGURE = ConfigureLine("b1", "", "", "host", Preset(320, 180, 30, 500), source="encoder")


@pytest.fixture(scope="module")
def media() -> Encoded:
    return encoded_media(Preset(320, 180, 30, 500))


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    with Platform("passed") as running:
        yield running


class Stage:
    """A relay that runs, its controller, and where its links are made."""

    def __init__(self, relay: Relay, controller: Controller, links: Path) -> None:
        self.relay, self.controller, self.links = relay, controller, links

    @property
    def pictures(self) -> int:
        media = self.relay._media
        return media.source.pictures if media is not None else 0

    async def link(self, hello: Hello = HELLO) -> Link:
        await until(self.links.exists, "the socket")
        link = Link(*await asyncio.open_unix_connection(self.links))
        link.send(hello)
        return link


class Link:
    """One link, as an ingest has it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, frame: wire.Frame) -> None:
        self.writer.write(wire.write(frame))

    async def play(self, media: Encoded, seconds: float) -> None:
        """Sends in real time, with the headers first."""
        self.send(Metadata({"framerate": 30.0}))
        self.send(Media("video", 0, flv.video_header(media.video)))
        self.send(Media("audio", 0, flv.audio_header(media.audio)))
        began = time.monotonic()
        for packet in media.endless():
            if packet.dts > seconds * 1000:
                return
            await asyncio.sleep(max(0.0, began + packet.dts / 1000 - time.monotonic()))
            self.send(Media(packet.kind, packet.dts, flv.body(packet)))

    async def answer(self) -> list[wire.Frame]:
        """All that the relay says until it closes."""
        async with asyncio.timeout(10):
            return list(FrameReader().feed(await self.reader.read()))

    def kill(self) -> None:
        self.writer.transport.abort()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    path = tmp_path / "b1.sock"
    relay = Relay(path, "b1")
    running = asyncio.create_task(relay.run())
    controller = await Controller.connect(path)
    controller.say(CONFIGURE)
    yield Stage(relay, controller, source_socket(tmp_path, "b1"))
    relay.end("stopped")
    await running
    assert not source_socket(tmp_path, "b1").exists()


async def begin(stage: Stage, platform: Platform, key: str) -> None:
    stage.controller.say(StartOutputLine("o1", 1, platform.url, key, allow_private=True))
    await stage.controller.hear(OutputLine, lambda line: line.phase == "live")


def decoded(recording: Path) -> str:
    """What ffmpeg has to say about a recording: nothing where each picture and sound can be decoded, and times rise."""
    # In its own times: rounded to pictures of 1/30 s, the first one of a new source may have the time of the last one.
    times = ("-fps_mode", "passthrough", "-enc_time_base", "1:1000")
    command = ("ffmpeg", "-v", "error", "-xerror", "-i", str(recording), *times, "-f", "null", "-")
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stderr


async def test_a_source_that_was_killed_five_times_is_one_publish_without_an_error(
    stage: Stage, platform: Platform, media: Encoded
) -> None:
    for number in range(6):
        link = await stage.link()
        playing = asyncio.create_task(link.play(media, 0.8))
        await stage.controller.hear(SourceLine, lambda line: line.phase == "live")
        if number == 0:
            await begin(stage, platform, KEY)
        await playing
        link.kill()
        # On a machine that is too busy to play, it may have been quiet before.
        closed = await stage.controller.hear(SourceLine, lambda line: line.code == "source_closed")
        assert closed.phase == "lost"
    metrics = await stage.controller.hear(MetricsLine)
    assert metrics.source is None and metrics.outputs[0].bytes_sent > 0
    stage.relay.end("stopped")
    await until(lambda: platform.published(KEY, "publish_done"), "the end")
    assert len(platform.published(KEY)) == 1, "one connection all through"
    (recording,) = platform.recordings(KEY)
    assert decoded(recording) == ""


async def test_what_a_source_sends_is_told_and_its_socket_is_its_users(stage: Stage, media: Encoded) -> None:
    link = await stage.link()
    assert stat.S_IMODE(stage.links.stat().st_mode) == 0o600
    await link.play(media, 1.2)
    line = await stage.controller.hear(MetricsLine, lambda line: line.source is not None and line.source.fps > 0)
    assert line.source is not None
    assert (line.source.kind, line.source.id, line.source.label, line.source.since) == ("encoder", "k1", "OBS", 5.0)
    assert (line.source.width, line.source.height, line.source.codec) == (320, 180, "H.264")
    link.send(Ended(in_order=True))
    assert (await stage.controller.hear(SourceLine, lambda line: line.phase == "lost")).code == "source_closed"
    assert await link.answer() == []


async def test_what_cannot_be_passed_on_is_refused_in_words(stage: Stage) -> None:
    link = await stage.link()
    link.send(Media("video", 0, b"\x90hvc1xxxx"))
    (refused,) = await link.answer()
    assert isinstance(refused, Refused) and refused.code == "codec_unsupported" and "HEVC" in refused.text
    told = await stage.controller.hear(SourceLine, lambda line: line.code != "")
    assert (told.phase, told.code) == ("waiting", "codec_unsupported")


async def test_a_newer_link_of_a_key_takes_over_and_unreadable_ones_are_closed(stage: Stage) -> None:
    first = await stage.link()
    await stage.link()
    (refused,) = await first.answer()
    assert isinstance(refused, Refused) and refused.code == "source_closed"
    await until(stage.links.exists, "the socket")
    for data in (b"\xff" * 40, wire.write(Media("video", 0, b"x"))):
        stranger = Link(*await asyncio.open_unix_connection(stage.links))
        stranger.writer.write(data)
        assert await stranger.answer() == []


class Linked:
    """Hands what is published to the ingest on over a link."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage

    async def admit(self, _candidates: tuple[str, ...], _publication: Publication) -> Linked:
        self.link = await self.stage.link()
        return self

    def media(self, event: Media) -> None:
        self.link.send(event)

    def metadata(self, values: Mapping[str, Any]) -> None:
        self.link.send(Metadata(dict(values)))

    def ended(self, *, in_order: bool) -> None:
        self.link.send(Ended(in_order))
        self.link.writer.close()


@contextlib.asynccontextmanager
async def ffmpeg(port: int) -> AsyncGenerator[None]:
    """ffmpeg that publishes in real time, with B-frames, until it is killed."""
    process = await asyncio.create_subprocess_exec(
        *("ffmpeg", "-v", "error", "-nostdin", "-re", "-f", "lavfi", "-i", "testsrc2=size=320x180:rate=30"),
        *("-re", "-f", "lavfi", "-i", "sine=sample_rate=48000", "-c:v", "libx264", "-preset", "veryfast", "-g", "30"),
        *("-bf", "2", "-threads", "1", "-pix_fmt", "yuv420p", "-c:a", "aac", "-f", "flv"),
        f"rtmp://127.0.0.1:{port}/live/{ingest_stage.KEY}",
    )
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@pytest.mark.deep
async def test_ffmpeg_that_was_killed_five_times_is_one_publish_without_an_error(
    stage: Stage, platform: Platform
) -> None:
    linked, key = Linked(stage), "live_canary-ffmpeg-0a3d"
    async with ingest_stage.ingest(linked) as (_, port):  # pyright: ignore[reportArgumentType]
        for number in range(6):
            before = stage.pictures
            async with ffmpeg(port):
                await until(lambda: stage.pictures > before + 40, "pictures", 60)  # noqa: B023 - awaited here
                if number == 0:
                    await begin(stage, platform, key)
            await stage.controller.hear(SourceLine, lambda line: line.phase == "lost")
    stage.relay.end("stopped")
    await until(lambda: platform.published(key, "publish_done"), "the end")
    assert len(platform.published(key)) == 1
    (recording,) = platform.recordings(key)
    assert decoded(recording) == ""
