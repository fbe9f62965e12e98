"""The host's side of going live: muted, reloading, gone, and the room itself deleted. Viewers see a stream all the while."""

from __future__ import annotations

import asyncio
import time

from livekit import api

from tests.e2e.conftest import GRACE, Start
from tests.e2e.stage import Stage, eventually, rising
from tests.platforms import probe


async def test_a_muted_host_starves_no_platform(on_air: Start) -> None:
    async with on_air() as it:
        host, since = it.show.host, time.time()
        assert host is not None
        async with rising(it.youtube_bytes), rising(it.twitch_bytes):
            await host.command("mute")
            await asyncio.sleep(5)
            await host.command("unmute")
            await asyncio.sleep(1)
        assert it.show.changes_of("youtube", since) == it.show.changes_of("twitch", since) == []


async def test_a_host_who_changes_codec_and_size_is_one_stream_to_the_platforms(on_air: Start) -> None:
    async with on_air() as it:
        host, since = it.show.host, time.time()
        assert host is not None
        async with rising(it.youtube_bytes):
            await host.command("resize 1280 720")
            await asyncio.sleep(1.5)
            await host.command("republish h264")
            await asyncio.sleep(2.5)
        assert it.show.changes_of("youtube", since) == []
        await it.show.stop()
        (file,) = it.youtube.recordings(it.youtube_key)
        assert (probe(file)["video"]["width"], probe(file)["video"]["height"]) == (1280, 720)


async def test_a_host_who_dies_and_is_back_after_ten_seconds_was_never_off_air(on_air: Start) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        assert show.host is not None
        async with rising(it.youtube_bytes), rising(it.twitch_bytes):
            await show.host.kill()
            await asyncio.sleep(10)
            await show.host_on()
            # Longer than what was left of the grace.
            await asyncio.sleep(GRACE - 10 + 3)
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []
        assert show.now.status == "live"


async def test_a_host_who_stays_away_ends_the_broadcast(on_air: Start) -> None:
    async with on_air() as it:
        show = it.show
        assert show.host is not None
        since = time.time()
        await show.host.stop()
        async with rising(it.youtube_bytes):
            await asyncio.sleep(GRACE - 4)
        assert show.now.status == "live"
        ended = await show.until(lambda: show.now.status == "ended", 15)
        assert GRACE - 2 < ended - since < GRACE + 8
        said = await show.call("GET", f"/api/live/status?session_id={show.session}")
        assert "source_ended" in str(said)
        assert it.youtube.published(it.youtube_key, "publish_done")


async def test_a_deleted_room_ends_the_broadcast(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        async with stage.livekit_api() as livekit:
            await livekit.room.delete_room(api.DeleteRoomRequest(room=show.room))
        ended = await show.until(lambda: show.now.status == "ended", 12)
        assert ended - since < 8
        said = await show.call("GET", f"/api/live/status?session_id={show.session}")
        assert "source_ended" in str(said)
        await eventually(lambda: not stage.relays(show.session), 5)
