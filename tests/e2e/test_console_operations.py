"""The operators' page in a real browser, over a service that runs, breaks and heals.

What the page shows is held against what is in the tables and at the platforms.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import psycopg
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, Response, ViewportSize, expect

from tests.canaries import leaks
from tests.e2e.browsers import WITHOUT_3D, axe, chromium
from tests.e2e.conftest import Start
from tests.e2e.stage import Stage
from tests.e2e.visitors import NARROW, WIDE, picture, until_ready, visitor
from tests.platforms import Platform
from tests.waiting import eventually

# One browser for all of them.
pytestmark = pytest.mark.asyncio(loop_scope="module")

TABS = ("overview", "shows", "patrol", "jobs", "alerts", "audit")
FOR_OPERATORS = re.compile(r"/api/(health|audit|jobs|alerts|live/broadcasts/all|assets/(patrol|findings))")


@pytest.fixture(scope="module")
def stage(stage: Stage) -> Iterator[Stage]:
    """The running service, with a worker."""
    stage.start("worker")
    try:
        until_ready(stage)
        yield stage
    finally:
        stage.end("worker")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium(*WITHOUT_3D) as started:
        yield started


@asynccontextmanager
async def operators_page(browser: Browser, stage: Stage, query: str = "", **how: Any) -> AsyncGenerator[Page]:
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
        await row.get_by_role("button", name=f"Open the stream of {it.show.room}").click()
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
        await expect(dialog.get_by_role("heading", name=f"Stream of {it.show.room}")).to_be_visible()
        await dialog.get_by_role("button", name="Stop Twitch twitch").click()
        await page.get_by_role("dialog").last.get_by_role("button", name="Stop", exact=True).click()
        await it.show.until(lambda: it.show.state("twitch") == "ended", 15)
        assert it.show.state("youtube") == "live"
        await dialog.get_by_role("button", name="End stream").first.click()
        await page.get_by_role("dialog").last.get_by_role("button", name="End stream").click()
        await it.show.until(lambda: it.show.now.status == "ended", 15)
        await expect(dialog.locator("[data-session]")).to_have_attribute("data-status", "ended")
        await page.keyboard.press("Escape")
        past = page.locator(f'[data-shows="over"] [data-room="{it.show.room}"]')
        await expect(past).to_contain_text("Ended")
        await expect(row).to_have_count(0)
        acts = await rows(
            stage,
            "SELECT actor, action, detail ->> 'as_operator' FROM audit WHERE subject = %s AND actor = 'user:root' ORDER BY id",
            f"room:{it.show.room}",
        )
        assert acts == [("user:root", "live.output_stop", "true"), ("user:root", "live.stop", "true")]


async def test_a_failed_job_is_an_alert_until_a_click_tries_it_again(browser: Browser, stage: Stage) -> None:
    job_id = await failed_job(stage)
    async with operators_page(browser, stage, "?tab=alerts") as page:
        alert = page.locator('[data-alerts="open"] [data-code="jobs_failed"]')
        await expect(alert).to_contain_text("1 background job has failed for good", timeout=40_000)
        tab = page.get_by_role("navigation", name="Sections")
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
        await page.get_by_role("button", name=f"Retry job {job_id}").click()
        await expect(page.get_by_role("status").filter(has_text=f"Job {job_id} will be retried")).to_be_visible()
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
        # It is checked once the address says so.
        await page.get_by_label("Include resolved").click()
        await expect(page.get_by_label("Include resolved")).to_be_checked()
        await expect(row).to_contain_text("ignored by user:root")
        await page.get_by_role("button", name="Dry run").click()
        run = page.locator('[data-list="runs"] [data-run="finished"]').filter(has_text="dry run")
        await expect(run.first).to_contain_text("by user:root", timeout=30_000)
        await page.get_by_role("button", name="Run patrol now").click()
        run = page.locator('[data-list="runs"] [data-run="finished"]').filter(has_text="by user:root")
        await expect(run.filter(has_not_text="dry run").first).to_be_visible(timeout=30_000)
    closed = await rows(stage, "SELECT resolution, resolved_by FROM findings WHERE id = %s", finding_id)
    assert closed == [("ignored", "user:root")]


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
        await expect(page.get_by_text("No results for these filters.")).to_be_visible()
        await page.get_by_role("button", name="Clear filters").click()
        await expect(page.get_by_label("Who")).to_have_value("")
        await expect(entries).to_have_count(50)
        # From tomorrow on nothing has been done; a moment is the reader's own.
        await page.get_by_label("From", exact=True).fill("2199-01-01T10:00")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(re.compile(r"from=.*2199-01-01T10%3A00|from=2199"))
        await expect(page.get_by_text("No results for these filters.")).to_be_visible()


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
            await expect(part["livekit"]).to_have_attribute("data-state", "down", timeout=20_000)
            await expect(part["livekit"]).to_contain_text("LiveKit does not answer.")
            await expect(overall).to_have_attribute("data-health", "degraded")
            await expect(part["database"]).to_have_attribute("data-state", "ok")
            colour = "element => getComputedStyle(element).borderLeftColor"
            red, green, _ = map(int, re.findall(r"\d+", await part["livekit"].evaluate(colour))[:3])
            assert red > 2 * green
            assert await axe(page) == []
        finally:
            stage.livekit.start()
        await expect(part["livekit"]).to_have_attribute("data-state", "ok", timeout=20_000)
        stage.end("worker")
        try:
            await expect(part["worker"]).to_have_attribute("data-state", "down", timeout=20_000)
            await expect(part["worker"]).to_contain_text("No worker is running")
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
            await expect(page.get_by_role("alert")).to_contain_text("No connection to the service", timeout=15_000)
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
        await expect(page.get_by_role("heading", level=1)).to_contain_text(re.compile(said, re.IGNORECASE))
        await page.wait_for_load_state("networkidle")
        assert any("/api/session" in url for url in asked)
        assert [url for url in asked if FOR_OPERATORS.search(url)] == []
        assert await page.get_by_role("link", name="Operations").count() == 0
        assert await axe(page) == []


@pytest.mark.parametrize(
    ("language", "looks"),
    [("en", (("light", WIDE), ("dark", NARROW))), ("zh", (("dark", WIDE), ("light", NARROW)))],
    ids=["en", "zh"],
)
async def test_every_part_of_operations_is_for_everybody_wide_and_narrow_light_and_dark(
    browser: Browser, stage: Stage, language: str, looks: tuple[tuple[Literal["light", "dark"], ViewportSize], ...]
) -> None:
    job_id, finding_id = await failed_job(stage), await finding(stage, f"strange/{language}.bin")
    await _a_show_of_the_past(stage)
    try:
        async with operators_page(browser, stage, locale=language) as page:
            for tab in TABS:
                await page.goto(f"{stage.url}/operations?tab={tab}")
                await page.locator(f'[data-tab="{tab}"] .panel').first.wait_for()
                await page.locator("[data-health]").wait_for()
                await expect(page.get_by_text(re.compile("^(Loading…|正在加载…|加载中…)$"))).to_have_count(0)
                for scheme, size in looks:
                    await page.emulate_media(color_scheme=scheme)
                    await page.set_viewport_size(size)
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
