"""A studio's front end: its pages in a browser, on the API's origin or on one of their own."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web
from playwright.async_api import Browser, Page

from tests import files
from tests.conftest import Api

PAGES = Path(__file__).parent / "pages"
BODY = files.vrm(1, 6_000_000, thumbnail=files.png(7, 5))
SHA256 = hashlib.sha256(BODY).hexdigest()


@dataclass
class Studio:
    """An API, and front ends of it in a browser."""

    api: Api
    browser: Browser
    avatar: Path

    @property
    def url(self) -> str:
        """The API as browsers reach it."""
        return self.api.url.replace("127.0.0.1", "api.studio.localhost")

    async def page(self, user: str | None = None, *, origin: str | None = None) -> Page:
        """A page with the studio's script, in a browser of its own (cookies and cache), signed in as `user`.

        `origin`: where the page comes from, if not from the API; the API's own cookie is there all the same.
        """
        context = await self.browser.new_context()
        page = await context.new_page()
        if user:
            # As signing in leaves it, which has a test of its own: its page would load the console each time.
            name, _, value = self.api.cookie(user)["Cookie"].partition("=")
            await context.add_cookies(
                [{"name": name, "value": value, "url": self.url, "httpOnly": True, "sameSite": "Lax"}]
            )
        if origin is None:
            # Any document of the API's makes a page of its origin. (To answer for a URL here, the browser would have to
            # be intercepted, and then it neither caches nor asks before cross-origin requests.)
            await page.goto(f"{self.url}/healthz")
            await page.set_content((PAGES / "studio.html").read_text().replace('<script src="studio.js"></script>', ""))
            await page.add_script_tag(path=PAGES / "studio.js")
        else:
            await page.goto(f"{origin}/studio.html?api={self.url}")
        await page.set_input_files("input[type=file]", self.avatar)
        return page

    async def uploaded(self, page: Page, key: str = "vrm/My Avatar (1).vrm") -> dict[str, Any]:
        """The asset's data, after an upload from the page."""
        answer = await page.evaluate("key => upload(key)", key)
        assert answer["status"] == 200, answer
        return answer["body"]["data"]


@contextlib.asynccontextmanager
async def pages_on(port: int) -> AsyncGenerator[None]:
    """The studio's pages on a port of their own, isolated from other origins as pages with threads have to be."""

    @web.middleware
    async def isolate(request: web.Request, handler: Callable[[web.Request], Any]) -> web.StreamResponse:
        answer = await handler(request)
        answer.headers["Cross-Origin-Embedder-Policy"] = "require-corp"
        answer.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        return answer

    app = web.Application(middlewares=[isolate])
    app.router.add_static("/", PAGES)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield
    finally:
        await runner.cleanup()


async def publish(page: Page, asset_id: str, visibility: str = "public") -> None:
    """Sets the visibility of an asset, from a page of its owner."""
    answer = await page.evaluate(
        "([id, visibility]) => call('PATCH', '/api/assets/' + id, {visibility})", [asset_id, visibility]
    )
    assert answer["status"] == 200, answer
