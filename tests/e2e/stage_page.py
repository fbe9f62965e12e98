"""The console's stage in a browser, for the tests that go live from it: what a host does there, what the page shows and
when, and all that ever reached the browser."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import struct
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from numpy.typing import NDArray
from playwright.async_api import Browser, CDPSession, Error, Locator, Page, WebSocket, expect

from butai.identity import NEXTAUTH_COOKIE
from tests.avatars import META_1, Model
from tests.e2e.browsers import chromium
from tests.e2e.stage import Service, Show

SOFTWARE = "--disable-gpu-compositing"
"""Without it SwiftShader draws the page as well as the canvas, and two processors are not enough for both."""

AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"

NIGHT = (0x20, 0x26, 0x3A)
"""The stage's background, when none was chosen."""

_BONES = {
    "hips": None,
    "spine": "hips",
    "head": "spine",
    **{f"{side}{part}": parent for side in ("left", "right") for part, parent in (
        ("UpperArm", "spine"), ("UpperLeg", "hips"))},
    **{f"{side}{part}": f"{side}{parent}" for side in ("left", "right") for part, parent in (
        ("LowerArm", "UpperArm"), ("Hand", "LowerArm"), ("LowerLeg", "UpperLeg"), ("Foot", "LowerLeg"))},
}  # fmt: skip


def board(red: float, green: float, blue: float) -> bytes:
    """A VRM 1.0 that is a standing board of one colour (0 or 1 each), which no light changes: 0.6 m wide, 1.6 m tall."""
    model = Model()
    nodes = {bone: number for number, bone in enumerate(_BONES)}
    for bone in _BONES:
        children = [nodes[child] for child, parent in _BONES.items() if parent == bone]
        model.add("nodes", {"name": bone} | ({"children": children} if children else {}))
    corners = [(-0.3, 0.0, 0.0), (0.3, 0.0, 0.0), (0.3, 1.6, 0.0), (-0.3, 1.6, 0.0)]
    points = b"".join(struct.pack("<3f", *corner) for corner in corners)
    given = {"bufferView": model.view(points), "componentType": 5126, "count": 4, "type": "VEC3"}
    position = model.add("accessors", given | {"min": [-0.3, 0, 0], "max": [0.3, 1.6, 0]})
    order = struct.pack("<6H", 0, 1, 2, 0, 2, 3)
    given = {"bufferView": model.view(order), "componentType": 5123, "count": 6, "type": "SCALAR"}
    primitive = {"attributes": {"POSITION": position}, "indices": model.add("accessors", given), "material": 0}
    model.add("meshes", {"primitives": [primitive]})
    colour = {"baseColorFactor": [red, green, blue, 1.0]}
    plain = {"pbrMetallicRoughness": colour, "doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}
    model.add("materials", plain)
    standing = model.add("nodes", {"name": "board", "mesh": 0})
    model.document |= {"scene": 0, "scenes": [{"nodes": [0, standing]}], "extensionsUsed": ["KHR_materials_unlit"]}
    bones = {bone: {"node": node} for bone, node in nodes.items()}
    model.extension("VRMC_vrm", {"specVersion": "1.0", "meta": META_1, "humanoid": {"humanBones": bones}})
    return model.file()


async def upload(stage: Service, user: str, name: str, body: bytes) -> None:
    """Stores a VRM as `user`."""
    form = aiohttp.FormData({"fileName": f"vrm/{name}.vrm", "fileType": "model/vrm"})
    form.add_field("file", body, filename="upload.vrm")
    async with (
        aiohttp.ClientSession(headers=stage.cookie(user)) as http,
        http.post(f"{stage.url}/api/s3/upload", data=form) as answer,
    ):
        assert answer.status == 200, await answer.text()


def last_picture(recording: Path) -> NDArray[np.int16]:
    """The newest key frame of what a platform got, as 9 rows of 16 colours; each is the mean of its part of the picture."""
    command = ["ffmpeg", "-v", "error", "-skip_frame", "nokey", "-i", recording, "-vf", "scale=16:9:flags=area"]
    done = subprocess.run([*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], capture_output=True, timeout=60)
    assert len(done.stdout) >= 16 * 9 * 3, done.stderr
    return np.frombuffer(done.stdout[-16 * 9 * 3 :], np.uint8).reshape(9, 16, 3).astype(np.int16)


def is_colour(part: NDArray[np.int16], colour: tuple[int, int, int], within: int = 24) -> bool:
    """Whether a part of a picture is that colour all over, but for what an encoder does to it."""
    return bool(np.abs(part - np.array(colour)).max() <= within)


def is_green(part: NDArray[np.int16]) -> bool:
    """Whether a part of a picture is green rather than anything else, as the camera of a browser under test is."""
    return bool((part[..., 1] - part[..., [0, 2]].max(axis=-1) > 60).all())


def loudest(recording: Path) -> float:
    """The loudest moment of a recording in dBFS; -91 is silence."""
    command = ["ffmpeg", "-hide_banner", "-i", recording, "-vn", "-af", "volumedetect", "-f", "null", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r"max_volume: (-?[\d.]+) dB", done.stderr)
    assert found, done.stderr
    return float(found[1])


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
        await self.page.get_by_label("Small picture").check()
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
        if not await form.is_visible():
            await self.page.get_by_role("button", name="Add a destination").click()
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

    async def axe(self) -> list[str]:
        """What axe finds that is serious or worse."""
        await self.page.evaluate(AXE.read_text())
        found = await self.page.evaluate("axe.run({ resultTypes: ['violations'] })")
        assert found["passes"], "axe looked at nothing"
        return [
            f"{one['id']}: {node['html']} {node['failureSummary']}"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
            for node in one["nodes"]
        ]

    async def everything(self) -> dict[str, bytes]:
        """All that ever reached this tab, and what it keeps now."""
        kept = await self.page.evaluate(_KEPT)
        return self.heard.received | {name: json.dumps(value).encode() for name, value in kept.items()}


@contextlib.asynccontextmanager
async def stage_browser(*flags: str) -> AsyncIterator[Browser]:
    """A browser that can draw the stage and go live from it on two processors."""
    async with chromium(*flags, SOFTWARE) as started:
        yield started


@contextlib.asynccontextmanager
async def stage_page(browser: Browser, show: Show, locale: str = "en-GB") -> AsyncIterator[StagePage]:
    """A tab of the show's host, signed in and listened to; not opened yet."""
    context = await browser.new_context(viewport={"width": 1000, "height": 800}, locale=locale)
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
