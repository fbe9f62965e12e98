"""Butai behind nginx as docs/nginx.conf sets it up: uploads, and all that nginx passes on or refuses by itself.

Whatever a client can see must be what the API alone would have answered, so most tests ask both and compare.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import msgspec
import psycopg
import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings, Rate, RateSettings, Settings
from butai.web.problems import BareError, Envelope, Problem
from tests import files
from tests.conftest import Api
from tests.e2e.fronts import STUDIO, Front, fronted, stored
from tests.fakes.store_proxy import StoreProxy
from tests.processes import free_port


async def test_a_large_upload_streams_through_and_reads_back(front: Front, proxy: StoreProxy) -> None:
    body = files.vrm(1, 60 * 1024**2)
    half = len(body) // 2
    began = len(proxy.seen)

    async def parts_arrived() -> None:
        async with asyncio.timeout(60):
            while not any(seen.method == "PUT" for seen in proxy.seen[began:]):
                await asyncio.sleep(0.01)

    async def sending() -> AsyncIterator[bytes]:
        yield body[:half]
        # The store has a part of a file whose other half has not been sent yet.
        await parts_arrived()
        yield body[half:]

    form = aiohttp.FormData()
    for name, value in (("fileName", "vrm/big.vrm"), ("fileType", "model/vrm")):
        form.add_field(name, value)
    form.add_field("file", sending(), filename="big.vrm")
    headers = front.nginx.cookie("alice")
    async with front.nginx.client.post(f"{front.nginx.url}/api/s3/upload", data=form, headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        data = (await answer.json())["data"]
    status, back, headers = await front.nginx.read(data["url"], "alice")
    assert (status, back) == (200, body)
    assert headers["content-length"] == str(len(body))
    assert [path for path in front.temp.rglob("*") if path.is_file()] == []
    said = (front.temp.parent / "error.log").read_text()
    assert "is buffered to a temporary file" not in said


async def test_refusals_of_uploads_come_through_as_the_api_says_them(front: Front) -> None:
    too_large = b"\x89PNG\r\n\x1a\n" + bytes(11 * 1024**2)
    status, answer = await front.nginx.upload("alice", "vrm/a_thumb.png", too_large)
    assert (status, answer["error"]["code"]) == (413, "file_too_large")
    status, answer = await front.nginx.upload("alice", "vrm/a.vrm", b"GIF89a" + bytes(100))
    assert (status, answer["error"]["code"]) == (422, "signature_mismatch")
    status, answer = await front.nginx.call("POST", "/api/s3/upload", data=b"")
    assert (status, answer["success"]) == (401, False)


async def test_an_upload_that_is_cut_off_is_told_to_the_api(front: Front, settings: Settings) -> None:
    half_sent = asyncio.Event()

    async def sending() -> AsyncIterator[bytes]:
        yield files.vrm(1, 1_000_000)[:500_000]
        half_sent.set()
        await asyncio.sleep(60)

    form = aiohttp.FormData()
    form.add_field("fileName", "vrm/cut.vrm")
    form.add_field("fileType", "model/vrm")
    form.add_field("file", sending(), filename="cut.vrm")
    headers = front.nginx.cookie("alice")

    async def post() -> None:
        async with front.nginx.client.post(f"{front.nginx.url}/api/s3/upload", data=form, headers=headers):
            raise AssertionError("answered")

    def state() -> tuple[str, str | None] | None:
        row = connection.execute("SELECT status, error_code FROM assets WHERE wanted_key = 'vrm/cut.vrm'").fetchone()
        return (row[0], row[1]) if row else None

    with psycopg.connect(settings.database.url.get_secret_value(), autocommit=True) as connection:
        task = asyncio.create_task(post())
        await half_sent.wait()
        async with asyncio.timeout(60):
            while state() != ("uploading", None):
                await asyncio.sleep(0.02)
            task.cancel()
            while state() != ("failed", "client_disconnected"):
                await asyncio.sleep(0.02)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_lists_errors_and_sign_in_checks_pass_through(front: Front) -> None:
    data = await stored(front)
    (item,) = await front.nginx.items("alice")
    assert item["url"] == data["url"]
    for path in ("/api/s3/resources?type=vrm", "/api/s3/read-object?key=../x", "/api/s3/read-object", "/api/assets/x"):
        await front.same(path, "alice")
        await front.same(path)
    # Behind a proxy everybody seems to call from loopback: the development sign-in is not for them.
    assert (await front.nginx.read("/dev/sign-in?user=mallory"))[0] == 404
    assert (await front.nginx.read("/sign-in"))[0] == 404
    # The page's own origin is the address that the browser sees, port and all.
    own = {"Origin": front.nginx.url}
    assert (await front.nginx.call("PATCH", f"/api/assets/{data['id']}", "alice", json={}, headers=own))[0] == 200
    other = {"Origin": "http://127.0.0.1:1"}
    assert (await front.nginx.call("PATCH", f"/api/assets/{data['id']}", "alice", json={}, headers=other))[0] == 403


async def test_what_is_asked_in_the_clear_is_sent_to_tls_under_the_configured_name(front: Front) -> None:
    for host in ("studio.example", "evil.example"):
        url = f"http://127.0.0.1:{front.plain}/library?q=a"
        async with front.straight.client.get(url, headers={"Host": host}, allow_redirects=False) as answer:
            assert answer.status == 308
            assert answer.headers["Location"] == "https://studio.example/library?q=a"


async def test_the_host_is_passed_on_and_judged_by_the_api(front: Front) -> None:
    for headers, status in (
        ({"Host": "evil.example"}, 421),
        ({"Host": "evil.example", "X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}, 421),
        ({"Host": "localhost"}, 200),
    ):
        for path in ("/openapi.json", "/metrics"):
            assert (await front.nginx.read(path, headers=headers))[0] == status, (path, headers)


async def test_a_websocket_is_upgraded(settings: Settings, tmp_path: Path) -> None:
    livekit = LiveKitSettings(url=f"ws://127.0.0.1:{free_port()}", api_key="devkey", api_secret=SecretStr("s" * 36))
    live = LiveSettings(secret_key=SecretStr("ab" * 32))
    async with fronted(replace(settings, livekit=livekit, live=live), tmp_path) as front:
        status, room = await front.nginx.call("POST", "/api/live/rooms", "alice", json={})
        assert status == 200, room
        url = f"{front.nginx.url.replace('https', 'wss')}/api/live/events/ws?room_id={room['room_id']}"
        headers = front.nginx.cookie("alice") | {"Origin": front.nginx.url}
        async with front.nginx.client.ws_connect(url, headers=headers) as channel:
            assert (await channel.receive_json())["type"] == "status"


async def test_the_headers_of_the_api_come_through(front: Front) -> None:
    data = await stored(front)
    for path in ("/healthz", "/openapi.json", data["url"], "/nothing"):
        headers = (await front.nginx.read(path))[2]
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["referrer-policy"] == "same-origin", path


async def test_an_address_that_asks_too_much_at_once_is_told_when_to_ask_again(
    settings: Settings, tmp_path: Path
) -> None:
    async with fronted(settings, tmp_path, burst=3) as front:

        async def ask() -> tuple[int, str | None, bytes]:
            async with front.nginx.client.get(f"{front.nginx.url}/healthz") as answer:
                return answer.status, answer.headers.get("Retry-After"), await answer.read()

        answers = await asyncio.gather(*(ask() for _ in range(300)))
        refused = [answer for answer in answers if answer[0] == 429]
        assert {status for status, _, _ in answers} == {200, 429}
        assert all(after == "5" and b"rate_limited" in body for _, after, body in refused)


FORMS: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("/api/assets", Problem),
    ("/api/s3/resources?type=vrm", Envelope),
    ("/api/vrm-thumbnail?url=x", BareError),
)


async def test_what_nginx_refuses_by_itself_has_the_form_and_the_origins_of_the_api(
    settings: Settings, tmp_path: Path
) -> None:
    few = RateSettings(anonymous=Rate(burst=1, per_second=0.01))
    async with fronted(replace(settings, rates=few), tmp_path, burst=1) as front:

        async def refused(api: Api, path: str, origin: str) -> tuple[dict[str, str], Any]:
            """One of the refusals of many requests that come at once; those of nginx say 5 seconds."""

            async def ask() -> tuple[int, dict[str, str], Any]:
                async with api.client.get(api.url + path, headers={"Origin": origin}) as answer:
                    headers = {name.lower(): value for name, value in answer.headers.items()}
                    return answer.status, headers, await answer.json(content_type=None)

            answers = await asyncio.gather(*(ask() for _ in range(40)))
            by_nginx = api is front.nginx
            return next(
                (headers, body)
                for status, headers, body in answers
                if status == 429 and (headers["retry-after"] == "5") == by_nginx
            )

        for path, form in FORMS:
            for origin, open_to in ((STUDIO, STUDIO), ("https://evil.example", None)):
                own, own_body = await refused(front.straight, path, origin)
                headers, body = await refused(front.nginx, path, origin)
                assert msgspec.convert(body, form)
                assert body.keys() == own_body.keys()
                assert body.get("title") == own_body.get("title")
                assert (body["error"] if "success" in body else body)["code"] == "rate_limited"
                assert headers["content-type"] == own["content-type"]
                assert own.get("access-control-allow-origin") == open_to
                for name in ("access-control-allow-origin", "access-control-allow-credentials"):
                    assert headers.get(name) == (own.get(name) if open_to else None), name
                for exposed in (headers, own) if open_to else (headers,):
                    assert "retry-after" in exposed["access-control-expose-headers"].split(", ")
                assert re.fullmatch("[0-9a-f]{32}", headers["x-request-id"])
                if form is Problem:
                    assert UUID(body["instance"]).hex == headers["x-request-id"]
