"""Faults of a platform, of the relay and of the controller, in a broadcast to two nginx-rtmp platforms. Used by `faults`."""

from __future__ import annotations

import asyncio

import psycopg
from broken_shows import Broadcast, at_nginx, done, prepared, states
from harness import Figures

from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.platforms import Platform
from tests.processes import free_port
from tests.waiting import eventually, rising


async def on_air(stage: Stage, steady: Platform, broken: Platform) -> dict[str, Figures]:
    """One broadcast for what happens on air. Raises `AssertionError` when something does not happen at all."""
    found: dict[str, Figures] = {}
    places = {"steady": at_nginx(steady), "broken": at_nginx(broken, "twitch")}
    async with prepared(stage, found, places) as it:
        show, key = it.show, it.keys["broken"]

        def interrupted() -> bool:
            return show.state("broken") == "interrupted"

        await it.after("start", lambda: show.start(*it.ids), lambda: states(show) == {"live"}, 20)
        async with rising(lambda: steady.bytes_in(it.keys["steady"])):
            await asyncio.sleep(2)
            await it.after("close", lambda: done(broken.drop, key), interrupted, 10)
            found["healed"] = {"seconds": await it.healed("broken")}
            await asyncio.sleep(2)
            await it.after("stall", lambda: done(broken.stall), interrupted, 10)
            broken.resume()
            await show.until_live("broken", seconds=30)
            await asyncio.sleep(2)
            await it.after("killed", lambda: done(broken.kill), interrupted, 10)
            broken.start()
            await show.until_live("broken", seconds=30)
            found["handover"] = {"seconds": await other_controller(stage, it, broken)}
        await asyncio.sleep(2)
        (relay,) = stage.relays(show.session)
        await it.after("relay", lambda: done(relay.kill), lambda: states(show) == {"interrupted"}, 10)
        await show.until_live("steady", "broken", seconds=30)
        await asyncio.sleep(1)
        await it.after("stop", it.stop, lambda: states(show) == {"ended"}, 15, ends=True)
    return found


async def other_controller(stage: Stage, it: Broadcast, broken: Platform) -> float:
    """The controller is SIGKILLed, another one takes over, the connection is closed; then that one is stopped, too.
    Returns the seconds until the first one has the broadcast again."""
    show = it.show
    epoch = lease_epoch(stage, show)
    stage.start("controller-2")
    try:
        # Until they are loaded: how long that takes is not measured here.
        await asyncio.sleep(3)
        stage.kill("controller")
        await eventually(lambda: lease_epoch(stage, show) > epoch, 15)
        await it.after(
            "other_controller",
            lambda: done(broken.drop, it.keys["broken"]),
            lambda: show.state("broken") == "interrupted",
            10,
        )
        await show.until_live("broken", seconds=30)
        stage.start("controller")
        await asyncio.sleep(3)
        epoch = lease_epoch(stage, show)
    finally:
        stage.end("controller-2")
    return await eventually(lambda: lease_epoch(stage, show) > epoch, 15)


def lease_epoch(stage: Stage, show: Show) -> int:
    """How often a controller has taken the broadcast."""
    with psycopg.connect(stage.postgres.url) as connection:
        found = connection.execute("SELECT lease_epoch FROM broadcasts WHERE id = %s", [show.session]).fetchone()
    assert found is not None
    return found[0]


async def at_the_start(stage: Stage, steady: Platform, broken: Platform) -> dict[str, Figures]:
    """One broadcast for each way in which a platform cannot be published to."""
    found: dict[str, Figures] = {}
    nowhere = at_nginx(broken, "twitch", f"rtmp://127.0.0.1:{free_port()}/live")
    async with prepared(stage, found, {"steady": at_nginx(steady), "broken": nowhere}) as it:
        show = it.show
        unreachable = lambda: show.code("broken") == "destination_unreachable"  # noqa: E731 - beside its use
        await it.after("refused", lambda: show.start(*it.ids), unreachable, 15)
        await show.until_live("steady")
    async with prepared(stage, found, {"steady": at_nginx(steady), "broken": at_nginx(broken, "twitch")}) as it:
        show, key = it.show, it.keys["broken"]
        broken.refuse.add(key)
        rejected = lambda: show.code("broken") == "key_rejected"  # noqa: E731 - beside its use
        await it.after("bad_key", lambda: show.start(*it.ids), rejected, 15, ends=True)
        await show.until_live("steady")
        await show.until(lambda: show.state("broken") == "error", 15)
        first, second = (visit.at for visit in broken.published(key, "refused"))
        found["once_more"] = {"seconds": second - first}
    return found
