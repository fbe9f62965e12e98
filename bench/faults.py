"""Seconds from what happens at a platform to the change in `GET /api/live/status`.

The whole service with a real LiveKit and two nginx-rtmp platforms, one of which is broken in turn in every way; the
status is asked for 50 times a second, as a client would. A round is one broadcast for the faults on air, and one each
for what fails at the start or ends it. The other platform must keep accepting bytes during all of it, or the round has
failed."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import psycopg
import structlog
from harness import Benchmark, Failed, Figures, Limit, arguments, main, need, tool_version, versions
from livekit import api

from butai import database
from butai.embedded.livekit import livekit_binary
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed

sys.path.append(str(Path(__file__).parent.parent))

from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.e2e.waiting import eventually, rising
from tests.livekit_shows import livekit_shows
from tests.platforms import Platform
from tests.processes import free_port
from tests.shows import KEY
from tests.webhooks import encoded, joined, sign

EVERY = 0.02
"""Seconds between two looks at the status."""
# What it is, and the most that it may take in any round.
TARGETS = {
    "start": ("start → live", 2.0),
    "close": ("connection closed → interrupted", 0.5),
    "healed": ("next attempt → live again", 1.0),
    "killed": ("platform SIGKILLed → interrupted", 2.0),
    "stall": ("stopped reading → interrupted", 2.5),
    "relay": ("relay SIGKILLed → interrupted", 1.5),
    "other_controller": ("connection closed under the controller that took over → interrupted", 3.0),
    "handover": ("controller stopped → another one has the show", 2.0),
    "stop": ("stop → ended", 2.0),
    "refused": ("start → nothing listens there", 1.5),
    "bad_key": ("start → key rejected", 1.5),
    "once_more": ("key rejected → tried once more", 5.0),
    "host_lost": ("host SIGKILLed → its media is lost", 3.5),
    "host_gone": ("the grace of a host who left is over → ended", 3.0),
    "room": ("room deleted → ended", 8.0),
    "hung_stop": ("stop, while the relay hangs → ended", 11.0),
    "webhooks": ("50 webhooks at once, Postgres down and 0.5 s for a connection → all refused", 3.0),
    "sigterm": ("relay SIGTERMed → it has ended", 4.0),
    "livekit_drop": ("LiveKit Egress, without webhooks: connection lost → reconnecting", 4.0),
    "livekit_dead": ("LiveKit Egress, without webhooks: a dead worker's participant gone → reconnecting", 10.0),
}
STATEMENTS = [
    Limit(label, name, "seconds", "s", at_most=target, worst=True) for name, (label, target) in TARGETS.items()
]


def measure(rounds: int) -> bool:
    need("nginx")
    # Of the controller that runs in this process.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    bench = Benchmark("faults", f"seconds until GET /api/live/status says so, {rounds} rounds", STATEMENTS)
    bench.versions = versions("butai", "livekit") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version"),
        "nginx": tool_version("nginx", "-v"),
    }
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="butai-bench-faults-")))
        rows = opened.enter_context(EmbeddedPostgres(folder / "rows"))
        database.migrate(rows.owner_url, service_url=rows.url)
        seaweed = opened.enter_context(EmbeddedSeaweed(folder / "store"))
        stage = opened.enter_context(Stage(seaweed, BUTAI_DATABASE_CONNECT_TIMEOUT="0.5", BUTAI_RELAY_STANDBY="true"))
        steady, broken = opened.enter_context(Platform("steady")), opened.enter_context(Platform("broken"))
        found: Figures = {}

        def one(name: str) -> Callable[[int], Figures]:
            # All of a round is measured at its first name: the faults of one broadcast come one after the other.
            def run(number: int) -> Figures:
                if name == next(iter(TARGETS)):
                    found.clear()
                    try:
                        found.update(asyncio.run(faults(stage, steady, broken)))
                        found.update(asyncio.run(livekit_faults(rows.url)))
                    except AssertionError as error:
                        raise Failed(f"round {number}: {error}") from error
                return {"seconds": found[name]}

            return run

        bench.run({name: one(name) for name in TARGETS}, rounds, timed=False)
    return bench.report()


async def faults(stage: Stage, steady: Platform, broken: Platform) -> Figures:
    """One round. Raises `AssertionError` when something does not happen at all."""
    figures: Figures = {}
    async with prepared(stage, steady, broken.url) as (show, ids, keys):
        figures["start"] = await after(show, lambda: show.start(*ids), lambda: states(show) == {"live"}, 20)
        async with rising(lambda: steady.bytes_in(keys["steady"])):
            await asyncio.sleep(2)
            figures["close"] = await after(
                show, lambda: done(broken.drop, keys["broken"]), lambda: show.state("broken") == "interrupted", 10
            )
            figures["healed"] = await healed(show)
            await asyncio.sleep(2)
            figures["stall"] = await after(
                show, lambda: done(broken.stall), lambda: show.state("broken") == "interrupted", 10
            )
            broken.resume()
            await show.until_live("broken", seconds=30)
            await asyncio.sleep(2)
            figures["killed"] = await after(
                show, lambda: done(broken.kill), lambda: show.state("broken") == "interrupted", 10
            )
            broken.start()
            await show.until_live("broken", seconds=30)
            figures |= await other_controller(stage, show, broken, keys["broken"])
        await asyncio.sleep(2)
        (relay,) = stage.relays(show.session)
        figures["relay"] = await after(show, lambda: done(relay.kill), lambda: states(show) == {"interrupted"}, 10)
        await show.until_live("steady", "broken", seconds=30)
        await asyncio.sleep(1)
        figures["stop"] = await after(
            show,
            lambda: show.call("POST", "/api/live/stop", {"session_id": show.session}),
            lambda: states(show) == {"ended"},
            15,
        )
    async with prepared(stage, steady, f"rtmp://127.0.0.1:{free_port()}/live") as (show, ids, _):
        figures["refused"] = await after(
            show, lambda: show.start(*ids), lambda: show.code("broken") == "destination_unreachable", 15
        )
        await show.until_live("steady")
    async with prepared(stage, steady, broken.url) as (show, ids, keys):
        broken.refuse.add(keys["broken"])
        figures["bad_key"] = await after(
            show, lambda: show.start(*ids), lambda: show.code("broken") == "key_rejected", 15
        )
        await show.until_live("steady")
        await show.until(lambda: show.state("broken") == "error", 15)
        first, second = (visit.at for visit in broken.published(keys["broken"], "refused"))
        figures["once_more"] = second - first
    return figures | await ends(stage, steady, broken)


async def other_controller(stage: Stage, show: Show, broken: Platform, key: str) -> Figures:
    """The controller is SIGKILLed, another one takes over, the connection is closed; then that one is stopped, too."""
    figures: Figures = {}
    epoch = lease_epoch(stage, show)
    stage.start("controller-2")
    try:
        # Until they are loaded: how long that takes is not measured here.
        await asyncio.sleep(3)
        stage.kill("controller")
        await eventually(lambda: lease_epoch(stage, show) > epoch, 15)
        figures["other_controller"] = await after(
            show, lambda: done(broken.drop, key), lambda: show.state("broken") == "interrupted", 10
        )
        await show.until_live("broken", seconds=30)
        stage.start("controller")
        await asyncio.sleep(3)
        epoch = lease_epoch(stage, show)
    finally:
        stage.end("controller-2")
    figures["handover"] = await eventually(lambda: lease_epoch(stage, show) > epoch, 15)
    return figures


def lease_epoch(stage: Stage, show: Show) -> int:
    """How often a controller has taken the broadcast."""
    with psycopg.connect(stage.postgres.url) as connection:
        found = connection.execute("SELECT lease_epoch FROM broadcasts WHERE id = %s", [show.session]).fetchone()
    assert found is not None
    return found[0]


async def ends(stage: Stage, steady: Platform, broken: Platform) -> Figures:
    """One broadcast for each way in which one ends by itself, or with a relay that does not answer."""
    figures: Figures = {}
    grace = 3.0
    async with prepared(stage, steady, broken.url) as (show, ids, _):
        await show.start(*ids, source_grace=grace)
        await show.until(lambda: states(show) == {"live"} and show.now.source == "live", 20)
        assert show.host is not None
        figures["host_lost"] = await after(show, show.host.kill, lambda: show.now.source == "lost", 15)
        await show.host_on()
        await show.until(lambda: show.now.source == "live", 15)
        figures["host_gone"] = await after(show, show.host.stop, lambda: show.now.status == "ended", 20) - grace
    async with prepared(stage, steady, broken.url) as (show, ids, _):
        await show.start(*ids)
        # The relay has to be in the room.
        await show.until(lambda: states(show) == {"live"} and show.now.source == "live", 20)
        async with stage.livekit_api() as livekit:
            figures["room"] = await after(
                show,
                lambda: livekit.room.delete_room(api.DeleteRoomRequest(room=show.room)),
                lambda: show.now.status == "ended",
                20,
            )
    async with prepared(stage, steady, broken.url) as (show, ids, _):
        await show.start(*ids)
        await show.until_live("steady", "broken")
        (relay,) = stage.relays(show.session)
        relay.suspend()
        figures["hung_stop"] = await after(
            show,
            lambda: show.call("POST", "/api/live/stop", {"session_id": show.session}),
            lambda: show.now.status == "ended",
            30,
        )
    async with prepared(stage, steady, broken.url) as (show, ids, _):
        await show.start(*ids)
        await show.until_live("steady", "broken")
        (relay,) = stage.relays(show.session)
        began = time.monotonic()
        relay.terminate()
        await eventually(lambda: relay.pid not in [one.pid for one in stage.relays(show.session)], 20)
        figures["sigterm"] = time.monotonic() - began
    figures["webhooks"] = await refused_webhooks(stage)
    return figures


async def refused_webhooks(stage: Stage) -> float:
    """Signed as LiveKit does, to an API whose database does not answer."""
    bodies = [encoded(joined(f"guest-{number}")) for number in range(50)]
    keys = stage.livekit.livekit
    async with aiohttp.ClientSession() as client:

        async def send(body: bytes) -> int:
            headers = {"Authorization": sign(body, keys.api_key, keys.api_secret)}
            async with client.post(f"{stage.url}/api/live/webhook", data=body, headers=headers) as answer:
                return answer.status

        stage.postgres.stop(fast=True)
        try:
            # The first one finds out.
            assert await send(bodies[0]) == 503
            began = time.monotonic()
            assert set(await asyncio.gather(*map(send, bodies))) == {503}
            return time.monotonic() - began
        finally:
            stage.postgres.start()


async def livekit_faults(url: str) -> Figures:
    """The stand-in for LiveKit Egress at a real one's pace, with a controller in this process and rows of its own."""
    figures: Figures = {}
    b = f"rtmp://b/app/{KEY}"
    async with livekit_shows(url, speed=1.0) as shows, shows.controller():
        broadcast_id = await shows.begin("rtmp://a/app", "rtmp://b/app")
        await shows.reach(broadcast_id, 60, a="live", b="live")
        began = time.monotonic()
        assert shows.standin.drop(b) == 1
        await shows.reach(broadcast_id, 30, b="reconnecting")
        figures["livekit_drop"] = time.monotonic() - began
        await shows.reach(broadcast_id, 60, b="live")
        egress_id = shows.standin.running[b][0]
        shows.standin.kill_worker(egress_id)
        await eventually(lambda: not shows.standin.rooms.has(f"room-{broadcast_id}", egress_id), 60)
        began = time.monotonic()
        await shows.reach(broadcast_id, 60, b="reconnecting")
        figures["livekit_dead"] = time.monotonic() - began
        await shows.stop(broadcast_id)
        await shows.ended(broadcast_id, 30)
    return figures


@asynccontextmanager
async def prepared(
    stage: Stage, steady: Platform, broken_url: str
) -> AsyncGenerator[tuple[Show, list[str], dict[str, str]]]:
    """A host who publishes, two saved destinations, and their keys."""
    async with Show(stage, every=EVERY) as show:
        keys = {name: f"{name}{uuid.uuid4().hex[:12]}" for name in ("steady", "broken")}
        ids = [
            await show.destination("custom", steady.url, keys["steady"], label="steady"),
            await show.destination("twitch", broken_url, keys["broken"], label="broken"),
        ]
        await show.host_on()
        yield show, ids, keys


async def after(show: Show, act: Callable[[], object], condition: Callable[[], bool], patience: float) -> float:
    """Seconds from just before `act` to the answer in which the condition holds."""
    began = time.time()
    acting = act()
    if asyncio.iscoroutine(acting):
        await acting
    return await show.until(condition, patience) - began


async def done(act: Callable[..., object], *given: object) -> None:
    """Calls `act` as a coroutine."""
    act(*given)


async def healed(show: Show) -> float:
    """Seconds from the time that the status announced for the next attempt to live."""
    await show.until(lambda: bool(show.now.outputs["broken"].get("next_attempt_at")) or states(show) == {"live"}, 10)
    planned = show.now.outputs["broken"].get("next_attempt_at")
    live = await show.until_live("broken")
    await eventually(lambda: show.state("broken") == "live", 1)
    return live - datetime.fromisoformat(planned).timestamp() if planned else 0.0


def states(show: Show) -> set[str]:
    """The states of all outputs."""
    return {output["state"] for output in show.now.outputs.values()} if show.seen else set()


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=10)
    main(lambda: measure(given.rounds), minutes=60, strict=given.strict)
