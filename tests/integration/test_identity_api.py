"""Who is calling, through the running API."""

from __future__ import annotations

import re

import aiohttp
import pytest

from butai.database import Database
from butai.identity import NEXTAUTH_COOKIE
from butai.identity.api_keys import create_api_key, revoke_api_key
from butai.sign_in.codes import make_code
from tests.conftest import Api

LIST = "/api/s3/resources?type=vrm"


async def test_lists_need_a_caller_and_tell_a_bad_one_so(api: Api) -> None:
    assert (await api.call("GET", LIST, "aoi"))[0] == 200
    for headers in (
        {},
        {"Cookie": f"{NEXTAUTH_COOKIE}=nonsense"},
        {"Authorization": "Bearer a.b.c"},
        {"X-API-Key": "butai_1_2"},
        {**api.cookie("aoi"), "Authorization": "Basic dTpw"},
    ):
        status, body = await api.call("GET", LIST, headers=headers)
        assert (status, body["success"]) == (401, False), headers
        assert "nonsense" not in str(body)


async def test_another_site_may_not_write_with_the_callers_cookie(api: Api) -> None:
    own = {"Origin": api.url}
    evil = {"Origin": "https://evil.example"}
    wanted = {"fileName": "vrm/a.vrm", "fileType": "model/vrm"}
    path = "/api/s3/presigned-url"
    status, body = await api.call("POST", path, "aoi", json=wanted, headers=evil)
    assert (status, body["error"]["code"]) == (403, "origin_denied")
    status, body = await api.call("POST", path, "aoi", json=wanted, headers={"Sec-Fetch-Site": "cross-site"})
    assert (status, body["error"]["code"]) == (403, "origin_denied")
    assert (await api.call("POST", path, "aoi", json=wanted, headers=own))[0] == 200
    assert (await api.call("GET", LIST, "aoi", headers=evil))[0] == 200


async def test_an_api_key_works_until_it_is_revoked(api: Api, database: Database) -> None:
    key, token = await create_api_key(database, "aoi", ["user"])
    revoked = f"butai_{key.id}_{'0' * 64}"
    assert (await api.call("GET", LIST, headers={"Authorization": f"Bearer {token}"}))[0] == 200
    assert (await api.call("GET", LIST, headers={"X-API-Key": token}))[0] == 200
    assert (await api.call("GET", LIST, headers={"X-API-Key": revoked}))[0] == 401
    key, token = await create_api_key(database, "aoi", ["user"])
    await revoke_api_key(database, key.id)
    assert (await api.call("GET", LIST, headers={"X-API-Key": token}))[0] == 401


async def sign_in(api: Api, **headers: str) -> tuple[int, str]:
    """Status and cookie of an exchange of a new code for ren's session."""
    code = {"code": make_code(api.settings.up.data_dir, "ren")}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{api.url}/api/session", json=code, headers=headers, allow_redirects=False) as answer,
    ):
        return answer.status, answer.headers.get("Set-Cookie", "")


async def test_development_sign_in_makes_a_session_that_lists_believe(api: Api) -> None:
    status, cookie = await sign_in(api)
    assert status == 303
    assert re.search(r"HttpOnly", cookie) and re.search(r"SameSite=lax", cookie)
    assert (await api.call("GET", LIST, headers={"Cookie": cookie.partition(";")[0]}))[0] == 200


@pytest.mark.parametrize("headers", [{"X-Forwarded-For": "127.0.0.1"}, {"Host": "rebound.example"}, {"Via": "1.1 x"}])
async def test_development_sign_in_is_not_there_behind_a_proxy_or_another_name(
    api: Api, headers: dict[str, str]
) -> None:
    expected = 421 if "Host" in headers else 404
    assert await sign_in(api, **headers) == (expected, "")
    async with api.client.get(f"{api.url}/sign-in", headers=headers, allow_redirects=False) as answer:
        assert answer.status == expected
        assert "Set-Cookie" not in answer.headers
