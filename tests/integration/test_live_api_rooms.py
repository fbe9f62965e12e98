"""Rooms: whose they are, what LiveKit is told of them, and that no caller is given a room that others are in."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import quote
from uuid import uuid4

import psycopg
import pytest
from livekit import api as livekit_api

from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.live.expected import EXPECTED
from butai.live.projects import Projects
from butai.live.rooms import idle
from butai.live.tokens import Tokens, engine_identity
from tests.conftest import Api, serving
from tests.embedded_servers import livekit_server, livekit_settings
from tests.live_api import ROOM, SECRET, bearer, go_live, make_room, save, sql
from tests.livekit_members import Member
from tests.shows import until


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


def admin_token(settings: LiveKitSettings, room: str, identity: str = "someone") -> str:
    grants = livekit_api.VideoGrants(room_join=True, room=room, room_admin=True)
    token = livekit_api.AccessToken(settings.api_key, settings.api_secret.get_secret_value())
    return token.with_identity(identity).with_grants(grants).to_jwt()


def asking(settings: LiveKitSettings) -> livekit_api.LiveKitAPI:
    return livekit_api.LiveKitAPI(settings.url, settings.api_key, settings.api_secret.get_secret_value())


async def test_a_users_rooms_are_listed_newest_first(api: Api) -> None:
    for room, user in (("one", "alice"), ("bobs", "bob"), ("two", "alice"), ("three", "alice")):
        await make_room(api, room, user)
    status, page = await api.call("GET", "/api/live/rooms?limit=2", "alice")
    assert (status, [room["room_id"] for room in page["data"]]) == (200, ["three", "two"])
    rest = (await api.call("GET", f"/api/live/rooms?before={quote(page['next_before'])}", "alice"))[1]
    assert ([room["room_id"] for room in rest["data"]], rest["next_before"]) == (["one"], None)
    assert rest["data"][0]["origin"] == "made"
    assert (await api.call("GET", "/api/live/rooms"))[0] == 401
    for wrong in ("0.5", "2026-01-01", "2026-01-01T00:00:00", "yesterday"):
        assert (await api.call("GET", f"/api/live/rooms?before={wrong}", "alice"))[0] == 400


async def test_controllers_are_told_of_each_host_token(api: Api, database_url: str) -> None:
    async with await psycopg.AsyncConnection.connect(database_url, autocommit=True) as connection:
        await connection.execute(f"LISTEN {EXPECTED}".encode())
        await make_room(api)
        # The same room again: its host token is handed out once more.
        await make_room(api)
        for role in ("viewer", "guest", "host"):
            status, made = await api.call("POST", f"/api/live/rooms/{ROOM}/tokens", "alice", json={"role": role})
            assert status == 200, made
        status, _ = await api.call("POST", f"/api/live/rooms/{ROOM}/tokens", "mallory", json={"role": "host"})
        assert status == 403
        await connection.execute("SELECT pg_notify(%s, 'the last one')", [EXPECTED])
        told: list[str] = []
        async for notice in connection.notifies(timeout=60):
            told.append(notice.payload)
            if notice.payload:
                break
        assert told == ["", "", "", "the last one"]


async def test_what_runs_at_livekit_is_given_to_nobody_without_its_token(
    live_settings: Settings, livekit: LiveKitSettings
) -> None:
    async with serving(replace(live_settings, livekit=livekit)) as api:
        async with asking(livekit) as there:
            await there.room.create_room(livekit_api.CreateRoomRequest(name="elsewhere", empty_timeout=60))
            status, problem = await api.call("POST", "/api/live/rooms", "mallory", json={"room_id": "elsewhere"})
            assert (status, problem["code"]) == (409, "room_taken")
            token = admin_token(livekit, "elsewhere")
            status, made = await api.call("POST", "/api/live/rooms", "alice", json={"host_token": token})
            assert (status, made["host_identity"]) == (200, "someone")
            # Claimed now: alice needs no token any more, to all others it is hers.
            assert (await make_room(api, "elsewhere"))["host_identity"] == "someone"
            status, problem = await api.call("POST", "/api/live/rooms", "mallory", json={"host_token": token})
            assert (status, problem["code"]) == (409, "room_taken")
        audit = (await api.call("GET", "/api/live/audit?room_id=elsewhere", "alice"))[1]["data"]
        assert [(one["actor"], one["action"], one["error_code"]) for one in audit] == [
            ("user:mallory", "live.room_claimed", "room_taken"),
            ("user:alice", "live.room_claimed", None),
            ("user:mallory", "live.room_made", "room_taken"),
        ]


async def test_a_room_waits_at_livekit_for_a_host_who_reloads(
    live_settings: Settings, livekit: LiveKitSettings
) -> None:
    async with serving(replace(live_settings, livekit=livekit)) as api:
        await make_room(api, "patient")
        async with asking(livekit) as there:
            (room,) = (await there.room.list_rooms(livekit_api.ListRoomsRequest(names=["patient"]))).rooms
        # Whatever grace a start may ask for.
        assert room.departure_timeout >= 2 * 3600
        assert room.empty_timeout >= 2 * 3600


async def test_idle_rooms_of_ours_are_deleted_at_livekit_and_no_others(
    live_settings: Settings, livekit: LiveKitSettings, database: Database
) -> None:
    projects = Projects(livekit, live_settings.live)
    names = ("idle", "new", "used", "onair", "claimed", "foreign")
    async with serving(replace(live_settings, livekit=livekit)) as api, asking(livekit) as there:

        async def at_livekit() -> set[str]:
            listed = await there.room.list_rooms(livekit_api.ListRoomsRequest(names=names))
            return {room.name for room in listed.rooms}

        for name in ("idle", "new", "used", "onair"):
            await make_room(api, name)
        for name in ("claimed", "foreign"):
            await there.room.create_room(livekit_api.CreateRoomRequest(name=name, empty_timeout=600))
        await api.call("POST", "/api/live/rooms", "alice", json={"host_token": admin_token(livekit, "claimed")})
        await save(api)
        await go_live(api, room_id="onair")
        async with Member(livekit.url, (await make_room(api, "used"))["host_token"]):

            async def counted() -> bool:
                listed = await there.room.list_rooms(livekit_api.ListRoomsRequest(names=["used"]))
                return bool(listed.rooms[0].num_participants)

            await until(counted)
            assert await idle.sweep_idle(database, projects) == 0
            noted = "SELECT room_id FROM rooms WHERE idle_since IS NOT NULL AND origin = 'made' ORDER BY room_id"
            assert await sql(database, noted) == [("idle",), ("new",)]
            await sql(database, "UPDATE rooms SET idle_since = now() - interval '2 h' WHERE room_id <> 'new'")
            assert await idle.sweep_idle(database, projects) == 1
            assert await at_livekit() == set(names) - {"idle"}
            assert await sql(database, noted) == [("new",)]
            # LiveKit's list may lack the number of participants.
            await sql(
                database, "UPDATE rooms SET idle_since = now() - interval '2 h' WHERE room_id IN ('used', 'onair')"
            )
            for name in ("used", "onair"):
                assert not await idle._delete(database, projects, "default", name)
        # A broadcast may have begun since, and its engine, which is hidden, have joined before its host.
        await sql(database, "UPDATE broadcasts SET ended_at = now(), wanted = 'off_air'")
        engine = Tokens(projects).for_egress("default", "onair", engine_identity(uuid4()))
        async with Member(livekit.url, engine):
            await sql(database, "UPDATE rooms SET idle_since = now() - interval '2 h' WHERE room_id = 'onair'")
            assert not await idle._delete(database, projects, "default", "onair")
        assert await at_livekit() == set(names) - {"idle"}
        # It is its owner's as before.
        await make_room(api, "idle")
        assert "idle" in await at_livekit()
    unreachable = live_settings.livekit.model_copy(update={"url": "ws://127.0.0.1:9"})
    assert await idle.sweep_idle(database, Projects(unreachable, live_settings.live)) == 0


async def test_a_livekit_that_says_nothing_holds_nobody_up_and_gives_nothing_away(
    live_settings: Settings, database: Database
) -> None:
    held: list[asyncio.StreamWriter] = []
    asked = asyncio.Event()

    async def silent(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        asked.set()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    there = live_settings.livekit.model_copy(update={"url": f"ws://127.0.0.1:{port}"})
    try:
        async with serving(replace(live_settings, livekit=there)) as api:
            status, problem = await api.call("POST", "/api/live/rooms", "alice", json={"room_id": "studio-1"})
            assert (status, problem["code"]) == (503, "livekit_unreachable")
            assert asked.is_set()
            assert await sql(database, "SELECT 1 FROM rooms") == []
            # LiveKit has no room under a random name.
            status, made = await api.call("POST", "/api/live/rooms", "alice", json={})
            assert status == 200, made
            # Her own room is hers, whatever LiveKit says.
            assert (await make_room(api, made["room_id"]))["host_identity"] == made["host_identity"]
    finally:
        for writer in held:
            writer.close()
        server.close()


async def test_a_room_that_runs_at_a_livekit_which_is_slow_is_given_to_nobody(
    live_settings: Settings, database: Database
) -> None:
    with livekit_server() as server:
        assert server.child is not None
        there = livekit_settings(server)
        async with serving(replace(live_settings, livekit=there)) as api, asking(there) as admin:
            await admin.room.create_room(livekit_api.CreateRoomRequest(name="elsewhere", empty_timeout=60))
            os.kill(server.child.pid, signal.SIGSTOP)
            try:
                status, problem = await api.call("POST", "/api/live/rooms", "mallory", json={"room_id": "elsewhere"})
            finally:
                os.kill(server.child.pid, signal.SIGCONT)
            assert (status, problem["code"]) == (503, "livekit_unreachable")
            assert await sql(database, "SELECT 1 FROM rooms") == []
            status, problem = await api.call("POST", "/api/live/rooms", "mallory", json={"room_id": "elsewhere"})
            assert (status, problem["code"]) == (409, "room_taken")


async def test_rooms_have_names_as_people_give_them(api: Api) -> None:
    room = "舞台 1 (Aoi's)"
    status, made = await api.call(
        "POST", "/api/live/rooms", "alice", json={"host_token": admin_token(api.settings.livekit, room)}
    )
    assert (status, made["room_id"]) == (200, room)
    await save(api)
    begun = await go_live(api, room_id=room)
    status, now = await api.call("GET", f"/api/live/status?room_id={quote(room)}", "alice")
    assert (status, now["session_id"], now["room_id"]) == (200, begun["session_id"], room)
    status, token = await api.call(
        "POST", f"/api/live/rooms/{quote(room)}/tokens", "alice", json={"role": "viewer", "name": "観客"}
    )
    assert status == 200
    verified = livekit_api.TokenVerifier("devkey", SECRET).verify(token["token"])
    assert verified.video is not None and verified.video.room == room


@pytest.mark.parametrize("room", ["a/b", "a\x00b", "a?b", "r" * 129])
async def test_a_name_that_cannot_stand_in_a_path_is_refused(api: Api, room: str) -> None:
    for wanted in ({"room_id": room}, {"host_token": admin_token(api.settings.livekit, room)}):
        status, problem = await api.call("POST", "/api/live/rooms", "alice", json=wanted)
        assert (status, problem["code"]) == (400, "invalid_request"), wanted


# Tokens


async def test_a_room_has_an_owner_and_a_token_that_rules_it(api: Api) -> None:
    made = await make_room(api)
    claims = livekit_api.TokenVerifier("devkey", SECRET).verify(made["host_token"])
    assert claims.video is not None and claims.video.room_admin and claims.video.room == ROOM
    assert claims.identity == made["host_identity"]
    assert made["livekit_url"] == api.settings.livekit.url
    assert (await make_room(api))["host_identity"] == made["host_identity"]
    status, problem = await api.call("POST", "/api/live/rooms", "bob", json={"room_id": ROOM})
    assert (status, problem["code"]) == (409, "room_taken")
    status, other = await api.call("POST", "/api/live/rooms", "bob", json={})
    assert status == 200 and len(other["room_id"]) > 16


async def test_tokens_for_guests_and_viewers_are_the_hosts_to_give(api: Api) -> None:
    made = await make_room(api)
    host = bearer(made["host_token"])
    path = f"/api/live/rooms/{ROOM}/tokens"
    for role, publishes in (("guest", True), ("viewer", False)):
        status, token = await api.call("POST", path, headers=host, json={"role": role, "name": "Aoi"})
        assert status == 200
        claims = livekit_api.TokenVerifier("devkey", SECRET).verify(token["token"])
        assert claims.video is not None
        assert (claims.video.can_publish, bool(claims.video.room_admin)) == (publishes, False)
        assert (await api.call("POST", path, headers=bearer(token["token"]), json={"role": "guest"}))[0] == 401
    assert (await api.call("POST", path, headers=host, json={"role": "host"}))[1]["code"] == "not_host"
    status, again = await api.call("POST", path, "alice", json={"role": "host"})
    assert (status, again["identity"]) == (200, made["host_identity"])
    assert (await api.call("POST", path, "bob", json={"role": "viewer"}))[0] == 403
    assert (await api.call("POST", path, json={"role": "viewer"}))[0] == 401


async def test_a_room_made_elsewhere_is_claimed_with_its_token(api: Api) -> None:
    grants = livekit_api.VideoGrants(room_join=True, room="elsewhere", room_admin=True)
    token = livekit_api.AccessToken("devkey", SECRET).with_identity("someone").with_grants(grants)
    status, made = await api.call("POST", "/api/live/rooms", "alice", json={"host_token": token.to_jwt()})
    assert (status, made["room_id"], made["host_identity"]) == (200, "elsewhere", "someone")
    for forged in (
        livekit_api.AccessToken("devkey", "x" * 32).with_identity("a").with_grants(grants).to_jwt(),
        livekit_api.AccessToken("devkey", SECRET)
        .with_identity("a")
        .with_grants(livekit_api.VideoGrants(room_join=True, room="r"))
        .to_jwt(),
        "nonsense",
    ):
        status, problem = await api.call("POST", "/api/live/rooms", "alice", json={"host_token": forged})
        assert (status, problem["code"]) == (401, "auth_required")


async def test_without_livekit_it_says_so(settings: Settings) -> None:
    async with serving(settings) as api:
        status, problem = await api.call("POST", "/api/live/rooms", "alice", json={})
        assert (status, problem["code"]) == (503, "livekit_not_configured")


async def test_a_host_token_is_nobody_anywhere_else(api: Api) -> None:
    host = bearer((await make_room(api))["host_token"])
    assert (await api.call("GET", "/api/s3/resources?type=vrm", headers=host))[0] == 401
    assert (await api.call("GET", "/api/live/destinations", headers=host))[0] == 401
    assert (await api.call("GET", f"/api/live/audit?room_id={ROOM}", headers=host))[0] == 401
