"""Host tokens, guests' tokens and invitations against a real LiveKit: how long they are good for, and what takes them back."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import uuid4

import aiohttp
import jwt
import pytest
from livekit import api as livekit_api
from livekit import rtc

from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.live import tokens
from butai.live.projects import Projects
from butai.live.rooms.removal import remove_revoked
from tests.conftest import Api, serving
from tests.embedded_servers import livekit_server, livekit_settings
from tests.live_api import Listener, bearer, go_live, make_room, save, sql
from tests.livekit_members import Member
from tests.processes import free_port


@pytest.fixture
async def api(live_settings: Settings, livekit: LiveKitSettings) -> AsyncIterator[Api]:
    async with serving(replace(live_settings, livekit=livekit)) as running:
        yield running


@pytest.fixture
def room() -> str:
    """One for each test: they share the LiveKit."""
    return f"studio-{secrets.token_hex(4)}"


def tokens_of(room: str) -> str:
    return f"/api/live/rooms/{room}/tokens"


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


async def administers(livekit: LiveKitSettings, room: str, token: str) -> bool:
    """Whether LiveKit itself lets the token administer the room."""
    url = livekit.url.replace("ws", "http", 1) + "/twirp/livekit.RoomService/ListParticipants"
    async with aiohttp.ClientSession() as client, client.post(url, json={"room": room}, headers=bearer(token)) as said:
        return said.status == 200


async def test_rights_end_when_they_were_to_whatever_livekit_renews(
    live_settings: Settings, livekit: LiveKitSettings, monkeypatch: pytest.MonkeyPatch, room: str
) -> None:
    monkeypatch.setattr(tokens, "STAMP_LEEWAY", 0.0, raising=False)
    brief = live_settings.live.model_copy(update={"host_token_hours": 2 / 3600})
    async with serving(replace(live_settings, livekit=livekit, live=brief)) as api:
        made = await make_room(api, room)
        async with Member(made["livekit_url"], made["host_token"]) as host:
            renewed = await host.renewed()
            assert claims(renewed)["exp"] > claims(made["host_token"])["exp"] + 300
            status, guest = await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"})
            assert status == 200, guest
            async with asyncio.timeout(60):
                while (await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"}))[
                    0
                ] == 200:
                    await asyncio.sleep(0.1)
            status, problem = await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"})
            assert (status, problem["code"]) == (401, "auth_required")
            stop = {"room_id": room}
            assert (await api.call("POST", "/api/live/stop", headers=bearer(renewed), json=stop))[0] == 401
            assert await administers(livekit, room, renewed), "LiveKit takes it for hours"
            # Seconds are whole in a token.
            assert claims(guest["token"])["exp"] <= claims(made["host_token"])["exp"] + 1


async def test_a_watchers_renewed_token_is_no_invitation(api: Api, room: str) -> None:
    made = await make_room(api, room)
    _, invitation = await api.call("POST", tokens_of(room), headers=bearer(made["host_token"]), json={"role": "viewer"})
    status, viewer = await api.call("POST", "/api/live/watch", json={"invitation": invitation["token"]})
    assert status == 200, viewer
    async with Member(viewer["livekit_url"], viewer["token"]) as watcher:
        for shown in (viewer["token"], await watcher.renewed()):
            status, problem = await api.call("POST", "/api/live/watch", json={"invitation": shown})
            assert (status, problem["code"]) == (403, "invitation_invalid")


async def wears(
    livekit: LiveKitSettings, member: Member, room: str, host_token: str, attributes: dict[str, str]
) -> str:
    """Has LiveKit write these attributes to a member, by a host's token; the token that LiveKit renews with them."""
    wanted = {"room": room, "identity": member.identity, "attributes": attributes}
    url = livekit.url.replace("ws", "http", 1) + "/twirp/livekit.RoomService/UpdateParticipant"
    async with aiohttp.ClientSession() as client, client.post(url, json=wanted, headers=bearer(host_token)) as said:
        assert said.status == 200, "LiveKit lets a host write them"
    return await member.renewed(lambda token: claims(token)["attributes"] == attributes)


async def test_a_host_who_writes_attributes_gains_nothing(api: Api, livekit: LiveKitSettings, room: str) -> None:
    made = await make_room(api, room)
    async with Member(made["livekit_url"], made["host_token"]):
        _, guest = await api.call("POST", tokens_of(room), headers=bearer(made["host_token"]), json={"role": "guest"})
        async with Member(guest["livekit_url"], guest["token"]) as member:
            attributes = claims(made["host_token"])["attributes"]
            renewed = await wears(livekit, member, room, made["host_token"], attributes)
            assert (await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"}))[0] == 401


async def test_a_revoked_host_gains_nothing_by_the_stamp_of_the_next_token(
    api: Api, livekit: LiveKitSettings, room: str
) -> None:
    """Both tokens have the same identity, so the stamp by itself fits the old one."""
    old = (await make_room(api, room))["host_token"]
    assert (await api.call("POST", f"{tokens_of(room)}/revoke", "alice"))[0] == 200
    made = await make_room(api, room)
    attributes = claims(made["host_token"])["attributes"]
    async with Member(made["livekit_url"], old) as member:
        renewed = await wears(livekit, member, room, old, attributes)
        assert claims(renewed)["sub"] == claims(made["host_token"])["sub"]
        assert (await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"}))[0] == 401
    async with Member(made["livekit_url"], made["host_token"]) as host:
        good = await host.renewed()
        assert (await api.call("POST", tokens_of(room), headers=bearer(good), json={"role": "guest"}))[0] == 200


async def test_a_token_of_an_older_generation_rules_nothing(api: Api, database: Database, room: str) -> None:
    made = await make_room(api, room)
    await save(api)
    host = bearer(made["host_token"])
    _, invitation = await api.call("POST", tokens_of(room), headers=host, json={"role": "viewer"})
    assert (await api.call("GET", f"/api/live/status?room_id={room}", headers=host))[0] == 200
    await sql(database, "UPDATE rooms SET token_generation = token_generation + 1")
    for method, path, wanted in (
        ("POST", tokens_of(room), {"role": "guest"}),
        ("POST", "/api/live/start", {"room_id": room, "platforms": "youtube"}),
        ("POST", "/api/live/stop", {"room_id": room}),
        ("POST", f"/api/live/rooms/{room}/ingress", {"kind": "rtmp"}),
        ("GET", f"/api/live/status?room_id={room}", None),
        ("GET", f"/api/live/events?room_id={room}", None),
    ):
        status, problem = await api.call(method, path, headers=host, json=wanted)
        assert (status, problem["code"]) == (403, "not_host"), path
    status, problem = await api.call("POST", "/api/live/watch", json={"invitation": invitation["token"]})
    assert (status, problem["code"]) == (403, "invitation_invalid")
    # The owner's next one is of the new generation.
    again = bearer((await make_room(api, room))["host_token"])
    assert (await api.call("POST", tokens_of(room), headers=again, json={"role": "guest"}))[0] == 200


async def test_a_revocation_removes_all_who_came_with_a_token_and_leaves_the_engine(
    api: Api, livekit: LiveKitSettings, database: Database, room: str
) -> None:
    made = await make_room(api, room)
    host = bearer(made["host_token"])
    others = [
        await api.call("POST", tokens_of(room), headers=host, json={"role": role}) for role in ("guest", "viewer")
    ]
    joined = [made, *(one for _, one in others)]
    secret = livekit.api_secret.get_secret_value()
    signer = tokens.Tokens(Projects(livekit, api.settings.live))
    engine = signer.for_egress("default", room, tokens.engine_identity(uuid4()))
    async with AsyncExitStack() as opened:
        members = [
            await opened.enter_async_context(Member(one["livekit_url"], one.get("host_token") or one["token"]))
            for one in joined
        ]
        relay = await opened.enter_async_context(Member(made["livekit_url"], engine))
        assert (await api.call("POST", f"{tokens_of(room)}/revoke", headers=host))[0] == 401
        assert (await api.call("POST", f"{tokens_of(room)}/revoke", "bob"))[0] == 403
        status, revoked = await api.call("POST", f"{tokens_of(room)}/revoke", "alice")
        assert (status, revoked) == (200, {"room_id": room, "removed": 3})
        assert {await one.removed() for one in members} == {"PARTICIPANT_REMOVED"}
        async with livekit_api.LiveKitAPI(livekit.url, livekit.api_key, secret) as client:
            left = await client.room.list_participants(livekit_api.ListParticipantsRequest(room=room))
        assert [one.identity for one in left.participants] == [relay.identity]
    assert (await api.call("POST", tokens_of(room), headers=host, json={"role": "guest"}))[0] == 403
    again = await make_room(api, room)
    async with Member(again["livekit_url"], again["host_token"]) as back:
        assert await remove_revoked(database, Projects(livekit, api.settings.live), room) == 0
        assert not back.is_removed
    acts = (await api.call("GET", f"/api/live/audit?room_id={room}", "alice"))[1]["data"]
    found = [(one["actor"], one["result"]) for one in acts if one["action"] == "live.tokens_revoked"]
    assert found == [("user:alice", "ok"), ("user:bob", "refused")]


async def test_who_was_revoked_and_comes_again_is_removed_again(
    live_settings: Settings, run_jobs: Callable[..., Any], room: str
) -> None:
    """By LiveKit's webhook, and by the sweep where that was lost."""
    port = free_port()
    with livekit_server([f"http://127.0.0.1:{port}/api/live/webhook"]) as server:
        settings = replace(live_settings, livekit=livekit_settings(server))
        async with serving(settings, port) as api:
            made = await make_room(api, room)
            async with Member(made["livekit_url"], made["host_token"]) as host:
                renewed = await host.renewed()
                assert (await api.call("POST", f"{tokens_of(room)}/revoke", "alice"))[1]["removed"] == 1
                await host.removed()
            await run_jobs(settings=settings)
            # LiveKit tells of those whose media connection stands.
            client, gone = rtc.Room(), asyncio.Event()
            client.on("disconnected", lambda *_: gone.set())
            await client.connect(made["livekit_url"], renewed)
            try:
                async with asyncio.timeout(60):
                    while not gone.is_set():
                        # The webhook has enqueued it.
                        await run_jobs(settings=settings)
            finally:
                await client.disconnect()
            async with Member(made["livekit_url"], renewed) as again:
                await run_jobs("live.sweep_revoked", settings=settings)
                assert await again.removed() == "PARTICIPANT_REMOVED"


async def test_a_livekit_that_is_away_is_asked_again_until_it_has_removed_them(
    live_settings: Settings, run_jobs: Callable[..., Any], database: Database, room: str
) -> None:
    with livekit_server() as server:
        assert server.child is not None
        settings = replace(live_settings, livekit=livekit_settings(server))
        async with serving(settings) as api:
            made = await make_room(api, room)
            async with Member(made["livekit_url"], made["host_token"]) as host:
                os.kill(server.child.pid, signal.SIGSTOP)
                try:
                    status, revoked = await api.call("POST", f"{tokens_of(room)}/revoke", "alice")
                finally:
                    os.kill(server.child.pid, signal.SIGCONT)
                assert (status, revoked) == (200, {"room_id": room, "removed": None})
                stop = {"room_id": room}
                status, _ = await api.call("POST", "/api/live/stop", headers=bearer(made["host_token"]), json=stop)
                assert status == 403, "what is ours to refuse is refused at once"
                await run_jobs(settings=settings)
                assert await host.removed() == "PARTICIPANT_REMOVED"
            # No look ends while a revoked token may be good.
            assert await sql(database, "SELECT 1 FROM rooms WHERE removal_until > now()") == [(1,)]
            await sql(database, "UPDATE rooms SET removal_until = now() - interval '1 second'")
            await run_jobs("live.sweep_revoked", settings=settings)
            assert await sql(database, "SELECT removal_until FROM rooms") == [(None,)]


async def test_of_a_claimed_room_those_are_removed_who_were_in_it(
    api: Api, livekit: LiveKitSettings, database: Database, room: str
) -> None:
    """The program that made the room makes tokens without stamps; those of later are its own decision."""
    secret = livekit.api_secret.get_secret_value()

    def foreign(identity: str, *, admin: bool = False) -> str:
        grants = livekit_api.VideoGrants(room_join=True, room=room, room_admin=admin)
        return livekit_api.AccessToken(livekit.api_key, secret).with_identity(identity).with_grants(grants).to_jwt()

    claimed = {"host_token": foreign("host", admin=True)}
    status, made = await api.call("POST", "/api/live/rooms", "alice", json=claimed)
    assert status == 200, made
    status, problem = await api.call(
        "POST", tokens_of(room), headers=bearer(claimed["host_token"]), json={"role": "guest"}
    )
    assert (status, problem["code"]) == (401, "auth_required"), "it claims, and rules nothing here"
    async with Member(livekit.url, foreign("theirs")) as theirs, Member(livekit.url, made["host_token"]) as host:
        assert (await api.call("POST", f"{tokens_of(room)}/revoke", "alice"))[1]["removed"] == 2
        assert {await theirs.removed(), await host.removed()} == {"PARTICIPANT_REMOVED"}
    await sql(database, "UPDATE rooms SET tokens_revoked_at = now() - interval '10 seconds'")
    async with Member(livekit.url, foreign("theirs")) as theirs, Member(livekit.url, made["host_token"]) as host:
        assert await remove_revoked(database, Projects(livekit, api.settings.live), room) == 1
        assert await host.removed() == "PARTICIPANT_REMOVED"
        assert not theirs.is_removed


async def test_a_revoked_host_hears_no_more_events(api: Api, room: str) -> None:
    made = await make_room(api, room)
    url = f"{api.url}/api/live/events?room_id={room}"
    async with api.client.get(url, headers=bearer(made["host_token"])) as answer:
        listener = Listener(answer)
        await listener.next("status")
        assert (await api.call("POST", f"{tokens_of(room)}/revoke", "alice"))[0] == 200
        async with asyncio.timeout(60):
            assert b"tokens.revoked" not in await answer.content.read()


@pytest.mark.parametrize("identity", ["EG_abc", "egress-0190b6ac-2f1d-7cc3-98c4-dc0c0c07398f"])
async def test_no_token_has_an_engines_identity(api: Api, room: str, identity: str) -> None:
    await make_room(api, room)
    for path, wanted in ((tokens_of(room), {"role": "guest"}), (f"/api/live/rooms/{room}/ingress", {"kind": "rtmp"})):
        status, problem = await api.call("POST", path, "alice", json=wanted | {"identity": identity})
        assert (status, problem["code"]) == (400, "invalid_request"), path


async def test_a_closed_room_is_empty_and_off_air_and_makes_nothing(
    api: Api, livekit: LiveKitSettings, database: Database, run_jobs: Callable[..., Any], room: str
) -> None:
    made = await make_room(api, room)
    await save(api)
    begun = await go_live(api, room_id=room)
    host = bearer(made["host_token"])
    for user, how in (("bob", {}), (None, {"headers": host})):
        for method, path in (("POST", "/close"), ("POST", "/open"), ("DELETE", "")):
            status, _ = await api.call(method, f"/api/live/rooms/{room}{path}", user, **how)
            assert status == (403 if user else 401)
    async with Member(made["livekit_url"], made["host_token"]) as member:
        status, closed = await api.call("POST", f"/api/live/rooms/{room}/close", "alice")
        assert (status, closed["removed"]) == (200, 1) and closed["closed_at"]
        assert await member.removed() == "PARTICIPANT_REMOVED"
    again = (await api.call("POST", f"/api/live/rooms/{room}/close", "alice"))[1]
    assert again["closed_at"] == closed["closed_at"]
    assert await sql(database, "SELECT wanted FROM broadcasts") == [("off_air",)]
    assert [one["closed_at"] for one in (await api.call("GET", "/api/live/rooms", "alice"))[1]["data"]] == [
        closed["closed_at"]
    ]
    for path, wanted in (
        ("/api/live/rooms", {"room_id": room}),
        (tokens_of(room), {"role": "host"}),
        (tokens_of(room), {"role": "guest"}),
        (tokens_of(room), {"role": "viewer"}),
        (f"/api/live/rooms/{room}/ingress", {"kind": "rtmp"}),
        ("/api/live/start", {"room_id": room, "platforms": "youtube"}),
    ):
        status, problem = await api.call("POST", path, "alice", json=wanted)
        assert (status, problem["code"]) == (409, "room_closed"), (path, wanted)
    # What was is still shown.
    status, now = await api.call("GET", f"/api/live/status?room_id={room}", "alice")
    assert (status, now["session_id"]) == (200, begun["session_id"])

    secret = livekit.api_secret.get_secret_value()

    async def at_livekit() -> int:
        async with livekit_api.LiveKitAPI(livekit.url, livekit.api_key, secret) as client:
            return len((await client.room.list_rooms(livekit_api.ListRoomsRequest(names=[room]))).rooms)

    await run_jobs("live.sweep_revoked", settings=api.settings)
    assert await at_livekit() == 1, "its relay publishes the end"
    await sql(database, "UPDATE broadcasts SET ended_at = now()")
    await run_jobs("live.sweep_revoked", settings=api.settings)
    assert await at_livekit() == 0

    status, opened = await api.call("POST", f"/api/live/rooms/{room}/open", "alice")
    assert (status, opened["closed_at"]) == (200, None)
    assert (await api.call("POST", tokens_of(room), headers=host, json={"role": "guest"}))[0] == 403
    assert (await api.call("POST", tokens_of(room), "alice", json={"role": "guest"}))[0] == 200
    acts = (await api.call("GET", f"/api/live/audit?room_id={room}", "alice"))[1]["data"]
    found = [one["action"] for one in acts if one["action"].startswith("live.room_") and one["result"] == "ok"]
    assert found == ["live.room_opened", "live.room_closed", "live.room_made"]


async def test_a_room_that_was_given_up_is_free_for_nobody(api: Api, room: str) -> None:
    made = await make_room(api, room)
    async with Member(made["livekit_url"], made["host_token"]) as member:
        for _ in range(2):
            assert (await api.call("DELETE", f"/api/live/rooms/{room}", "alice"))[0] == 204
        assert await member.removed() == "PARTICIPANT_REMOVED"
    assert (await api.call("GET", "/api/live/rooms", "alice"))[1]["data"] == []
    for user, code in (("alice", "room_closed"), ("bob", "room_taken")):
        status, problem = await api.call("POST", "/api/live/rooms", user, json={"room_id": room})
        assert (status, problem["code"]) == (409, code)
    status, problem = await api.call("POST", f"/api/live/rooms/{room}/open", "alice")
    assert (status, problem["code"]) == (409, "room_closed")


async def test_an_invitation_is_taken_back_with_those_who_came_by_it(
    api: Api, run_jobs: Callable[..., Any], database: Database, room: str
) -> None:
    made = await make_room(api, room)
    host, path = bearer(made["host_token"]), f"/api/live/rooms/{room}/invitations"
    status, press = await api.call("POST", path, headers=host, json={"name": "Press"})
    assert status == 201, press
    # A viewer's token is one, too.
    friends = (await api.call("POST", tokens_of(room), "alice", json={"role": "viewer"}))[1]
    found = (await api.call("GET", path, headers=host))[1]["data"]
    assert [one["invitation_id"] for one in found] == [friends["invitation_id"], press["invitation_id"]]
    assert found[1]["name"] == "Press" and "invitation" not in found[1]
    # It ends with the host token that made it.
    ends = datetime.fromisoformat(press["expires_at"]).timestamp()
    assert ends <= claims(made["host_token"])["exp"] + 1

    async def come(invitation: str) -> Any:
        return await api.call("POST", "/api/live/watch", json={"invitation": invitation})

    for user in ("bob", None):
        for method, to in (("GET", path), ("POST", path), ("DELETE", f"{path}/{press['invitation_id']}")):
            how = {"json": {}} if method == "POST" else {}
            assert (await api.call(method, to, user, **how))[0] == (403 if user else 401)
    one, two = [(await come(token))[1] for token in (press["invitation"], friends["token"])]
    url = made["livekit_url"]
    async with Member(url, one["token"]) as reporter, Member(url, two["token"]) as friend:
        renewed = await reporter.renewed()
        for _ in range(2):
            assert (await api.call("DELETE", f"{path}/{press['invitation_id']}", "alice"))[0] == 204
        assert await reporter.removed() == "PARTICIPANT_REMOVED"
        status, problem = await come(press["invitation"])
        assert (status, problem["code"]) == (403, "invitation_invalid")
        async with Member(url, renewed) as again, Member(url, press["invitation"]) as direct:
            await run_jobs("live.sweep_revoked", settings=api.settings)
            assert await again.removed() == await direct.removed() == "PARTICIPANT_REMOVED"
        assert not friend.is_removed
        assert (await come(friends["token"]))[0] == 200
    found = (await api.call("GET", path, "alice"))[1]["data"]
    assert [one["invitation_id"] for one in found] == [friends["invitation_id"]]
    status, problem = await api.call("DELETE", f"{path}/{uuid4()}", "alice")
    assert (status, problem["code"]) == (404, "invitation_not_found")
    # A revocation takes all of them back.
    assert (await api.call("POST", f"{tokens_of(room)}/revoke", "alice"))[0] == 200
    assert (await api.call("GET", path, "alice"))[1]["data"] == []
    assert (await come(friends["token"]))[0] == 403
    # Rows go a day after their end, once no one can return by them.
    await sql(database, "UPDATE room_invitations SET expires_at = now() - interval '25 hours'")
    await run_jobs("live.sweep_revoked", settings=api.settings)
    assert len(await sql(database, "SELECT 1 FROM room_invitations")) == 2
    await sql(database, "UPDATE rooms SET removal_until = NULL")
    await run_jobs("live.sweep_revoked", settings=api.settings)
    assert await sql(database, "SELECT 1 FROM room_invitations") == []
