"""Faults of a host, of a relay that stands still and of servers with ways of their own. Used by `faults`."""

from __future__ import annotations

import asyncio
import time

from broken_shows import Place, at_nginx, done, prepared, states
from harness import Figures
from livekit import api

from tests.e2e.stage import Stage
from tests.fakes.odd_rtmp_servers import HoldsSessions
from tests.fakes.rtmp_server import Server
from tests.platforms import Platform
from tests.waiting import eventually

HELD = 20.0
"""Seconds for which SRS and Node-Media-Server keep a session whose connection was lost: 20 to 25."""
STILL = 5.0
"""Seconds for which the relay's process stands still."""


async def healthy(stage: Stage, steady: Platform) -> dict[str, Figures]:
    """One broadcast for what must end nothing: a host who comes late, changes tracks and mutes both, a server that counts in
    its own way, one that still holds the session before, and a relay that stands still."""
    found: dict[str, Figures] = {}
    strange = Server(acks=65536, counts=lambda total: (2**31 - 500_000 + total) % 2**31)
    holding = HoldsSessions(acks=65536, pongs=True, held=HELD)
    async with strange.running() as strange_url, holding.running() as holding_url:
        places = {
            "steady": at_nginx(steady),
            "strange": Place("custom", strange_url, lambda _: strange.bytes),
            "holding": Place("custom", holding_url, lambda _: holding.bytes),
        }
        async with prepared(stage, found, places, host=False) as it:
            show = it.show
            it.truth.fault("held_start")
            await show.start(*it.ids)
            await show.until(lambda: show.code("steady") == "no_media", 10)
            await asyncio.sleep(2)
            host = await show.host_on()
            published = time.time()
            live = await show.until(lambda: states(show) == {"live"}, 20)
            found["held_start"] = {"seconds": live - published}
            await asyncio.sleep(2)
            # The other faults happen while it is held.
            await it.after("held_key", lambda: done(holding.cut), lambda: show.state("holding") == "interrupted", 10)
            await asyncio.sleep(2)
            it.truth.fault("scenes")
            for _ in range(3):
                await host.command("change_scene")
                await asyncio.sleep(2)
            await it.after("mute", lambda: host.command("mute"), lambda: show.now.source == "lost", 10)
            await host.command("unmute")
            await show.until(lambda: show.now.source == "live", 10)
            await it.after(
                "strange_stall", lambda: done(strange.reads.clear), lambda: show.state("strange") == "interrupted", 10
            )
            strange.reads.set()
            await show.until_live("strange", seconds=20)
            it.truth.fault("still_held")
            await show.until_live("holding", seconds=HELD + 20)
            await asyncio.sleep(1)
            (relay,) = stage.relays(show.session)
            it.truth.fault("stood_still")
            relay.suspend()
            await asyncio.sleep(STILL)
            relay.resume()
            await show.until_live("steady", "strange", "holding", seconds=30)
            await asyncio.sleep(2)
    return found


async def endings(stage: Stage, steady: Platform, broken: Platform) -> dict[str, Figures]:
    """One broadcast for each way in which one ends by itself, or with a relay that does not answer."""
    found: dict[str, Figures] = {}
    places = {"steady": at_nginx(steady), "broken": at_nginx(broken, "twitch")}
    grace = 3.0
    async with prepared(stage, found, places) as it:
        show = it.show
        await show.start(*it.ids, source_grace=grace)
        await show.until(lambda: states(show) == {"live"} and show.now.source == "live", 20)
        assert show.host is not None
        await it.after("host_lost", show.host.kill, lambda: show.now.source == "lost", 15)
        await show.host_on()
        await show.until(lambda: show.now.source == "live", 15)
        await it.after("host_gone", show.host.stop, lambda: show.now.status == "ended", 20, ends=True)
        it.found["host_gone"]["seconds"] -= grace
    async with prepared(stage, found, places) as it:
        show = it.show
        await show.start(*it.ids)
        # The relay has to be in the room.
        await show.until(lambda: states(show) == {"live"} and show.now.source == "live", 20)
        async with stage.livekit_api() as livekit:
            deleted = api.DeleteRoomRequest(room=show.room)
            await it.after(
                "room", lambda: livekit.room.delete_room(deleted), lambda: show.now.status == "ended", 20, ends=True
            )
    async with prepared(stage, found, places) as it:
        show = it.show
        await show.start(*it.ids)
        await show.until_live("steady", "broken")
        (relay,) = stage.relays(show.session)
        relay.suspend()
        await it.after("hung_stop", it.stop, lambda: show.now.status == "ended", 30, ends=True)
    async with prepared(stage, found, places) as it:
        show = it.show
        await show.start(*it.ids)
        await show.until_live("steady", "broken")
        (relay,) = stage.relays(show.session)
        began = time.monotonic()
        it.truth.fault("sigterm")
        relay.terminate()
        await eventually(lambda: relay.pid not in [one.pid for one in stage.relays(show.session)], 20)
        found["sigterm"] = {"seconds": time.monotonic() - began}
        await show.until_live("steady", "broken", seconds=30)
    return found
