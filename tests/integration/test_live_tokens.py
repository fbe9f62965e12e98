"""Host tokens, guests' tokens and invitations against a real LiveKit: how long they are good for, and what takes them back."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import jwt
import pytest
from pydantic import SecretStr

from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.embedded.livekit import EmbeddedLiveKit
from butai.live import tokens
from tests.conftest import Api, serving
from tests.live_api import bearer, make_room, save, sql
from tests.livekit_members import Member


@pytest.fixture(scope="module")
def livekit() -> Iterator[LiveKitSettings]:
    path = Path(tempfile.mkdtemp(prefix="butai-livekit-"))
    with EmbeddedLiveKit(path / "livekit") as server:
        made = server.livekit
        yield LiveKitSettings(url=made.url, api_key=made.api_key, api_secret=SecretStr(made.api_secret))
    shutil.rmtree(path)


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
            async with asyncio.timeout(30):
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


async def test_a_host_who_writes_attributes_gains_nothing(api: Api, livekit: LiveKitSettings, room: str) -> None:
    made = await make_room(api, room)
    async with Member(made["livekit_url"], made["host_token"]):
        _, guest = await api.call("POST", tokens_of(room), headers=bearer(made["host_token"]), json={"role": "guest"})
        async with Member(guest["livekit_url"], guest["token"]), aiohttp.ClientSession() as client:
            wanted = {
                "room": room,
                "identity": guest["identity"],
                "attributes": claims(made["host_token"])["attributes"],
            }
            url = livekit.url.replace("ws", "http", 1) + "/twirp/livekit.RoomService/UpdateParticipant"
            async with client.post(url, json=wanted, headers=bearer(made["host_token"])) as said:
                assert said.status == 200, "LiveKit lets a host write them"
        async with Member(guest["livekit_url"], guest["token"]) as again:
            renewed = await again.renewed()
            assert (await api.call("POST", tokens_of(room), headers=bearer(renewed), json={"role": "guest"}))[0] == 401


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
