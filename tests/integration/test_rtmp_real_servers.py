"""The publisher and servers that others wrote: what they take can be decoded, and what they do is seen."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from butai.relay.messages import Preset
from tests.encoded_media import Media, encoded_media
from tests.platforms import probe
from tests.pushes import KEY, pushing
from tests.real_rtmp_servers import KINDS, RealServer, Wire, install
from tests.waiting import until

ON_AIR = float(os.environ.get("BUTAI_TEST_ON_AIR", "5"))
"""Seconds of undisturbed publishing; a minute in `make test-deep`."""
PRESET = Preset(width=320, height=180, fps=30, video_kbps=1500)
# Programs that are started and stopped, and packages from a registry.
pytestmark = pytest.mark.slow
LIVE = ["connecting", "publishing", "live"]


@pytest.fixture(scope="module")
def media() -> Media:
    return encoded_media(PRESET)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(tmp_path_factory.mktemp("packages") / "node")


async def play(server: RealServer) -> Path:
    """What a player gets, three seconds of it."""
    path = server.folder / "arrived.flv"
    player = await asyncio.create_subprocess_exec(
        *("ffmpeg", "-v", "error", "-i", f"{server.url}/{KEY}", "-c", "copy", "-t", "3", "-y", str(path)),
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await player.communicate()
    assert player.returncode == 0, said
    return path


def decoded(path: Path) -> str:
    """What a decoder complains of."""
    argv = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "null", "-"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stderr


@pytest.mark.timeout(120 + 2 * ON_AIR)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_others_wrote(kind: str, media: Media, packages: Path, tmp_path: Path) -> None:
    with RealServer(kind, tmp_path / kind, packages, KEY) as server:
        await until(lambda: server.listens, "a listener", 30)
        async with Wire(server.port).laid() as wire:
            async with pushing(wire.url, media=media) as push:
                await until(lambda: push.phase == "live", "live")
                played = None if server.kind.records else asyncio.create_task(play(server))
                await asyncio.sleep(ON_AIR)
                # Nothing was wrong, and nothing was called wrong.
                assert push.phases == LIVE, server.log()
                # Stopped, it is called stalled if it owes a word, and goes on in the same connection.
                server.suspend()
                if server.kind.owes:
                    await until(lambda: push.phase == "stalled", "stalled")
                    assert push.codes[-1] == "destination_stalled"
                else:
                    # A second of it: the buffers take that.
                    sent = push.publisher.stats.bytes_sent
                    await until(lambda: push.publisher.stats.bytes_sent > sent + 100_000, "bytes into the buffers")
                sent = push.publisher.stats.bytes_sent
                server.resume()
                await until(lambda: push.phase == "live", "live after the stop")
                await until(lambda: push.publisher.stats.bytes_sent > sent + 200_000, "bytes")
                assert not push.task.done()
                if played is not None:
                    await played
                # A network that is cut: the server may hold the session, and no refusal is the key's fault then.
                wire.cut()
                error = await push.error()
                assert (error.code, error.retryable) == ("destination_closed", True)
            again = await live_again(server, wire, media)
            assert again <= {"already_publishing", "destination_closed"}
            assert bool(again) == server.kind.holds
        (first, *_) = server.arrived()
        found = probe(first)
        assert (found["video"]["codec_name"], found["audio"]["codec_name"]) == ("h264", "aac")
        assert (found["video"]["width"], found["video"]["height"]) == (PRESET.width, PRESET.height)
        assert (found["audio"]["sample_rate"], found["audio"]["channels"]) == ("48000", 2)
        assert float(found["format"]["duration"]) > 2
        # What was under way when the connection was cut is no whole picture.
        assert [line for line in decoded(first).splitlines() if "partial" not in line.lower()] == []


async def live_again(server: RealServer, wire: Wire, media: Media) -> set[str]:
    """Tries until it is live and stopped in order; the codes of the tries before, as for a key that worked."""
    codes = set[str]()
    wire_is_released = False
    for _ in range(20):
        if server.kind.once:
            wire.release()
            await until(lambda: not server.runs, "the end of its only publish")
            (recorded,) = server.arrived()
            recorded.rename(recorded.with_name("before.flv"))
            server.start()
            await until(lambda: server.listens, "a listener", 30)
        async with pushing(wire.url, media=media) as push:
            await until(lambda: push.task.done() or push.phase == "live", "an answer", 40)
            if push.phase == "live":
                await push.stopped()
                assert push.phases == LIVE
                return codes
            error = await push.error()
            codes.add(error.if_key_worked or error.code)
        if not wire_is_released:
            wire.release()
            wire_is_released = True
        await asyncio.sleep(0.3)
    raise AssertionError(f"never live again: {codes}, {server.log()}")
