"""The console's stage in a browser, for the tests that go live from it: what a host does there, what the page shows and
when, and all that ever reached the browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from playwright.async_api import Browser, CDPSession, Error, Locator, Page, WebSocket, expect

from butai.identity import NEXTAUTH_COOKIE
from tests.e2e.boards import board
from tests.e2e.browsers import SOFTWARE, axe, chromium
from tests.e2e.show import Service, Show
from tests.platforms import Platform


async def upload(stage: Service, user: str, name: str, body: bytes) -> None:
    """Stores a VRM as `user`."""
    form = aiohttp.FormData({"fileName": f"vrm/{name}.vrm", "fileType": "model/vrm"})
    form.add_field("file", body, filename="upload.vrm")
    async with (
        aiohttp.ClientSession(headers=stage.cookie(user)) as http,
        http.post(f"{stage.url}/api/s3/upload", data=form) as answer,
    ):
        assert answer.status == 200, await answer.text()


@dataclass
class Heard:
    """All that reached the browser, by where it came from; `sent`: bodies of its requests."""

    received: dict[str, bytes] = field(default_factory=dict)
    sent: list[tuple[str, str]] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    """Answers whose bodies the browser would not show."""

    def add(self, place: str, body: bytes) -> None:
        """Behind what came from there before."""
        self.received[place] = self.received.get(place, b"") + body


_WATCH = """() => {
  window.shown = [];
  const last = {};
  const look = () => {
    for (const one of document.querySelectorAll('.output')) {
      const { platform, state, code } = one.dataset;
      if (last[platform] === state) continue;
      last[platform] = state;
      window.shown.push({ platform, state, code, words: one.innerText, at: Date.now() / 1000 });
    }
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, attributes: true });
  look();
}"""

_KEPT = """async () => {
  const found = { local: { ...localStorage }, session: { ...sessionStorage }, cookie: document.cookie,
    page: document.documentElement.outerHTML, fields: [...document.querySelectorAll('input, textarea')].map(one => one.value) };
  for (const { name } of await indexedDB.databases()) {
    const database = await new Promise((done, no) => {
      const asked = indexedDB.open(name);
      asked.onsuccess = () => done(asked.result);
      asked.onerror = no;
    });
    for (const store of database.objectStoreNames) {
      const all = await new Promise((done, no) => {
        const asked = database.transaction(store).objectStore(store).getAll();
        asked.onsuccess = () => done(asked.result);
        asked.onerror = no;
      });
      found[`indexedDB ${name} ${store}`] = JSON.stringify(all);
    }
    database.close();
  }
  for (const name of await caches.keys())
    for (const request of await (await caches.open(name)).keys())
      found[`cache ${request.url}`] = await (await (await caches.open(name)).match(request)).text();
  return found;
}"""


class StagePage:
    """A host's tab. `async with stage_page(browser, show) as it`."""

    def __init__(self, page: Page, show: Show, heard: Heard) -> None:
        self.page, self.show, self.heard = page, show, heard

    async def open(self) -> None:
        """The stage of the show's room, with the small picture, which two processors can draw."""
        await self.page.goto(f"{self.show.stage.url}/stage?room={self.show.room}")
        await self.page.get_by_label("Low resolution").check()
        await self.panel("news", "fresh")

    async def panel(self, name: str, value: str, seconds: float = 20) -> None:
        """Waits for the show's panel to say that."""
        await expect(self.page.locator(".stage-show")).to_have_attribute(f"data-{name}", value, timeout=seconds * 1000)

    async def canvas(self, name: str, value: str, seconds: float = 30) -> None:
        """Waits for the canvas to say that."""
        await expect(self.page.locator("canvas")).to_have_attribute(f"data-{name}", value, timeout=seconds * 1000)

    async def save(self, platform: str, url: str, key: str) -> None:
        """Types a key in, in whichever form the page offers. Its label is the platform's name in small letters."""
        form = self.page.locator(".destination-form")
        add = self.page.get_by_role("button", name="Add a destination")
        # The first one's form is at hand; the list has to be there to know.
        await expect(form.or_(add)).to_be_visible()
        if not await form.is_visible():
            await add.click()
        await form.get_by_label(platform, exact=True).check()
        await form.get_by_label("Stream key").fill(key)
        await form.get_by_text("More", exact=True).click()
        await form.get_by_label("Label").fill(platform.lower())
        await form.get_by_label("Server URL").fill(url)
        await form.get_by_role("button", name="Save").click()
        await expect(form).to_have_count(0)
        await expect(self.page.locator(".destination", has_text=platform)).to_be_visible()

    async def test_all(self) -> None:
        """Presses all the buttons that try a destination."""
        rows = self.page.locator(".destination")
        for number in range(await rows.count()):
            await rows.nth(number).get_by_role("button", name="Test", exact=True).click()

    async def go_live(self) -> None:
        """Presses the button, and watches from the service's side as well from then on."""
        await self.page.get_by_role("button", name="Go live").click()
        await self.panel("status", "starting")
        self.show.watch((await self.show.call("GET", f"/api/live/status?room_id={self.show.room}"))["session_id"])

    async def watch(self) -> None:
        """From now on the page writes down what it shows of each platform, and when."""
        await self.page.evaluate(_WATCH)

    async def shown(self) -> list[dict[str, Any]]:
        """That: `platform`, `state`, `code`, `words`, `at` (seconds since 1970)."""
        return await self.page.evaluate("window.shown")

    def output(self, platform: str) -> Locator:
        """The row of a platform."""
        return self.page.locator(f".output[data-platform={platform}]")

    async def state(self, platform: str, state: str, seconds: float = 20) -> None:
        """Waits for the page to show that."""
        await expect(self.output(platform)).to_have_attribute("data-state", state, timeout=seconds * 1000)

    async def speak(self, language: str) -> None:
        """Presses the button for `en` or `zh`, also where a dialog stands before it."""
        html = self.page.locator("html")
        if (await html.get_attribute("lang") or "").startswith(language):
            return
        await self.page.evaluate(f"document.querySelector('header.shell button[lang={language}]').click()")
        await expect(html).to_have_attribute("lang", "zh-CN" if language == "zh" else "en")

    async def axe(self, language: str) -> list[str]:
        """What axe finds in that language that is serious or worse; the page speaks English again afterwards."""
        await self.speak(language)
        found = await axe(self.page)
        await self.speak("en")
        return found

    async def everything(self) -> dict[str, bytes]:
        """All that ever reached this tab, and what it keeps now."""
        kept = await self.page.evaluate(_KEPT)
        return self.heard.received | {name: json.dumps(value).encode() for name, value in kept.items()}


@contextlib.asynccontextmanager
async def stage_browser(*flags: str) -> AsyncGenerator[Browser]:
    """A browser that can draw the stage and go live from it on two processors."""
    async with chromium(*flags, SOFTWARE) as started:
        yield started


@contextlib.asynccontextmanager
async def stage_page(browser: Browser, show: Show, locale: str = "en-GB") -> AsyncGenerator[StagePage]:
    """A tab of the show's host, signed in and listened to; not opened yet."""
    context = await browser.new_context(viewport={"width": 1000, "height": 800}, device_scale_factor=0.5, locale=locale)
    cookie = show.stage.cookie(show.user)["Cookie"].partition("=")[2]
    await context.add_cookies([{"name": NEXTAUTH_COOKIE, "value": cookie, "url": show.stage.url, "httpOnly": True}])
    page = await context.new_page()
    heard = Heard()
    listening = await _listen(page, heard)
    try:
        yield StagePage(page, show, heard)
    finally:
        for task in listening:
            task.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        await context.close()


async def _listen(page: Page, heard: Heard) -> set[asyncio.Task[None]]:
    """Bodies come from the browser's own debugger, which tells also of streams that never end."""
    cdp: CDPSession = await page.context.new_cdp_session(page)
    places: dict[str, str] = {}
    streams: set[str] = set()
    tasks: set[asyncio.Task[None]] = set()

    async def take(number: str, how: str) -> None:
        place = places[number]
        try:
            said = await cdp.send(f"Network.{how}", {"requestId": number})
        except Error as error:
            heard.missed.append(f"{place}: {error.message}")
            return
        body = said.get("bufferedData", said.get("body", ""))
        plain = how == "getResponseBody" and not said["base64Encoded"]
        heard.add(place, body.encode() if plain else base64.b64decode(body))

    def began(said: dict[str, Any]) -> None:
        number, answer = said["requestId"], said["response"]
        places[number] = f"{said['type']} {answer['url']}"
        heard.add(places[number], json.dumps(answer["headers"]).encode())
        if answer["mimeType"] == "text/event-stream":
            streams.add(number)
            tasks.add(asyncio.create_task(take(number, "streamResourceContent")))

    def came(said: dict[str, Any]) -> None:
        if said["requestId"] in streams and said.get("data"):
            heard.add(places[said["requestId"]], base64.b64decode(said["data"]))

    def finished(said: dict[str, Any]) -> None:
        number = said["requestId"]
        # What the script itself has in memory (`data:`, `blob:`) came in some other answer.
        if number in places and number not in streams and "http" in places[number]:
            tasks.add(asyncio.create_task(take(number, "getResponseBody")))

    def asked(said: dict[str, Any]) -> None:
        request = said["request"]
        heard.sent.append((f"{request['method']} {request['url']}", request.get("postData", "")))

    def socket(opened: WebSocket) -> None:
        def frame(body: bytes | str) -> None:
            heard.add(f"websocket {opened.url.partition('?')[0]}", body if isinstance(body, bytes) else body.encode())

        opened.on("framereceived", frame)
        opened.on("framesent", frame)

    cdp.on("Network.responseReceived", began)
    cdp.on("Network.dataReceived", came)
    cdp.on("Network.loadingFinished", finished)
    cdp.on("Network.requestWillBeSent", asked)
    page.on("websocket", socket)
    page.on("console", lambda message: heard.add("console", message.text.encode()))
    await cdp.send("Network.enable")
    return tasks


class Keys:
    """Stream keys of both platforms, unique to this page."""

    def __init__(self) -> None:
        self.youtube, self.twitch = f"canary-yt-{uuid.uuid4().hex[:16]}", f"canary-tw-{uuid.uuid4().hex[:16]}"


async def on_stage(it: StagePage, youtube: Platform, twitch: Platform, keys: Keys) -> None:
    """An avatar, both keys, and on air with both."""
    await upload(it.show.stage, it.show.user, "magenta", board(1, 0, 1))
    await it.open()
    await it.canvas("avatar", "shown")
    await it.save("YouTube", youtube.url, keys.youtube)
    await it.save("Twitch", twitch.url, keys.twitch)
    await it.go_live()
    await it.panel("status", "live", 30)
    await it.canvas("connection", "on")
    # What `changes` says from here on is of what the test does: it asks, and the page is told.
    await it.show.until_live("youtube", "twitch")


BRIEF = 1.0
"""Seconds for which a state may stand without being shown: the page asks for the status when it is told of a change, and what
changes again meanwhile was never in an answer to it."""


def lags(show: Show, shown: list[dict[str, Any]], since: float) -> dict[str, float]:
    """Seconds from the API's answer, which is requested continuously, until the page showed each change but the `BRIEF` ones."""
    found: dict[str, float] = {}
    left = [one for one in shown if one["at"] >= since - 2]
    next_of: dict[str, float] = {}
    lasted: dict[int, float] = {}
    for change in reversed(show.changes):
        lasted[id(change)] = next_of.get(change.label, math.inf) - change.at
        next_of[change.label] = change.at
    for change in show.changes:
        if change.at < since or not change.before or lasted[id(change)] < BRIEF:
            continue
        same = [one for one in left if one["platform"] == change.label and one["state"] == change.after]
        near = min(same, key=lambda one: abs(one["at"] - change.at), default=None)
        assert near is not None, f"never shown: {change}"
        left.remove(near)
        found[f"{change.label} {change.before} → {change.after} ({change.at - since:.1f} s)"] = near["at"] - change.at
    return found
