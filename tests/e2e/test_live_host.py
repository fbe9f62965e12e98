"""The host's side of going live: muted, reloading, gone, and the room itself deleted. Viewers see a stream all the while."""

from __future__ import annotations

import time

import pytest
from livekit import api

from tests.e2e.conftest import GRACE, OnAir, SharedShow
from tests.e2e.stage import Stage
from tests.platforms import Platform, probe
from tests.waiting import eventually, rising

# The same show for all of them but those that end it.
pytestmark = pytest.mark.asyncio(loop_scope="module")

SHORT = 6.0
"""Seconds of grace where it runs out."""


async def test_a_muted_host_starves_no_platform(on_both: OnAir) -> None:
    it, show, since = on_both, on_both.show, time.time()
    assert show.host is not None
    await show.until(lambda: show.now.source == "live", 10)
    async with rising(it.youtube_bytes), rising(it.twitch_bytes):
        await show.host.command("mute")
        # Longer than a platform may be without a byte (`rising`).
        await show.until(lambda: show.now.at > since + 5, 10)
        assert show.now.source != "live"
        await show.host.command("unmute")
        await show.until(lambda: show.now.source == "live", 10)
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []


async def test_a_host_who_changes_codec_and_size_is_one_stream_to_the_platforms(on_both: OnAir) -> None:
    it, show, since = on_both, on_both.show, time.time()
    assert show.host is not None
    await show.until(lambda: show.now.source == "live", 10)
    async with rising(it.youtube_bytes), rising(it.twitch_bytes):
        await show.host.command("resize 1280 720")
        resized = time.time()
        await show.until(lambda: show.now.at > resized + 1.5, 5)
        await show.host.command("republish h264")
        republished = time.time()
        await show.until(lambda: show.now.at > republished + 2.5, 5)
        assert show.now.source == "live"
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []
    await it.youtube_alone()
    await eventually(lambda: bool(it.twitch.published(it.twitch_key, "publish_done")), 5)
    (file,) = it.twitch.recordings(it.twitch_key)
    assert (probe(file)["video"]["width"], probe(file)["video"]["height"]) == (1280, 720)


async def test_a_host_who_dies_and_is_back_after_ten_seconds_was_never_off_air(on_both: OnAir) -> None:
    it, show, since = on_both, on_both.show, time.time()
    assert show.host is not None
    async with rising(it.youtube_bytes), rising(it.twitch_bytes):
        await show.host.kill()
        await show.until(lambda: show.now.at > since + 10, 15)
        await show.host_on()
        # Longer than what was left of the grace.
        await show.until(lambda: show.now.at > since + GRACE + 3, 15)
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []
    assert show.now.status == "live"


async def test_a_host_who_stays_away_ends_the_broadcast(
    shared_show: SharedShow, youtube: Platform, twitch: Platform
) -> None:
    it = await shared_show.anew(both=True, source_grace=SHORT)
    show = it.show
    assert show.host is not None
    await show.until(lambda: show.now.source == "live", 10)
    since = time.time()
    await show.host.stop()
    async with rising(it.youtube_bytes):
        await show.until(lambda: show.now.at > since + SHORT - 3, 10)
    assert show.now.status == "live"
    ended = await show.until(lambda: show.now.status == "ended", 30)
    assert ended - since >= SHORT
    said = await show.call("GET", f"/api/live/status?session_id={show.session}")
    assert "source_ended" in str(said)
    assert it.youtube.published(it.youtube_key, "publish_done")


async def test_a_deleted_room_ends_the_broadcast(on_both: OnAir, stage: Stage) -> None:
    show = on_both.show
    # The relay has to be in the room.
    await show.until(lambda: show.now.source == "live", 10)
    async with stage.livekit_api() as livekit:
        await livekit.room.delete_room(api.DeleteRoomRequest(room=show.room))
    # At once: not after the grace.
    await show.until(lambda: show.now.status == "ended", 12)
    said = await show.call("GET", f"/api/live/status?session_id={show.session}")
    assert "source_ended" in str(said)
    await eventually(lambda: not stage.relays(show.session), 5)
