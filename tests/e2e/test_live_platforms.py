"""Going live on two real RTMP servers, which fail in every way they can: each alone, and the service says so at
once."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path

import av
import pytest

from butai.relay.clock import MAX_FRAME_DELAY
from tests.e2e.conftest import OnAir, Start, new_key
from tests.e2e.show import Show, events
from tests.e2e.stage import Stage
from tests.platforms import Authority, Platform, probe, tls_front
from tests.processes import free_port
from tests.waiting import eventually, rising

# One show for most of them, each with a Twitch output of its own.
pytestmark = pytest.mark.asyncio(loop_scope="module")


def keyframe_gaps(path: Path) -> list[tuple[int, float]]:
    """From one to the next: how many pictures, and how many seconds without those in which the machine stood still, and
    the relay left out what was later than `MAX_FRAME_DELAY`."""
    with av.open(str(path)) as file:
        pictures = [
            (float(packet.pts * packet.time_base), packet.is_keyframe)
            for packet in file.demux(video=0)
            if packet.pts is not None and packet.time_base is not None
        ]
    still = 0.0
    found: list[tuple[int, float]] = []
    for number, (at, key) in enumerate(pictures):
        gap = at - pictures[number - 1][0] if number else 0.0
        still += gap if gap > MAX_FRAME_DELAY else 0.0
        if key:
            found.append((number, at - still))
    return [(there - here, later - earlier) for (here, earlier), (there, later) in itertools.pairwise(found)]


async def test_both_platforms_get_what_the_host_shows_until_it_is_stopped(on_air: Start) -> None:
    async with on_air(host=()) as it:
        show = it.show
        async with events(show) as heard:
            on_air_since = time.time()
            assert show.now.status == "live"
            await show.until(lambda: show.now.outputs["twitch"]["confirmation"] == "transport", 5)
            async with rising(it.youtube_bytes), rising(it.twitch_bytes):
                metrics = await metrics_of(show, "twitch")
                # Three key frames two seconds apart are on their way by now.
                await show.until(lambda: show.now.at > on_air_since + 8, 15)
            assert 2000 < metrics["bitrate_kbps"] < 8000
            assert 27 <= metrics["fps"] <= 33
            assert metrics["dropped_frames"] == 0
            await show.stop()
            # Once more is once.
            said = await show.call("POST", "/api/live/stop", {"session_id": show.session})
            assert said["status"] == "ended"
            await eventually(lambda: bool(heard), 5)
        for label in ("youtube", "twitch"):
            assert show.changes_of(label)[0] in ("starting", "live")
            assert [state for state in show.changes_of(label) if state not in ("starting", "stopping")] == [
                "live",
                "ended",
            ]
            assert show.now.outputs[label]["error"] is None
        lasted = time.time() - on_air_since
        for platform, key in ((it.youtube, it.youtube_key), (it.twitch, it.twitch_key)):
            await eventually(lambda platform=platform, key=key: bool(platform.published(key, "publish_done")), 5)
            (file,) = platform.recordings(key)
            found = probe(file)
            assert (found["video"]["codec_name"], found["video"]["profile"]) == ("h264", "High")
            assert (found["video"]["width"], found["video"]["height"]) == (1280, 720)
            assert (found["audio"]["codec_name"], found["audio"]["channels"]) == ("aac", 2)
            assert float(found["format"]["duration"]) >= lasted - 3
            # One is asked for when the other platform begins; otherwise every two seconds.
            gaps = keyframe_gaps(file)
            assert len(gaps) >= 3
            assert max(pictures for pictures, _ in gaps) <= 60 and max(seconds for _, seconds in gaps) <= 2.1


async def metrics_of(show: Show, label: str) -> dict[str, float]:
    await show.until(lambda: bool((show.now.outputs[label].get("metrics") or {}).get("bitrate_kbps")), 6)
    began = len(show.seen)
    since = show.now.at
    # One each second.
    await show.until(lambda: show.now.at > since + 4, 10)
    lately = [one.outputs[label]["metrics"] for one in show.seen[began:]]
    # The middle one: a second in which the machine stood still is followed by one that makes up for it.
    return {name: sorted(one[name] for one in lately)[len(lately) // 2] for name in lately[0]}


async def test_when_both_refuse_the_broadcast_is_an_error(on_air: Start) -> None:
    def refuse(it: OnAir) -> None:
        it.twitch.refuse.add(it.twitch_key)
        it.youtube.refuse.add(it.youtube_key)

    async with on_air(prepare=refuse, wait=()) as it:
        await it.show.until(lambda: it.show.now.status == "error", 30)
        assert {it.show.code("youtube"), it.show.code("twitch")} == {"key_rejected"}
        assert not it.youtube.published(it.youtube_key)


async def test_a_bad_key_is_tried_once_more_and_then_said_while_the_other_platform_is_live(on_youtube: OnAir) -> None:
    it, show = on_youtube, on_youtube.show
    async with rising(it.youtube_bytes):
        since = await it.add_twitch(refused=True)
        await show.until(lambda: show.code("twitch") == "key_rejected", 10)
        await show.until(lambda: show.state("twitch") == "error", 12)
    refusals = it.twitch.published(it.twitch_key, "refused")
    assert len(refusals) == 2
    assert refusals[1].at - refusals[0].at > 2.5
    error = show.now.outputs["twitch"]["error"]
    assert error["code"] == "key_rejected"
    assert error["message"] and error["action"]
    assert error["next_attempt_at"] is None
    assert show.now.status == "degraded"
    assert show.changes_of("youtube", since) == []
    # The host has looked it up and asks again.
    it.twitch.refuse.clear()
    await show.call("POST", f"/api/live/outputs/{show.now.outputs['twitch']['id']}/retry")
    await show.until_live("twitch")
    await show.until(lambda: show.now.status == "live", 3)


async def test_a_platform_that_does_not_listen_is_tried_until_it_does(on_youtube: OnAir) -> None:
    it, show = on_youtube, on_youtube.show
    it.twitch.kill()
    assert not it.twitch.alive
    async with rising(it.youtube_bytes):
        await it.add_twitch()
        # During a try there is none to come.
        await show.until(
            lambda: (
                show.code("twitch") == "destination_unreachable" and bool(show.now.outputs["twitch"]["next_attempt_at"])
            ),
            5,
        )
        await show.until(lambda: show.now.outputs["twitch"]["attempt"] >= 2, 10)
        it.twitch.start()
        await show.until_live("twitch", seconds=30)
    assert show.now.outputs["twitch"]["error"] is None


async def test_a_name_that_nobody_knows_is_unreachable(on_youtube: OnAir) -> None:
    it, show = on_youtube, on_youtube.show
    async with rising(it.youtube_bytes):
        await it.add_twitch("rtmp://ingest.butai.invalid/live")
        await show.until(lambda: show.code("twitch") == "destination_unreachable", 25)
    assert show.state("twitch") == "starting"
    assert show.state("youtube") == "live"


async def test_a_dropped_connection_is_made_again(on_both: OnAir) -> None:
    it, show, since = on_both, on_both.show, time.time()
    async with rising(it.youtube_bytes):
        it.twitch.drop(it.twitch_key)
        await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
        await show.until_live("twitch")
    (change,) = [
        one for one in show.changes if one.label == "twitch" and one.after == "interrupted" and one.at >= since
    ]
    assert change.code == "destination_closed"
    assert show.changes_of("youtube", since) == []
    assert show.now.outputs["twitch"]["attempt"] == 2
    assert len(it.twitch.published(it.twitch_key)) == 2


async def test_a_platform_that_stops_reading_is_seen_within_seconds_and_healed(on_both: OnAir) -> None:
    it, show, since = on_both, on_both.show, time.time()
    async with rising(it.youtube_bytes):
        it.twitch.stall()
        try:
            await show.until(lambda: show.state("twitch") == "interrupted", 6)
            assert show.code("twitch") == "destination_stalled"
            stalled = show.now.at
            await show.until(lambda: show.now.at > stalled + 2, 10)
            assert show.state("twitch") == "interrupted"
        finally:
            it.twitch.resume()
        await show.until_live("twitch", seconds=20)
        await eventually(lambda: it.twitch_bytes() > 0, 5)
    assert show.changes_of("youtube", since) == []


@pytest.mark.slow
async def test_platforms_that_are_away_or_never_read_again_are_found_again_when_they_are_back(on_both: OnAir) -> None:
    """Three faults at once, since each takes its time: one platform is away for 5 s, one for 40 s, one reads
    nothing."""
    it, show = on_both, on_both.show
    with Platform("away") as away, Platform("deaf") as deaf:
        others = {"away": (away, new_key("away")), "deaf": (deaf, new_key("deaf"))}
        for label, (platform, key) in others.items():
            await it.add(label, platform.url, key)
        await show.until_live(*others)
        since = time.time()
        async with rising(it.youtube_bytes):
            it.twitch.kill()
            away.kill()
            await asyncio.gather(
                comes_back(it, "twitch", it.twitch, after=5),
                comes_back(it, "away", away, after=40),
                reads_again(it, "deaf", deaf),
            )
            await eventually(lambda: it.twitch_bytes() > 0 and away.bytes_in(others["away"][1]) > 0, 5)
        assert show.changes_of("youtube", since) == []
        await it.youtube_alone()


async def comes_back(it: OnAir, label: str, platform: Platform, after: float) -> None:
    """A platform that has just been killed is said to be gone until it is there again, and found then."""
    show, since = it.show, time.time()
    await show.until(lambda: show.state(label) == "interrupted", 5)
    assert show.now.status == "degraded"
    await show.until(lambda: show.now.at > since + after, after + 10)
    assert show.state(label) == "interrupted"
    assert show.code(label) == "destination_unreachable"
    platform.start()
    # Twitch keeps the viewers for 90 s: tries are never further apart than a part of that.
    await show.until_live(label, seconds=40)


async def reads_again(it: OnAir, label: str, platform: Platform) -> None:
    """A platform that reads nothing is given up and tried again, and on air when it reads."""
    show = it.show
    platform.stall()
    try:
        await show.until(lambda: show.state(label) == "interrupted", 6)
        # The first attempt is given up; the next one finds a socket that says nothing.
        await show.until(lambda: show.now.outputs[label]["attempt"] >= 2, 40)
    finally:
        platform.resume()
    await show.until_live(label, seconds=60)


async def test_tls_with_a_certificate_that_is_trusted(on_youtube: OnAir, authority: Authority) -> None:
    it = on_youtube
    with tls_front(it.twitch.port, authority.context("localhost")) as port:
        await it.add_twitch(f"rtmps://localhost:{port}/live", live=True)
        seen = it.twitch_bytes()
        await eventually(lambda: it.twitch_bytes() > seen, 4)
        await it.youtube_alone()


async def test_tls_with_a_certificate_that_is_not_is_tried_once_more_and_then_said(
    on_youtube: OnAir, tmp_path: Path
) -> None:
    it, show = on_youtube, on_youtube.show
    stranger = Authority(tmp_path)
    with tls_front(it.twitch.port, stranger.context("localhost")) as port:
        async with rising(it.youtube_bytes):
            await it.add_twitch(f"rtmps://localhost:{port}/live")
            await show.until(lambda: show.code("twitch") == "tls_failed", 10)
            await show.until(lambda: show.state("twitch") == "error", 30)
        assert show.now.outputs["twitch"]["attempt"] == 2
        assert not it.twitch.published(it.twitch_key)


async def test_one_output_may_be_stopped_and_another_one_added_while_on_air(on_both: OnAir) -> None:
    it, show = on_both, on_both.show
    attempt = show.now.outputs["youtube"]["attempt"]
    async with rising(it.youtube_bytes):
        await show.call("POST", f"/api/live/outputs/{show.now.outputs['twitch']['id']}/stop")
        await show.until(lambda: show.state("twitch") == "ended", 10)
        await eventually(lambda: bool(it.twitch.published(it.twitch_key, "publish_done")), 5)
        third = await show.destination("custom", it.twitch.url, "third-key", label="third")
        await show.call("POST", f"/api/live/broadcasts/{show.session}/outputs", {"destination_ids": [third]})
        await show.until(lambda: "third" in show.now.outputs and show.state("third") == "live", 10)
    assert show.state("youtube") == "live"
    assert show.now.outputs["youtube"]["attempt"] == attempt


async def test_nobody_but_the_host_may_stop_it(on_both: OnAir, stage: Stage) -> None:
    show = on_both.show
    async with Show(stage) as stranger:
        said = await stranger.call("POST", "/api/live/stop", {"session_id": show.session}, expect=403)
        refused = time.time()
    assert said["code"] == "not_host"
    await show.until(lambda: show.now.at > refused + 1, 5)
    assert show.now.status == "live"


async def test_a_port_where_nobody_ever_listens_uses_up_its_tries_for_itself_alone(on_youtube: OnAir) -> None:
    it, show = on_youtube, on_youtube.show
    async with rising(it.youtube_bytes):
        await it.add_twitch(f"rtmp://127.0.0.1:{free_port()}/live")
        await show.until(lambda: show.now.outputs["twitch"]["attempt"] >= 3, 20)
    assert show.code("twitch") == "destination_unreachable"
    await show.stop()
    assert show.state("twitch") == "ended"
