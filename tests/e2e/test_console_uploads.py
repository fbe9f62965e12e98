"""Uploads from the console in a real browser: several at once, refused, known already, paused, taken up after a reload."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from playwright.async_api import Request, async_playwright

from butai.config import Settings
from tests import avatars, files
from tests.e2e.browsers import CHROMIUM, FLAGS, sign_in
from tests.e2e.consoles import (
    PATIENCE,
    Console,
    card,
    choose,
    drop,
    music,
    sky,
    until,
)
from tests.e2e.test_resumable_1gib import MIB, write_glb

# One browser for all of them: it takes as long to start as any of the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_several_files_at_once_are_uploaded_and_what_is_refused_says_why(flat_console: Console) -> None:
    page = await flat_console.page()
    await drop(
        page,
        {
            "Figure.vrm": avatars.figure(),
            "Tone.wav": music(1),
            "Red.hdr": sky(),
            "turn.vrma": avatars.wave(),
            "Broken.vrm": b"this is no avatar at all" * 10,
            "notes.txt": b"hello",
        },
    )
    await page.wait_for_function("() => document.querySelectorAll('.upload[data-state=done]').length === 4")
    await page.wait_for_function("() => document.querySelectorAll('.upload[data-state=failed]').length === 2")
    said = await page.inner_text(".upload:has-text('Broken.vrm') .upload-state")
    assert "The file's content does not match its extension" in said
    assert (
        await page.inner_text(".upload:has-text('notes.txt') .upload-state") == "Files of this type are not supported."
    )
    # Read out, too.
    assert "Broken.vrm: The file's content does not match" in (
        await page.text_content("[data-testid=upload-news]") or ""
    )
    await page.wait_for_function("() => document.querySelectorAll('.card').length === 4")
    assert {item["category"] for item in await flat_console.found("owner=me")} == {"vrm", "bgm", "hdr", "animation"}
    # The library remembers what failed, and takes the file again.
    await page.click("button:text-is('Clear')")
    await choose(page, "State", "failed")
    await page.click(card("Broken"))
    assert "The file's content does not match its extension" in await page.inner_text("dialog .notice.bad")
    await page.set_input_files(
        "dialog .notice.bad input[type=file]",
        {"name": "better.vrm", "mimeType": "model/vrm", "buffer": avatars.figure(thumbnail=files.png())},
    )
    await page.wait_for_selector(".upload[data-state=done]")
    (mended,) = await until(lambda: flat_console.found("q=Broken"), bool)
    assert mended["s3Key"] == "vrm/Broken.vrm"
    assert mended["status"] == "ready"


async def test_what_is_here_already_is_not_sent_again(flat_console: Console) -> None:
    body = avatars.figure()
    await flat_console.upload("vrm/Figure.vrm", body)
    page = await flat_console.page()
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.method == "PATCH" else None)
    await drop(page, {"Copy.vrm": body})
    await page.wait_for_selector(".upload[data-state=known]")
    assert sent == []
    assert len(await flat_console.found("owner=me")) == 1


async def test_an_upload_is_paused_and_goes_on(flat_console: Console, tmp_path: Path) -> None:
    file = tmp_path / "Big.glb"
    sha256 = write_glb(file, 70 * MIB)
    page = await flat_console.page()
    await page.set_input_files("[data-testid=files]", file)
    await page.wait_for_function("() => Number(document.querySelector('.upload')?.dataset.sent) > 8e6")
    await page.click("button:has-text('Pause')")
    await page.wait_for_selector(".upload[data-state=paused]")
    assert await flat_console.found("owner=me") == []
    await page.click("button:has-text('Resume')")
    await page.wait_for_selector(".upload[data-state=done]")
    (item,) = await flat_console.found("owner=me")
    assert (await flat_console.asset(item["id"]))["sha256"] == sha256


@pytest.mark.slow
async def test_200_mib_go_on_by_themselves_after_a_reload_half_way(
    flat_console: Console, tmp_path: Path, settings: Settings
) -> None:
    """In a profile on the disk, as people have: in a private window the browser keeps files in memory, if at all."""
    size = 200 * MIB
    file = tmp_path / "Hall.glb"
    sha256 = write_glb(file, size)
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            tmp_path / "profile",
            executable_path=CHROMIUM,
            args=[*FLAGS, "--disable-gpu"],
            base_url=flat_console.api.url,
        )
        context.set_default_timeout(2 * PATIENCE)
        page = context.pages[0]
        await sign_in(page, flat_console.api.url, settings.up.data_dir, "alice")
        offsets: list[int] = []
        page.on(
            "request",
            lambda asked: offsets.append(int(asked.headers["upload-offset"])) if asked.method == "PATCH" else None,
        )
        await page.set_input_files("[data-testid=files]", file)
        await page.wait_for_function(f"() => Number(document.querySelector('.upload')?.dataset.sent) > {size // 2}")
        assert await page.get_attribute(".upload", "data-kept") == "true"
        before = len(offsets)
        await page.reload()
        # Nobody chooses the file again.
        await page.wait_for_selector(".upload[data-state=sending]")
        await page.wait_for_selector(".upload[data-state=done]")
        await context.close()
    after = offsets[before:]
    assert min(after) >= 80 * MIB, "what had arrived was sent again"
    assert after == sorted(after)
    (item,) = await flat_console.found("owner=me")
    asset = await flat_console.asset(item["id"])
    assert (asset["status"], asset["size_bytes"], asset["sha256"]) == ("ready", size, sha256)
    digest, length = hashlib.sha256(), 0
    async with flat_console.api.client.get(
        flat_console.api.url + asset["url"], headers=flat_console.api.cookie("alice")
    ) as answer:
        async for piece in answer.content.iter_chunked(MIB):
            digest.update(piece)
            length += len(piece)
    assert (length, digest.hexdigest()) == (size, sha256)
