"""The console as a newcomer has it: `butai up` and a browser, from a file that is dropped to a show on two platforms."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from playwright.async_api import expect

from tests.canaries import leaks
from tests.e2e.boards import MAGENTA, arrives, board
from tests.e2e.browsers import WITH_3D
from tests.e2e.consoles import CANVAS, colours, drop
from tests.e2e.show import Show
from tests.e2e.stage_page import Keys, lags, stage_browser, stage_page
from tests.e2e.test_live_up import OneMachine
from tests.e2e.ups import Up
from tests.platforms import Platform, probe
from tests.waiting import rising


@pytest.mark.slow
async def test_a_newcomer_drops_an_avatar_and_goes_live_on_both_with_it(youtube: Platform, twitch: Platform) -> None:
    folder = Path(tempfile.mkdtemp(prefix="butai-up-"))
    keys = Keys()
    both = ((youtube, keys.youtube), (twitch, keys.twitch))
    try:
        with Up(folder / "data") as up:
            machine = OneMachine(up.ready())
            async with (
                stage_browser(*WITH_3D) as browser,
                Show(machine, every=0.1) as show,
                stage_page(browser, show) as it,
            ):
                page = it.page
                # The library: dropped, stored, drawn, and a picture of it made.
                await page.goto(f"{machine.url}/library")
                await expect(page.locator("main h1")).to_be_visible()
                await drop(page, {"Magenta.vrm": board(1, 0, 1)})
                await expect(page.locator(".upload[data-state=done]")).to_be_visible()
                await page.wait_for_function("() => document.querySelector('.card img')?.naturalWidth === 512")
                await page.click(".card")
                await page.wait_for_selector(CANVAS)
                (share,), _ = await colours(page, CANVAS, list(MAGENTA))
                assert share > 0.05, "the avatar is not to be seen"
                await page.wait_for_selector(".term[data-part=redistribution]")
                # The stage: it is there already. Two keys, one button.
                await it.open()
                await it.canvas("avatar", "shown")
                await it.save("YouTube", youtube.url, keys.youtube)
                await it.save("Twitch", twitch.url, keys.twitch)
                await it.go_live()
                await it.panel("status", "live", 30)
                for platform, key in both:
                    await arrives(platform, key, MAGENTA)
                # One of them breaks, and heals by itself.
                await it.watch()
                since = time.time()
                async with rising(lambda: youtube.bytes_in(keys.youtube)):
                    twitch.kill()
                    await it.state("twitch", "interrupted")
                    twitch.start()
                    await it.state("twitch", "live", 30)
                    healed = twitch.published(keys.twitch)[-1].at
                shown = await it.shown()
                # Each change of the API's answer was shown, and what is true last. How soon, `bench/page` measures.
                behind = lags(show, shown, since)
                assert behind
                for fact, state in ((since, "interrupted"), (healed, "live")):
                    at = [one["at"] for one in shown if (one["platform"], one["state"]) == ("twitch", state)]
                    assert max(at) >= fact, (state, shown)
                assert show.changes_of("youtube", since) == []
                # Reloaded in mid-show: the same show goes on, with the same avatar.
                await page.reload()
                await it.canvas("connection", "on", 20)
                await it.canvas("avatar", "shown")
                await it.panel("status", "live")
                # Not the last picture from before: the host's own, which arrives again.
                await show.until(lambda: show.now.source == "live", 10)
                for platform, key in both:
                    await arrives(platform, key, MAGENTA)
                assert len(youtube.published(keys.youtube)) == 1, "YouTube never noticed"
                await page.get_by_role("button", name="End stream").click()
                await page.get_by_role("dialog").get_by_role("button", name="End stream").click()
                await it.panel("status", "ended", 15)
                for platform, key in both:
                    said = probe(platform.recordings(key)[-1])
                    assert (said["video"]["codec_name"], said["audio"]["codec_name"]) == ("h264", "aac")
                reached = await it.everything()
                assert any("/api/live/status" in place or "/api/live/events" in place for place in reached)
                kept = {log.name: log.read_bytes() for log in (folder / "data" / "logs").iterdir()}
                assert leaks(vars(keys), reached | kept | {"the terminal": up.said.encode()}) == []
                print({what: round(seconds, 2) for what, seconds in behind.items()})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
