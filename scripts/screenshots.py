"""Pictures of the console for README and docs: `make screenshots`, with Chromium on this machine.

Starts a service of its own, fills it with the demo's files, goes live on two platforms of this machine from the stage's
own canvas, breaks one of them, and takes a picture of each page. `--all FOLDER`: every page in both languages, in light
and dark, wide and narrow, to be looked at; nothing of that is kept in the project.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from playwright.async_api import Browser, Page, ViewportSize  # noqa: E402

from butai.demo import library  # noqa: E402
from tests.e2e.browsers import WITH_3D, sign_in  # noqa: E402
from tests.e2e.stage_page import stage_browser  # noqa: E402
from tests.platforms import Platform  # noqa: E402

DOCS = ROOT / "docs" / "images"
WIDE: ViewportSize = {"width": 1440, "height": 900}
NARROW: ViewportSize = {"width": 360, "height": 780}
KEYS = {"youtube": "demo-key-one", "twitch": "demo-key-two"}


@dataclass(frozen=True)
class Look:
    """How a page is seen."""

    language: str
    scheme: str
    size: ViewportSize

    named: bool = True

    @property
    def name(self) -> str:
        """Behind the picture's name; nothing where there is one look alone."""
        return f"-{self.language}-{self.scheme}-{self.size['width']}" if self.named else ""


@contextlib.contextmanager
def service(folder: Path) -> Generator[str]:
    """`butai up` with nothing in it; its address."""
    argv = [sys.executable, "-m", "butai.cli", "up", "--port", "0", "--data-dir", str(folder / "data")]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if "Ctrl-C ends it." in line:
                break
        found = re.search(r"Console +(http://\S+)", said)
        if not found:
            raise SystemExit(said)
        yield found[1].rstrip("/")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@contextlib.asynccontextmanager
async def page(browser: Browser, url: str, data_dir: Path, look: Look, user: str = "demo") -> AsyncGenerator[Page]:
    """A signed-in page whose console errors are printed."""
    context = await browser.new_context(
        viewport=look.size,
        color_scheme="dark" if look.scheme == "dark" else "light",
        locale="zh-CN" if look.language == "zh" else "en-GB",
        # What is waited for is asked by expressions, which the pages' own policy forbids.
        bypass_csp=True,
    )
    found = await context.new_page()
    found.on("pageerror", lambda error: print(f"{look}: {error}", file=sys.stderr))
    await sign_in(found, url, data_dir, user)
    try:
        yield found
    finally:
        await context.close()


async def shoot(it: Page, path: Path, *, whole: bool = False) -> None:
    """When the network is quiet and pictures are there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(Exception):
        await it.wait_for_load_state("networkidle", timeout=8000)
    await it.screenshot(path=path, full_page=whole)
    print(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


async def call(it: Page, method: str, path: str, body: Any = None) -> Any:
    """A call of the API as the page would make it."""
    return await it.evaluate(
        """async ([method, path, body]) => {
            const answer = await fetch(path, {method, headers: {"content-type": "application/json"},
                body: body === null ? undefined : JSON.stringify(body)});
            return answer.status === 204 ? null : answer.json();
        }""",
        [method, path, body],
    )


async def pictures(url: str, data_dir: Path, folder: Path, looks: list[Look], *, whole: bool) -> None:
    """All pages, in each look."""
    async with stage_browser(*WITH_3D) as browser:
        for look in looks:
            async with page(browser, url, data_dir, look) as it:
                await library_pages(it, url, folder, look, whole=whole)
        with Platform("yt") as youtube, Platform("tw") as twitch:
            async with page(browser, url, data_dir, looks[0]) as it:
                for name, platform in (("youtube", youtube), ("twitch", twitch)):
                    saved = {"platform": name, "label": "Demo", "stream_key": KEYS[name], "ingest_url": platform.url}
                    await call(it, "POST", "/api/live/destinations", saved)
                await show(browser, it, url, folder, looks, twitch, data_dir=data_dir, whole=whole)


async def library_pages(it: Page, url: str, folder: Path, look: Look, *, whole: bool) -> None:
    """The grid, and an avatar opened."""
    await it.goto(f"{url}/library")
    await it.get_by_text("Momo").first.wait_for()
    # Thumbnails come from a job.
    for _ in range(60):
        found = (await call(it, "GET", "/api/assets?limit=50"))["items"]
        if sum(bool(item.get("thumbnail")) for item in found) >= 4:
            break
        await it.wait_for_timeout(500)
    await it.reload()
    await it.get_by_text("Momo").first.wait_for()
    await it.wait_for_function("document.images.length >= 4 && [...document.images].every(one => one.complete)")
    await shoot(it, folder / f"library{look.name}.png", whole=whole)
    await it.get_by_text("Momo").first.click()
    await it.locator("dialog canvas, [role=dialog] canvas").first.wait_for()
    await it.wait_for_function("[...document.querySelectorAll('canvas')].some(one => one.width > 300)")
    await it.wait_for_timeout(4000)
    await shoot(it, folder / f"avatar{look.name}.png")


async def show(
    browser: Browser,
    it: Page,
    url: str,
    folder: Path,
    looks: list[Look],
    twitch: Platform,
    *,
    data_dir: Path,
    whole: bool,
) -> None:
    """On air on both, then one of them gone; the operations meanwhile; the viewers' page."""
    room = (await call(it, "POST", "/api/live/rooms", {}))["room_id"]
    await it.goto(f"{url}/stage?room={room}")
    # Two processors draw the small one at a good pace.
    await it.get_by_label("Low resolution").check()
    for label, name in (
        ("Avatar", "Aoi"),
        ("Animation", "Waving"),
        ("Background", "Dusk"),
        ("Music", "Loop in A minor"),
    ):
        await it.locator(".picker", has_text=label).get_by_role("button").click()
        await it.locator("dialog").get_by_text(name, exact=True).first.click()
        await it.locator("dialog").wait_for(state="detached")
    await it.get_by_role("button", name="Go live").click()
    await it.wait_for_function("document.querySelectorAll('.output[data-state=live]').length === 2", timeout=60_000)
    await it.wait_for_timeout(3000)
    await shoot(it, folder / f"stage{looks[0].name}.png", whole=whole)
    twitch.kill()
    await it.locator(".output[data-platform=twitch][data-state=interrupted]").wait_for(timeout=20_000)
    await shoot(it, folder / f"stage-broken{looks[0].name}.png", whole=whole)
    for look in looks:
        async with page(browser, url, data_dir, look, "operator") as other:
            await other.goto(f"{url}/operations")
            await other.wait_for_timeout(1500)
            tabs = await other.evaluate(
                "[...document.querySelectorAll('[role=tab], .tabs a')].map(one => one.getAttribute('href') || '')"
            )
            await shoot(other, folder / f"operations{look.name}.png", whole=whole)
            for number, tab in enumerate(tabs[1:] if whole else [], 1):
                await other.goto(url + tab)
                await other.wait_for_timeout(800)
                await shoot(other, folder / f"operations-{number}{look.name}.png", whole=whole)
            await other.goto(f"{url}/watch/{room}")
            await other.wait_for_timeout(4000)
            await shoot(other, folder / f"watch{look.name}.png", whole=whole)
    for look in looks[1:]:
        # A second page of the same host: it looks on, and does not take the stage.
        async with page(browser, url, data_dir, look) as other:
            await other.goto(f"{url}/stage?room={room}")
            await other.wait_for_timeout(4000)
            await shoot(other, folder / f"stage{look.name}.png", whole=whole)
    await call(it, "POST", "/api/live/stop", {"room_id": room})


def main() -> int:
    """Takes them all."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="every page in every look, into this folder")
    asked = parser.parse_args()
    if asked.all:
        looks = [
            Look(language, scheme, size)
            for size in (WIDE, NARROW)
            for scheme in ("light", "dark")
            for language in ("en", "zh")
        ]
    else:
        looks = [Look("en", "dark", WIDE, named=False)]
    os.environ.setdefault("BUTAI_LOG_LEVEL", "warning")
    with tempfile.TemporaryDirectory(prefix="butai-pictures-") as folder, service(Path(folder)) as url:
        data_dir = Path(folder) / "data"
        if library.run(url, data_dir, "demo") != 0:
            return 1
        asyncio.run(pictures(url, data_dir, asked.all or DOCS, looks, whole=bool(asked.all)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
