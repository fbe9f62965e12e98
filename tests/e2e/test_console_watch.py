"""The viewers' page in a real browser: what it shows and lets hear is held against the picture that the host sends."""

from __future__ import annotations

import base64
import re
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest
import pytest_asyncio
from livekit import api
from playwright.async_api import Browser, Page, expect

from tests.e2e.browsers import WITHOUT_3D, axe, chromium
from tests.e2e.show import Show
from tests.e2e.stage import Stage
from tests.e2e.visitors import NARROW, WIDE, picture, visitor
from tests.studio_host import HostProcess, read_stamp
from tests.waiting import eventually

# One browser for all of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(*WITHOUT_3D) as started:
        yield started


LUMA = """async () => {
  const video = document.querySelector('video');
  if (!video || !video.videoWidth) return null;
  const canvas = Object.assign(document.createElement('canvas'), {width: video.videoWidth, height: video.videoHeight});
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0);
  const {data} = context.getImageData(0, 0, canvas.width, canvas.height);
  const luma = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < luma.length; i++)
    luma[i] = 0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2];
  let text = '';
  for (let i = 0; i < luma.length; i += 4096) text += String.fromCharCode(...luma.subarray(i, i + 4096));
  return {width: canvas.width, height: canvas.height, luma: btoa(text)};
}"""

LOUDNESS = """async () => {
  const audio = document.querySelector('audio');
  if (!audio?.srcObject) return 0;
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(audio.srcObject).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  let most = 0;
  for (let i = 0; i < 40 && most < 0.02; i++) {
    await new Promise((done) => setTimeout(done, 50));
    analyser.getFloatTimeDomainData(samples);
    most = Math.max(most, ...samples.map(Math.abs));
  }
  await context.close();
  return most;
}"""


NO_SOUND_BEFORE_A_CLICK = """
  const play = HTMLMediaElement.prototype.play;
  let clicked = false;
  addEventListener('click', () => { clicked = true; }, true);
  HTMLMediaElement.prototype.play = function () {
    if (clicked || this.muted) return play.call(this);
    return Promise.reject(new DOMException('play() needs a click', 'NotAllowedError'));
  };
"""
"""What browsers of people do; this one, which has no window, lets every page sound."""


async def stamp(page: Page) -> tuple[float, int] | None:
    """What the picture in the page says of itself: its age in seconds, and its number. None while there is none."""
    got = await page.evaluate(LUMA)
    if got is None or got["height"] < 100:
        return None
    luma = np.frombuffer(base64.b64decode(got["luma"]), np.uint8).reshape(got["height"], got["width"])
    milliseconds, number, _ = read_stamp(luma)
    age = (int(time.time() * 1000) - milliseconds) % 2**32
    return age / 1000, number


async def sees_the_host(page: Page, seconds: float = 20) -> int:
    """Waits until the host's picture of this moment is in the page, and moves. Its number."""
    seen: list[int] = []

    async def fresh() -> bool:
        found = await stamp(page)
        if found is not None and found[0] < 5:
            seen.append(found[1])
        return len(set(seen)) > 1 and seen[-1] > seen[0]

    await eventually(fresh, seconds, lambda: f"no fresh picture: {seen}")
    return seen[-1]


async def invitation_of(browser: Browser, stage: Stage, show: Show) -> str:
    """The link that the owner's page makes."""
    async with visitor(browser, stage, show.user) as context:
        page = await context.new_page()
        await page.goto(f"{stage.url}/watch/{show.room}")
        await page.get_by_role("button", name="Copy a link for viewers").click()
        field = page.get_by_label("Link for viewers").last
        return await field.input_value()


async def test_the_owner_sees_and_hears_the_host_and_may_steer_nothing(browser: Browser, stage: Stage) -> None:
    async with Show(stage) as show, visitor(browser, stage, show.user) as context:
        page = await context.new_page()
        await page.add_init_script(NO_SOUND_BEFORE_A_CLICK)
        await page.goto(f"{stage.url}/watch/{show.room}")
        panel = page.locator(".watch-panel")
        await expect(panel).to_have_attribute("data-state", "waiting")
        await expect(page.get_by_text("The host is not on stage")).to_be_visible()
        assert await axe(page) == []
        await show.host_on()
        await expect(panel).to_have_attribute("data-state", "live")
        await sees_the_host(page)
        await expect(panel).to_have_attribute("data-blocked", "true")
        assert await axe(page) == []
        await page.get_by_role("button", name="Turn on sound").click()
        await expect(panel).to_have_attribute("data-blocked", "false")
        assert not await page.evaluate("document.querySelector('audio').paused")
        assert await page.evaluate(LOUDNESS) > 0.02
        await page.get_by_role("button", name="Mute").click()
        assert await page.evaluate("document.querySelector('audio').muted")
        names = [await button.inner_text() for button in await page.locator("main button").all()]
        assert names == ["Copy a link for viewers", "Mute", "Full screen"]
        async with stage.livekit_api() as livekit:
            there = await livekit.room.list_participants(api.ListParticipantsRequest(room=show.room))
        viewer = next(one for one in there.participants if one.identity.startswith("viewer-"))
        assert not viewer.permission.can_publish and not viewer.permission.can_publish_data and not viewer.tracks
        await picture(page, "watch-live")


async def test_the_host_who_goes_is_waited_for_and_a_guest_is_not_taken_for_the_host(
    browser: Browser, stage: Stage
) -> None:
    async with Show(stage) as show, visitor(browser, stage, show.user) as context:
        path = f"/api/live/rooms/{show.room}/tokens"
        guest_token = (await show.call("POST", path, {"role": "guest"}))["token"]
        guest = await HostProcess.start(show.livekit_url, guest_token, "--width=320", "--height=180", "--kbps=200")
        try:
            page = await context.new_page()
            await page.goto(f"{stage.url}/watch/{show.room}")
            panel = page.locator(".watch-panel")
            await expect(panel).to_have_attribute("data-state", "waiting")
            host = await show.host_on()
            await expect(panel).to_have_attribute("data-state", "live")
            await sees_the_host(page)
            assert await page.evaluate("document.querySelector('video').videoWidth") != 320
            await host.command("mute video")
            await expect(panel).to_have_attribute("data-state", "paused")
            await host.command("unmute video")
            await expect(panel).to_have_attribute("data-state", "live")
            await host.stop()
            await expect(panel).to_have_attribute("data-state", "waiting")
            await show.host_on()
            await expect(panel).to_have_attribute("data-state", "live")
            await sees_the_host(page)
        finally:
            await guest.kill()


async def test_two_strangers_watch_by_one_invitation_and_without_it_nobody_learns_of_the_room(
    browser: Browser, stage: Stage
) -> None:
    async with Show(stage) as show:
        await show.host_on()
        link = await invitation_of(browser, stage, show)
        assert "#invitation=" in link
        async with visitor(browser, stage, None) as one, visitor(browser, stage, "bob") as other:
            pages = [await one.new_page(), await other.new_page()]
            asked: list[str] = []
            pages[0].on("request", lambda request: asked.append(request.url))
            for page in pages:
                await page.goto(link)
            for page in pages:
                await expect(page.locator(".watch-panel")).to_have_attribute("data-state", "live")
                await sees_the_host(page)
                await expect(page.get_by_role("button", name="Copy a link")).to_have_count(0)
            token = link.partition("#invitation=")[2]
            assert not [url for url in asked if token in url], "the invitation went to a server in an address"
        for user in (None, "bob"):
            async with visitor(browser, stage, user) as context:
                page = await context.new_page()
                told: list[str] = []
                for room in (show.room, "no-such-room"):
                    await page.goto(f"{stage.url}/watch/{room}")
                    await expect(page.locator("[data-refused]")).to_contain_text("Only invited viewers can see a room")
                    await expect(page.get_by_role("button", name="Copy a link")).to_have_count(0)
                    told.append((await page.locator("[data-refused]").inner_text()).replace(room, ""))
                assert told[0] == told[1]
                assert await axe(page) == []
                await picture(page, f"watch-refused-{user}")
        async with visitor(browser, stage, None) as context:
            page = await context.new_page()
            await page.goto(f"{stage.url}/watch/{show.room}#invitation={link.rpartition('.')[0].rpartition('=')[2]}.x")
            await expect(page.locator("[data-refused]")).to_contain_text("This invitation is no longer valid")
            assert await page.locator("video").count() == 0


async def test_a_viewer_whose_connection_breaks_is_told_and_comes_back(browser: Browser, stage: Stage) -> None:
    async with Show(stage) as show, visitor(browser, stage, show.user) as context:
        host = await show.host_on()
        page = await context.new_page()
        await page.goto(f"{stage.url}/watch/{show.room}")
        panel = page.locator(".watch-panel")
        await expect(panel).to_have_attribute("data-state", "live")
        await sees_the_host(page)
        await host.kill()
        stage.livekit.stop(fast=True)
        try:
            await expect(panel).to_have_attribute("data-state", re.compile("reconnecting|failed"), timeout=40_000)
            await expect(page.locator(".watch-said")).to_contain_text(re.compile("Reconnecting|cannot be joined"))
        finally:
            stage.livekit.start()
        await show.host_on()
        await expect(panel).to_have_attribute("data-state", "live", timeout=60_000)
        await sees_the_host(page, 30)


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_the_viewers_page_is_for_everybody_wide_and_narrow(browser: Browser, stage: Stage, language: str) -> None:
    async with Show(stage) as show:
        for scheme, size in (("light", WIDE), ("dark", NARROW)):
            how = {"locale": language, "color_scheme": scheme, "viewport": size}
            async with visitor(browser, stage, show.user, **how) as context:
                page = await context.new_page()
                await page.goto(f"{stage.url}/watch/{show.room}")
                await expect(page.locator(".watch-panel")).to_have_attribute("data-state", "waiting")
                assert await axe(page) == []
                assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
                await picture(page, f"watch-{language}-{scheme}-{size['width']}")
