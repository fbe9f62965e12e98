"""How far the console's stage is behind the truth, while a platform dies and comes back.

A whole service with a real LiveKit, two nginx-rtmp platforms, and a host who is on air from the stage in a real browser that
draws without a graphics card. In each round one platform is SIGKILLed and started again; the page notes when it shows each
state, the API's status is asked for all the time, and the platform's own log says when it let the host in again."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import Benchmark, Failed, Figures, Limit, arguments, main, need, tool_version, versions

from butai.embedded.livekit import livekit_binary
from butai.embedded.seaweed import EmbeddedSeaweed

sys.path.append(str(Path(__file__).parent.parent))

from tests.e2e.browsers import WITH_3D
from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.e2e.stage_page import Keys, StagePage, lags, on_stage, stage_browser, stage_page
from tests.e2e.visitors import until_ready
from tests.platforms import Platform

BEHIND = 2.0
"""Seconds by which the page may be behind."""
STATEMENTS = [
    Limit("platform SIGKILLed → the page shows interrupted", "page", "killed", "s", at_most=BEHIND, worst=True),
    Limit("platform lets the host in → the page shows live", "page", "live", "s", at_most=BEHIND, worst=True),
    Limit("the API's answer → the page shows the same", "page", "behind_api", "s", at_most=BEHIND, worst=True),
]


def measure(rounds: int) -> bool:
    need("nginx")
    bench = Benchmark("page", f"seconds until the stage's page shows what is true, {rounds} rounds", STATEMENTS)
    bench.versions = versions("butai", "livekit") | {
        "livekit-server": tool_version(str(livekit_binary()), "--version"),
        "nginx": tool_version("nginx", "-v"),
    }
    with ExitStack() as opened:
        folder = Path(opened.enter_context(TemporaryDirectory(prefix="butai-bench-page-")))
        stage = opened.enter_context(Stage(opened.enter_context(EmbeddedSeaweed(folder / "store"))))
        youtube, twitch = opened.enter_context(Platform("youtube")), opened.enter_context(Platform("twitch"))
        until_ready(stage)
        bench.run({"page": lambda _: asyncio.run(one_show(stage, youtube, twitch))}, rounds, timed=False)
    return bench.report()


async def one_show(stage: Stage, youtube: Platform, twitch: Platform) -> Figures:
    """A show of its own for each fault: after several that were short, a new attempt waits longer. Raises `Failed` when the
    page never shows a state."""
    keys = Keys()
    async with stage_browser(*WITH_3D) as browser, Show(stage) as show, stage_page(browser, show) as it:
        try:
            await on_stage(it, youtube, twitch, keys)
            await it.watch()
            return await one_fault(show, it, twitch, keys.twitch)
        except AssertionError as error:
            raise Failed(str(error)) from error


async def one_fault(show: Show, it: StagePage, twitch: Platform, key: str) -> Figures:
    since, admitted = time.time(), len(twitch.published(key))
    twitch.kill()
    await it.state("twitch", "interrupted")
    twitch.start()
    await it.state("twitch", "live", 30)
    await show.until_live("twitch")
    shown = await it.shown()
    behind = lags(show, shown, since)

    def seconds(fact: float, state: str) -> float:
        at = [one["at"] for one in shown if (one["platform"], one["state"]) == ("twitch", state)]
        return min(moment - fact for moment in at if moment >= fact)

    return {
        "killed": seconds(since, "interrupted"),
        "live": seconds(twitch.published(key)[admitted].at, "live"),
        "behind_api": max(map(abs, behind.values())),
    }


if __name__ == "__main__":
    given = arguments(__doc__ or "", rounds=10)
    main(lambda: measure(given.rounds), minutes=10, strict=given.strict)
