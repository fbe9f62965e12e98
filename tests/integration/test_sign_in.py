"""Development sign-in over HTTP: a link's page, its code exchanged for a session, and nothing that a GET could do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import stat
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import aiohttp
import psycopg
import pytest
from psycopg import sql
from starlette.routing import BaseRoute, Route
from yarl import URL

from butai.api import create_app
from butai.assets.keys import read_url
from butai.config import IdentitySettings, IngestSettings, Settings
from butai.identity import NEXTAUTH_COOKIE
from butai.operations import sign_in
from butai.sign_in.codes import FOLDER, make_code
from tests.conftest import Api, serving
from tests.fuzz.seeds import Seeds, plant

LIST = "/api/s3/resources?type=vrm"


async def exchange(api: Api, code: str, **headers: str) -> tuple[int, dict[str, Any], str]:
    """Status, body and cookie of an exchange."""
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{api.url}/api/session", json={"code": code}, headers=headers, allow_redirects=False) as answer,
    ):
        body = await answer.json() if answer.content_type.endswith("json") else {"location": answer.headers["Location"]}
        return answer.status, body, answer.headers.get("Set-Cookie", "")


def code_for(api: Api, user: str = "ren") -> str:
    return make_code(api.settings.up.data_dir, user)


async def test_a_code_is_exchanged_for_a_session_once(api: Api) -> None:
    code = code_for(api)
    status, body, cookie = await exchange(api, code)
    assert (status, body) == (303, {"location": "/"})
    morsel = SimpleCookie(cookie)[NEXTAUTH_COOKIE]
    assert (morsel["httponly"], morsel["samesite"].lower(), morsel["path"], morsel["domain"]) == (True, "lax", "/", "")
    assert (await api.call("GET", LIST, headers={"Cookie": cookie.partition(";")[0]}))[0] == 200
    status, body = await api.call("GET", "/api/session", headers={"Cookie": cookie.partition(";")[0]})
    assert body["userId"] == "ren"
    status, body, cookie = await exchange(api, code)
    assert (status, body["code"], cookie) == (403, "sign_in_code_invalid", "")


async def test_each_code_signs_in_its_own_user_the_operator_too(settings: Settings) -> None:
    identity = settings.identity.model_copy(update={"operators": ("operator",)})
    async with serving(replace(settings, identity=identity)) as api:
        for user, operates in (("operator", True), ("ren", False)):
            cookie = (await exchange(api, code_for(api, user)))[2].partition(";")[0]
            _, body = await api.call("GET", "/api/session", headers={"Cookie": cookie})
            assert (body["userId"], body["operator"]) == (user, operates)


async def test_of_several_processes_one_takes_a_code(settings: Settings) -> None:
    async with serving(settings) as first, serving(settings) as second:
        code = code_for(first)
        answers = await asyncio.gather(*(exchange(api, code) for api in (first, second) * 5))
    assert sorted(status for status, _, _ in answers) == [303] + [403] * 9
    assert sum(bool(cookie) for _, _, cookie in answers) == 1


async def test_guesses_are_bounded(api: Api) -> None:
    code = code_for(api)
    for number in range(sign_in.GUESSES):
        status, body, _ = await exchange(api, f"{number:032}")
        assert (status, body["code"]) == (403, "sign_in_code_invalid")
    async with api.client.post(f"{api.url}/api/session", json={"code": code}) as answer:
        assert (answer.status, (await answer.json())["code"]) == (429, "rate_limited")
        assert int(answer.headers["Retry-After"]) > 0
        assert "Set-Cookie" not in answer.headers


async def test_good_codes_are_no_guesses(api: Api) -> None:
    for _ in range(sign_in.GUESSES + 5):
        assert (await exchange(api, code_for(api)))[0] == 303


async def test_guesses_that_come_at_once_are_bounded_as_well(api: Api) -> None:
    answers = await asyncio.gather(*(exchange(api, f"{number:032}") for number in range(3 * sign_in.GUESSES)))
    # A token more may have come while they were asked.
    assert sum(status == 403 for status, _, _ in answers) <= sign_in.GUESSES + 1
    assert {status for status, _, _ in answers} == {403, 429}


async def test_the_bound_ends_and_the_code_is_good_still(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    code, now = code_for(api), 1000.0
    monkeypatch.setattr(sign_in.time, "monotonic", lambda: now)
    for number in range(sign_in.GUESSES):
        await exchange(api, f"{number:032}")
    assert (await exchange(api, code))[0] == 429
    now += 60
    assert (await exchange(api, code))[0] == 303


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:1"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"}, 403),
        ({"Host": "rebound.example"}, None),
        ({"X-Forwarded-For": "127.0.0.1"}, 404),
        ({"Forwarded": "for=127.0.0.1"}, 404),
        ({"Via": "1.1 x"}, 404),
        ({"X-Forwarded-Host": "localhost"}, 404),
    ],
    ids=str,
)
async def test_another_site_or_a_proxy_takes_no_code(api: Api, headers: dict[str, str], expected: int | None) -> None:
    code = code_for(api)
    status, _, cookie = await exchange(api, code, **headers)
    assert cookie == ""
    assert status == expected if expected else status >= 400
    assert (await exchange(api, code, Origin=api.url))[0] == 303


async def test_a_form_of_another_site_takes_no_code(api: Api) -> None:
    """A form needs no leave of the browser, and can be made to look like JSON: it is not taken for that."""
    code = code_for(api)
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        headers = {"Content-Type": kind, "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        body = json.dumps({"code": code})
        async with api.client.post(f"{api.url}/api/session", data=body, headers=headers) as answer:
            assert answer.status in (400, 403) and "Set-Cookie" not in answer.headers
    assert (await exchange(api, code))[0] == 303


async def test_where_it_is_off_there_is_no_such_page(settings: Settings) -> None:
    identity = IdentitySettings(NEXTAUTH_SECRET=settings.identity.nextauth_secret)  # pyright: ignore[reportCallIssue]
    async with serving(settings), serving(replace(settings, identity=identity)) as api:
        assert (await exchange(api, code_for(api)))[0] == 404
        assert (await api.call("GET", "/sign-in"))[0] == 404


async def test_codes_in_a_folder_that_others_may_write_to_are_not_taken(api: Api) -> None:
    code = code_for(api)
    folder = api.settings.up.data_dir / FOLDER
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.chmod(0o777)
    assert (await exchange(api, code))[0] == 404
    folder.chmod(0o700)
    assert (await exchange(api, code))[0] == 303


async def test_a_user_that_cannot_be_is_not_signed_in(api: Api) -> None:
    status, body, cookie = await exchange(api, code_for(api, "a\nb"))
    assert (status, body["code"], cookie) == (400, "invalid_request", "")


async def test_the_page_runs_one_script_that_its_policy_names(api: Api) -> None:
    async with api.client.get(f"{api.url}/sign-in") as answer:
        assert answer.status == 200 and "Set-Cookie" not in answer.headers
        policy, page = answer.headers["Content-Security-Policy"], await answer.text()
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cache-Control"] == "no-store"
    assert "default-src 'none'" in policy and "'unsafe-inline'" not in policy and "frame-ancestors 'none'" in policy
    for tag in ("script", "style"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert not re.findall(r"\bon\w+=|javascript:|src=", page)


@pytest.mark.parametrize("query", ["", "?user=mallory"])
async def test_the_sign_in_by_a_get_is_gone(api: Api, query: str) -> None:
    for method in ("GET", "HEAD", "POST"):
        async with api.client.request(method, f"{api.url}/dev/sign-in{query}", allow_redirects=False) as answer:
            assert answer.status == 404 and "Set-Cookie" not in answer.headers


def rows(url: str) -> dict[str, list[str]]:
    """Every row of every table, with the version that Postgres gives it: an update that changes nothing is seen, too."""
    with psycopg.connect(url) as connection:
        tables = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return {
            table: [
                row[0]
                for row in connection.execute(
                    sql.SQL("SELECT format('%s %s %s', t.ctid, t.xmin, t) FROM {} AS t ORDER BY 1").format(
                        sql.Identifier(schema, table)
                    )
                )
            ]
            for schema, table in tables
        }


def gets(routes: Sequence[BaseRoute]) -> set[str]:
    """The paths of all routes that answer a GET, those that the document does not name too."""
    found: set[str] = set()
    for route in routes:
        inner: Any = getattr(route, "original_router", None)
        if inner is not None:
            found |= gets(inner.routes)
        elif isinstance(route, Route) and "GET" in (route.methods or ()):
            # Without the kinds of the places, as the document has it.
            found.add(re.sub(r":\w+(?=})", "", route.path))
    return found


def filled(path: str, seeds: Seeds, operation: dict[str, Any]) -> list[str]:
    """Addresses of a path with ids that are there, and values for what it needs."""
    ids = {
        "asset_id": seeds.assets,
        "upload_id": seeds.uploads,
        "destination_id": seeds.destinations,
        "session_id": seeds.broadcasts,
        "output_id": seeds.outputs,
        "room_id": seeds.rooms,
        "room": seeds.rooms,
        "path": ["index.html", "favicon.svg"],
    }
    fit = {
        "key": [quote(key, safe="") for key in seeds.readable],
        "url": [quote(read_url(key), safe="") for key in seeds.readable],
        "type": ["vrm", "models"],
        "room_id": seeds.rooms,
        "session_id": seeds.broadcasts,
    }
    places = re.findall(r"\{([^}]+)\}", path)
    wanted = [
        given["name"]
        for given in operation.get("parameters", [])
        if given["in"] == "query" and (given.get("required") or given["name"] in ("room_id", "session_id"))
    ]
    found = []
    for number in range(3):
        address = path
        for place in places:
            values = ids.get(place, [str(uuid4())])
            address = address.replace(f"{{{place}}}", str(values[number % len(values)]), 1)
        query = "&".join(f"{name}={fit[name][number % len(fit[name])]}" for name in wanted)
        found.append(f"{address}?{query}" if query else address)
    return sorted(set(found))


async def test_no_get_signs_anybody_in_or_changes_a_row(live_settings: Settings, database_url: str) -> None:
    identity = live_settings.identity.model_copy(update={"operators": ("olga",)})
    application: Any = create_app(live_settings)
    while not hasattr(application, "openapi"):
        application = application.app
    operations = {path: methods["get"] for path, methods in application.openapi()["paths"].items() if "get" in methods}
    paths = gets(application.routes)
    assert paths >= set(operations)
    assert paths >= {"/", "/sign-in", "/docs", "/openapi.json", "/metrics", "/console/{path}", "/api/live/events"}
    ingest = IngestSettings(url="rtmps://ingest.example")
    async with serving(replace(live_settings, identity=identity, ingest=ingest)) as api:
        seeds = await plant(api)
        code = code_for(api)
        before = rows(database_url)
        statuses: dict[str, set[int]] = defaultdict(set)
        for path in sorted(paths):
            for address in filled(path, seeds, operations.get(path, {})):
                for user in (None, "alice", "olga"):
                    headers = api.cookie(user) if user else {}
                    url = URL(api.url + address, encoded=True)
                    for method in ("GET", "HEAD"):
                        async with api.client.request(method, url, headers=headers, allow_redirects=False) as answer:
                            # A stream of events has no end; its beginning is what a GET does.
                            await answer.content.read(1)
                            statuses[path].add(answer.status)
                            assert "Set-Cookie" not in answer.headers, address
        assert rows(database_url) == before
        # Nothing of it took the code.
        assert (await exchange(api, code))[0] == 303
    # When a file was last read is noted, for the patrol; it is written once a minute, and at the end.
    after = rows(database_url)
    assert {table for table in after if after[table] != before[table]} <= {"asset_checks"}
    answered = {path for path, seen in statuses.items() if 200 in seen}
    assert len(answered) > 30, statuses
    assert not [path for path, seen in statuses.items() if 500 in seen]
