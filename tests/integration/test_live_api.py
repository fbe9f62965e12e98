"""Going live over HTTP, without a controller: destinations, events as they happen, and the audit trail."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import aiohttp
import pytest
from pydantic import SecretStr

from butai.audit import export, queries
from butai.config import LiveSettings, Settings
from butai.database import Database
from butai.errors import DatabaseUnavailable
from butai.identity.api_keys import create_api_key
from butai.live.destinations import service
from butai.live.stream_keys import Sealer
from tests.conftest import Api, serving
from tests.live_api import CANARY, ROOM, SECRET, Listener, go_live, make_room, save, sql
from tests.platforms import Platform


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


# Destinations


async def test_a_key_goes_in_and_never_comes_out(api: Api, database: Database) -> None:
    made = await save(api, label="My channel")
    assert set(made) >= {"id", "key_fingerprint", "ingest_url"} and "stream_key" not in made
    path = f"/api/live/destinations/{made['id']}"
    edited = {"label": "Second", "stream_key": CANARY + "2"}
    status, changed = await api.call("PATCH", path, "alice", json=edited)
    assert (status, changed["label"]) == (200, "Second")
    assert changed["key_fingerprint"] != made["key_fingerprint"]
    listed = (await api.call("GET", "/api/live/destinations", "alice"))[1]["data"]
    assert [one["id"] for one in listed] == [made["id"]]
    assert CANARY not in json.dumps([made, changed, listed])
    for user in ("bob",):
        assert (await api.call("GET", path, user))[0] == 404
        assert (await api.call("PATCH", path, user, json={"label": "x"}))[0] == 404
        assert (await api.call("DELETE", path, user))[0] == 404
        assert (await api.call("POST", path + "/test", user))[0] == 404
    (sealed,) = await sql(database, "SELECT sealed_key, id FROM destinations")
    assert CANARY.encode() not in sealed[0]
    assert Sealer(api.settings.live).open(sealed[0]) == CANARY + "2"
    assert (await api.call("DELETE", path, "alice"))[0] == 204
    assert (await api.call("GET", path, "alice"))[0] == 404
    assert await sql(database, "SELECT sealed_key FROM destinations") == [(b"",)]


@pytest.mark.parametrize(
    "wrong",
    [
        {"ingest_url": "http://x/live"},
        {"ingest_url": "rtmp://x"},
        {"ingest_url": "rtmp://user:pw@x/live"},
        {"stream_key": "a b"},
        {"stream_key": "a\nb"},
        {"stream_key": ""},
        {"platform": "tiktok"},
        {"platform": "custom"},
        {"owner_user_id": "bob"},
    ],
    ids=repr,
)
async def test_a_destination_that_cannot_be_is_refused(api: Api, wrong: dict[str, str]) -> None:
    wanted = {"platform": "youtube", "stream_key": CANARY} | wrong
    status, problem = await api.call("POST", "/api/live/destinations", "alice", json=wanted)
    assert status in (400, 422), problem
    assert CANARY not in json.dumps(problem)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "10.0.0.1", "169.254.169.254", "localhost"])
async def test_private_addresses_need_a_setting(live_settings: Settings, host: str) -> None:
    live = live_settings.live.model_copy(update={"allow_private_ingest": False})
    async with serving(replace(live_settings, live=live)) as api:
        wanted = {"platform": "custom", "stream_key": CANARY, "ingest_url": f"rtmp://{host}/live"}
        status, problem = await api.call("POST", "/api/live/destinations", "alice", json=wanted)
        assert (status, problem["code"]) == (422, "invalid_destination")


@pytest.mark.parametrize("host", ["169.254.169.254", "[fe80::1]", "168.63.129.16", "[fd00:ec2::254]"])
async def test_a_metadata_service_is_no_destination_even_with_the_setting(api: Api, host: str) -> None:
    wanted = {"platform": "custom", "stream_key": CANARY, "ingest_url": f"rtmp://{host}/live"}
    status, problem = await api.call("POST", "/api/live/destinations", "alice", json=wanted)
    assert (status, problem["code"]) == (422, "invalid_destination")


async def test_a_destination_is_tried_step_by_step(api: Api) -> None:
    with Platform("tw", refuse={"bad-key-1234"}) as platform:
        good = await save(api, "twitch", ingest_url=platform.url)
        status, tried = await api.call("POST", f"/api/live/destinations/{good['id']}/test", "alice")
        assert (status, tried["ok"]) == (200, True)
        assert [step["name"] for step in tried["steps"]] == ["dns", "tcp", "handshake", "connect", "publish"]
        bad = await save(api, "twitch", ingest_url=platform.url, stream_key="bad-key-1234")
        zh = {"Accept-Language": "zh-CN,en;q=0.5"}
        _, tried = await api.call("POST", f"/api/live/destinations/{bad['id']}/test", "alice", headers=zh)
        last = tried["steps"][-1]
        assert (tried["ok"], last["name"], last["code"]) == (False, "publish", "key_rejected")
        assert "密钥" in last["message"]


async def test_tests_of_one_user_take_turns_and_a_fifth_is_refused(api: Api) -> None:
    released, connections, most = asyncio.Event(), 0, 0

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, most
        connections += 1
        most = max(most, connections)
        await released.wait()
        connections -= 1
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        one = await save(api, ingest_url=f"rtmp://127.0.0.1:{port}/live")
        path = f"/api/live/destinations/{one['id']}/test"
        asked = [asyncio.create_task(api.call("POST", path, "alice")) for _ in range(5)]
        done, _ = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        assert [(status, said["code"]) for status, said in (task.result() for task in done)] == [(409, "conflict")]
        # Another user's is not held up by them: it waits for the silent server alone.
        other = await save(api, user="bob", ingest_url="rtmp://127.0.0.1:9/live")
        assert (await api.call("POST", f"/api/live/destinations/{other['id']}/test", "bob"))[0] == 200
        released.set()
        answers = await asyncio.gather(*asked)
        assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 409]
        assert most == 1
        assert (await api.call("POST", path, "alice"))[0] == 200, "after they have ended"


async def test_keys_are_rotated(live_settings: Settings) -> None:
    async with serving(live_settings) as api:
        made = await save(api)
    rotated = live_settings.live.model_copy(update={"secret_key": SecretStr("cd" * 32 + "," + "ab" * 32)})
    async with serving(replace(live_settings, live=rotated)) as api:
        status, tried = await api.call("POST", f"/api/live/destinations/{made['id']}/test", "alice")
        assert (status, tried["steps"][-1]["code"]) == (200, "destination_unreachable")


async def test_a_key_goes_to_another_host_only_when_it_is_known(api: Api) -> None:
    made = await save(api, ingest_url="rtmp://127.0.0.1:9/live")
    path = f"/api/live/destinations/{made['id']}"
    for elsewhere in ({"ingest_url": "rtmp://127.0.0.2/live"}, {"backup_ingest_url": "rtmp://127.0.0.2/live"}):
        status, problem = await api.call("PATCH", path, "alice", json=elsewhere)
        assert (status, problem["code"]) == (422, "invalid_destination")
        assert (await api.call("GET", path, "alice"))[1]["ingest_url"] == "rtmp://127.0.0.1:9/live"
    assert (await api.call("PATCH", path, "alice", json={"ingest_url": "rtmp://127.0.0.1:19350/app"}))[0] == 200
    backup = {"backup_ingest_url": api.settings.live.youtube_backup_ingest_url}
    assert (await api.call("PATCH", path, "alice", json=backup))[0] == 200
    both = {"ingest_url": "rtmp://127.0.0.2/live", "stream_key": CANARY}
    assert (await api.call("PATCH", path, "alice", json=both))[1]["ingest_url"] == "rtmp://127.0.0.2/live"


async def test_destinations_are_not_without_number(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "MOST_DESTINATIONS", 2)
    first = await save(api)
    await save(api)
    wanted = {"platform": "youtube", "stream_key": CANARY}
    status, problem = await api.call("POST", "/api/live/destinations", "alice", json=wanted)
    assert (status, problem["code"]) == (409, "conflict")
    await save(api, user="bob")
    await api.call("DELETE", f"/api/live/destinations/{first['id']}", "alice")
    await save(api)


async def test_a_sealed_key_is_of_no_use_in_another_row(api: Api, database: Database) -> None:
    hers = await save(api)
    his = await save(api, user="bob", stream_key="his-own-key")
    await sql(
        database,
        "UPDATE destinations SET sealed_key = (SELECT sealed_key FROM destinations WHERE id = :hers) WHERE id = :his",
        hers=hers["id"],
        his=his["id"],
    )
    status, problem = await api.call("POST", f"/api/live/destinations/{his['id']}/test", "bob")
    assert (status, problem["code"]) == (503, "secret_key_invalid")


async def test_what_old_keys_sealed_is_sealed_anew_at_the_next_start(
    live_settings: Settings, database: Database
) -> None:
    async with serving(live_settings) as api:
        await make_room(api)
        made = await save(api)
        await go_live(api)
    lost = Sealer(LiveSettings(secret_key=SecretStr("99" * 32)))
    other = UUID(int=5)
    await sql(
        database,
        "INSERT INTO destinations (id, owner_user_id, platform, ingest_url, sealed_key, key_fingerprint) "
        "VALUES (:id, 'bob', 'custom', 'rtmp://127.0.0.1:9/live', :sealed, 'x')",
        id=other,
        sealed=lost.seal("gone", other),
    )
    rotated = live_settings.live.model_copy(update={"secret_key": SecretStr("cd" * 32 + "," + "ab" * 32)})
    newest = Sealer(LiveSettings(secret_key=SecretStr("cd" * 32)))
    seals = "SELECT sealed_key, key_fingerprint FROM {} WHERE key_fingerprint <> 'x'"
    async with serving(replace(live_settings, live=rotated)):
        async with asyncio.timeout(60):
            for table in ("destinations", "outputs"):
                while True:
                    ((blob, mark),) = await sql(database, seals.format(table))
                    if blob[1:5] == newest.newest:
                        break
                    await asyncio.sleep(0.02)
                assert (newest.open(blob), mark) == (CANARY, newest.fingerprint(CANARY))
    alone = live_settings.live.model_copy(update={"secret_key": SecretStr("cd" * 32)})
    async with serving(replace(live_settings, live=alone)) as api:
        _, tried = await api.call("POST", f"/api/live/destinations/{made['id']}/test", "alice")
        assert tried["steps"][-1]["code"] == "destination_unreachable"
        status, problem = await api.call("POST", f"/api/live/destinations/{other}/test", "bob")
        assert (status, problem["code"]) == (503, "secret_key_invalid")


# As it happens


async def test_events_come_as_they_happen_and_again_after_a_break(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    begun = await go_live(api)
    url = f"{api.url}/api/live/events?session_id={begun['session_id']}"
    async with api.client.get(url, headers=api.cookie("alice")) as answer:
        assert answer.content_type == "text/event-stream"
        # Next.js's own rewrites would compress it, and hold each event until a block is full.
        assert answer.headers["Cache-Control"] == "no-store, no-transform"
        listener = Listener(answer)
        kind, last, snapshot = await listener.next()
        assert (kind, snapshot["session_id"]) == ("status", begun["session_id"])
        await api.call("POST", f"/api/live/outputs/{begun['outputs'][0]['id']}/retry", "alice")
        _, number, change = await listener.next("change")
        assert change["event"]["event"] == "output.retry_asked"
        assert change["status"]["status"] == "starting"
        assert number is not None and last is not None and number > last
    await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    headers = api.cookie("alice") | {"Last-Event-ID": str(last)}
    async with api.client.get(url, headers=headers) as answer:
        listener = Listener(answer)
        seen = [(await listener.next("change"))[2]["event"]["event"] for _ in range(2)]
        assert seen == ["output.retry_asked", "broadcast.stop_asked"]


async def test_events_go_on_when_the_listening_connection_was_cut(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    await go_live(api)
    async with api.client.get(f"{api.url}/api/live/events?room_id={ROOM}", headers=api.cookie("alice")) as answer:
        listener = Listener(answer)
        await listener.next("status")
        cut: list[Any] = []
        async with asyncio.timeout(60):
            while not cut:
                cut = await sql(
                    database,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                    "WHERE query LIKE 'LISTEN%' AND datname = current_database()",
                )
        await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
        assert (await listener.next("change"))[2]["event"]["event"] == "broadcast.stop_asked"


async def test_the_websocket_says_the_same(api: Api) -> None:
    made = await make_room(api)
    await save(api)
    begun = await go_live(api)
    url = f"{api.url}/api/live/events/ws?room_id={ROOM}"
    protocols = ["butai", f"bearer.{made['host_token']}"]
    async with api.client.ws_connect(url, protocols=protocols) as socket:
        assert socket.protocol == "butai"
        first = await socket.receive_json(timeout=60)
        assert (first["type"], first["data"]["session_id"]) == ("status", begun["session_id"])
        await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
        change = await socket.receive_json(timeout=60)
        assert (change["type"], change["data"]["event"]["event"]) == ("change", "broadcast.stop_asked")
        assert change["id"] > first["id"]
    for headers in ({}, api.cookie("bob"), api.cookie("alice") | {"Origin": "http://evil.example"}):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await api.client.ws_connect(url, headers=headers)
        assert refused.value.status == 403


async def test_a_server_that_stops_lets_those_who_watch_go(live_settings: Settings) -> None:
    async with serving(live_settings) as api:
        await make_room(api)
        await save(api)
        await go_live(api)
        answer = await api.client.get(f"{api.url}/api/live/events?room_id={ROOM}", headers=api.cookie("alice"))
        await Listener(answer).next("status")


# Audit


async def test_every_act_and_refusal_is_in_the_audit(
    api: Api, database: Database, as_owner: Callable[[str], None]
) -> None:
    await make_room(api)
    await save(api)
    evil = {"User-Agent": '=HYPERLINK("http://evil")'}
    await api.call("POST", "/api/live/start", "bob", headers=evil, json={"room_id": ROOM, "platforms": "both"})
    begun = await go_live(api)
    await api.call("POST", "/api/live/start", "alice", json={"room_id": ROOM, "platforms": "youtube"})
    await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    status, page = await api.call("GET", f"/api/live/audit?room_id={ROOM}", "alice")
    assert status == 200
    found = [(one["actor"], one["action"], one["result"], one["error_code"]) for one in page["data"]]
    assert found == [
        ("user:alice", "live.stop", "ok", None),
        ("user:alice", "live.start", "refused", "already_live"),
        ("user:alice", "live.start", "ok", None),
        ("user:bob", "live.start", "refused", "not_host"),
        ("user:alice", "live.room_made", "ok", None),
    ]
    started = page["data"][2]
    assert (started["session_id"], started["platforms"], started["room_id"]) == (
        begun["session_id"],
        ["youtube"],
        ROOM,
    )
    assert started["ip"] == "127.0.0.1" and started["user_agent"]
    _, raw = await api.call("GET", f"/api/live/audit?room_id={ROOM}&format=csv", "alice")
    rows = list(csv.DictReader(io.StringIO(raw.decode())))
    assert len(rows) == 5
    assert rows[3]["user_agent"].startswith("'=HYPERLINK")
    assert (await api.call("GET", "/api/live/audit", "alice"))[0] == 403
    _, token = await create_api_key(database, "root", ["user", "operator"], "test")
    status, everything = await api.call("GET", "/api/live/audit?limit=2", headers={"X-API-Key": token})
    assert (status, len(everything["data"])) == (200, 2)
    assert everything["next_before"] == everything["next"] == everything["data"][-1]["id"]
    with pytest.raises(Exception, match="append-only"):
        as_owner("UPDATE audit SET actor = 'nobody'")
    with pytest.raises(Exception, match="append-only"):
        as_owner("DELETE FROM live_events")


async def test_the_whole_trail_comes_as_csv(api: Api, database: Database) -> None:
    await make_room(api)
    await sql(
        database,
        "INSERT INTO audit (actor, action, subject, result, detail) "
        "SELECT 'n' || n, 'live.test', 'room:' || :room, 'ok', '{}' FROM generate_series(1, 2500) n",
        room=ROOM,
    )
    url, csv_only = f"{api.url}/api/live/audit?room_id={ROOM}", {"Accept": "text/csv, */*;q=0.1"}
    async with api.client.get(url, headers=api.cookie("alice") | csv_only) as answer:
        assert (answer.status, answer.content_type) == (200, "text/csv")
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [row["actor"] for row in rows] == [*(f"n{n}" for n in range(2500, 0, -1)), "user:alice"]
    async with api.client.get(url + "&limit=3", headers=api.cookie("alice") | csv_only) as answer:
        assert len(list(csv.DictReader(io.StringIO(await answer.text())))) == 3
    for json_first in ("*/*", "text/html,*/*;q=0.8", "application/json, text/csv"):
        status, page = await api.call("GET", f"/api/live/audit?room_id={ROOM}", "alice", headers={"Accept": json_first})
        assert (status, len(page["data"])) == (200, 100)


async def test_a_rooms_csv_has_the_bound_of_the_whole_trail_and_breaks_off_like_it(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_room(api)
    await sql(
        database,
        "INSERT INTO audit (actor, action, subject, result, detail) "
        "SELECT 'n' || n, 'live.test', 'room:' || :room, 'ok', '{}' FROM generate_series(1, 2500) n",
        room=ROOM,
    )
    monkeypatch.setattr(export, "MOST_LINES", 1500)
    url = f"{api.url}/api/live/audit?room_id={ROOM}&format=csv"
    async with api.client.get(url, headers=api.cookie("alice")) as answer:
        rows = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [row["actor"] for row in rows] == [f"n{n}" for n in range(2500, 1000, -1)]
    async with api.client.get(f"{url}&before={rows[-1]['id']}", headers=api.cookie("alice")) as answer:
        behind = list(csv.DictReader(io.StringIO(await answer.text())))
    assert [row["actor"] for row in behind] == [*(f"n{n}" for n in range(1000, 0, -1)), "user:alice"]
    read = queries.entries

    async def away_on_the_second_page(*asked: Any) -> Any:
        if asked[2] is not None:
            raise DatabaseUnavailable
        return await read(*asked)

    monkeypatch.setattr(queries, "entries", away_on_the_second_page)
    with pytest.raises(aiohttp.ClientPayloadError):
        async with api.client.get(url, headers=api.cookie("alice")) as answer:
            await answer.read()


async def test_no_secret_is_in_an_answer_an_event_or_a_row(api: Api, database: Database) -> None:
    made = await make_room(api)
    await save(api)
    begun = await go_live(api)
    _, status = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
    shown = json.dumps([begun, status])
    tables = await sql(database, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    for (table,) in tables:
        shown += str(await sql(database, f'SELECT t::text FROM "{table}" t'))
    for secret in (CANARY, CANARY.encode().hex(), SECRET, made["host_token"]):
        assert secret not in shown
