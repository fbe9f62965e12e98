"""Controllers admit what their machines can carry: against a real Postgres, with relays that only report."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from butai.config import Settings
from butai.database import Database
from tests.conftest import Api, serving
from tests.live_api import make_room, save, sql
from tests.shows import Shows, shows, until

ROOM_FOR_TWO = 0.85
"""Cores: a relay at 720p30 takes 0.34, and the reporting one says 0.4."""


@pytest.fixture
def stage(database_url: str) -> Iterator[Shows]:
    with shows(database_url, capacity=ROOM_FOR_TWO) as made:
        yield made


async def waiting(stage: Shows) -> list[UUID]:
    """The broadcasts that were told that they wait."""
    rows = await stage.do(
        "SELECT b.id FROM broadcasts b JOIN outputs o ON o.broadcast_id = b.id WHERE o.state = 'starting' "
        "AND o.error_code = 'no_capacity' AND o.next_attempt_at IS NOT NULL AND b.lease_holder IS NULL "
        "AND b.waiting_since IS NOT NULL ORDER BY b.created_at"
    )
    return [row["id"] for row in rows]


async def live(stage: Shows) -> set[UUID]:
    return {row["broadcast_id"] for row in await stage.do("SELECT broadcast_id FROM outputs WHERE state = 'live'")}


async def test_twenty_starts_at_once_are_each_in_one_place_and_no_machine_is_above_its_capacity(
    stage: Shows, database_url: str
) -> None:
    with shows(database_url, capacity=ROOM_FOR_TWO) as elsewhere:
        async with stage.controller("c1") as first, elsewhere.controller("c2") as second:
            ids = await asyncio.gather(*(stage.begin("rtmp://a/app") for _ in range(20)))

            async def settled() -> bool:
                return len(await live(stage)) == 4 and len(await waiting(stage)) == 16

            await until(settled, 30)
            assert len(first.held) == len(second.held) == 2
            assert not first.held & second.held
            assert first.held | second.held == await live(stage)
            for broadcast_id in ids:
                relays = {line["pid"] for made in (stage, elsewhere) for line in made.heard(broadcast_id)}
                assert len(relays) == (1 if broadcast_id in first.held | second.held else 0)

            # A place that comes free is taken by one that waits, at once.
            [stopped, *_] = first.held
            await stage.stop(stopped)

            async def replaced() -> bool:
                return len((await live(stage)) - {stopped}) == 4

            await until(replaced)
            assert len(await waiting(stage)) == 15
            for broadcast_id in await live(stage):
                [output] = (await stage.outputs(broadcast_id)).values()
                assert (output["error_code"], output["attempt"]) == (None, 1)


async def test_a_broadcast_without_room_ends_after_its_time_with_the_reason(stage: Shows) -> None:
    stage.live = stage.live.model_copy(update={"capacity": 0.0})
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app", "rtmp://b/app")

        async def told() -> bool:
            return broadcast_id in await waiting(stage)

        await until(told)
        row = await stage.broadcast(broadcast_id)
        assert row["ended_at"] is None and row["engine_host"] is None
        await stage.do("UPDATE broadcasts SET waiting_since = now() - interval '5 minutes' WHERE id = %s", broadcast_id)
        await stage.do("UPDATE outputs SET next_attempt_at = now() WHERE broadcast_id = %s", broadcast_id)
        over = await stage.ended(broadcast_id)
        assert over["end_code"] == "no_capacity" and over["lease_holder"] is None
        for output in (await stage.outputs(broadcast_id)).values():
            assert (output["state"], output["error_code"], output["next_attempt_at"]) == ("failed", "no_capacity", None)
        events = [(event["event"], event["code"]) for event in await stage.events(broadcast_id)]
        assert events[-2:] == [("broadcast.ending", "no_capacity"), ("broadcast.ended", "no_capacity")]
        assert stage.heard(broadcast_id) == []


async def test_a_broadcast_that_waits_can_be_stopped_and_needs_no_room_for_that(stage: Shows) -> None:
    stage.live = stage.live.model_copy(update={"capacity": 0.0})
    async with stage.controller():
        broadcast_id = await stage.begin("rtmp://a/app")

        async def told() -> bool:
            return broadcast_id in await waiting(stage)

        await until(told)
        await stage.stop(broadcast_id)
        over = await stage.ended(broadcast_id)
        assert over["end_code"] is None
        assert await stage.states(broadcast_id) == {"rtmp://a/app": "ended"}
        assert stage.heard(broadcast_id) == []


async def test_controllers_of_one_machine_share_its_capacity(stage: Shows) -> None:
    async with stage.controller("c1") as first, stage.controller("c2") as second:
        for _ in range(5):
            await stage.begin("rtmp://a/app")

        async def settled() -> bool:
            return len(await live(stage)) == 2 and len(await waiting(stage)) == 3

        await until(settled)
        assert len(first.held) + len(second.held) == 2


async def test_what_is_on_air_is_taken_over_above_the_capacity_and_a_claim_of_a_dead_controller_counts_nothing(
    stage: Shows,
) -> None:
    stage.live = stage.live.model_copy(update={"capacity": 100.0})
    async with stage.controller("c1"):
        on_air = [await stage.begin(f"rtmp://{name}/app") for name in "abc"]
        for broadcast_id, name in zip(on_air, "abc", strict=True):
            await stage.reach(broadcast_id, **{name: "live"})
    stage.live = stage.live.model_copy(update={"capacity": ROOM_FOR_TWO})
    newcomer = await stage.begin("rtmp://d/app")
    async with stage.controller("c2") as second:

        async def told() -> bool:
            return await waiting(stage) == [newcomer]

        await until(told)
        assert second.held == set(on_air)
        # Two more end: there is room. A lease that a killed controller left before it had an engine takes none.
        await stage.do(
            "UPDATE broadcasts SET lease_holder = 'killed', lease_until = now() - interval '1 s' WHERE id = %s",
            newcomer,
        )
        for broadcast_id in on_air[:2]:
            await stage.stop(broadcast_id)
        await stage.reach(newcomer, d="live")
        assert second.held >= {newcomer, on_air[2]}
        for broadcast_id, name in zip(on_air, "abc", strict=True):
            assert stage.starts(broadcast_id) == [(name, 1)]


async def test_a_machine_that_falls_behind_takes_newcomers_with_a_smaller_picture(stage: Shows) -> None:
    stage.live = stage.live.model_copy(update={"capacity": 100.0})
    async with stage.controller() as controller:
        first = await stage.begin("rtmp://a/app")
        await stage.reach(first, a="live")
        stage.tell_relay(first, late_ms=150)

        async def behind() -> bool:
            return controller.capacity.admits == "lowered"

        await until(behind)
        second = await stage.begin("rtmp://b/app", preset="1080p30")
        await stage.reach(second, b="live")
        row = await stage.broadcast(second)
        assert (row["preset"], row["chosen_preset"]) == ("720p30", "1080p30")
        assert [line["width"] for line in stage.heard(second, "configure")] == [1280]
        [event] = [e for e in await stage.events(second) if e["event"] == "broadcast.preset_lowered"]
        assert event["code"] == "preset_lowered"
        assert event["detail"] == {"chosen": "1080p30", "preset": "720p30"}
        assert (await stage.broadcast(first))["preset"] == "720p30"
        [published] = await stage.do("SELECT capacity, costs, admits FROM controllers")
        assert published["capacity"] == 100.0 and published["costs"]["relay 720p30"] > 0

        # Pictures are lost: no newcomer at all.
        stage.tell_relay(first, late_ms=300)

        async def losing() -> bool:
            return controller.capacity.admits == "none"

        await until(losing)
        third = await stage.begin("rtmp://c/app")

        async def told() -> bool:
            return await waiting(stage) == [third]

        await until(told)
        assert third not in controller.held


# The start itself


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


RELAY_CONTROLLER = (
    "INSERT INTO controllers (id, host, capacity, costs) VALUES ('{id}', 'h', {capacity}, "
    '\'{{"relay 720p30": 0.34, "relay 480p30": 0.3, "relay 1080p60": 1.05}}\')'
)


async def rooms(api: Api, count: int) -> list[str]:
    await save(api)
    names = [f"room-{number}" for number in range(count)]
    for name in names:
        await make_room(api, name)
    return names


async def start(api: Api, room: str, **more: str) -> tuple[int, Any, str | None]:
    wanted = {"room_id": room, "platforms": "youtube"} | more
    async with api.client.post(f"{api.url}/api/live/start", json=wanted, headers=api.cookie("alice")) as answer:
        return answer.status, await answer.json(), answer.headers.get("retry-after")


async def test_where_the_only_controller_is_full_a_start_is_refused_with_the_advice(
    api: Api, database: Database
) -> None:
    names = await rooms(api, 3)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=0.7))
    assert [(await start(api, name))[0] for name in names[:2]] == [201, 201]
    status, problem, retry_after = await start(api, names[2])
    assert (status, problem["code"], retry_after) == (503, "no_capacity", "30")
    assert "five minutes" in problem["action"]
    # Nothing is taken.
    assert await sql(database, "SELECT 1 FROM broadcasts WHERE room_id = :room", room=names[2]) == []
    # Another machine may come free.
    await sql(database, RELAY_CONTROLLER.format(id="c2", capacity=0.7))
    assert (await start(api, names[2]))[0] == 201


async def test_twenty_starts_at_once_are_taken_as_far_as_the_only_controller_has_room(
    api: Api, database: Database
) -> None:
    names = await rooms(api, 20)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=1.1))
    answers = await asyncio.gather(*(start(api, name) for name in names))
    assert sorted(status for status, _, _ in answers) == [201] * 3 + [503] * 17


@pytest.mark.parametrize(
    ("capacity", "seen", "status"), [("NULL", 0, 201), ("0", 0, 503), ("0.01", 0, 201), ("0", 60, 201)]
)
async def test_a_start_is_taken_without_a_controller_that_says_no(
    api: Api, database: Database, capacity: str, seen: int, status: int
) -> None:
    """By one of an earlier version, by one that takes none, by a small machine, and by none that runs."""
    [name] = await rooms(api, 1)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=capacity))
    await sql(database, "UPDATE controllers SET seen_at = now() - make_interval(secs => :seen)", seen=seen)
    assert (await start(api, name, preset="1080p60"))[0] == status


async def test_a_fault_of_the_request_is_told_before_the_lack_of_room(api: Api, database: Database) -> None:
    [name] = await rooms(api, 1)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=0))
    status, problem, _ = await start(api, name, platforms="twitch")
    assert (status, problem["code"]) == (422, "no_destination")
    assert (await start(api, name))[0] == 503


@pytest.mark.parametrize("controllers", [0, 2])
async def test_starts_take_turns_only_where_they_are_counted(api: Api, database: Database, controllers: int) -> None:
    [name] = await rooms(api, 1)
    for number in range(controllers):
        await sql(database, RELAY_CONTROLLER.format(id=f"c{number}", capacity=8))
    async with database.transaction() as session:
        await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('butai start', 0))"))
        assert (await start(api, name))[0] == 201


async def test_where_the_only_controller_is_behind_a_start_is_taken_that_fits_with_a_smaller_picture(
    api: Api, database: Database
) -> None:
    names = await rooms(api, 2)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=0.7))
    await sql(database, "UPDATE controllers SET admits = 'lowered'")
    assert [(await start(api, names[0]))[0], (await start(api, names[1], preset="720p60"))[0]] == [201, 201]


async def test_lost_pictures_refuse_a_start_only_while_a_broadcast_is_on_air(api: Api, database: Database) -> None:
    """A controller's word is up to five seconds old: the broadcast that lost them may have ended."""
    names = await rooms(api, 2)
    await sql(database, RELAY_CONTROLLER.format(id="c1", capacity=8))
    await sql(database, "UPDATE controllers SET admits = 'none'")
    assert [(await start(api, name))[0] for name in names] == [201, 503]


async def test_the_status_says_that_the_picture_is_smaller_than_chosen(api: Api, database: Database) -> None:
    [name] = await rooms(api, 1)
    _, begun, _ = await start(api, name, preset="1080p60")
    assert (begun["preset"], begun["chosen_preset"], begun["warning"]) == ("1080p60", None, None)
    await sql(database, "UPDATE broadcasts SET preset = '1080p30', chosen_preset = '1080p60'")
    _, shown = await api.call("GET", f"/api/live/status?room_id={name}", "alice")
    assert (shown["preset"], shown["chosen_preset"]) == ("1080p30", "1080p60")
    assert shown["warning"]["code"] == "preset_lowered" and shown["warning"]["action"]
