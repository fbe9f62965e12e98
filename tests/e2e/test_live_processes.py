"""Every process of the service killed while on air: viewers notice none but the relay's death, and states are true
after."""

from __future__ import annotations

import asyncio
import time

import psycopg
import pytest

from tests.e2e.conftest import GRACE, OnAir, SharedShow
from tests.e2e.show import Show, events
from tests.e2e.stage import Stage
from tests.platforms import Platform
from tests.waiting import eventually, rising

# Two shows for all of them: the faults come one after the other, and each test begins when all is well.
pytestmark = pytest.mark.asyncio(loop_scope="module")


def lease(stage: Stage, show: Show) -> tuple[str, int, bool]:
    """The holder of a broadcast's lease, its epoch, and whether the lease has expired."""
    with psycopg.connect(stage.postgres.url) as connection:
        found = connection.execute(
            "SELECT coalesce(lease_holder, ''), lease_epoch, lease_until < now() FROM broadcasts WHERE id = %s",
            [show.session],
        ).fetchone()
    assert found is not None
    return found


async def until_taken_over(stage: Stage, show: Show, epoch: int) -> None:
    """Until a controller that is not the one of this epoch holds the broadcast."""
    await eventually(lambda: lease(stage, show)[1] > epoch, 15, lambda: stage.tail("controller"))


async def test_a_killed_relay_is_replaced(on_both: OnAir, stage: Stage) -> None:
    it, show = on_both, on_both.show
    (relay,) = stage.relays(show.session)
    relay.kill()
    await show.until(lambda: show.state("youtube") == show.state("twitch") == "interrupted", 5)
    assert show.code("twitch") in ("egress_lost", "egress_crashed")
    # YouTube wants ten seconds between two tries.
    await show.until_live("youtube", "twitch", seconds=30)
    (another,) = stage.relays(show.session)
    assert another.pid != relay.pid
    await eventually(lambda: it.twitch_bytes() > 0 and it.youtube_bytes() > 0, 5)
    assert len(it.twitch.published(it.twitch_key)) == 2


async def test_a_relay_that_hangs_is_given_up_and_replaced(on_both: OnAir, stage: Stage) -> None:
    show, since = on_both.show, time.time()
    (relay,) = stage.relays(show.session)
    relay.suspend()
    # It has told nothing for 2.5 s.
    await show.until(lambda: show.state("youtube") == show.state("twitch") == "interrupted", 17)
    assert show.code("twitch") == "egress_lost"
    # Three pings without an answer, each 5 s: it is given up after 10 to 15 s, and then replaced.
    await eventually(lambda: relay not in stage.relays(show.session), 17)
    await show.until_live("youtube", "twitch", seconds=30)
    (another,) = stage.relays(show.session)
    assert another.pid != relay.pid
    assert show.changes_of("twitch", since)[0] == "interrupted"


async def test_what_happens_while_no_controller_lives_is_known_to_the_next(on_both: OnAir, stage: Stage) -> None:
    it, show, since = on_both, on_both.show, time.time()
    stage.kill("controller")
    try:
        async with rising(it.youtube_bytes):
            it.twitch.drop(it.twitch_key)
            await eventually(lambda: bool(it.twitch.published(it.twitch_key, "publish_done")), 5)
            assert not it.twitch_bytes()
            assert show.changes_of("twitch", since) == []
    finally:
        stage.start("controller")
    await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 15)
    await show.until_live("twitch")
    assert show.changes_of("youtube", since) == []


async def test_of_two_controllers_the_other_takes_over_within_seconds(on_both: OnAir, stage: Stage) -> None:
    it, show = on_both, on_both.show
    stage.start("controller-2")
    try:
        await eventually(lambda: registered(stage, "controller-2"), 15, lambda: stage.tail("controller-2"))
        since, relays = time.time(), stage.relays(show.session)
        # The one that has the lease is killed, and then the broadcast is still looked after.
        holder, epoch, _ = lease(stage, show)
        assert f":{stage.pid('controller')}:" in holder
        stage.kill("controller")
        async with rising(it.youtube_bytes):
            await until_taken_over(stage, show, epoch)
            assert f":{stage.pid('controller-2')}:" in lease(stage, show)[0]
            it.twitch.drop(it.twitch_key)
            await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
            await show.until_live("twitch")
        assert stage.relays(show.session) == relays
    finally:
        if not stage.alive("controller"):
            stage.start("controller")
        stage.end("controller-2")


def registered(stage: Stage, role: str) -> bool:
    """Whether this controller has said that it is there."""
    with psycopg.connect(stage.postgres.url) as connection:
        pattern = f"%:{stage.pid(role)}:%"
        return bool(connection.execute("SELECT 1 FROM controllers WHERE id LIKE %s", [pattern]).fetchall())


async def test_a_killed_api_is_not_missed_and_events_go_on_where_they_ended(on_both: OnAir, stage: Stage) -> None:
    it, show, since = on_both, on_both.show, time.time()
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


async def test_media_flows_while_the_database_is_away(on_both: OnAir, stage: Stage) -> None:
    it, show, since = on_both, on_both.show, time.time()
    failures = show.failures
    async with rising(it.youtube_bytes), rising(it.twitch_bytes):
        stage.postgres.stop(fast=True)
        try:
            # Longer than the controller's patience with one transaction, twice.
            await asyncio.sleep(20)
            assert show.failures > failures
        finally:
            stage.postgres.start()
        looks = len(show.seen)
        await show.until(lambda: len(show.seen) > looks, 15)
        # The lease has run out meanwhile: whoever rules the show now has taken it again.
        await eventually(lambda: not lease(stage, show)[2], 10)
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
    assert stage.alive("controller"), stage.tail("controller")
    it.twitch.drop(it.twitch_key)
    await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 10)
    await show.until_live("twitch")
    assert show.changes_of("youtube", since) == []


async def test_a_restarted_livekit_costs_the_viewers_the_last_picture_for_a_while(on_both: OnAir, stage: Stage) -> None:
    show = on_both.show
    await show.until(lambda: show.now.source == "live", 10)
    await restart_livekit(on_both, stage, first_picture_came=True)


async def restart_livekit(it: OnAir, stage: Stage, *, first_picture_came: bool) -> None:
    """No broadcast goes off air by it, though the host's media was away for a while, up to the time when the grace
    would be over."""
    show, since = it.show, time.time()
    assert show.host is not None
    async with rising(it.youtube_bytes), rising(it.twitch_bytes):
        await asyncio.to_thread(stage.livekit.stop, fast=True)
        await show.host.kill()
        if first_picture_came:
            await show.until(lambda: show.now.source != "live", 10)
        lost = time.time()
        await show.until(lambda: show.now.at > since + 2, 5)
        stage.livekit.start()
        await show.host_on()
        await show.until(lambda: show.now.source == "live", 14)
        # Longer than what was left of the grace.
        await show.until(lambda: show.now.at > lost + GRACE + 3, GRACE + 10)
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
    assert show.now.status == "live"


async def test_a_killed_controller_is_not_missed_by_the_platforms_and_its_successor_adopts_the_relay(
    on_both: OnAir, stage: Stage
) -> None:
    it, show, since = on_both, on_both.show, time.time()
    (relay,) = stage.relays(show.session)
    _, epoch, _ = lease(stage, show)
    try:
        async with rising(it.youtube_bytes), rising(it.twitch_bytes):
            stage.kill("controller")
            # Nobody holds the show for a while.
            await eventually(lambda: lease(stage, show)[2], 10)
            await show.until(lambda: show.now.at > since + 5, 10)
            stage.start("controller")
            await until_taken_over(stage, show, epoch)
    finally:
        if not stage.alive("controller"):
            stage.start("controller")
    # It rules the relay again: what happens is seen, and what is asked is done.
    assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == [], (since, show.changes)
    it.twitch.drop(it.twitch_key)
    await show.until(lambda: "interrupted" in show.changes_of("twitch", since), 5)
    assert [one.pid for one in stage.relays(show.session)] == [relay.pid]
    await show.until_live("twitch")
    await show.stop()
    await eventually(lambda: not stage.relays(show.session), 10)


@pytest.mark.slow
async def test_a_livekit_restarted_before_the_first_picture_came_costs_the_viewers_no_more(
    shared_show: SharedShow, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    it = await shared_show.anew(both=True)
    await restart_livekit(it, stage, first_picture_came=False)


async def test_a_stop_ends_within_ten_seconds_though_the_relay_hangs(on_both: OnAir, stage: Stage) -> None:
    show = on_both.show
    (relay,) = stage.relays(show.session)
    relay.suspend()
    await show.call("POST", "/api/live/stop", {"session_id": show.session})
    await show.until(lambda: show.now.status == "ended", 30)
    # Nothing goes on sending that was said to have ended.
    await eventually(lambda: not stage.relays(show.session), 15)
