"""Every process of the service killed while on air: viewers notice none but the relay's death, and states are true after."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.e2e.conftest import GRACE, Start
from tests.e2e.stage import Stage, events, eventually, rising


async def test_a_killed_relay_is_replaced(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        (relay,) = stage.relays(show.session)
        relay.kill()
        seen = await show.until(lambda: show.state("youtube") == show.state("twitch") == "interrupted", 5)
        assert seen - since < 3
        assert show.code("twitch") in ("egress_lost", "egress_crashed")
        # YouTube wants ten seconds between two tries.
        await show.until_live("youtube", "twitch", seconds=30)
        (another,) = stage.relays(show.session)
        assert another.pid != relay.pid
        await eventually(lambda: it.twitch_bytes() > 0 and it.youtube_bytes() > 0, 5)
        assert len(it.twitch.published(it.twitch_key)) == 2


async def test_a_killed_controller_is_not_missed_by_the_platforms_and_its_successor_adopts_the_relay(
    on_air: Start, stage: Stage
) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        (relay,) = stage.relays(show.session)
        try:
            async with rising(it.youtube_bytes), rising(it.twitch_bytes):
                stage.kill("controller")
                await asyncio.sleep(5)
                stage.start("controller")
                await asyncio.sleep(8)
        finally:
            if not stage.alive("controller"):
                stage.start("controller")
        assert [one.pid for one in stage.relays(show.session)] == [relay.pid]
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
        # It rules the relay again: what happens is seen, and what is asked is done.
        it.twitch.drop(it.twitch_key)
        await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
        await show.until_live("twitch")
        await show.stop()
        await eventually(lambda: not stage.relays(show.session), 10)


async def test_what_happens_while_no_controller_lives_is_known_to_the_next(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        stage.kill("controller")
        try:
            async with rising(it.youtube_bytes):
                it.twitch.drop(it.twitch_key)
                await asyncio.sleep(2)
                assert not it.twitch_bytes()
        finally:
            stage.start("controller")
        await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 15)
        await show.until_live("twitch")
        assert show.changes_of("youtube", since) == []


async def test_of_two_controllers_the_other_takes_over_within_seconds(on_air: Start, stage: Stage) -> None:
    stage.start("controller-2")
    try:
        async with on_air() as it:
            show, since = it.show, time.time()
            relays = stage.relays(show.session)
            # Whichever has the lease: one is killed, and then the broadcast is still looked after.
            stage.kill("controller")
            async with rising(it.youtube_bytes):
                await asyncio.sleep(5)
                it.twitch.drop(it.twitch_key)
                dropped = time.time()
                seen = await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
                assert seen - dropped < 3
                await show.until_live("twitch")
            assert stage.relays(show.session) == relays
    finally:
        stage.end("controller-2")
        stage.start("controller")


async def test_a_killed_api_is_not_missed_and_events_go_on_where_they_ended(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        async with events(show) as heard:
            it.twitch.drop(it.twitch_key)
            await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
            await show.until_live("twitch")
            await eventually(lambda: any(one["id"] for one in heard), 5)
        last = next(one["id"] for one in reversed(heard) if one["id"])
        failures = show.failures
        async with rising(it.youtube_bytes):
            stage.kill("api")
            try:
                await eventually(lambda: show.failures > failures, 5)
                it.twitch.drop(it.twitch_key)
                await eventually(lambda: it.twitch_bytes() == 0, 3)
                await eventually(lambda: it.twitch_bytes() > 0, 10)
            finally:
                stage.start("api")
            looks = len(show.seen)
            await show.until(lambda: len(show.seen) > looks, 20)
        async with events(show, last_id=last) as missed:
            await eventually(lambda: any("interrupted" in str(one) for one in missed), 5)
        assert show.now.status == "live"


async def test_media_flows_while_the_database_is_away(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        failures = show.failures
        async with rising(it.youtube_bytes), rising(it.twitch_bytes):
            stage.postgres.stop(fast=True)
            try:
                await asyncio.sleep(20)
                assert show.failures > failures
            finally:
                stage.postgres.start()
            looks = len(show.seen)
            await show.until(lambda: len(show.seen) > looks, 15)
            await asyncio.sleep(3)
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
        assert stage.alive("controller"), stage.tail("controller")
        it.twitch.drop(it.twitch_key)
        await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 10)
        await show.until_live("twitch")


@pytest.mark.parametrize("first_picture_came", [True, pytest.param(False, marks=pytest.mark.slow)])
async def test_a_restarted_livekit_costs_the_viewers_the_last_picture_for_a_while(
    on_air: Start, stage: Stage, first_picture_came: bool
) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        assert show.host is not None
        if first_picture_came:
            await show.until(lambda: show.now.source == "live", 10)
        async with rising(it.youtube_bytes), rising(it.twitch_bytes):
            stage.livekit.stop(fast=True)
            await show.host.kill()
            await asyncio.sleep(2)
            if first_picture_came:
                await show.until(lambda: show.now.source != "live", 10)
            stage.livekit.start()
            await show.host_on()
            await show.until(lambda: show.now.source == "live", 14)
            # Longer than what was left of the grace.
            await asyncio.sleep(GRACE)
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
        assert show.now.status == "live"


async def test_a_relay_that_hangs_is_given_up_and_replaced(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show, since = it.show, time.time()
        (relay,) = stage.relays(show.session)
        relay.suspend()
        # Three pings without an answer, each 5 s: it is given up after 10 to 15 s, and then replaced.
        await show.until(lambda: show.state("twitch") == "interrupted", 17)
        await show.until_live("youtube", "twitch", seconds=30)
        (another,) = stage.relays(show.session)
        assert another.pid != relay.pid
        assert show.changes_of("twitch", since)[0] == "interrupted"


async def test_a_stop_ends_within_ten_seconds_though_the_relay_hangs(on_air: Start, stage: Stage) -> None:
    async with on_air() as it:
        show = it.show
        (relay,) = stage.relays(show.session)
        relay.suspend()
        asked = time.time()
        await show.call("POST", "/api/live/stop", {"session_id": show.session})
        ended = await show.until(lambda: show.now.status == "ended", 12)
        assert ended - asked < 11
        # Nothing goes on sending that was said to have ended.
        await eventually(lambda: not stage.relays(show.session), 15)
