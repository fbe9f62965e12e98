"""Starting, changing and ending a broadcast over HTTP, without a controller: who may, what is written down and answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from livekit import api as livekit_api
from pydantic import SecretStr

from butai.config import Settings
from butai.database import Database
from butai.live.stream_keys import Sealer
from tests.conftest import Api, serving
from tests.live_api import CANARY, ROOM, SECRET, bearer, go_live, make_room, save, sql


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


async def test_going_live_writes_what_is_wanted(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    begun = await go_live(api)
    assert begun["status"] == "starting"
    assert begun["platforms"]["youtube"]["state"] == "starting"
    assert begun["platforms"]["youtube"]["attempt"] == 0
    assert [event["event"] for event in begun["timeline"]] == ["broadcast.started"]
    ((wanted, grace),) = await sql(database, "SELECT wanted, source_grace FROM broadcasts")
    assert (wanted, grace) == ("on_air", 60.0)
    status, problem = await api.call("POST", "/api/live/start", "alice", json={"room_id": ROOM, "platforms": "youtube"})
    assert (status, problem["code"], problem["session_id"]) == (409, "already_live", begun["session_id"])
    for which in (f"session_id={begun['session_id']}", f"room_id={ROOM}"):
        status, now = await api.call("GET", f"/api/live/status?{which}", "alice")
        assert (status, now["session_id"]) == (200, begun["session_id"])


async def test_a_broadcast_is_held_until_the_first_picture_unless_its_start_says_otherwise(
    live_settings: Settings, database: Database
) -> None:
    held = "SELECT hold_until_media, sound_only FROM broadcasts ORDER BY created_at DESC LIMIT 1"
    async with serving(live_settings) as api:
        await make_room(api)
        await save(api)
        await go_live(api)
        assert await sql(database, held) == [(True, False)]
        await sql(database, "UPDATE broadcasts SET source_phase = 'waiting'")
        _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
        shown = now["platforms"]["youtube"]
        assert (now["status"], shown["state"], shown["attempt"]) == ("starting", "starting", 0)
        assert (shown["error"]["code"], shown["next_attempt_at"]) == ("no_media", None)
        assert shown["error"]["action"]
        await sql(database, "UPDATE broadcasts SET source_phase = 'live', source_ready = true")
        _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
        assert now["platforms"]["youtube"]["error"] is None
        await sql(database, "UPDATE broadcasts SET ended_at = now(), wanted = 'off_air'")
        await go_live(api, hold_until_media=False, sound_only=True)
        assert await sql(database, held) == [(False, True)]
        await sql(database, "UPDATE broadcasts SET ended_at = now(), wanted = 'off_air'")
    live = live_settings.live.model_copy(update={"hold_until_media": False})
    async with serving(replace(live_settings, live=live)) as api:
        await go_live(api)
        assert await sql(database, held) == [(False, False)]
        await sql(database, "UPDATE broadcasts SET ended_at = now(), wanted = 'off_air'")
        await go_live(api, hold_until_media=True)
        assert await sql(database, held) == [(True, False)]


async def test_both_with_one_missing_begins_the_other(api: Api) -> None:
    await make_room(api)
    await save(api, "twitch")
    begun = await go_live(api, platforms="both")
    assert begun["platforms"]["twitch"]["state"] == "starting"
    missing = begun["platforms"]["youtube"]
    assert (missing["state"], missing["error"]["code"]) == ("error", "no_destination")
    assert "YouTube" in missing["error"]["message"]
    status, problem = await api.call("POST", f"/api/live/outputs/{missing['id']}/retry", "alice")
    assert (status, problem["code"]) == (422, "no_destination")
    await save(api, "youtube")
    status, again = await api.call("POST", f"/api/live/outputs/{missing['id']}/retry", "alice")
    assert (status, again["platforms"]["youtube"]["error"]) == (200, None)


async def test_with_no_destination_at_all_nothing_begins(api: Api, database: Database) -> None:
    await make_room(api)
    for wanted in ({"platforms": "both"}, {"platforms": ["twitch"]}):
        status, problem = await api.call("POST", "/api/live/start", "alice", json={"room_id": ROOM} | wanted)
        assert (status, problem["code"]) == (422, "no_destination")
    unknown = {"room_id": ROOM, "destination_ids": ["00000000-0000-7000-8000-000000000000"]}
    status, problem = await api.call("POST", "/api/live/start", "alice", json=unknown)
    assert (status, problem["code"]) == (404, "destination_not_found")
    theirs = await save(api, user="bob")
    status, problem = await api.call(
        "POST", "/api/live/start", "alice", json={"room_id": ROOM, "destination_ids": [theirs["id"]]}
    )
    assert (status, problem["code"]) == (404, "destination_not_found")
    assert await sql(database, "SELECT id FROM broadcasts") == []


async def test_the_environments_keys_stand_in(live_settings: Settings, database: Database) -> None:
    live = live_settings.live.model_copy(update={"twitch_stream_key": SecretStr(CANARY)})
    async with serving(replace(live_settings, live=live)) as api:
        await make_room(api)
        begun = await go_live(api, platforms="twitch")
        assert begun["platforms"]["twitch"]["destination_id"] is None
    ((sealed, url),) = await sql(database, "SELECT sealed_key, ingest_url FROM outputs")
    assert Sealer(live).open(sealed) == CANARY
    assert url == live.twitch_ingest_url


async def test_a_retry_of_the_environments_default_takes_what_the_host_has_saved_since(
    live_settings: Settings, database: Database
) -> None:
    live = live_settings.live.model_copy(update={"twitch_stream_key": SecretStr("canary-environment-2c77")})
    async with serving(replace(live_settings, live=live)) as api:
        await make_room(api)
        output = (await go_live(api, platforms="twitch"))["outputs"][0]["id"]
        await sql(database, "UPDATE outputs SET state = 'failed', error_code = 'key_rejected', key_live_at = now()")
        assert (await api.call("POST", f"/api/live/outputs/{output}/retry", "alice"))[0] == 200
        unchanged = "SELECT destination_id, key_live_at IS NULL FROM outputs"
        assert [tuple(row) for row in await sql(database, unchanged)] == [(None, False)]
        saved = await save(api, platform="twitch")
        assert (await api.call("POST", f"/api/live/outputs/{output}/retry", "alice"))[0] == 200
    ((destination_id, sealed, error, key_live_at),) = await sql(
        database, "SELECT destination_id, sealed_key, error_code, key_live_at FROM outputs"
    )
    assert (str(destination_id), error, key_live_at) == (saved["id"], "key_rejected", None)
    assert Sealer(live).open(sealed) == CANARY
    events = await sql(database, "SELECT event, detail FROM live_events ORDER BY id")
    assert [detail for event, detail in events if event == "output.destination_changed"] == [
        {"changed": ["stream_key", "ingest_url"]}
    ]


@pytest.mark.parametrize("state", ["live", "starting", "stopping"])
async def test_a_retry_of_what_is_on_air_leaves_what_it_aims_at(
    live_settings: Settings, database: Database, state: str
) -> None:
    live = live_settings.live.model_copy(update={"twitch_stream_key": SecretStr("canary-environment-2c77")})
    async with serving(replace(live_settings, live=live)) as api:
        await make_room(api)
        output = (await go_live(api, platforms="twitch"))["outputs"][0]["id"]
        await sql(database, f"UPDATE outputs SET state = '{state}', key_live_at = now()")
        before = await sql(database, "SELECT destination_id, label, ingest_url, sealed_key, key_live_at FROM outputs")
        await save(api, platform="twitch")
        assert (await api.call("POST", f"/api/live/outputs/{output}/retry", "alice"))[0] == 200
    assert before == await sql(
        database, "SELECT destination_id, label, ingest_url, sealed_key, key_live_at FROM outputs"
    )
    assert await sql(database, "SELECT 1 FROM live_events WHERE event = 'output.destination_changed'") == []


async def test_only_the_host_may(api: Api) -> None:
    host = bearer((await make_room(api))["host_token"])
    await make_room(api, "bobs", "bob")
    await save(api)
    begun = await go_live(api)
    output = begun["outputs"][0]["id"]
    session_id = begun["session_id"]
    others = bearer((await make_room(api, "bobs", "bob"))["host_token"])
    nobody = "00000000-0000-7000-8000-000000000000"
    asked: list[tuple[str, str, Any]] = [
        ("POST", "/api/live/start", {"room_id": ROOM, "platforms": "both"}),
        ("POST", "/api/live/start", {"room_id": "no-such-room", "platforms": "both"}),
        ("POST", "/api/live/stop", {"room_id": ROOM}),
        ("POST", "/api/live/stop", {"session_id": session_id}),
        ("POST", "/api/live/stop", {"session_id": nobody}),
        ("GET", f"/api/live/status?room_id={ROOM}", None),
        ("GET", "/api/live/status?room_id=no-such-room", None),
        ("GET", f"/api/live/status?session_id={session_id}", None),
        ("GET", f"/api/live/status?session_id={nobody}", None),
        ("GET", f"/api/live/broadcasts?room_id={ROOM}", None),
        ("GET", f"/api/live/broadcasts/{session_id}/timeline", None),
        ("POST", f"/api/live/outputs/{output}/retry", None),
        ("POST", f"/api/live/outputs/{output}/stop", None),
        ("POST", f"/api/live/broadcasts/{session_id}/outputs", {"platforms": ["twitch"]}),
        ("GET", f"/api/live/events?room_id={ROOM}", None),
        ("GET", f"/api/live/audit?room_id={ROOM}", None),
    ]
    for method, path, body in asked:
        status, problem = await api.call(method, path, json=body)
        assert (status, problem["code"]) == (401, "auth_required"), path
        status, problem = await api.call(method, path, "bob", json=body)
        assert (status, problem["code"], problem["detail"]) == (403, "not_host", "Only the room's host may do this"), (
            path
        )
        if "audit" not in path:
            status, problem = await api.call(method, path, headers=others, json=body)
            assert (status, problem["code"]) == (403, "not_host"), path
    assert (await api.call("GET", f"/api/live/status?room_id={ROOM}", headers=host))[0] == 200
    assert (await api.call("POST", "/api/live/stop", headers=host, json={"session_id": session_id}))[0] == 200


async def test_stop_is_once_however_often(api: Api, database: Database) -> None:
    await make_room(api)
    status, idle = await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    assert (status, idle["status"]) == (200, "idle")
    await save(api)
    begun = await go_live(api)
    for wanted in ({"room_id": ROOM}, {"session_id": begun["session_id"]}) * 2:
        status, now = await api.call("POST", "/api/live/stop", "alice", json=wanted)
        assert (status, now["status"]) == (200, "stopping")
    assert await sql(database, "SELECT wanted FROM outputs") == [("off",)]
    events = await sql(database, "SELECT event FROM live_events ORDER BY id")
    assert events == [("broadcast.started",), ("broadcast.stop_asked",)]
    await sql(database, "UPDATE broadcasts SET ended_at = now()")
    await sql(database, "UPDATE outputs SET state = 'ended'")
    status, now = await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    assert (status, now["status"]) == (200, "ended")
    assert (await go_live(api))["session_id"] != begun["session_id"]
    status, page = await api.call("GET", f"/api/live/broadcasts?room_id={ROOM}&limit=1", "alice")
    assert (len(page["data"]), page["data"][0]["status"]) == (1, "starting")
    before = page["next_before"].replace("+", "%2B")
    status, page = await api.call("GET", f"/api/live/broadcasts?room_id={ROOM}&before={before}", "alice")
    assert [one["session_id"] for one in page["data"]] == [begun["session_id"]]


async def test_the_same_idempotency_key_is_the_same_broadcast(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    wanted = {"room_id": ROOM, "platforms": "youtube"}
    key = {"Idempotency-Key": "press-1"}
    answers = await asyncio.gather(
        *(api.call("POST", "/api/live/start", "alice", headers=key, json=wanted) for _ in range(5))
    )
    assert sorted(status for status, _ in answers) == [200, 200, 200, 200, 201]
    assert len({answer["session_id"] for _, answer in answers}) == 1
    other = wanted | {"preset": "720p60"}
    status, problem = await api.call("POST", "/api/live/start", "alice", headers=key, json=other)
    assert (status, problem["code"]) == (422, "idempotency_mismatch")
    assert len(await sql(database, "SELECT id FROM broadcasts")) == 1


async def test_hosts_of_one_name_in_two_rooms_share_no_idempotency_key(api: Api, database: Database) -> None:
    key = {"Idempotency-Key": "press-1"}
    started: list[str] = []
    for room, user in (("hers", "alice"), ("his", "bob")):
        grants = livekit_api.VideoGrants(room_join=True, room=room, room_admin=True)
        token = livekit_api.AccessToken("devkey", SECRET).with_identity("host").with_grants(grants).to_jwt()
        status, made = await api.call("POST", "/api/live/rooms", user, json={"host_token": token})
        assert (status, made["host_identity"]) == (200, "host")
        await save(api, user=user)
        wanted = {"room_id": room, "platforms": "youtube"}
        headers = bearer(made["host_token"]) | key
        status, begun = await api.call("POST", "/api/live/start", headers=headers, json=wanted)
        assert status == 201, begun
        status, again = await api.call("POST", "/api/live/start", headers=headers, json=wanted)
        assert (status, again["session_id"]) == (200, begun["session_id"])
        started.append(begun["session_id"])
    assert len(set(started)) == 2
    found = await sql(database, "SELECT room_id, key FROM idempotency_keys ORDER BY room_id")
    assert [tuple(row) for row in found] == [("hers", "press-1"), ("his", "press-1")]


async def test_five_starts_at_once_are_one_broadcast(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    wanted = {"room_id": ROOM, "platforms": "youtube"}
    answers = await asyncio.gather(*(api.call("POST", "/api/live/start", "alice", json=wanted) for _ in range(5)))
    assert sorted(status for status, _ in answers) == [201, 409, 409, 409, 409]
    assert len(await sql(database, "SELECT id FROM broadcasts")) == 1


async def test_outputs_are_added_stopped_and_tried_again(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    begun = await go_live(api)
    path = f"/api/live/broadcasts/{begun['session_id']}/outputs"
    assert (await api.call("POST", path, "alice", json={"platforms": ["twitch"]}))[1]["code"] == "no_destination"
    twitch = await save(api, "twitch")
    now = begun
    for _ in range(2):
        status, now = await api.call("POST", path, "alice", json={"destination_ids": [twitch["id"]]})
        assert (status, len(now["outputs"])) == (200, 2)
    first, second = now["outputs"]
    status, now = await api.call("POST", f"/api/live/outputs/{first['id']}/stop", "alice")
    assert status == 200
    rows = dict(await sql(database, "SELECT id, wanted FROM outputs"))
    assert (rows[UUID(first["id"])], rows[UUID(second["id"])]) == ("off", "on")
    await sql(database, "UPDATE outputs SET state = 'ended' WHERE id = :id", id=first["id"])
    status, problem = await api.call("POST", f"/api/live/outputs/{first['id']}/retry", "alice")
    assert (status, problem["code"]) == (409, "not_live")
    assert (await api.call("POST", f"/api/live/outputs/{second['id']}/retry", "alice"))[0] == 200
    status, page = await api.call("GET", f"/api/live/broadcasts/{begun['session_id']}/timeline?limit=2", "alice")
    assert [event["event"] for event in page["data"]] == ["broadcast.started", "output.added"]
    _, rest = await api.call(
        "GET", f"/api/live/broadcasts/{begun['session_id']}/timeline?after={page['next_after']}", "alice"
    )
    assert [event["event"] for event in rest["data"]] == ["output.stop_asked", "output.retry_asked"]


async def test_status_tells_error_advice_and_figures_in_the_askers_language(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    begun = await go_live(api)
    output = begun["outputs"][0]["id"]
    await sql(database, "UPDATE outputs SET state = 'reconnecting', error_code = 'destination_stalled', attempt = 2")
    await sql(
        database,
        "INSERT INTO output_metrics (output_id, attempt, at, data) VALUES (:id, 2, now(), "
        """'{"bitrate_kbps": 2500, "fps": 30, "dropped_frames": 4, "uptime_s": 9}')""",
        id=output,
    )
    _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
    shown = now["platforms"]["youtube"]
    assert (now["status"], shown["state"], shown["attempt"]) == ("degraded", "interrupted", 2)
    assert shown["error"]["retryable"] is True
    assert shown["error"]["message"].startswith("YouTube accepts no data")
    assert shown["metrics"] == {"bitrate_kbps": 2500, "fps": 30, "dropped_frames": 4, "uptime_s": 9}
    zh = {"Accept-Language": "fr;q=0.9, zh-Hans;q=0.8, en;q=0.1"}
    _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice", headers=zh)
    assert now["platforms"]["youtube"]["error"]["message"] == "YouTube 暂时没有接收数据。"
    await sql(database, "UPDATE output_metrics SET at = now() - interval '10 s'")
    _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
    assert now["platforms"]["youtube"]["metrics"] is None


async def test_an_output_that_found_its_place_is_not_doubled(api: Api) -> None:
    await make_room(api)
    await save(api, "twitch")
    begun = await go_live(api, platforms="both")
    missing = begun["platforms"]["youtube"]["id"]
    await save(api, "youtube")
    path = f"/api/live/broadcasts/{begun['session_id']}/outputs"
    status, added = await api.call("POST", path, "alice", json={"platforms": ["youtube"]})
    assert (status, len(added["outputs"])) == (200, 3)
    status, problem = await api.call("POST", f"/api/live/outputs/{missing}/retry", "alice")
    assert (status, problem["code"]) == (409, "not_live")


async def test_a_stop_that_contradicts_itself_stops_nothing(api: Api, database: Database) -> None:
    await make_room(api)
    await make_room(api, "other")
    await save(api)
    begun = await go_live(api)
    wanted = {"session_id": begun["session_id"], "room_id": "other"}
    status, problem = await api.call("POST", "/api/live/stop", "alice", json=wanted)
    assert (status, problem["code"]) == (400, "invalid_request")
    assert await sql(database, "SELECT wanted FROM broadcasts") == [("on_air",)]


async def test_refusals_say_what_to_do_in_the_askers_language(api: Api) -> None:
    await make_room(api)
    await save(api)
    wanted = {"room_id": ROOM, "platforms": "twitch"}
    _, problem = await api.call("POST", "/api/live/start", "alice", json=wanted)
    assert "twitch" in problem["detail"] and "Twitch" in problem["action"]
    zh = {"Accept-Language": "zh-TW"}
    _, problem = await api.call("POST", "/api/live/start", "alice", json=wanted, headers=zh)
    assert (problem["code"], problem["detail"]) == ("no_destination", "还没有保存 Twitch 的推流目标。")
    assert "串流密钥" in problem["action"]
    _, problem = await api.call("GET", f"/api/live/status?room_id={ROOM}", "bob", headers=zh)
    assert (problem["code"], problem["detail"]) == ("not_host", "你不是这个房间的主播。")


async def test_what_is_given_up_is_the_hosts_to_try_again(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    await go_live(api)
    for state, retryable in (("starting", True), ("failed", False)):
        await sql(database, "UPDATE outputs SET state = :state, error_code = 'key_rejected'", state=state)
        _, now = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
        assert now["platforms"]["youtube"]["error"]["retryable"] is retryable


async def test_idempotency_keys_are_forgotten_after_a_day(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    begun = await go_live(api)
    await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
    await sql(database, "UPDATE broadcasts SET ended_at = now()")
    await sql(
        database,
        "INSERT INTO idempotency_keys (caller, key, request_sha256, created_at) SELECT 'bob', 'old-' || n, 'x', "
        "now() - interval '25 hours' FROM generate_series(1, 5) n",
    )
    key = {"Idempotency-Key": "press-2"}
    wanted = {"room_id": ROOM, "platforms": "youtube"}
    status, again = await api.call("POST", "/api/live/start", "alice", headers=key, json=wanted)
    assert (status, again["session_id"] != begun["session_id"]) == (201, True)
    assert await sql(database, "SELECT key FROM idempotency_keys") == [("press-2",)]
