"""What `GET /api/live/status` says of a fault, how soon, and for how long it is wrong meanwhile.

The whole service with a real LiveKit, two nginx-rtmp platforms, one of which is broken in turn in every way, and servers of
our own; the status is asked for 50 times a second, as a client would, and each platform's bytes are counted 20 times a
second. A round is one broadcast for the faults of platforms and processes on air, one for what must end nothing, and one each
for what fails at the start or ends it. In the first the other platform must keep accepting bytes, or the round has failed.
`truth` says what false live and false dead are."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
import structlog
from harness import Benchmark, Failed, Figures, Limit, arguments, main, need, tool_version, versions

from butai import database
from butai.embedded.livekit import livekit_binary
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed

sys.path.append(str(Path(__file__).parent.parent))

import platform_faults
import show_faults

from tests.e2e.stage import Stage
from tests.livekit_shows import livekit_shows
from tests.platforms import Platform, until
from tests.shows import KEY
from tests.waiting import eventually
from tests.webhooks import encoded, joined, sign

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
    "held_start": ("the host publishes → live", 2.0),
    "held_key": ("connection cut, and the session before held → interrupted", 0.5),
    "mute": ("mute of both → the host's media are lost", 3.0),
    "strange_stall": ("one that counts in its own way stopped reading → interrupted", 2.5),
    "livekit_drop": ("LiveKit Egress, without webhooks: connection lost → reconnecting", 4.0),
    "livekit_dead": ("LiveKit Egress, without webhooks: a dead worker's participant gone → reconnecting", 10.0),
}
# Of each of these: for how long the status was wrong at most, from the fault to the next one.
TRUTH = {
    "start": "start",
    "close": "connection closed",
    "stall": "stopped reading",
    "killed": "platform SIGKILLed",
    "other_controller": "connection closed under the controller that took over",
    "relay": "relay SIGKILLed",
    "stop": "stop",
    "refused": "nothing listens",
    "bad_key": "key rejected",
    "held_start": "start before the host publishes",
    "held_key": "connection cut, and the session before held for 20 s",
    "scenes": "new tracks, three times",
    "mute": "mute of both",
    "strange_stall": "one that counts in its own way stopped reading",
    "still_held": "the rest of the 20 s",
    "stood_still": "relay SIGSTOPped for 5 s",
    "host_lost": "host SIGKILLed",
    "host_gone": "host left",
    "room": "room deleted",
    "sigterm": "relay SIGTERMed",
}
FALSE = 1.5
"""Seconds for which the status may be wrong."""
STATEMENTS = [
    *(Limit(label, name, "seconds", "s", at_most=target, worst=True) for name, (label, target) in TARGETS.items()),
    *(
        Limit(f"{label}: {figure.replace('_', ' ')}", name, figure, "s", at_most=FALSE, worst=True)
        for name, label in TRUTH.items()
        for figure in ("false_live", "false_dead")
    ),
    Limit("healthy outputs that ended", "all", "ended", at_most=0, worst=True),
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
        # On a busy machine for longer than a broadcast waits.
        until(lambda: answers(f"{stage.url}/readyz"), "the API is ready", 180)
        found: dict[str, Figures] = {}

        async def everything() -> None:
            found.update(await platform_faults.on_air(stage, steady, broken))
            found.update(await platform_faults.at_the_start(stage, steady, broken))
            found.update(await show_faults.healthy(stage, steady))
            found.update(await show_faults.endings(stage, steady, broken))
            found["webhooks"] = {"seconds": await refused_webhooks(stage)}
            found.update(await livekit_faults(rows.url))

        def one(name: str) -> Callable[[int], Figures]:
            # All of a round is measured at its first name: the faults of one broadcast come one after the other.
            def run(number: int) -> Figures:
                if name == next(iter(TARGETS)):
                    found.clear()
                    try:
                        asyncio.run(everything())
                    except AssertionError as error:
                        raise Failed(f"round {number}: {error}") from error
                    found["all"] = {"ended": sum(figures.get("ended", 0.0) for figures in found.values())}
                return found[name]

            return run

        bench.run({name: one(name) for name in [*TARGETS, *(TRUTH.keys() - TARGETS), "all"]}, rounds, timed=False)
    return bench.report()


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
        return answer.status == 200
    return False


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


async def livekit_faults(url: str) -> dict[str, Figures]:
    """The stand-in for LiveKit Egress at a real one's pace, with a controller in this process and rows of its own."""
    found: dict[str, Figures] = {}
    b = f"rtmp://b/app/{KEY}"
    async with livekit_shows(url, speed=1.0) as shows, shows.controller():
        broadcast_id = await shows.begin("rtmp://a/app", "rtmp://b/app")
        await shows.reach(broadcast_id, 60, a="live", b="live")
        began = time.monotonic()
        assert shows.standin.drop(b) == 1
        await shows.reach(broadcast_id, 30, b="reconnecting")
        found["livekit_drop"] = {"seconds": time.monotonic() - began}
        await shows.reach(broadcast_id, 60, b="live")
        egress_id = shows.standin.running[b][0]
        shows.standin.kill_worker(egress_id)
        await eventually(lambda: not shows.standin.rooms.has(f"room-{broadcast_id}", egress_id), 60)
        began = time.monotonic()
        await shows.reach(broadcast_id, 60, b="reconnecting")
        found["livekit_dead"] = {"seconds": time.monotonic() - began}
        await shows.stop(broadcast_id)
        await shows.ended(broadcast_id, 30)
    return found


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=10)
    main(lambda: measure(given.rounds), minutes=60, strict=given.strict)
