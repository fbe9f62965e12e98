"""Keys for encoders by HTTP: what OBS needs, for hosts alone, told once and written nowhere."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest
from pydantic import ValidationError

from butai.config import IngestSettings, Settings
from butai.database import Database
from butai.live.encoders import keys
from tests.canaries import leaks
from tests.conftest import Api, serving
from tests.live_api import bearer, go_live, make_room, save, sql

PATH = "/api/live/rooms/studio-1/encoders"
SERVER = "rtmps://ingest.example:1936/live"


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(replace(live_settings, ingest=IngestSettings(url="rtmps://ingest.example:1936"))) as running:
        yield running


async def ask(api: Api, method: str, path: str, status: int, user: str | None = "alice", **more: Any) -> Any:
    found, said = await api.call(method, path, user, **more)
    assert found == status, said
    return said


async def trail(database: Database) -> list[Any]:
    return await sql(
        database,
        "SELECT action, result, error_code, detail ->> 'encoder_id' FROM audit WHERE action LIKE 'live.encoder%'"
        " ORDER BY id",
    )


async def test_a_key_is_told_once_and_stands_nowhere_in_the_clear(
    api: Api, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    await make_room(api)
    await save(api)
    await go_live(api)
    made = await ask(api, "POST", PATH, 201, json={"label": "OBS at home"})
    key = made["key"]
    assert made["server"] == SERVER and made["url"] == f"{SERVER}/{key}" and len(key) == 48
    assert made["label"] == "OBS at home" and made["last_used_at"] is None and made["last_used_from"] is None
    accepted = await keys.accepted(database, [key], "203.0.113.9")
    assert accepted is not None and str(accepted.id) == made["encoder_id"]

    renewed = await ask(api, "POST", f"{PATH}/{made['encoder_id']}/renew", 200)
    assert renewed["encoder_id"] == made["encoder_id"] and renewed["label"] == "OBS at home"
    assert renewed["key"] != key and renewed["url"] == f"{SERVER}/{renewed['key']}"
    assert renewed["renewed_at"] > made["renewed_at"] and renewed["last_used_from"] == "203.0.113.9"
    assert await keys.accepted(database, [key], "203.0.113.9") is None
    assert await keys.accepted(database, [renewed["key"]], "203.0.113.10") is not None

    found = await ask(api, "GET", PATH, 200)
    (one,) = found["data"]
    assert (one["encoder_id"], one["last_used_from"]) == (made["encoder_id"], "203.0.113.10") and one["last_used_at"]
    assert one["key_fingerprint"] == renewed["key_fingerprint"] != made["key_fingerprint"]
    status = await ask(api, "GET", "/api/live/status?room_id=studio-1", 200)
    assert {"encoder.made", "encoder.renewed"} <= {event["event"] for event in status["timeline"]}

    await ask(api, "DELETE", f"{PATH}/{made['encoder_id']}", 204)
    assert await keys.accepted(database, [renewed["key"]], "203.0.113.9") is None
    assert (await ask(api, "GET", PATH, 200))["data"] == []
    said = capfd.readouterr()
    outputs = {"answers": f"{found}{status}".encode(), "log": (said.out + said.err).encode()}
    for table in ("encoder_keys", "live_events", "audit", "broadcasts"):
        rows = await sql(database, f"SELECT t::text FROM {table} t")
        assert rows, table
        outputs[table] = str(rows).encode()
    assert leaks({"first": key.removeprefix("live_"), "second": renewed["key"].removeprefix("live_")}, outputs) == []
    assert await trail(database) == [
        (f"live.encoder_{what}", "ok", None, made["encoder_id"]) for what in ("made", "renewed", "revoked")
    ]


async def test_only_the_host_has_keys_and_only_those_of_the_room(api: Api, database: Database) -> None:
    host = bearer((await make_room(api))["host_token"])
    await make_room(api, "studio-2")
    made = await ask(api, "POST", PATH, 201, None, json={}, headers=host)
    mine, elsewhere = f"{PATH}/{made['encoder_id']}", f"/api/live/rooms/studio-2/encoders/{made['encoder_id']}"
    for method, path, more in (
        ("POST", PATH, {"json": {}}),
        ("GET", PATH, {}),
        ("POST", f"{mine}/renew", {}),
        ("DELETE", mine, {}),
    ):
        assert (await ask(api, method, path, 403, "bob", **more))["code"] == "not_host"
        assert (await ask(api, method, path, 401, None, **more))["code"] == "auth_required"
    for path in (f"{elsewhere}/renew", f"{PATH}/{uuid4()}/renew"):
        assert (await ask(api, "POST", path, 404))["code"] == "encoder_not_found"
    for path in (elsewhere, f"{PATH}/{uuid4()}"):
        assert (await ask(api, "DELETE", path, 404))["code"] == "encoder_not_found"
    await ask(api, "DELETE", f"{PATH}/nonsense", 400)
    await ask(api, "POST", PATH, 400, json={"label": "two\nlines"})
    await ask(api, "POST", PATH, 400, json={"label": "x" * 101})
    # With the host token that made it the key ends.
    assert len((await ask(api, "GET", PATH, 200))["data"]) == 1
    await ask(api, "POST", "/api/live/rooms/studio-1/tokens/revoke", 200)
    assert (await ask(api, "GET", PATH, 200))["data"] == []
    assert (await ask(api, "DELETE", mine, 404))["code"] == "encoder_not_found"
    refused = await sql(database, "SELECT action, error_code FROM audit_counts")
    assert {
        *((f"live.encoder_{what}", "not_host") for what in ("made", "renewed", "revoked")),
        *((f"live.encoder_{what}", "encoder_not_found") for what in ("renewed", "revoked")),
    } <= {tuple(row) for row in refused}


async def test_a_room_has_a_number_of_keys_and_a_closed_one_gets_none(api: Api) -> None:
    await make_room(api)
    made = [await ask(api, "POST", PATH, 201, json={"label": str(number)}) for number in range(keys.MOST)]
    assert (await ask(api, "POST", PATH, 403, json={}))["code"] == "quota_exceeded"
    await ask(api, "POST", f"{PATH}/{made[0]['encoder_id']}/renew", 200)
    await ask(api, "DELETE", f"{PATH}/{made[0]['encoder_id']}", 204)
    await ask(api, "POST", PATH, 201, json={})
    await ask(api, "POST", "/api/live/rooms/studio-1/close", 200)
    assert (await ask(api, "POST", PATH, 409, json={}))["code"] == "room_closed"
    assert (await ask(api, "POST", f"{PATH}/{made[1]['encoder_id']}/renew", 409))["code"] == "room_closed"
    await ask(api, "DELETE", f"{PATH}/{made[1]['encoder_id']}", 204)


async def test_without_an_address_for_encoders_no_key_is_made(live_settings: Settings) -> None:
    async with serving(live_settings) as api:
        await make_room(api)
        assert (await ask(api, "POST", PATH, 503, json={}))["code"] == "ingest_not_configured"
        assert (await ask(api, "GET", PATH, 200))["data"] == []


@pytest.mark.parametrize(
    ("given", "server"),
    [
        ("rtmp://ingest.example", "rtmp://ingest.example/live"),
        ("rtmps://ingest.example:1936/", "rtmps://ingest.example:1936/live"),
        ("rtmp://[2001:db8::1]:1935/studio/", "rtmp://[2001:db8::1]:1935/studio"),
        ("", ""),
    ],
)
def test_the_address_that_encoders_are_told(given: str, server: str) -> None:
    assert IngestSettings(url=given).url == server


@pytest.mark.parametrize(
    "given",
    [
        "http://ingest.example",
        "rtmp://",
        "ingest.example:1935",
        "rtmp://user:canary-5a1@ingest.example",
        "rtmp://ingest.example/live?key=canary-5a1",
        "rtmp://ingest.example/live#canary-5a1",
        "rtmp://ingest.example:port",
        "rtmp://ingest.example:0",
        "rtmp://ingest.example/li ve",
    ],
)
def test_what_is_no_address_of_a_server_is_refused(given: str) -> None:
    with pytest.raises(ValidationError) as refused:
        IngestSettings(url=given)
    (finding,) = refused.value.errors()
    assert "RTMP server" in finding["msg"] and "canary" not in finding["msg"]
