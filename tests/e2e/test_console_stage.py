"""Going live from the console's stage: a real browser's canvas to two platforms, and what the page says while they break.

What the page shows is read from the page; what is true is asked of the API at the same time, or of the platform itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import psycopg
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from butai.embedded.seaweed import EmbeddedSeaweed
from tests.canaries import leaks
from tests.e2e.boards import CYAN, FFMPEG_EACH, MAGENTA, arrives, board, is_green, last_picture, loudest
from tests.e2e.browsers import WITH_3D, chromium
from tests.e2e.show import Show
from tests.e2e.stage import SECRET, Stage
from tests.e2e.stage_page import Keys, lags, on_stage, stage_browser, stage_page, upload
from tests.platforms import Platform, probe
from tests.waiting import eventually, rising

# One browser for all of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Draws WebGL by the processor."""
    async with stage_browser(*WITH_3D) as started:
        yield started


@pytest.mark.slow
async def test_an_avatar_goes_from_the_browsers_canvas_to_both_platforms(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    async with Show(stage, every=0.2) as show, stage_page(browser, show) as it:
        await it.open()
        # Somebody new: no avatar, no destination, and the page says what to do about both.
        await expect(it.page.get_by_text("You have no avatar yet")).to_be_visible()
        await expect(it.page.get_by_role("button", name="Go live")).to_be_disabled()
        await it.save("YouTube", youtube.url, keys.youtube)
        await it.save("Twitch", twitch.url, keys.twitch)
        await it.test_all()
        await expect(it.page.get_by_text("Test passed")).to_have_count(2)
        await it.go_live()
        await it.panel("status", "live", 30)
        for platform, key in ((youtube, keys.youtube), (twitch, keys.twitch)):
            await arrives(platform, key, None)
        for body, name, colour in ((board(1, 0, 1), "magenta", MAGENTA), (board(0, 1, 1), "cyan", CYAN)):
            await upload(stage, show.user, name, body)
            await it.page.get_by_role("button", name="Avatar").click()
            await it.page.get_by_role("dialog").get_by_role("button", name=name).click()
            await it.canvas("avatar", "shown")
            for platform, key in ((youtube, keys.youtube), (twitch, keys.twitch)):
                await arrives(platform, key, colour)
        # The host's own camera in a corner, and a microphone: the browser's are green, and beep each second.
        assert loudest(youtube.recordings(keys.youtube)[-1]) < -80
        await it.page.get_by_label("Camera").check()
        await it.page.get_by_label("Microphone").check()

        def newest() -> Path:
            return youtube.recordings(keys.youtube)[-1]

        await eventually(lambda: is_green(last_picture(newest())[7, 12:15]), 30, every=FFMPEG_EACH)
        await eventually(lambda: loudest(newest()) > -50, 30, every=FFMPEG_EACH)
        for row in ("youtube", "twitch"):
            await expect(it.output(row)).to_contain_text("accepts the data")
            await expect(it.output(row)).to_contain_text("kbit/s")
        await it.page.get_by_role("button", name="End stream").click()
        await it.page.get_by_role("dialog").get_by_role("button", name="End stream").click()
        await it.panel("status", "ended", 15)
        for platform, key in ((youtube, keys.youtube), (twitch, keys.twitch)):
            # Those before it are the tests of the way.
            said = probe(platform.recordings(key)[-1])
            assert (said["video"]["codec_name"], said["video"]["width"], said["video"]["height"]) == ("h264", 1280, 720)
            assert said["audio"]["codec_name"] == "aac"


@pytest.mark.slow
@pytest.mark.parametrize("card", [False, True], ids=["without a card", "with one"])
async def test_what_goes_out_has_the_colours_of_what_is_seen(
    browser: Browser, stage: Stage, youtube: Platform, *, card: bool
) -> None:
    """Chromium without a graphics card sends other values of a canvas than one with it."""
    keys = Keys()
    async with contextlib.AsyncExitStack() as opened:
        drawing = await opened.enter_async_context(chromium(*WITH_3D)) if card else browser
        show = await opened.enter_async_context(Show(stage, every=0.2))
        it = await opened.enter_async_context(stage_page(drawing, show))
        await upload(stage, show.user, "grey", board(0.2159, 0.2159, 0.2159))
        await it.open()
        await it.canvas("avatar", "shown")
        await it.save("YouTube", youtube.url, keys.youtube)
        await it.go_live()
        await it.panel("status", "live", 30)
        await arrives(youtube, keys.youtube, (128, 128, 128))
        for name, colour in (("white", (1, 1, 1)), ("black", (0, 0, 0)), ("orange", (1, 0.2159, 0))):
            await upload(stage, show.user, name, board(*colour))
            await it.page.get_by_role("button", name="Avatar").click()
            await it.page.get_by_role("dialog").get_by_role("button", name=name).click()
            seen = tuple(0 if part == 0 else 128 if part < 1 else 255 for part in colour)
            await arrives(youtube, keys.youtube, seen)  # pyright: ignore[reportArgumentType]


@pytest.mark.slow
async def test_what_the_page_shows_of_a_platform_that_breaks_and_heals_is_true(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    async with Show(stage) as show, stage_page(browser, show) as it:
        await on_stage(it, youtube, twitch, keys)
        await it.watch()
        since = time.time()
        facts: dict[str, float] = {}
        async with rising(lambda: youtube.bytes_in(keys.youtube)):
            facts["killed"] = time.time()
            twitch.kill()
            await it.state("twitch", "interrupted")
            row = it.output("twitch")
            await expect(row).to_contain_text("Twitch cannot be reached.")
            await expect(row).to_contain_text("it is retried automatically")
            # Long enough that it is our click that comes first.
            await expect(row).to_contain_text(re.compile(r"Next try in [3-9] s"))
            before = len(twitch.published(keys.twitch))
            twitch.start()
            await row.get_by_role("button", name="Retry now").click()
            await it.state("twitch", "live")
            facts["let in"] = twitch.published(keys.twitch)[before].at
            # Refused: it was let in with this key, so it is tried on, until the host saves another one.
            twitch.refuse.add(keys.twitch)
            facts["dropped"] = time.time()
            twitch.drop(keys.twitch)
            await it.state("twitch", "interrupted")
            await expect(row).to_contain_text("Twitch closed the connection.")
            await expect(row).to_contain_text("it reconnects automatically")
            await show.until(lambda: bool(twitch.published(keys.twitch, "refused")), 20)
            renewed = f"canary-tw-{uuid.uuid4().hex[:16]}"
            destination = it.page.get_by_role("group", name="Twitch twitch")
            await destination.get_by_role("button", name="Change key").click()
            form = it.page.locator("dialog .destination-form")
            await form.get_by_label("Stream key").fill(renewed)
            await form.get_by_role("button", name="Save").click()
            newest = it.page.locator(".output[data-platform=twitch][data-state=live]")
            await show.until(lambda: show.now.outputs["twitch"]["state"] == "live", 20)
            await expect(newest).to_have_count(1)
            facts["let in with the new key"] = twitch.published(renewed)[0].at
        shown = await it.shown()
        assert show.changes_of("youtube", since) == []
        assert [one["state"] for one in shown if one["platform"] == "youtube"] == ["live"]
        # Each change of the API's answer was shown. How soon, `bench/page` measures.
        behind = lags(show, shown, since)
        assert behind
        seen = [(one["state"], one["at"]) for one in shown if one["platform"] == "twitch" and one["at"] >= since]
        for fact, state in (
            ("killed", "interrupted"),
            ("let in", "live"),
            ("dropped", "interrupted"),
            ("let in with the new key", "live"),
        ):
            after = [at - facts[fact] for shown_state, at in seen if shown_state == state and at >= facts[fact]]
            assert after, (fact, seen)
            behind[f"{state} after {fact}"] = after[0]
        print({what: round(seconds, 2) for what, seconds in behind.items()})


@pytest.mark.slow
async def test_a_page_reloaded_in_mid_show_is_on_stage_again_with_the_same_show(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    async with Show(stage) as show, stage_page(browser, show) as it:
        await on_stage(it, youtube, twitch, keys)
        await upload(stage, show.user, "cyan", board(0, 1, 1))
        since = time.time()
        async with rising(lambda: youtube.bytes_in(keys.youtube)), rising(lambda: twitch.bytes_in(keys.twitch)):
            await it.page.reload()
            reloaded = time.monotonic()
            await it.canvas("connection", "on", 20)
            back = time.monotonic() - reloaded
            await it.canvas("avatar", "shown")
            await it.panel("status", "live")
            await show.until(lambda: show.now.source == "live", 10)
            # The avatar that was chosen, though there is a newer one by now; and the small picture.
            await expect(it.page.get_by_role("button", name="Avatar")).to_contain_text("magenta")
            await expect(it.page.get_by_label("Low resolution")).to_be_checked()
            await arrives(youtube, keys.youtube, MAGENTA)
        session = await show.call("GET", f"/api/live/status?room_id={show.room}")
        assert session["session_id"] == show.session
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []
        assert len(youtube.published(keys.youtube)) == len(twitch.published(keys.twitch)) == 1
        for row in ("youtube", "twitch"):
            await it.state(row, "live")
        print(f"on stage {back:.1f} s after the reload")


@pytest.mark.slow
async def test_a_page_without_news_says_so_and_recovers(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    async with Show(stage) as show, stage_page(browser, show) as it:
        await on_stage(it, youtube, twitch, keys)
        async with rising(lambda: youtube.bytes_in(keys.youtube)):
            stage.kill("api")
            killed = time.monotonic()
            told = it.page.get_by_text("No connection to the service")
            await expect(told).to_be_visible(timeout=10_000)
            print(f"told {time.monotonic() - killed:.1f} s after the API died")
            # What happens meanwhile is not lost: the page has it when it is back.
            twitch.drop(keys.twitch)
            stage.start("api")
            await it.panel("news", "fresh", 30)
            await expect(told).to_have_count(0)
            await show.until(lambda: show.state("twitch") == "live" and show.failures > 0, 30)
            await it.state("twitch", "live")
        timeline = it.page.locator(".timeline li[data-event='output.accepted']", has_text="Twitch")
        await expect(timeline).to_have_count(2)
        await it.panel("status", "live")
        # An API that hangs closes no connection: only its silence tells.
        api = psutil.Process(stage.pid("api"))
        api.suspend()
        try:
            await expect(told).to_be_visible(timeout=12_000)
        finally:
            api.resume()
        await it.panel("news", "fresh", 20)
        await expect(told).to_have_count(0)


@pytest.mark.slow
async def test_a_room_that_was_lost_or_taken_is_told_of_and_taken_again(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    async with Show(stage) as show, stage_page(browser, show) as it:
        await on_stage(it, youtube, twitch, keys)
        since = time.time()
        async with rising(lambda: youtube.bytes_in(keys.youtube)):
            await asyncio.to_thread(stage.livekit.stop, fast=True)
            await it.canvas("connection", "reconnecting")
            await expect(it.page.get_by_text("Connection to the room lost")).to_be_visible()
            stage.livekit.start()
            await it.canvas("connection", "on", 40)
            await show.until(lambda: show.now.source == "live", 20)
            # Another tab looks on. When it steps on stage this one gives way, says so, and does not fight for it.
            other = await it.page.context.new_page()
            await other.goto(f"{stage.url}/stage?room={show.room}")
            await expect(other.locator(".stage-show")).to_have_attribute("data-status", "live")
            canvas = other.locator("canvas")
            await expect(canvas).to_have_attribute("data-avatar", "shown")
            await expect(canvas).to_have_attribute("data-connection", "off")
            await it.canvas("connection", "on")
            await other.get_by_role("button", name="Join stage").click()
            await expect(canvas).to_have_attribute("data-connection", "on", timeout=30_000)
            await it.canvas("connection", "elsewhere")
            await expect(it.page.get_by_text("You joined the stage in another window")).to_be_visible()
            await other.close()
            await it.page.get_by_role("button", name="Join stage").click()
            await it.canvas("connection", "on")
            await show.until(lambda: show.now.source == "live", 20)
        assert show.changes_of("youtube", since) == show.changes_of("twitch", since) == []


@pytest.mark.slow
async def test_a_host_who_sends_by_obs_is_not_pushed_off_the_stage(
    browser: Browser, stage: Stage, youtube: Platform
) -> None:
    async with Show(stage, every=0.2) as show, stage_page(browser, show) as it:
        # LiveKit's Ingress service is not on this machine: the row is what it would have made of OBS.
        with psycopg.connect(stage.postgres.url) as connection:
            connection.execute(
                "INSERT INTO ingresses (ingress_id, room_id, project, kind, name, identity, url, sealed_key,"
                " key_fingerprint, state) SELECT %s, room_id, livekit_project, 'rtmp', 'My OBS', host_identity,"
                " 'rtmp://127.0.0.1/x', '', '', 'publishing' FROM rooms WHERE room_id = %s",
                [f"IN_{uuid.uuid4().hex[:12]}", show.room],
            )
        await show.host_on()
        await it.open()
        await it.save("YouTube", youtube.url, f"canary-yt-{uuid.uuid4().hex[:16]}")
        await it.go_live()
        await it.panel("status", "live", 30)
        await expect(it.page.get_by_text("My OBS is streaming into this room")).to_be_visible()
        await it.canvas("connection", "off")
        await show.until(lambda: show.now.source == "live", 15)


@pytest.mark.slow
async def test_the_end_is_asked_for_once(browser: Browser, stage: Stage, youtube: Platform, twitch: Platform) -> None:
    keys = Keys()
    async with Show(stage, every=0.2) as show, stage_page(browser, show) as it:
        await on_stage(it, youtube, twitch, keys)
        # Nor does one leave the page unasked.
        await it.page.get_by_role("link", name="Library").first.click()
        dialog = it.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("You are live")
        await dialog.get_by_role("button", name="Cancel").click()
        end = it.page.get_by_role("button", name="End stream")
        await end.click()
        await expect(dialog).to_have_count(1)
        await dialog.get_by_role("button", name="Cancel").click()
        await expect(dialog).to_have_count(0)
        assert show.now.status == "live"
        await end.click()
        await dialog.get_by_role("button", name="End stream").click()
        await expect(dialog).to_have_count(0)
        await it.panel("status", "ended", 15)
        for row, platform, key in (("youtube", youtube, keys.youtube), ("twitch", twitch, keys.twitch)):
            await it.state(row, "ended")
            await eventually(lambda platform=platform, key=key: bool(platform.published(key, "publish_done")), 5)
        stops = [what for what, _ in it.heard.sent if what.endswith("/api/live/stop")]
        assert len(stops) == 1
        await expect(it.page.get_by_role("button", name="Go live")).to_be_enabled()


@pytest.mark.slow
async def test_no_secret_reaches_the_browser(
    browser: Browser, stage: Stage, seaweed: EmbeddedSeaweed, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    twitch.refuse.add(keys.twitch)
    async with Show(stage, every=0.2) as show, stage_page(browser, show) as it:
        await upload(stage, show.user, "magenta", board(1, 0, 1))
        await it.open()
        await it.canvas("avatar", "shown")
        await it.save("YouTube", youtube.url, keys.youtube)
        await it.save("Twitch", twitch.url, keys.twitch)
        await it.test_all()
        await expect(it.page.get_by_text("Test passed")).to_have_count(1)
        await expect(it.page.get_by_text("Test failed")).to_have_count(1)
        await it.go_live()
        await it.state("youtube", "live", 30)
        await it.state("twitch", "error")
        await it.page.reload()
        await it.canvas("connection", "on")
        await it.state("youtube", "live")
        youtube.drop(keys.youtube)
        await show.until(lambda: "interrupted" in show.changes_of("youtube"), 15)
        await it.state("youtube", "live", 30)
        livekit = stage.livekit.livekit
        secrets = {
            "a key that is taken": keys.youtube,
            "a key that is refused": keys.twitch,
            "the store's": seaweed.store.credentials.secret_access_key,
            "LiveKit's": livekit.api_secret,
            "the sessions'": SECRET,
        }
        everything = await it.everything()
        heard = b"".join(everything.values())
        # What was listened to is what the page lives on, or this shows nothing.
        assert b"event: change" in heard and b"event: metrics" in heard
        places = {"Document", "Script", "Fetch", "websocket", "page", "local"}
        assert {place.split()[0] for place in everything} >= places
        assert b"key_fingerprint" in heard
        assert it.heard.missed == []
        assert leaks(secrets, everything) == []
        typed = [what for what, body in it.heard.sent if keys.youtube in body or keys.twitch in body]
        assert typed == [f"POST {stage.url}/api/live/destinations"] * 2


@pytest.mark.slow
async def test_axe_finds_nothing_serious_in_any_language(
    browser: Browser, stage: Stage, youtube: Platform, twitch: Platform
) -> None:
    keys = Keys()
    twitch.refuse.add(keys.twitch)
    found: dict[tuple[str, str], list[str]] = {}
    async with Show(stage, every=0.2) as show, stage_page(browser, show) as it:

        async def look(where: str) -> None:
            for language in ("en", "zh"):
                found[where, language] = await it.axe(language)

        await it.open()
        await look("nothing yet")
        await upload(stage, show.user, "magenta", board(1, 0, 1))
        await it.page.reload()
        await it.canvas("avatar", "shown")
        await it.save("YouTube", youtube.url, keys.youtube)
        await it.save("Twitch", twitch.url, keys.twitch)
        await it.page.get_by_role("button", name="Avatar").click()
        await look("a choice")
        await it.page.keyboard.press("Escape")
        await it.go_live()
        await it.state("youtube", "live", 30)
        await it.state("twitch", "error")
        await look("on air")
        await it.page.emulate_media(color_scheme="dark")
        await look("on air, dark")
        await it.page.set_viewport_size({"width": 360, "height": 800})
        await look("on air, narrow")
        for language in ("zh", "en"):
            await it.speak(language)
            too_wide = await it.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert too_wide <= 0, language
        await it.page.get_by_role("button", name="End stream").click()
        await look("the end")
    assert {where: what for where, what in found.items() if what} == {}
