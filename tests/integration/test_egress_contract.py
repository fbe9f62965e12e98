"""The contract of engines, `butai.live.reconcile.port`, tested on both of them."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from butai.embedded.livekit import EmbeddedLiveKit
from butai.live.reconcile.reports import EngineGone, MetricsReport, OutputReport, SourceReport
from tests.egress_worlds import LiveKitWorld, RelayWorld, Room, World
from tests.platforms import Platform
from tests.waiting import until

# One loop for all, which the host's process lives in.
pytestmark = pytest.mark.asyncio(loop_scope="module")

ORDER = ("connecting", "publishing", "live")


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedLiveKit]:
    folder = Path(tempfile.mkdtemp(prefix="butai-contract-"))
    with EmbeddedLiveKit(folder / "livekit") as livekit:
        yield livekit
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def platforms() -> Iterator[dict[str, Platform]]:
    with Platform("a") as first, Platform("b") as second:
        yield {"a": first, "b": second}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def room(server: EmbeddedLiveKit) -> AsyncIterator[Room]:
    """One host for all broadcasts."""
    made = Room(server)
    yield made
    await made.close()


@pytest_asyncio.fixture(loop_scope="module", params=["relay", "livekit"])
async def world(request: pytest.FixtureRequest, room: Room, platforms: dict[str, Platform]) -> AsyncIterator[World]:
    if request.param == "relay":
        made: RelayWorld | LiveKitWorld = RelayWorld(room, platforms)
    else:
        made = LiveKitWorld(request.getfixturevalue("database_url"))
    await made.open()
    try:
        yield made
    finally:
        await made.close()


def sane(world: World, heard: list[object]) -> None:
    """What is true of all reports: no secrets, sane times, an order that leads on."""
    for report in heard:
        for key in world.keys.values():
            assert key not in repr(report) and key[:3] + "..." not in repr(report)
        assert "rtmp://" not in repr(report)
        if isinstance(report, OutputReport | MetricsReport):
            assert time.time() - 120 < report.at < time.time() + 1, report


async def live(world: World) -> tuple[Any, Any]:
    engine, ear = await world.engine()
    for name in ("a", "b"):
        world.start(engine, name)
    for name in ("a", "b"):
        await ear.phase(world.outputs[name], "live")
    return engine, ear


async def test_two_outputs_come_to_be_live_in_order(world: World) -> None:
    engine, ear = await live(world)
    await ear.source("live")
    for name in ("a", "b"):
        found = ear.reports(world.outputs[name])
        phases = [one.phase for one in found]
        assert [phase for phase in ORDER if phase in phases] == list(dict.fromkeys(phases)), phases
        assert {one.attempt for one in found} == {1}
        await until(lambda name=name: world.pushes(name) == 1, "the platform sees it")
    sane(world, [*ear.heard])
    engine.stop()
    await ear.gone()


async def test_a_refused_key_fails_alone(world: World) -> None:
    world.refuse("b")
    engine, ear = await world.engine()
    for name in ("a", "b"):
        world.start(engine, name)
    failed = await ear.phase(world.outputs["b"], "failed")
    assert failed.code == "key_rejected"
    await ear.phase(world.outputs["a"], "live")
    assert world.pushes("a") == 1 and world.pushes("b") == 0
    sane(world, [*ear.heard])


async def test_where_nobody_listens_fails_and_the_next_attempt_is_another(world: World) -> None:
    engine, ear = await world.engine()
    world.start(engine, "a", nowhere=True)
    failed = await ear.phase(world.outputs["a"], "failed")
    assert (failed.code, failed.attempt) == ("destination_unreachable", 1)
    world.start(engine, "a", 2)
    assert (await ear.phase(world.outputs["a"], "live")).attempt == 2
    sane(world, [*ear.heard])


async def test_an_attempt_that_is_known_is_not_made_twice(world: World) -> None:
    engine, ear = await live(world)
    for _ in range(3):
        world.start(engine, "a")
    # Something that comes after those orders has been done.
    engine.stop_output(world.outputs["b"])
    await ear.phase(world.outputs["b"], "ended")
    assert world.begun("a") == 1 and world.pushes("a") == 1
    assert (await ear.phase(world.outputs["a"], "live")).attempt == 1


async def test_a_drop_is_told_and_leaves_the_other_alone(world: World) -> None:
    engine, ear = await live(world)
    before = len(ear.reports(world.outputs["a"]))
    world.drop("b")
    told = await ear.phase(world.outputs["b"], "stalled" if world.mends_itself else "failed")
    assert told.code == "destination_closed"
    if world.mends_itself:
        await ear.phase(world.outputs["b"], "live")
    else:
        world.start(engine, "b", 2)
        await ear.phase(world.outputs["b"], "live", attempt=2)
    assert {one.phase for one in ear.reports(world.outputs["a"])[before:]} <= {"live"}, "said again, if anything"
    assert world.begun("a") == 1
    sane(world, [*ear.heard])


async def test_a_platform_that_dies_is_told_and_taken_again_when_it_is_back(world: World) -> None:
    engine, ear = await live(world)
    world.kill("b")
    told = await ear.phase(world.outputs["b"], "stalled", "failed")
    assert told.code == "destination_closed"
    world.heal("b")
    # LiveKit tries again by itself what has streamed for longer, and fails what is young.
    assert told.phase == "failed" or world.mends_itself
    attempt = 1
    if told.phase == "failed":
        attempt = 2
        world.start(engine, "b", attempt)
    await ear.phase(world.outputs["b"], "live", attempt=attempt)
    assert world.pushes("a") == world.pushes("b") == 1 and world.begun("a") == 1
    sane(world, [*ear.heard])


async def test_a_key_that_cannot_be_opened_fails_alone(world: World) -> None:
    engine, ear = await world.engine()
    engine.start_output(world.outputs["b"], 1, world.door("b"), b"\xff" + world.keys["b"].encode())
    world.start(engine, "a")
    assert (await ear.phase(world.outputs["b"], "failed")).code == "invalid_destination"
    await ear.phase(world.outputs["a"], "live")
    assert world.begun("b") == 0
    sane(world, [*ear.heard])


async def test_one_output_is_stopped_and_the_other_goes_on(world: World) -> None:
    engine, ear = await live(world)
    begun = time.monotonic()
    engine.stop_output(world.outputs["a"])
    await ear.phase(world.outputs["a"], "ended")
    assert time.monotonic() - begun < 10
    await until(lambda: world.pushes("a") == 0, "the platform sees the end")
    assert world.pushes("b") == 1
    # Again, which needs no second answer; and one that never was, which needs one.
    engine.stop_output(world.outputs["a"])
    unknown = uuid.uuid4()
    engine.stop_output(unknown)
    assert (await ear.phase(unknown, "ended")).attempt == 0
    assert ear.reports(world.outputs["a"])[-1].phase == "ended"
    assert ear.reports(world.outputs["b"])[-1].phase == "live"
    assert world.pushes("b") == 1 and world.begun("a") == world.begun("b") == 1
    sane(world, [*ear.heard])


async def test_the_next_controller_finds_it_as_it_is(world: World) -> None:
    first, old = await live(world)
    first.detach()
    heard = len(old.heard)
    second, ear = await world.engine(2)
    assert second.ref == first.ref
    if world.tells_at_once:
        assert {ear.reports(world.outputs[name])[-1].phase for name in ("a", "b")} == {"live"}
    # Ordered again, as by one who has not read that they run.
    for name in ("a", "b"):
        world.start(second, name)
        found = await ear.phase(world.outputs[name], "live")
        assert next(one.phase for one in ear.reports(world.outputs[name], 1)) == "live", (
            "where it stands, not how it came"
        )
        assert found.attempt == 1
        assert world.begun(name) == world.pushes(name) == 1
    second.stop_output(world.outputs["a"])
    await ear.phase(world.outputs["a"], "ended")
    assert len(old.heard) == heard, "whoever has left hears nothing"
    sane(world, [*ear.heard])


async def test_an_older_controller_that_did_not_let_go_does_no_harm(world: World) -> None:
    first, old = await live(world)
    first.stop_output(world.outputs["b"])
    await old.phase(world.outputs["b"], "ended")
    second, ear = await world.engine(2)
    await ear.phase(world.outputs["a"], "live")
    if world.hangs_up:
        await until(lambda: old.lost == 1, "it was hung up")
    world.start(first, "b", 2)
    await stays_silent(world, "b", seconds=1.5)
    world.start(second, "b", 2)
    assert (await ear.phase(world.outputs["b"], "live", attempt=2)).attempt == 2
    assert world.begun("b") == 2 and world.begun("a") == 1
    assert not [one for one in [*old.heard, *ear.heard] if isinstance(one, EngineGone)]


async def test_stop_ends_all(world: World) -> None:
    engine, ear = await live(world)
    engine.stop()
    gone = await ear.gone()
    assert gone.code == ""
    await until(lambda: world.pushes("a") == world.pushes("b") == 0, "nothing is pushed")
    assert isinstance(ear.heard[-1], EngineGone), "nothing is heard afterwards"


async def test_kill_is_told_at_once(world: World) -> None:
    engine, ear = await live(world)
    engine.stop()
    engine.kill()
    gone = await ear.gone(5)
    assert gone.code in ("", world.kill_code), gone
    sane(world, [*ear.heard])
    await until(lambda: world.pushes("a") == world.pushes("b") == 0, "nothing is pushed")
    assert isinstance(ear.heard[-1], EngineGone)


async def test_kill_alone_is_told_at_once(world: World) -> None:
    engine, ear = await live(world)
    engine.kill()
    assert (await ear.gone(5)).code == world.kill_code
    if world.kill_ends:
        await until(lambda: world.pushes("a") == world.pushes("b") == 0, "nothing is pushed")
    assert isinstance(ear.heard[-1], EngineGone)
    sane(world, [*ear.heard])


async def test_a_host_who_comes_back_in_time_costs_nothing(world: World) -> None:
    _, ear = await live(world)
    await ear.source("live")
    await world.host_leaves()
    await ear.source("lost")
    await world.host_returns()
    await ear.source("live")
    # Longer than the grace would have been.
    await asyncio.sleep(3.2)
    phases = [one.phase for one in ear.heard if isinstance(one, SourceReport)]
    assert phases[-1] == "live" and "ended" not in phases and "failed" not in phases
    for name in ("a", "b"):
        assert ear.reports(world.outputs[name])[-1].phase == "live"
        assert world.begun(name) == world.pushes(name) == 1


async def test_a_host_who_stays_away_ends_the_source_after_the_grace(world: World) -> None:
    _, ear = await live(world)
    await ear.source("live")
    await world.host_leaves()
    lost = await ear.source("lost")
    ended = await ear.source("ended")
    assert ended.code == "source_ended"
    assert ended.at - lost.at > 2, "the grace is three seconds here"
    assert [one.phase for one in ear.reports(world.outputs["a"])][-1] in ("live", "ended")


async def test_a_stop_right_behind_the_starts_leaves_nothing(world: World) -> None:
    engine, ear = await world.engine()
    for name in ("a", "b"):
        world.start(engine, name)
    engine.stop()
    assert (await ear.gone()).code == ""
    await stays_silent(world, "a", "b")
    assert isinstance(ear.heard[-1], EngineGone)


async def test_an_end_right_behind_its_start_leaves_nothing(world: World) -> None:
    engine, ear = await world.engine()
    for name in ("a", "b"):
        world.start(engine, name)
    engine.stop_output(world.outputs["b"])
    await ear.phase(world.outputs["b"], "ended")
    await ear.phase(world.outputs["a"], "live")
    await stays_silent(world, "b")
    assert ear.reports(world.outputs["b"])[-1].phase == "ended"
    # Wanted again: the next attempt is another.
    world.start(engine, "b", 2)
    assert (await ear.phase(world.outputs["b"], "live")).attempt == 2
    assert world.pushes("a") == world.pushes("b") == 1


async def stays_silent(world: World, *names: str, seconds: float = 2.5) -> None:
    """Nothing is pushed, and nothing comes up late: within so many seconds, by the engine's clock where it is the faster."""
    await until(lambda: not any(map(world.pushes, names)), "nothing is pushed")
    deadline = time.monotonic() + max(seconds / world.speed, 0.5)
    while time.monotonic() < deadline:
        assert not any(map(world.pushes, names)), "pushed after the end"
        await asyncio.sleep(0.1)
