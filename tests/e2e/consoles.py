"""The console in a browser, for its tests: pages signed in, files dropped on them, pixels counted, axe asked."""

from __future__ import annotations

import asyncio
import base64
import io
import math
import struct
import wave
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from playwright.async_api import Browser, Page

from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from tests import avatars
from tests.conftest import Api

T = TypeVar("T")

Jobs = Callable[..., Awaitable[None]]

PATIENCE = 60_000
"""Milliseconds to wait for what a slow machine does in its own time."""

DROP = """(files) => {
    const given = new DataTransfer();
    for (const [name, body] of files)
        given.items.add(new File([Uint8Array.from(atob(body), (c) => c.charCodeAt(0))], name));
    const target = document.querySelector("main");
    for (const kind of ["dragenter", "dragover", "drop"])
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: given, bubbles: true, cancelable: true }));
}"""

SHARES = """([source, colours]) => {
    // What is on a canvas or in a picture: the share of its pixels that have each colour, and how wide what is drawn is.
    const drawn = document.querySelector(source);
    const small = document.createElement("canvas");
    small.width = small.height = 128;
    const context = small.getContext("2d", { willReadFrequently: true });
    context.drawImage(drawn, 0, 0, 128, 128);
    const { data } = context.getImageData(0, 0, 128, 128);
    const count = colours.map(() => 0), columns = new Set();
    for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] < 128) continue;
        columns.add((at / 4) % 128);
        colours.forEach((colour, which) => {
            if (colour.every((part, place) => Math.abs(part - data[at + place]) < 12)) count[which] += 1;
        });
    }
    return { shares: count.map((one) => one / (128 * 128)), width: columns.size / 128 };
}"""


def shown_as(linear: tuple[float, ...]) -> list[int]:
    """A glTF's colour as a screen has it (sRGB)."""
    return [round(255 * (12.92 * c if c <= 0.0031308 else 1.055 * c ** (1 / 2.4) - 0.055)) for c in linear]


SKIN, SHIRT, HAPPY = shown_as(avatars.SKIN), shown_as(avatars.SHIRT), shown_as(avatars.HAPPY)
CANVAS = "dialog canvas[data-state=shown]"
"""The preview, once something has been drawn on it."""


@dataclass
class Console:
    """A running service, and a browser that looks at it."""

    api: Api
    browser: Browser
    scale: float = 1.0
    """Pixels of the screen for one of CSS's, each way."""

    async def page(
        self,
        user: str = "alice",
        path: str = "/library",
        *,
        language: str = "en",
        width: int = 1280,
    ) -> Page:
        """A page in a browser of its own, signed in; whatever goes wrong in its scripts fails the test at its end."""
        context = await self.browser.new_context(
            base_url=self.api.url,
            viewport={"width": width, "height": 900},
            device_scale_factor=self.scale,
            locale="zh-CN" if language == "zh" else "en-GB",
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE)
        cookie = dev_sign_in_cookie(self.api.settings.identity, user)
        await context.add_cookies([{"name": NEXTAUTH_COOKIE, "value": cookie, "url": self.api.url}])
        page = await context.new_page()
        await page.goto(path)
        await page.wait_for_selector("main h1")
        return page

    async def asset(self, asset_id: str, user: str = "alice") -> dict[str, Any]:
        """What the service says of one."""
        status, body = await self.api.call("GET", f"/api/assets/{asset_id}", user)
        assert status == 200, body
        return body

    async def upload(self, key: str, body: bytes, user: str = "alice") -> str:
        """Past the console; returns the asset's id."""
        status, answer = await self.api.upload(user, key, body)
        assert status == 200, answer
        return answer["data"]["id"]

    async def found(self, query: str, user: str = "alice") -> list[dict[str, Any]]:
        """What a search finds."""
        status, body = await self.api.call("GET", f"/api/assets?{query}", user)
        assert status == 200, body
        return body["items"]


async def drop(page: Page, files: dict[str, bytes]) -> None:
    """Lets these files fall on the page."""
    await page.evaluate(DROP, [[name, base64.b64encode(body).decode()] for name, body in files.items()])


async def colours(page: Page, source: str, *wanted: list[int]) -> tuple[list[float], float]:
    """The share of each colour in what the selector finds, and the width of what is drawn, as a share too."""
    found = await page.evaluate(SHARES, [source, list(wanted)])
    return found["shares"], found["width"]


async def until(ask: Callable[[], Awaitable[T]], good: Callable[[T], Any], seconds: float = 60) -> T:
    """Asks until the answer is good, and returns it."""
    last: T | None = None
    try:
        async with asyncio.timeout(seconds):
            while not good(last := await ask()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"still {last!r} after {seconds} s") from None
    return last


def card(name: str) -> str:
    return f'.card:has(.name:text-is("{name}"))'


async def choose(page: Page, label: str, value: str) -> None:
    await page.select_option(f'.field:has(label:text-is("{label}")) select', value)


def music(seconds: float = 4) -> bytes:
    """A tone that grows louder and softer once a second."""
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        loud = (abs(math.sin(math.pi * at / 8000)) * math.sin(at / 3) for at in range(int(8000 * seconds)))
        sound.writeframes(b"".join(struct.pack("<h", int(30_000 * value)) for value in loud))
    return out.getvalue()


def sky(width: int = 64, height: int = 32) -> bytes:
    """A Radiance panorama, red everywhere."""
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {height} +X {width}\n".encode()
    return head + b"\xc0\x08\x08\x80" * (width * height)
