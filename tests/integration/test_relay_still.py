"""A relay whose process stands still for longer than a controller is waited for, as on a machine that was suspended: with a real
room and real platforms."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from butai.embedded.livekit import EmbeddedLiveKit
from butai.relay.messages import OutputLine
from butai.relay.timing import RelayTiming
from tests.integration.test_relay_broadcast import decoded, running
from tests.integration.test_relay_source import server  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.platforms import Platform
from tests.relay_stage import until

PAUSE = 40.0
"""Seconds; longer than a relay lives without a word from a controller."""


@pytest.mark.deep
async def test_a_relay_that_stood_still_for_40_s_goes_on_with_the_connections_that_it_has(
    server: EmbeddedLiveKit,  # noqa: F811
    tmp_path: Path,
) -> None:
    assert RelayTiming().abandoned_after < PAUSE
    # Both ask during the pause whether their publisher lives, and wait longer than it for the answer: nginx's own 30 s would
    # end the connection, and then it is the platform that has closed it.
    with (
        Platform("yt", ping="15s", ping_timeout="60s") as youtube,
        Platform("tw", ping="15s", ping_timeout="60s") as twitch,
    ):
        async with running(server, tmp_path / "relays", "room-still") as live:
            live.configure()
            await live.host()
            await live.source("live")
            for platform in (youtube, twitch):
                live.push(platform, "k1")
                await live.phase(platform, "live")
            os.kill(live.relay.process.pid, signal.SIGSTOP)
            await asyncio.sleep(PAUSE)
            before = [await asyncio.to_thread(one.bytes_in, "k1") for one in (youtube, twitch)]
            heard = len(live.said)
            # Its controller stood still, too, and another one is there first. What the former one said waits in the socket.
            await live.disconnect()
            os.kill(live.relay.process.pid, signal.SIGCONT)
            resumed = time.time()
            welcome = await live.connect()
            assert {(line.attempt, line.phase) for line in welcome.outputs} == {(1, "live")}

            async def grow() -> list[int]:
                return [await asyncio.to_thread(one.bytes_in, "k1") for one in (youtube, twitch)]

            least = live.preset.video_kbps * 1000 // 8 * 4
            async with asyncio.timeout(60):
                while min(now - then for now, then in zip(await grow(), before, strict=True)) < least:
                    await asyncio.sleep(0.2)
            # The room has removed it meanwhile, so it joins again.
            await live.source("live", 60)
            for platform in (youtube, twitch):
                await live.phase(platform, "live", 60)
            await asyncio.sleep(3)
            said = [line for line in live.said[heard:] if isinstance(line, OutputLine)]
            assert {line.attempt for line in said} <= {1}
            assert not [line for line in said if line.phase in ("failed", "ended", "connecting")], said
            for platform in (youtube, twitch):
                # The same connection from beginning to end.
                assert len(platform.published("k1")) == 1 and not platform.published("k1", "publish_done")
                live.stop_output(platform)
                await live.phase(platform, "ended")
                await until(lambda platform=platform: bool(platform.published("k1", "publish_done")))
                (recording,) = platform.recordings("k1")
                arrived = await asyncio.to_thread(decoded, recording)
                # Pictures from after the pause, which carry their time modulo 2³² ms.
                assert arrived.stamps[-1] > (int(resumed * 1000) & 0xFFFFFFFF) / 1000
                assert abs(arrived.times[-1] - arrived.sound_times[-1]) < 0.5
