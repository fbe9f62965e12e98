"""Debian's Chromium for the tests, driven by Playwright. Used by all tests that look at a page."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

from playwright.async_api import Browser, Page, async_playwright

import butai
from butai.sign_in.codes import make_code

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    # No sandbox for root; nothing that calls home; no names but this machine's.
    "--no-sandbox",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--host-resolver-rules=MAP *.localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
WITHOUT_3D = ["--disable-gpu"]
SOFTWARE = "--disable-gpu-compositing"
"""Without it SwiftShader draws the page as well as the canvas, and two processors are not enough for both."""
WITH_3D = [
    # WebGL by the processor; a picture and a sound for whoever asks for a camera and a microphone.
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--ignore-gpu-blocklist",
    "--autoplay-policy=no-user-gesture-required",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
]
BUILT = Path(butai.__file__).parent / "console_dist" / "index.html"
"""What `make console` makes; `make test` has it made before."""
AXE = Path(__file__).parents[2] / "console" / "node_modules" / "axe-core" / "axe.min.js"

# A colour on its way to another is neither, and nobody reads in that moment. What is told to come is flushed by asking.
# What never ends (a placeholder that shimmers) is not waited for.
_SETTLED = """() => Promise.allSettled(document.getAnimations()
    .filter((one) => one.effect?.getComputedTiming().endTime < Infinity).map((one) => one.finished))"""


@contextlib.asynccontextmanager
async def chromium(*more: str) -> AsyncGenerator[Browser]:
    """A browser until the block ends. `more`: `WITHOUT_3D` or `WITH_3D`."""
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, *more])
        try:
            yield started
        finally:
            await started.close()


async def axe(page: Page) -> list[str]:
    """What axe finds on a page that is serious or worse, once its colours have come to rest."""
    await page.evaluate(_SETTLED)
    # Half a megabyte of script, once for each document.
    if not await page.evaluate("() => 'axe' in window"):
        await page.evaluate(AXE.read_text())
    found = await page.evaluate("() => axe.run(document, { resultTypes: ['violations'] })")
    assert found["passes"], "axe looked at nothing"
    return [
        f"{one['id']}: {node['html'][:160]} {node['failureSummary']}"
        for one in found["violations"]
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


async def sign_in(page: Page, url: str, data_dir: Path, user: str) -> None:
    """By a link as `butai sign-in` prints them, of the service whose data is in `data_dir`."""
    await page.goto(f"{url}/sign-in#{make_code(data_dir, user)}")
    await page.wait_for_url(lambda at: "/sign-in" not in at)
