"""Butai as a studio's front end sees it: real pages in a real browser, on the API's origin and on others."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, expect

from butai.api import document
from butai.audit import Origin, actors
from butai.config import HttpSettings, Settings
from butai.database import Database
from butai.operations import suspension
from butai.sign_in.codes import make_code
from tests import files
from tests.conftest import serving
from tests.e2e.browsers import WITHOUT_3D, chromium, sign_in
from tests.e2e.studios import BODY, SHA256, Studio, pages_on, publish
from tests.fakes.store_proxy import StoreProxy
from tests.processes import free_port

# One browser for all of them: it takes as long to start as any of the tests.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Two IP addresses are never one site, so the studio and its API have names here, as they would have out there."""
    async with chromium(*WITHOUT_3D) as started:
        yield started


@pytest.fixture
def origins() -> tuple[str, str, int]:
    """Another site and another origin on the API's site, both on one port; a cookie is sent to the API by the second."""
    port = free_port()
    return f"http://www.elsewhere.localhost:{port}", f"http://www.studio.localhost:{port}", port


@pytest_asyncio.fixture(loop_scope="module")
async def studio(
    browser: Browser, settings: Settings, origins: tuple[str, str, int], tmp_path: Path
) -> AsyncIterator[Studio]:
    """The other site may call the API; the other origin on the API's site may not."""
    avatar = tmp_path / "My Avatar.vrm"
    avatar.write_bytes(BODY)
    async with serving(replace(settings, http=HttpSettings(cors_origins=(origins[0],)))) as api, pages_on(origins[2]):
        yield Studio(api, browser, avatar)
        for context in browser.contexts:
            await context.close()


# On the API's own origin


async def test_signing_in_leaves_a_cookie_that_scripts_cannot_read(studio: Studio) -> None:
    context = await studio.browser.new_context()
    page = await context.new_page()
    await sign_in(page, studio.url, studio.api.settings.up.data_dir, "alice")
    await page.wait_for_url(f"{studio.url}/library")
    assert await page.inner_text("header .who") == "alice"
    (cookie,) = await context.cookies()
    assert cookie.get("name") == "next-auth.session-token"
    assert cookie.get("httpOnly") is True
    assert cookie.get("sameSite") == "Lax"
    assert await page.evaluate("document.cookie") == ""


async def test_a_links_page_takes_its_code_once_and_says_what_to_do_without_one(studio: Studio) -> None:
    link = f"{studio.url}/sign-in#{make_code(studio.api.settings.up.data_dir, 'alice')}"
    first = await (await studio.browser.new_context()).new_page()
    asked: list[str] = []
    first.on("request", lambda request: asked.append(request.url))
    await first.goto(link)
    await first.wait_for_url(f"{studio.url}/library")
    assert not [url for url in asked if link.partition("#")[2] in url.partition("#")[0]]
    await first.go_back()
    assert link.partition("#")[2] not in first.url
    # In another browser it is good for nothing any more.
    second = await (await studio.browser.new_context()).new_page()
    for address in (link, f"{studio.url}/sign-in"):
        await second.goto(address)
        await second.wait_for_selector("#said:has-text('Make a new one')")
        assert "#" not in second.url
        assert await second.inner_text("code") == "butai sign-in"
    assert await second.context.cookies() == []


async def test_the_links_page_tells_a_suspended_user_so_and_keeps_the_link(studio: Studio) -> None:
    settings = studio.api.settings
    link = f"{studio.url}/sign-in#{make_code(settings.up.data_dir, 'mallory')}"
    page = await (await studio.browser.new_context()).new_page()
    async with Database(settings.database) as database:
        await suspension.suspend(database, Origin(actors.COMMAND_LINE), "mallory", "r")
        await page.goto(link)
        await page.wait_for_selector("#said:has-text('is suspended')")
        assert await page.inner_text("code") == "butai restore USER"
        await suspension.restore(database, Origin(actors.COMMAND_LINE), "mallory")
    await page.goto(link)
    await page.wait_for_url(f"{studio.url}/library")


async def test_a_signed_out_visitor_is_told_how_to_get_in(studio: Studio) -> None:
    page = await studio.page()
    for path in ("/library", "/watch/somewhere"):
        await page.goto(studio.url + path)
        await page.wait_for_selector("main code:text-is('butai sign-in')")
        assert await page.inner_text("header code") == "butai sign-in"
        assert await page.locator("a[href*='sign-in']").count() == 0


async def test_an_avatar_is_uploaded_listed_and_read_back_byte_for_byte(studio: Studio) -> None:
    page = await studio.page("alice")
    data = await studio.uploaded(page)
    assert data["size"] == len(BODY)
    listing = await page.evaluate("() => call('GET', '/api/s3/resources?type=models')")
    assert listing["status"] == 200
    assert listing["body"]["success"] is True
    (item,) = listing["body"]["data"]
    assert item["url"].endswith(".vrm")
    assert (item["id"], item["size"], item["category"]) == (data["id"], len(BODY), "vrm")
    for url in (item["url"] + "&proxy=1", item["url"] + "&v=123", "/api/s3/read-object?key=vrm/My Avatar (1).vrm"):
        got = await page.evaluate("url => read(url)", url)
        assert (got["status"], got["length"], got["sha256"]) == (200, len(BODY), SHA256), url
        assert got["redirected"] is False
        assert got["headers"]["content-type"] == "model/gltf-binary"


async def test_parts_of_a_file_are_read_and_unchanged_files_are_not_read_twice(
    studio: Studio, proxy: StoreProxy
) -> None:
    page = await studio.page("alice")
    url = (await studio.uploaded(page))["url"]
    for asked, first, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-4099", 100, 4100),
        ("bytes=-500", len(BODY) - 500, None),
    ):
        got = await page.evaluate("([url, range]) => read(url, {headers: {Range: range}})", [url, asked])
        assert got["status"] == 206, asked
        assert got["sha256"] == hashlib.sha256(BODY[first:end]).hexdigest()
        assert got["headers"]["content-range"] == f"bytes {first}-{(end or len(BODY)) - 1}/{len(BODY)}"
    got = await page.evaluate("url => read(url, {headers: {Range: 'bytes=99999999-'}})", url)
    assert got["status"] == 416
    # A private file is kept by the browser, which asks each time whether it still may.
    assert (await page.evaluate("url => read(url)", url))["sha256"] == SHA256
    gets = sum(seen.method == "GET" for seen in proxy.seen)
    assert (await page.evaluate("url => read(url)", url))["sha256"] == SHA256
    assert sum(seen.method == "GET" for seen in proxy.seen) == gets


async def test_thumbnails_show_as_pictures(studio: Studio, tmp_path: Path, run_jobs: Callable[..., Any]) -> None:
    page = await studio.page("alice")
    url = (await studio.uploaded(page))["url"]
    await run_jobs()
    inside = await page.evaluate("url => picture('/api/vrm-thumbnail?url=' + encodeURIComponent(url))", url)
    assert inside == 7
    (tmp_path / "thumb.png").write_bytes(files.png(33, 3))
    await page.set_input_files("input[type=file]", tmp_path / "thumb.png")
    await studio.uploaded(page, "vrm/My Avatar (1)_thumb.png")
    listing = await page.evaluate("() => call('GET', '/api/s3/resources?type=vrm')")
    (item,) = listing["body"]["data"]
    assert item["hasThumbnail"] is True
    assert await page.evaluate("url => picture(url)", item["thumbnail"]) == 33


async def test_a_published_avatar_is_for_everyone_and_a_hidden_one_for_nobody_else(studio: Studio) -> None:
    alice, anonymous, bob = await studio.page("alice"), await studio.page(), await studio.page("bob")
    data = await studio.uploaded(alice)
    read = "url => read(url)"
    assert (await anonymous.evaluate(read, data["url"]))["status"] == 401
    assert (await bob.evaluate(read, data["url"]))["status"] == 404
    await publish(alice, data["id"])
    for page in (anonymous, bob):
        assert (await page.evaluate(read, data["url"]))["sha256"] == SHA256
    await publish(alice, data["id"], "private")
    # Not from the cache, where it may live for its hour.
    fresh = "url => read(url, {cache: 'no-store'})"
    assert (await anonymous.evaluate(fresh, data["url"]))["status"] == 401
    assert (await bob.evaluate(fresh, data["url"]))["status"] == 404
    assert (await alice.evaluate(read, data["url"]))["sha256"] == SHA256


async def test_a_deleted_avatar_is_gone_and_comes_back_when_restored(studio: Studio) -> None:
    page = await studio.page("alice")
    data = await studio.uploaded(page)
    path = f"/api/assets/{data['id']}"
    assert (await page.evaluate("path => call('DELETE', path)", path))["status"] == 204
    assert (await page.evaluate("url => read(url)", data["url"]))["status"] == 404
    assert (await page.evaluate("() => call('GET', '/api/s3/resources?type=vrm')"))["body"]["data"] == []
    assert (await page.evaluate("path => call('POST', path + '/restore')", path))["status"] == 200
    assert (await page.evaluate("url => read(url)", data["url"]))["sha256"] == SHA256


async def test_errors_are_json_that_a_front_end_can_show(studio: Studio) -> None:
    anonymous = await studio.page()
    answer = await anonymous.evaluate("() => call('GET', '/api/s3/resources?type=vrm')")
    assert (answer["status"], answer["body"]["success"]) == (401, False)
    answer = await anonymous.evaluate("() => upload('vrm/a.vrm')")
    assert (answer["status"], answer["body"]["error"]["code"]) == (401, "auth_required")
    alice = await studio.page("alice")
    answer = await alice.evaluate("() => upload('vrm/a.exe')")
    assert (answer["status"], answer["body"]["error"]["code"]) == (415, "type_unsupported")
    assert answer["body"]["message"]


async def test_bytes_go_straight_to_the_store_with_a_signed_url(studio: Studio) -> None:
    page = await studio.page("alice")
    done = await page.evaluate("() => uploadDirectly('vrm/直接.vrm')")
    assert done["origin"] == studio.api.settings.store.endpoint
    assert done["origin"] != studio.url
    assert (done["early"], done["put"], done["done"]["status"]) == (409, 200, 200)
    assert done["done"]["body"]["status"] == "ready"
    assert (await page.evaluate("url => read(url)", done["readUrl"]))["sha256"] == SHA256
    listing = await page.evaluate("() => call('GET', '/api/s3/resources?type=vrm')")
    assert [item["name"] for item in listing["body"]["data"]] == ["直接"]


# On other origins


async def test_a_page_of_any_origin_sends_to_a_signed_address_of_the_api(
    studio: Studio, origins: tuple[str, str, int]
) -> None:
    alice = await studio.page("alice")
    wanted = {"fileName": "vrm/直接.vrm", "fileType": "model/vrm"}
    asked = await alice.evaluate("wanted => call('POST', '/api/s3/presigned-url', wanted)", wanted)
    signed = asked["body"]["data"]
    assert signed["url"].startswith(f"{studio.url}/api/s3/")
    assert (await alice.evaluate("path => call('POST', path)", signed["completeUrl"]))["status"] == 409
    foreign = await studio.page(origin=origins[0])
    sent = await foreign.evaluate("url => putTo(url)", signed["url"])
    assert sent["status"] == 200
    assert sent["etag"]
    assert (await foreign.evaluate("url => putTo(url)", signed["url"]))["status"] == 409
    done = await alice.evaluate("path => call('POST', path)", signed["completeUrl"])
    assert (done["status"], done["body"]["status"]) == (200, "ready")
    assert (await alice.evaluate("url => read(url)", signed["readUrl"]))["sha256"] == SHA256


async def test_an_isolated_page_of_another_site_may_use_what_is_public(
    studio: Studio, origins: tuple[str, str, int], run_jobs: Callable[..., Any]
) -> None:
    alice = await studio.page("alice")
    data = await studio.uploaded(alice)
    await publish(alice, data["id"])
    page = await studio.page(origin=origins[0])
    assert await page.evaluate("crossOriginIsolated")
    got = await page.evaluate("url => read(url)", data["url"])
    assert (got["status"], got["sha256"]) == (200, SHA256)
    got = await page.evaluate("url => read(url, {headers: {Range: 'bytes=5-9'}})", data["url"])
    assert (got["status"], got["length"]) == (206, 5)
    assert {"etag", "content-range", "content-length", "accept-ranges"} <= set(got["headers"])
    # An <img> without CORS: let in by the picture's own policy.
    await run_jobs()
    assert await page.evaluate("url => picture('/api/vrm-thumbnail?url=' + encodeURIComponent(url))", data["url"]) == 7
    await publish(alice, data["id"], "private")
    got = await page.evaluate("url => read(url, {cache: 'no-store'})", data["url"])
    assert got["status"] == 401


async def test_what_is_private_does_not_leave_the_site_even_for_its_owner(
    studio: Studio, origins: tuple[str, str, int], run_jobs: Callable[..., Any]
) -> None:
    other_site, same_site, _ = origins
    data = await studio.uploaded(await studio.page("alice"))
    await run_jobs()
    thumbnail = "/api/vrm-thumbnail?url=" + data["url"].replace("%", "%25")
    # The same browser, signed in: the cookie does not go along to another site.
    foreign = await studio.page("alice", origin=other_site)
    for credentials in ("same-origin", "include"):
        got = await foreign.evaluate("([url, credentials]) => read(url, {credentials})", [data["url"], credentials])
        assert got["status"] == 401
    assert await foreign.evaluate("url => picture(url)", thumbnail) is None
    # On the API's own site it does; pictures may be shown, but no script reads them.
    near = await studio.page("alice", origin=same_site)
    assert await near.evaluate("url => picture(url)", thumbnail) == 7
    assert await near.evaluate("url => read(url, {credentials: 'include'})", data["url"]) == {"blocked": "TypeError"}


async def test_a_page_of_another_origin_cannot_write_with_the_visitors_cookie(
    studio: Studio, origins: tuple[str, str, int]
) -> None:
    data = await studio.uploaded(await studio.page("alice"))
    path = f"/api/assets/{data['id']}"
    page = await studio.page("alice", origin=origins[1])
    assert await page.evaluate("() => upload('vrm/forged.vrm', 'include')") == {"blocked": "TypeError"}
    # Asked for first, and refused.
    assert await page.evaluate("path => call('DELETE', path, undefined, 'include')", path) == {"blocked": "TypeError"}
    # A form needs no leave of anybody, and its answer can be seen.
    async with page.expect_navigation() as leaving:
        await page.evaluate(
            """action => {
              const form = document.getElementById("upload");
              Object.assign(form, {action, method: "post", enctype: "multipart/form-data"});
              form.elements.fileName.value = "vrm/forged.vrm";
              form.submit();
            }""",
            f"{studio.url}/api/s3/upload",
        )
    answer = await leaving.value
    assert answer is not None
    sent = await answer.request.all_headers()
    assert "next-auth.session-token" in sent["cookie"]
    assert sent["origin"] == origins[1]
    assert (answer.status, (await answer.json())["error"]["code"]) == (403, "origin_denied")
    items = await studio.api.items("alice")
    assert [item["id"] for item in items] == [data["id"]]


async def test_a_configured_origin_on_the_apis_site_writes_with_the_cookie(
    browser: Browser, settings: Settings, origins: tuple[str, str, int], tmp_path: Path
) -> None:
    avatar = tmp_path / "avatar.vrm"
    avatar.write_bytes(BODY)
    allowed = replace(settings, http=HttpSettings(cors_origins=(origins[1],)))
    async with serving(allowed) as api, pages_on(origins[2]):
        page = await Studio(api, browser, avatar).page("alice", origin=origins[1])
        answer = await page.evaluate("() => upload('vrm/a.vrm', 'include')")
        assert answer["status"] == 200, answer
        path = f"/api/assets/{answer['body']['data']['id']}"
        edit = "path => call('PATCH', path, {display_name: 'Aoi'}, 'include')"
        assert (await page.evaluate(edit, path))["body"]["display_name"] == "Aoi"
        got = await page.evaluate("url => read(url, {credentials: 'include'})", answer["body"]["data"]["url"])
        assert got["sha256"] == SHA256
        assert (await page.evaluate("path => call('DELETE', path, undefined, 'include')", path))["status"] == 204
        await page.context.close()


# The pages of Butai's own


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_our_own_pages_need_nothing_from_elsewhere_and_complain_of_nothing(studio: Studio, path: str) -> None:
    context: BrowserContext = await studio.browser.new_context()
    page = await context.new_page()
    asked: list[str] = []
    said: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    answer = await page.goto(studio.url + path, wait_until="networkidle")
    assert answer is not None
    assert answer.status == 200
    if path == "/docs":
        methods = {"get", "head", "post", "put", "patch", "delete"}
        paths = document()["paths"]
        wanted = {(method.upper(), name) for name in paths for method in methods & set(paths[name])}
        await page.wait_for_selector(".opblock")
        shown = await page.eval_on_selector_all(
            ".opblock-summary",
            """all => all.map(one => ['.opblock-summary-method', '.opblock-summary-path'].map(
                part => one.querySelector(part).textContent.replaceAll('\u200b', '')))""",
        )
        assert {(method, name) for method, name in shown} == wanted
    assert [url for url in asked if not url.startswith((studio.url, "data:"))] == []
    assert said == []
    assert "Butai" in await page.title()


async def test_without_livekit_the_page_says_so(studio: Studio) -> None:
    page = await (await studio.browser.new_context()).new_page()
    await sign_in(page, studio.url, studio.api.settings.up.data_dir, "newcomer")
    await page.goto(f"{studio.url}/stage")
    await expect(page.get_by_role("alert")).to_contain_text("LiveKit is not set up here")
    await expect(page.get_by_role("alert")).to_contain_text("LIVEKIT_URL")
