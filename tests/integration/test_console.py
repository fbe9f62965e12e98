"""The console's document and files, and who is signed in, as the API serves them."""

from __future__ import annotations

import gzip
import re
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from butai.config import IdentitySettings, Settings
from butai.errors import Unavailable
from butai.identity import NEXTAUTH_COOKIE, Caller, dev_sign_in_cookie
from butai.operations import console
from tests.conftest import NEXTAUTH_SECRET, Api, serving


async def document(api: Api, path: str) -> str:
    async with api.client.get(api.url + path) as answer:
        assert answer.status == 200
        assert answer.headers["cache-control"].startswith("no-")
        return await answer.text()


async def test_without_a_build_the_page_says_how_to_make_one(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "DIST", tmp_path / "nothing")
    for path in ("/", "/docs"):
        said = await document(api, path)
        assert "make console" in said
        assert 'href="/openapi.json"' in said


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A build of two files; its script is returned."""
    script = "console.log('butai');" * 100
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "index-1.js").write_text(script)
    (tmp_path / "index.html").write_text("<!doctype html><script type=module src=/console/assets/index-1.js></script>")
    (tmp_path / "docs.html").write_text("<!doctype html><title>Butai API</title>")
    (tmp_path.parent / "secret.txt").write_text("not of the build")
    monkeypatch.setattr(console, "DIST", tmp_path)
    return script


async def test_every_page_is_the_same_document_and_allows_no_foreign_script(api: Api, built: str) -> None:
    documents = set()
    for path in ("/", "/library", "/stage?room=x", "/operations", "/watch/room-1"):
        async with api.client.get(api.url + path) as answer:
            documents.add(await answer.text())
            policy = answer.headers["content-security-policy"]
            assert "script-src 'self';" in policy
            assert "frame-ancestors 'none'" in policy
    assert len(documents) == 1
    async with api.client.get(f"{api.url}/docs") as answer:
        assert "Butai API" in await answer.text()
        assert answer.headers["content-security-policy"] == console.policy([])
    async with api.client.get(f"{api.url}/console/docs.html") as answer:
        assert answer.status == 404


async def test_scripts_are_kept_for_ever_compressed_and_known_by_their_tag(api: Api, built: str) -> None:
    url = f"{api.url}/console/assets/index-1.js"
    async with api.client.get(url, headers={"accept-encoding": "gzip"}) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert "immutable" in answer.headers["cache-control"]
        assert answer.content_type == "text/javascript"
        assert gzip.decompress(await answer.read()).decode() == built
        tag = answer.headers["etag"]
    async with api.client.get(url, headers={"accept-encoding": "identity"}) as answer:
        assert await answer.text() == built
    async with api.client.get(url, headers={"if-none-match": tag}) as answer:
        assert answer.status == 304


async def test_a_new_build_is_served_without_a_restart(api: Api, built: str) -> None:
    first = await document(api, "/")
    (console.DIST / "assets" / "index-2.js").write_text("2")
    (console.DIST / "new.html").write_text(
        "<!doctype html><script type=module src=/console/assets/index-2.js></script>"
    )
    (console.DIST / "new.html").replace(console.DIST / "index.html")
    assert await document(api, "/") != first
    async with api.client.get(f"{api.url}/console/assets/index-2.js") as answer:
        assert await answer.text() == "2"


@pytest.mark.parametrize(
    "path", ["assets/nothing.js", "..%2fsecret.txt", "assets/..%2f..%2fsecret.txt", "%2e%2e/secret.txt", "assets", ""]
)
async def test_nothing_outside_of_the_build_is_served(api: Api, built: str, path: str) -> None:
    async with api.client.get(f"{api.url}/console/{path}") as answer:
        assert answer.status == 404
        assert "not of the build" not in await answer.text()


def test_the_policy_names_the_servers_of_livekit_and_no_others() -> None:
    policy = console.policy(["wss://live.example/", "ws://127.0.0.1:7880"])
    connect = re.search(r"connect-src ([^;]*)", policy)
    assert connect is not None
    assert set(connect[1].split()) == {
        "'self'", "blob:", "data:", "wss://live.example", "https://live.example", "ws://127.0.0.1:7880", "http://127.0.0.1:7880",
    }  # fmt: skip


async def session(api: Api, user: str | None, cookie: str | None = None) -> dict[str, object]:
    headers = {}
    if user:
        headers["cookie"] = f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(api.settings.identity, user)}"
    if cookie:
        headers["cookie"] = cookie
    async with api.client.get(f"{api.url}/api/session", headers=headers) as answer:
        assert answer.status == 200
        return await answer.json()


async def test_only_users_that_the_settings_name_are_operators(settings: Settings) -> None:
    identity = IdentitySettings(NEXTAUTH_SECRET=SecretStr(NEXTAUTH_SECRET), operators=("olga",))  # pyright: ignore[reportCallIssue]
    async with serving(replace(settings, identity=identity)) as api:
        assert (await session(api, None))["user_id"] is None
        assert (await session(api, "ren")) | {"user_id": "ren", "operator": False} == await session(api, "ren")
        assert (await session(api, "olga"))["operator"] is True
        stale = await session(api, None, f"{NEXTAUTH_COOKIE}=not-a-token")
        assert (stale["user_id"], stale["operator"]) == (None, False)
        for user, status in (("ren", 403), ("olga", 200)):
            cookie = f"{NEXTAUTH_COOKIE}={dev_sign_in_cookie(identity, user)}"
            async with api.client.get(f"{api.url}/api/jobs", headers={"cookie": cookie}) as answer:
                assert answer.status == status


async def test_an_issuer_that_does_not_answer_signs_nobody_out(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The console forgets a user's uploads when it is told that the user is signed out."""

    async def away(*_: object) -> Caller:
        raise Unavailable("The issuer does not answer")

    monkeypatch.setattr(console, "charged_caller", away)
    async with api.client.get(f"{api.url}/api/session") as answer:
        assert (answer.status, (await answer.json())["code"]) == (503, "unavailable")
