"""Which host names the API answers under, what headers its answers have, and whose `X-Forwarded-*` it believes."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from butai.config import HttpSettings, Settings
from butai.operations import console
from tests.conftest import Api, serving
from tests.forked import run_butai
from tests.processes import api_process, environment

HTTP = HttpSettings(
    public_url="https://studio.example:8443/", allowed_hosts=("API.internal", "10.0.0.5", "[2001:db8::5]")
)


@pytest.fixture
async def named(settings: Settings) -> AsyncIterator[Api]:
    async with serving(replace(settings, http=HTTP)) as api:
        yield api


def _raw(api: Api, lines: tuple[str, ...]) -> tuple[int, dict[str, str], bytes]:
    with socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0), timeout=60) as wire:
        wire.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
        said = b""
        while chunk := wire.recv(65536):
            said += chunk
    head, _, body = said.partition(b"\r\n\r\n")
    first, *rest = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in rest)}
    return int(first.split()[1]), headers, body


async def raw(api: Api, *lines: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a request that is sent as it stands."""
    return await asyncio.to_thread(_raw, api, lines)


async def status(api: Api, host: str, path: str = "/openapi.json") -> int:
    async with api.client.get(api.url + path, headers={"Host": host}) as answer:
        return answer.status


ALLOWED = (
    "studio.example",
    "studio.example:8443",
    "STUDIO.example:1",
    "api.internal",
    "10.0.0.5:8080",
    "[2001:db8::5]",
)
LOOPBACK = ("localhost", "localhost:3000", "127.0.0.1:9", "[::1]:8080", "api.studio.localhost:8080")
FOREIGN = (
    "evil.example",
    "evil.example:8080",
    "studio.example.evil.example",
    "xstudio.example",
    "studio.example.",
    "localhost.evil.example",
    "localhost@evil.example",
    "evil.example/@localhost",
    "127.0.0.1.nip.io",
    "10.0.0.6",
    "0.0.0.0:8080",
    "[::]:8080",
    "*",
    "127.0.0.1:port",
    "a" * 400,
)


async def test_only_hosts_that_are_set_and_loopback_names_are_answered(named: Api) -> None:
    for host in (*ALLOWED, *LOOPBACK):
        assert await status(named, host) == 200, host
    for host in FOREIGN:
        assert await status(named, host) == 421, host


@pytest.mark.parametrize(
    ("address", "expected"), [("0.0.0.0", 200), ("::", 200), ("", 200), ("10.0.0.5", 421), ("studio.example", 421)]
)
async def test_loopback_names_are_answered_where_the_api_listens_on_loopback_too(
    settings: Settings, address: str, expected: int
) -> None:
    async with serving(replace(settings, http=HTTP.model_copy(update={"host": address}))) as api:
        for host in LOOPBACK:
            assert await status(api, host) == expected, host
        for host in ALLOWED:
            assert await status(api, host) == 200, host
        for host in FOREIGN:
            assert await status(api, host) == 421, host


async def test_the_refusal_names_the_setting_in_each_form_of_an_error(api: Api) -> None:
    headers = {"Host": "evil.example"}
    code, body = await api.call("GET", "/api/assets", "alice", headers=headers)
    assert (code, body["code"]) == (421, "host_not_allowed")
    assert "BUTAI_ALLOWED_HOSTS" in body["detail"]
    code, body = await api.call("GET", "/api/s3/resources?type=vrm", "alice", headers=headers)
    assert (code, body["error"]["code"]) == (421, "host_not_allowed")
    async with api.client.get(api.url, headers=headers) as answer:
        assert answer.status == 421
        assert answer.headers["X-Request-Id"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "evil.example" not in await answer.text()


async def test_every_path_is_held_to_it_but_those_of_machines(api: Api) -> None:
    for path in (
        "/",
        "/library",
        "/docs",
        "/metrics",
        "/api/session",
        "/sign-in",
        "/console/x.js",
        "/api/live/events/ws",
    ):
        assert await status(api, "evil.example", path) == 421, path
    for path in ("/healthz", "/readyz"):
        assert await status(api, "evil.example", path) == 200
    for path in ("//healthz", "/healthz/", "/healthz/../metrics", "/readyz%2f", "/api/live/webhook/x"):
        assert (await raw(api, f"GET {path} HTTP/1.1", "Host: evil.example"))[0] == 421, path


async def test_the_webhook_of_livekit_is_judged_by_its_signature_under_any_host(live_settings: Settings) -> None:
    async with serving(live_settings) as api:
        headers = {"Host": "livekit-posts-here.internal", "Content-Type": "application/webhook+json"}
        async with api.client.post(f"{api.url}/api/live/webhook", data=b"{}", headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (401, "webhook_refused")


@pytest.mark.parametrize(
    "lines",
    [
        ("GET /metrics HTTP/1.0",),
        ("GET /metrics HTTP/1.1",),
        ("GET /metrics HTTP/1.1", "Host:"),
        ("GET /metrics HTTP/1.1", "Host: localhost", "Host: evil.example"),
        ("GET /metrics HTTP/1.1", "Host: evil.example", "Host: localhost"),
        ("GET /metrics HTTP/1.1", "Host: evil.example", "X-Forwarded-Host: localhost"),
        ("GET /metrics HTTP/1.1", "Host: evil.example", "Forwarded: host=localhost"),
        ("GET /metrics HTTP/1.1", "Host: \xe9vil.example"),
        ("GET http://localhost/metrics HTTP/1.1", "Host: evil.example"),
    ],
    ids=str,
)
async def test_no_host_two_hosts_and_a_forwarded_one_are_refused(api: Api, lines: tuple[str, ...]) -> None:
    code, _, body = await raw(api, *lines)
    assert code in (400, 421)
    assert b"butai_" not in body


@pytest.mark.parametrize("host", [("Host: evil.example",), ()])
async def test_a_websocket_is_held_to_it(settings: Settings, tmp_path: Path, host: tuple[str, ...]) -> None:
    """By the service's own server, whose WebSockets are not those of the tests' server."""
    ask = ["GET /api/live/events/ws?room_id=x HTTP/1.1", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    ask += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    async with api_process(settings, tmp_path / "api.log") as (_, api):
        with socket.create_connection(("127.0.0.1", urlsplit(api.url).port or 0), timeout=60) as wire:
            wire.sendall("\r\n".join([*ask, *host, "Connection: Upgrade", "", ""]).encode())
            said = wire.recv(65536)
    assert said.split(b" ")[1] in (b"421", b"400"), said
    if host:
        assert b"host_not_allowed" in said


# Headers


async def test_every_answer_carries_the_headers_that_limit_it(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "DIST", tmp_path / "nothing")
    for path, expected in (
        ("/", 200),
        ("/docs", 200),
        ("/sign-in", 200),
        ("/api/session", 200),
        ("/openapi.json", 200),
        ("/metrics", 200),
        ("/healthz", 200),
        ("/api/assets", 200),
        ("/api/jobs", 401),
        ("/api/s3/resources", 401),
        ("/nothing", 404),
        ("/console/nothing.js", 404),
    ):
        async with api.client.get(api.url + path) as answer:
            assert answer.status == expected, path
            assert answer.headers.getall("X-Content-Type-Options") == ["nosniff"], path
            (referrer,) = answer.headers.getall("Referrer-Policy")
            assert referrer == ("no-referrer" if path == "/sign-in" else "same-origin"), path
            is_page = answer.content_type == "text/html"
            assert answer.headers.get("Cross-Origin-Opener-Policy") == ("same-origin" if is_page else None), path
            assert "Strict-Transport-Security" not in answer.headers


async def test_https_is_kept_to_where_the_public_url_has_it(named: Api) -> None:
    for path in ("/", "/api/assets", "/healthz"):
        async with named.client.get(named.url + path) as answer:
            assert answer.headers["Strict-Transport-Security"] == "max-age=31536000"


async def test_a_file_that_begins_with_a_dot_is_not_served(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / ".made-of").write_text("0" * 64)
    (tmp_path / "favicon.svg").write_text("<svg/>")
    monkeypatch.setattr(console, "DIST", tmp_path)
    for path, expected in (("favicon.svg", 200), (".made-of", 404), ("%2emade-of", 404), ("./.made-of", 404)):
        assert (await raw(api, f"GET /console/{path} HTTP/1.1", "Host: localhost"))[0] == expected, path


@pytest.mark.parametrize(
    "given", ["x", "short77", "a" * 65, "a b c d e f", "../../../etc", "id\"'<script>", "évil-evil", "%0d%0aX: 1234"]
)
async def test_a_callers_request_id_is_of_few_letters_and_bounded_or_replaced(api: Api, given: str) -> None:
    async with api.client.get(f"{api.url}/healthz", headers={"X-Request-Id": given}) as answer:
        assert answer.headers["X-Request-Id"] != given
        assert len(answer.headers["X-Request-Id"]) == 32
    async with api.client.get(f"{api.url}/healthz", headers={"X-Request-Id": "trace-0123.4_5"}) as answer:
        assert answer.headers["X-Request-Id"] == "trace-0123.4_5"


# Forwarding


@pytest.mark.parametrize(("trusted", "client"), [("", "127.0.0.1"), ("127.0.0.1", "203.0.113.66")])
async def test_forwarded_addresses_are_believed_of_proxies_that_are_set_alone(
    settings: Settings, tmp_path: Path, trusted: str, client: str
) -> None:
    log = tmp_path / "api.log"
    async with api_process(settings, log, BUTAI_TRUSTED_PROXIES=trusted) as (_, api):
        headers = {"X-Forwarded-For": "203.0.113.66", "X-Forwarded-Proto": "https"}
        wanted = {"fileName": "vrm/a.vrm", "fileType": "model/vrm"}
        signed = f"{api.url}/api/s3/presigned-url"
        async with api.client.post(signed, json=wanted, headers=headers | api.cookie("alice")) as answer:
            assert answer.status == 200
            assert (await answer.json())["data"]["url"].startswith("https://127.0.0.1") == bool(trusted)
        # What the server answers by itself has the headers, too.
        code, said, _ = await raw(api, "NOT HTTP")
        assert (code, said["x-content-type-options"], said["referrer-policy"]) == (400, "nosniff", "same-origin")
    seen: list[Any] = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    assert [line["client"] for line in seen if line.get("path") == "/api/s3/presigned-url"] == [client]


# Settings that cannot be


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("BUTAI_CORS_ORIGINS", '["*"]', "name the origins"),
        ("BUTAI_CORS_ORIGINS", '["https://good.example", "*"]', "name the origins"),
        ("BUTAI_CORS_ORIGINS", '["null"]', "is not an origin"),
        ("BUTAI_CORS_ORIGINS", '["studio.example"]', "is not an origin"),
        ("BUTAI_CORS_ORIGINS", '["https://*.studio.example"]', "is not an origin"),
        ("BUTAI_CORS_ORIGINS", '["https://studio.example/page"]', "is not an origin"),
        ("BUTAI_CORS_ORIGINS", '["file:///home"]', "is not an origin"),
        ("BUTAI_CORS_ORIGINS", '["https://user@studio.example"]', "is not an origin"),
        ("BUTAI_PUBLIC_URL", "studio.example", "is not a URL of a site"),
        ("BUTAI_PUBLIC_URL", "ftp://studio.example", "is not a URL of a site"),
        ("BUTAI_ALLOWED_HOSTS", '["*"]', "is not a host name"),
        ("BUTAI_ALLOWED_HOSTS", '["https://studio.example"]', "is not a host name"),
        ("BUTAI_ALLOWED_HOSTS", '["studio.example:443"]', "is not a host name"),
    ],
)
def test_what_opens_too_much_or_is_no_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=said):
        HttpSettings()


def test_the_command_refuses_to_start_with_one_line(settings: Settings) -> None:
    done = run_butai("api", env=environment(settings, BUTAI_CORS_ORIGINS='["*"]'))
    assert done.returncode == 1
    assert "name the origins" in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_origin_is_spelled_as_browsers_spell_it() -> None:
    assert HttpSettings(cors_origins=("HTTPS://Friend.example/",)).cors_origins == ("https://friend.example",)
