"""The operators' page and the viewers' page in a real browser, over a service that runs, breaks and heals.

What the page shows is held against what is in the tables, at the platforms, and in the picture that the host sends.
"""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.request import urlopen

import numpy as np
import psycopg
import pytest
import pytest_asyncio
from livekit import api
from playwright.async_api import Browser, BrowserContext, Page, Response, ViewportSize, expect

from butai.embedded.seaweed import EmbeddedSeaweed
from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from tests.canaries import leaks
from tests.e2e.browsers import WITHOUT_3D, axe, chromium
from tests.e2e.conftest import Start
from tests.e2e.stage import IDENTITY, Show, Stage, eventually
from tests.platforms import Authority, Platform
from tests.studio_host import HostProcess, read_stamp

# One browser for all of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")

PICTURES = os.environ.get("BUTAI_TEST_PICTURES")
"""A folder for pictures of each part of the page, to be looked at; none are kept otherwise."""
TABS = ("overview", "shows", "patrol", "jobs", "alerts", "audit")
FOR_OPERATORS = re.compile(r"/api/(health|audit|jobs|alerts|live/shows|assets/(patrol|findings))")
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 780}


@pytest.fixture(scope="module")
def stage(seaweed: EmbeddedSeaweed, authority: Authority) -> Iterator[Stage]:
    """The running service, with an operator and a worker. (No grace of seconds: hosts come and go here.)"""
    more = {"BUTAI_OPERATORS": '["root"]', "BUTAI_SOURCE_GRACE": "60", "SSL_CERT_FILE": str(authority.file)}
    with Stage(seaweed, **more) as running:
        running.start("worker")
        try:
            _until_ready(running)
            yield running
        finally:
            running.end("worker")


def _until_ready(stage: Stage) -> None:
    """Waits for the API, half a minute at most."""
    until = time.monotonic() + 30
    while True:
        try:
            with urlopen(f"{stage.url}/readyz", timeout=5):
                return
        except OSError:
            assert time.monotonic() < until, stage.tail("api")
            time.sleep(0.1)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(*WITHOUT_3D) as started:
        yield started


@asynccontextmanager
async def visitor(browser: Browser, stage: Stage, user: str | None, **how: Any) -> AsyncIterator[BrowserContext]:
    """A browser's context of its own, signed in as `user`."""
    context = await browser.new_context(**({"viewport": WIDE, "locale": "en-GB"} | how))
    context.set_default_timeout(20_000)
    if user is not None:
        cookie = {"name": NEXTAUTH_COOKIE, "value": dev_sign_in_cookie(IDENTITY, user), "url": stage.url}
        await context.add_cookies([cookie])  # pyright: ignore[reportArgumentType]
    try:
        yield context
    finally:
        await context.close()


@asynccontextmanager
async def operators_page(browser: Browser, stage: Stage, query: str = "", **how: Any) -> AsyncIterator[Page]:
    async with visitor(browser, stage, "root", **how) as context:
        page = await context.new_page()
        await page.goto(f"{stage.url}/operations{query}")
        yield page


async def rows(stage: Stage, statement: str, *values: Any) -> list[tuple[Any, ...]]:
    async with await psycopg.AsyncConnection.connect(stage.postgres.url, autocommit=True) as connection:
        cursor = await connection.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def failed_job(stage: Stage) -> int:
    """A job that failed for good, and will be done when it is tried again: its message is gone, which is well."""
    ((job_id,),) = await rows(
        stage,
        """INSERT INTO procrastinate_jobs (queue_name, task_name, args, status, attempts)
           VALUES ('default', 'alerts.deliver', '{"message_id": 999999}', 'failed', 3) RETURNING id""",
    )
    await rows(
        stage,
        "INSERT INTO job_failures (job_id, code, text) VALUES (%s, 'store_unavailable', 'The store is on fire')",
        job_id,
    )
    return job_id


async def finding(stage: Stage, key: str) -> int:
    """Something that a listing had and the index has not."""
    ((finding_id,),) = await rows(
        stage,
        "INSERT INTO findings (kind, object_key, detail) VALUES ('object_without_row', %s, '{\"size\": 7}') RETURNING id",
        key,
    )
    return finding_id


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        await page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)


# Operations


async def test_an_operator_sees_a_running_show_its_timeline_and_ends_it(
    browser: Browser, stage: Stage, on_air: Start, twitch: Platform
) -> None:
    async with (
        on_air(prepare=lambda it: twitch.refuse.add(it.twitch_key), wait=("youtube",)) as it,
        operators_page(browser, stage, "?tab=shows") as page,
    ):
        answers: list[Response] = []
        page.on("response", lambda answer: answers.append(answer) if "/api/" in answer.url else None)
        row = page.locator(f'[data-shows="on_air"] [data-room="{it.show.room}"]')
        await expect(row).to_contain_text(it.show.user)
        await expect(row).to_contain_text("YouTube: Live")
        await it.show.until(lambda: it.show.code("twitch") == "key_rejected", 20)
        await expect(row).to_contain_text(re.compile("Twitch: (Starting|Failed)"))
        await row.get_by_role("button", name=f"Open the show of {it.show.room}").click()
        await expect(page).to_have_url(re.compile(f"show={it.show.session}"))
        dialog = page.get_by_role("dialog")
        await expect(dialog.locator('[data-platform="twitch"]')).to_contain_text("key_rejected")
        timeline = dialog.get_by_role("list", name="Timeline")
        await expect(timeline.locator('[data-event="broadcast.started"]')).to_contain_text(it.show.user)
        await expect(timeline.locator('[data-event="output.accepted"]').first).to_contain_text("YouTube")
        assert await axe(page) == []
        await picture(page, "show")
        # No key of anybody's is in what came, nor in the page.
        came = {str(number): await answer.body() for number, answer in enumerate(answers) if answer.ok}
        assert any(it.show.session.encode() in body for body in came.values()), "the answers were not looked at"
        keys = {"youtube": it.youtube_key, "twitch": it.twitch_key}
        assert leaks(keys, came | {"page": (await page.content()).encode()}) == []
        # Reloaded, the same show is open.
        await page.reload()
        await expect(dialog.get_by_role("heading", name=f"Show of {it.show.room}")).to_be_visible()
        await dialog.get_by_role("button", name="Stop Twitch twitch").click()
        await page.get_by_role("dialog").last.get_by_role("button", name="Stop", exact=True).click()
        await it.show.until(lambda: it.show.state("twitch") == "ended", 15)
        assert it.show.state("youtube") == "live"
        await dialog.get_by_role("button", name="End the show").first.click()
        await page.get_by_role("dialog").last.get_by_role("button", name="End the show").click()
        await it.show.until(lambda: it.show.now.status == "ended", 15)
        await expect(dialog.locator("[data-session]")).to_have_attribute("data-status", "ended", timeout=8000)
        await page.keyboard.press("Escape")
        past = page.locator(f'[data-shows="over"] [data-room="{it.show.room}"]')
        await expect(past).to_contain_text("Ended")
        await expect(row).to_have_count(0)
        acts = await rows(
            stage,
            "SELECT actor, action, detail ->> 'as_operator' FROM audit WHERE subject = %s AND actor = 'root' ORDER BY id",
            f"room:{it.show.room}",
        )
        assert acts == [("root", "live.output_stop", "true"), ("root", "live.stop", "true")]


async def test_a_failed_job_is_an_alert_until_a_click_tries_it_again(browser: Browser, stage: Stage) -> None:
    job_id = await failed_job(stage)
    async with operators_page(browser, stage, "?tab=alerts") as page:
        alert = page.locator('[data-alerts="open"] [data-code="jobs_failed"]')
        await expect(alert).to_contain_text("1 background job has failed for good", timeout=40_000)
        tab = page.get_by_role("navigation", name="Parts of this page")
        await expect(tab.get_by_role("link", name=re.compile("^Alerts"))).to_contain_text("1")
        await page.get_by_role("button", name="Send a test message").click()
        await expect(page.get_by_role("status").filter(has_text="A test message is on its way")).to_be_visible()
        assert await axe(page) == []
        # What it means and what to do, for who reads Chinese; the service's own words stand behind it.
        await page.locator("header.shell button[lang=zh]").click()
        await expect(alert).to_contain_text("有后台任务彻底失败")
        await expect(alert).to_contain_text("1 background job has failed for good")
        await page.locator("header.shell button[lang=en]").click()
        await tab.get_by_role("link", name=re.compile("^Jobs")).click()
        await expect(page).to_have_url(re.compile("tab=jobs"))
        await page.get_by_label("State").select_option("failed")
        await expect(page).to_have_url(re.compile("status=failed"))
        row = page.locator(f'[data-job="{job_id}"]')
        await expect(row).to_contain_text("The store is on fire")
        await page.get_by_role("button", name=f"Try again: job {job_id}").click()
        await expect(page.get_by_role("status").filter(has_text=f"Job {job_id} is tried again")).to_be_visible()
        await expect(row).to_have_count(0)
        # It was done this time, and what succeeded is not kept.
        await eventually(lambda: _gone(stage, job_id), 20)
        await tab.get_by_role("link", name=re.compile("^Alerts")).click()
        await expect(alert).to_have_count(0, timeout=40_000)
        await expect(page.locator('[data-alerts="past"] [data-code="jobs_failed"]').first).to_be_visible()


async def _gone(stage: Stage, job_id: int) -> bool:
    return await rows(stage, "SELECT 1 FROM procrastinate_jobs WHERE id = %s", job_id) == []


async def test_a_waiting_job_is_cancelled_after_a_question(browser: Browser, stage: Stage) -> None:
    ((job_id,),) = await rows(
        stage,
        """INSERT INTO procrastinate_jobs (queue_name, task_name, args, scheduled_at)
           VALUES ('default', 'alerts.deliver', '{"message_id": 999998}', now() + interval '1 day') RETURNING id""",
    )
    async with operators_page(browser, stage, "?tab=jobs&status=todo&task=alerts.deliver") as page:
        await page.get_by_role("button", name=f"Cancel job {job_id}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel", exact=True).click()
        assert await rows(stage, "SELECT status::text FROM procrastinate_jobs WHERE id = %s", job_id) == [("todo",)]
        await page.get_by_role("button", name=f"Cancel job {job_id}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Cancel job").click()
        await expect(page.locator(f'[data-job="{job_id}"]')).to_have_count(0)
    assert await rows(stage, "SELECT status::text FROM procrastinate_jobs WHERE id = %s", job_id) == [("cancelled",)]


async def test_a_finding_is_ignored_by_a_click_and_a_round_is_asked_for(browser: Browser, stage: Stage) -> None:
    key = "strange/thing one.bin"
    finding_id = await finding(stage, key)
    async with operators_page(browser, stage, "?tab=patrol") as page:
        row = page.locator(f'[data-finding="{finding_id}"]')
        await expect(row).to_contain_text("File without entry")
        await expect(row.get_by_role("button")).to_have_count(2)  # It is none that could be adopted.
        assert await axe(page) == []
        await row.get_by_role("button", name=f"Ignore {key}").click()
        await page.get_by_role("dialog").get_by_role("button", name="Ignore").click()
        await expect(row).to_have_count(0)
        await page.get_by_label("Resolved too").check()
        await expect(row).to_contain_text("ignored by root")
        await page.get_by_role("button", name="Only look").click()
        run = page.locator('[data-list="runs"] [data-run="finished"]').filter(has_text="only looked")
        await expect(run.first).to_contain_text("by root", timeout=30_000)
        await page.get_by_role("button", name="Go on a round now").click()
        run = page.locator('[data-list="runs"] [data-run="finished"]').filter(has_text="by root")
        await expect(run.filter(has_not_text="only looked").first).to_be_visible(timeout=30_000)
    closed = await rows(stage, "SELECT resolution, resolved_by FROM findings WHERE id = %s", finding_id)
    assert closed == [("ignored", "root")]


async def test_the_audit_is_narrowed_in_the_address_and_downloaded_as_it_is_shown(
    browser: Browser, stage: Stage
) -> None:
    who = "=cmd|' /C calc'!A0"
    for number in range(60):
        await rows(
            stage,
            "INSERT INTO audit (actor, action, subject, result, user_agent) VALUES (%s, %s, %s, %s, %s)",
            *(who, "asset.edit" if number % 2 else "asset.trash", f"asset:{number}", "ok", 'a "quoted", agent'),
        )
    async with operators_page(browser, stage, "?tab=audit") as page:
        await page.get_by_label("Who").fill(who)
        await page.get_by_label("What", exact=True).fill("asset.edit")
        await expect(page).to_have_url(re.compile("action=asset.edit"))
        entries = page.locator('[data-list="audit"] [data-action]')
        await expect(entries).to_have_count(30)
        await page.get_by_label("What", exact=True).fill("asset.")
        await expect(entries).to_have_count(50)
        await page.get_by_role("button", name="Show more").click()
        await expect(entries).to_have_count(60)
        assert await axe(page) == []
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="Download as CSV").click()
        path = await (await downloading.value).path()
        found = list(csv.DictReader(io.StringIO(path.read_text(), newline="")))
        assert [one["subject"] for one in found] == [f"asset:{number}" for number in range(59, -1, -1)]
        assert {one["actor"] for one in found} == {f"'{who}"}
        assert {one["user_agent"] for one in found} == {'a "quoted", agent'}
        await page.get_by_label("Result").select_option("refused")
        await expect(page.get_by_text("Nothing fits these filters.")).to_be_visible()
        await page.get_by_role("button", name="Clear filters").click()
        await expect(page.get_by_label("Who")).to_have_value("")
        await expect(entries).to_have_count(50)
        # From tomorrow on nothing has been done; a moment is the reader's own.
        await page.get_by_label("From", exact=True).fill("2199-01-01T10:00")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(r"from=.*2199-01-01T10%3A00|from=2199"))
        await expect(page.get_by_text("Nothing fits these filters.")).to_be_visible()


async def test_a_part_that_goes_down_is_red_until_it_is_back(browser: Browser, stage: Stage) -> None:
    async with operators_page(browser, stage) as page:
        overall = page.locator("[data-health]")
        part = {name: page.locator(f'[data-part="{name}"]') for name in ("livekit", "worker", "database", "store")}
        await expect(overall).to_have_attribute("data-health", "ok", timeout=20_000)
        for one in part.values():
            await expect(one).to_have_attribute("data-state", "ok")
        await picture(page, "overview-well")
        stage.livekit.stop(fast=True)
        try:
            await expect(part["livekit"]).to_have_attribute("data-state", "down", timeout=8000)
            await expect(part["livekit"]).to_contain_text("LiveKit does not answer.")
            await expect(overall).to_have_attribute("data-health", "degraded")
            await expect(part["database"]).to_have_attribute("data-state", "ok")
            colour = "element => getComputedStyle(element).borderLeftColor"
            red, green, _ = map(int, re.findall(r"\d+", await part["livekit"].evaluate(colour))[:3])
            assert red > 2 * green
            assert await axe(page) == []
        finally:
            stage.livekit.start()
        await expect(part["livekit"]).to_have_attribute("data-state", "ok", timeout=8000)
        stage.end("worker")
        try:
            await expect(part["worker"]).to_have_attribute("data-state", "down", timeout=20_000)
            await expect(part["worker"]).to_contain_text("No worker lives")
        finally:
            stage.start("worker")
        await expect(part["worker"]).to_have_attribute("data-state", "ok", timeout=20_000)
        await expect(overall).to_have_attribute("data-health", "ok")


async def test_a_service_that_does_not_answer_is_said_to_be_silent_and_comes_back_by_itself(
    browser: Browser, stage: Stage
) -> None:
    async with operators_page(browser, stage) as page:
        await expect(page.locator("[data-health]")).to_have_attribute("data-health", "ok", timeout=20_000)
        stage.kill("api")
        try:
            await expect(page.get_by_role("alert")).to_contain_text("No news from the service", timeout=15_000)
            await expect(page.locator('[data-part="database"]')).to_be_visible()
        finally:
            stage.start("api")
        await expect(page.get_by_role("alert")).to_have_count(0, timeout=30_000)
        await expect(page.locator("[data-health]")).to_have_attribute("data-health", "ok", timeout=20_000)


@pytest.mark.parametrize("user", ["alice", None])
async def test_whoever_is_no_operator_is_told_so_and_their_page_asks_for_nothing(
    browser: Browser, stage: Stage, user: str | None
) -> None:
    async with visitor(browser, stage, user) as context:
        page = await context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto(f"{stage.url}/operations?tab=audit")
        said = "This page is for operators" if user else "You are not signed in"
        await expect(page.get_by_role("heading", level=1)).to_contain_text(re.compile(said, re.I))
        await page.wait_for_load_state("networkidle")
        assert any("/api/session" in url for url in asked)
        assert [url for url in asked if FOR_OPERATORS.search(url)] == []
        assert await page.get_by_role("link", name="Operations").count() == 0
        assert await axe(page) == []


@pytest.mark.parametrize("language", ["en", "zh"])
async def test_every_part_of_operations_is_for_everybody_wide_and_narrow_light_and_dark(
    browser: Browser, stage: Stage, language: str
) -> None:
    job_id, finding_id = await failed_job(stage), await finding(stage, f"strange/{language}.bin")
    await _a_show_of_the_past(stage)
    try:
        for scheme in ("light", "dark"):
            for size in (WIDE, NARROW):
                how = {"locale": language, "color_scheme": scheme, "viewport": size}
                async with visitor(browser, stage, "root", **how) as context:
                    page = await context.new_page()
                    for tab in TABS:
                        await page.goto(f"{stage.url}/operations?tab={tab}")
                        await page.locator(f'[data-tab="{tab}"] .panel').first.wait_for()
                        await page.locator("[data-health]").wait_for()
                        await expect(page.get_by_text(re.compile("^(Loading…|正在加载…|加载中…)$"))).to_have_count(0)
                        found = await axe(page)
                        assert found == [], (tab, language, scheme, size)
                        wide = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
                        assert wide <= 0, f"{tab} is {wide} px wider than the window"
                        await picture(page, f"{tab}-{language}-{scheme}-{size['width']}")
    finally:
        await rows(stage, "DELETE FROM procrastinate_jobs WHERE id = %s", job_id)
        await rows(stage, "DELETE FROM findings WHERE id = %s", finding_id)


async def _a_show_of_the_past(stage: Stage) -> None:
    room = "room-with-a-long-name-that-somebody-has-chosen"
    await rows(
        stage,
        "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (%s, 'somebody', 'host') ON CONFLICT DO NOTHING",
        room,
    )
    await rows(
        stage,
        """WITH b AS (INSERT INTO broadcasts (id, room_id, started_by, host_identity, wanted, preset, source_grace,
                                              on_source_lost, egress, ended_at, end_code, created_at)
                      VALUES (gen_random_uuid(), %s, 'somebody', 'host', 'off_air', '720p30', 60, 'end', 'relay', now(),
                              'source_ended', now() - interval '95 minutes') RETURNING id)
           INSERT INTO outputs (id, broadcast_id, platform, label, ingest_url, sealed_key, key_fingerprint, state,
                                error_code, first_live_at)
           SELECT gen_random_uuid(), b.id, 'youtube', 'mine', '', '', '', 'failed', 'retries_exhausted', now() FROM b""",
        room,
    )


async def test_operations_are_reached_and_used_by_keyboard_alone(browser: Browser, stage: Stage) -> None:
    finding_id = await finding(stage, "strange/keyboard.bin")
    async with operators_page(browser, stage) as page:
        await page.locator("[data-part]").first.wait_for()

        async def press_until(name: str, key: str = "Tab") -> None:
            for _ in range(60):
                await page.keyboard.press(key)
                focused = page.locator(":focus")
                if await focused.count() and name in await focused.evaluate(
                    "element => element.getAttribute('aria-label') ?? element.textContent"
                ):
                    return
            raise AssertionError(f"{name} is not reached by {key}")

        await press_until("Patrol")
        await page.keyboard.press("Enter")
        await page.locator(f'[data-finding="{finding_id}"]').wait_for()
        await press_until("Ignore strange/keyboard.bin")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await page.keyboard.press("Escape")
        await expect(page.get_by_role("dialog")).to_have_count(0)
        focused = await page.locator(":focus").evaluate("element => element.getAttribute('aria-label')")
        assert focused == "Ignore strange/keyboard.bin"
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("dialog")).to_be_visible()
        await press_until("Ignore")
        await page.keyboard.press("Enter")
        await expect(page.locator(f'[data-finding="{finding_id}"]')).to_have_count(0)


# The viewers' page

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
        field = page.get_by_label("Viewers' link").last
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
        await page.get_by_role("button", name="Turn the sound on").click()
        await expect(panel).to_have_attribute("data-blocked", "false")
        assert not await page.evaluate("document.querySelector('audio').paused")
        assert await page.evaluate(LOUDNESS) > 0.02
        await page.get_by_role("button", name="Sound off").click()
        assert await page.evaluate("document.querySelector('audio').muted")
        names = [await button.inner_text() for button in await page.locator("main button").all()]
        assert names == ["Copy a link for viewers", "Sound off", "Full screen"]
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
                    await expect(page.locator("[data-refused]")).to_contain_text(
                        "Without an invitation nobody sees a room"
                    )
                    await expect(page.get_by_role("button", name="Copy a link")).to_have_count(0)
                    told.append((await page.locator("[data-refused]").inner_text()).replace(room, ""))
                assert told[0] == told[1]
                assert await axe(page) == []
                await picture(page, f"watch-refused-{user}")
        async with visitor(browser, stage, None) as context:
            page = await context.new_page()
            await page.goto(f"{stage.url}/watch/{show.room}#invitation={link.rpartition('.')[0].rpartition('=')[2]}.x")
            await expect(page.locator("[data-refused]")).to_contain_text("This invitation is not good any more")
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
            await expect(page.locator(".watch-said")).to_contain_text(re.compile("Trying again|cannot be joined"))
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
