"""Visitors of the console without 3D, for the tests of the operators' and the viewers' pages."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Literal
from urllib.request import urlopen

from playwright.async_api import Browser, BrowserContext, Page, ViewportSize

from butai.identity import NEXTAUTH_COOKIE, dev_sign_in_cookie
from tests.e2e.stage import IDENTITY, Stage

PICTURES = os.environ.get("BUTAI_TEST_PICTURES")
"""A folder for pictures of each part of the page, to be looked at; none are kept otherwise."""
SCHEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
WIDE: ViewportSize = {"width": 1280, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 780}


def until_ready(stage: Stage) -> None:
    """Waits for the API, half a minute at most."""
    until = time.monotonic() + 30
    while True:
        try:
            with urlopen(f"{stage.url}/readyz", timeout=5):
                return
        except OSError:
            assert time.monotonic() < until, stage.tail("api")
            time.sleep(0.1)


@asynccontextmanager
async def visitor(browser: Browser, stage: Stage, user: str | None, **how: Any) -> AsyncGenerator[BrowserContext]:
    """A browser's context of its own, signed in as `user`."""
    options: dict[str, Any] = {"viewport": WIDE, "locale": "en-GB"} | how
    context = await browser.new_context(**options)
    context.set_default_timeout(20_000)
    if user is not None:
        cookie = {"name": NEXTAUTH_COOKIE, "value": dev_sign_in_cookie(IDENTITY, user), "url": stage.url}
        await context.add_cookies([cookie])  # pyright: ignore[reportArgumentType]
    try:
        yield context
    finally:
        await context.close()


async def picture(page: Page, name: str) -> None:
    if PICTURES:
        await page.screenshot(path=f"{PICTURES}/{name}.png", full_page=True)
