"""Two real LiveKits behind one Butai: each room in its own, and keys exchanged under a running API."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from livekit import api as livekit_api
from livekit import rtc
from pydantic import SecretStr

from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.embedded.livekit import EmbeddedLiveKit, LiveKit
from butai.live import stamps
from butai.live.stamps import Stamp
from tests import forked
from tests.conftest import Api, serving
from tests.live_api import bearer, go_live, save, sql
from tests.processes import environment


@dataclass
class House:
    api: Api
    file: Path
    first: LiveKit
    second: LiveKit

    def write(self, *keys: tuple[str, str]) -> None:
        """The second LiveKit's keys, as `tokyo`."""
        entry = {"url": self.second.url, "keys": [{"api_key": key, "api_secret": secret} for key, secret in keys]}
        self.file.write_text(json.dumps({"tokyo": {**entry, "public_url": "wss://tokyo.example"}}))


@pytest.fixture(scope="module")
def livekits() -> Iterator[tuple[LiveKit, LiveKit]]:
    folder = Path(tempfile.mkdtemp(prefix="butai-projects-"))
    with EmbeddedLiveKit(folder / "a") as first, EmbeddedLiveKit(folder / "b") as second:
        yield first.livekit, second.livekit
    shutil.rmtree(folder)


@pytest.fixture
async def house(live_settings: Settings, livekits: tuple[LiveKit, LiveKit], tmp_path: Path) -> AsyncIterator[House]:
    first, second = livekits
    found = House(None, tmp_path / "projects.json", first, second)  # pyright: ignore[reportArgumentType]
    found.write((second.api_key, second.api_secret))
    settings = replace(
        live_settings,
        livekit=LiveKitSettings(url=first.url, api_key=first.api_key, api_secret=SecretStr(first.api_secret)),
        live=live_settings.live.model_copy(update={"livekit_projects_file": found.file}),
    )
    async with serving(settings) as api:
        found.api = api
        yield found


async def rooms_at(livekit: LiveKit) -> set[str]:
    async with livekit_api.LiveKitAPI(livekit.url, livekit.api_key, livekit.api_secret) as asked:
        return {room.name for room in (await asked.room.list_rooms(livekit_api.ListRoomsRequest())).rooms}


async def joins(livekit: LiveKit, token: str) -> str:
    """The name of the room that a real client comes into; nothing when it is refused."""
    room = rtc.Room()
    try:
        async with asyncio.timeout(60):
            await room.connect(livekit.url, token)
        return room.name
    except rtc.ConnectError:
        return ""
    finally:
        await room.disconnect()


async def make(house: House, status: int = 200, user: str = "alice", **wanted: Any) -> dict[str, Any]:
    found, made = await house.api.call("POST", "/api/live/rooms", user, json=wanted)
    assert found == status, made
    return made


def host_token(key: tuple[str, str], room: str, identity: str) -> str:
    """As the service makes one with this API key and secret: LiveKit's grants, and a stamp."""
    grants = livekit_api.VideoGrants(room_admin=True, room_join=True, room=room)
    stamp = stamps.sign(Stamp("host", room, identity, 1, time.time() + 3600), key[1])
    token = livekit_api.AccessToken(*key).with_identity(identity).with_grants(grants)
    token = token.with_room_config(livekit_api.RoomConfiguration(tags=stamps.tags(stamp)))
    return token.with_attributes({stamps.ATTRIBUTE: stamp}).to_jwt()


async def test_each_room_is_in_its_own_livekit(house: House) -> None:
    here = await make(house, room_id="here")
    there = await make(house, room_id="there", project="tokyo")
    assert (here["project"], here["livekit_url"]) == ("default", house.first.url)
    assert (there["project"], there["livekit_url"]) == ("tokyo", "wss://tokyo.example")
    assert await rooms_at(house.first) >= {"here"} and "there" not in await rooms_at(house.first)
    assert await rooms_at(house.second) >= {"there"} and "here" not in await rooms_at(house.second)
    # For good, and by the name alone.
    assert (await make(house, room_id="there"))["project"] == "tokyo"
    assert (await make(house, 409, room_id="there", project="default"))["code"] == "room_taken"
    assert (await make(house, 404, room_id="new", project="osaka"))["code"] == "project_unknown"
    listed = (await house.api.call("GET", "/api/live/rooms", "alice"))[1]["data"]
    assert {room["room_id"]: room["project"] for room in listed} == {"here": "default", "there": "tokyo"}
    status, token = await house.api.call("POST", "/api/live/rooms/there/tokens", "alice", json={"role": "viewer"})
    assert (status, token["livekit_url"]) == (200, "wss://tokyo.example")
    assert await joins(house.second, token["token"]) == "there"
    assert await joins(house.first, token["token"]) == ""
    assert await joins(house.first, here["host_token"]) == "here"
    assert await joins(house.second, here["host_token"]) == ""


async def test_without_a_default_one_of_several_is_named_and_rooms_that_are_there_need_no_name(
    house: House, live_settings: Settings
) -> None:
    def entry(livekit: LiveKit) -> dict[str, Any]:
        return {"url": livekit.url, "keys": [{"api_key": livekit.api_key, "api_secret": livekit.api_secret}]}

    house.file.write_text("{}")
    settings = replace(
        live_settings,
        livekit=LiveKitSettings(url="", api_key="", api_secret=SecretStr("")),
        live=live_settings.live.model_copy(update={"livekit_projects_file": house.file}),
    )
    async with serving(settings) as api:
        house.api = api
        assert (await make(house, 503, room_id="early"))["code"] == "livekit_not_configured"
        # A project that comes while the API runs is all there, host tokens and all.
        house.file.write_text(json.dumps({"tokyo": entry(house.second)}))

        async def there() -> bool:
            return (await api.call("POST", "/api/live/rooms", "alice", json={"room_id": "early"}))[0] == 200

        async with asyncio.timeout(60):
            while not await there():
                await asyncio.sleep(0.1)
        made = await make(house, room_id="early")
        assert made["project"] == "tokyo", "the only one"
        shown = bearer(made["host_token"])
        assert (await api.call("GET", "/api/live/status?room_id=early", headers=shown))[0] == 200
        house.file.write_text(json.dumps({"tokyo": entry(house.second), "osaka": entry(house.first)}))

        async def refused() -> bool:
            status, problem = await api.call("POST", "/api/live/rooms", "alice", json={})
            return (status, problem.get("code")) == (404, "project_unknown")

        async with asyncio.timeout(60):
            while not await refused():
                await asyncio.sleep(0.1)
        assert (await make(house, room_id="later", project="osaka"))["project"] == "osaka"
        for room, project in (("early", "tokyo"), ("later", "osaka")):
            assert (await make(house, room_id=room))["project"] == project


async def test_a_host_token_rules_no_room_of_another_livekit(house: House) -> None:
    await make(house, room_id="rules", project="tokyo")
    token = host_token((house.first.api_key, house.first.api_secret), "rules", "mallory")
    for method, path, body in (
        ("GET", "/api/live/status?room_id=rules", None),
        ("POST", "/api/live/rooms/rules/tokens", {"role": "viewer"}),
        ("POST", "/api/live/start", {"room_id": "rules", "platforms": "youtube"}),
    ):
        status, problem = await house.api.call(method, path, json=body, headers=bearer(token))
        assert (status, problem["code"]) == (403, "not_host"), path
    # Nor is the room given away for it.
    assert (await make(house, 409, "mallory", room_id="rules", host_token=token))["code"] == "room_taken"
    # Nor may its bearer say that it is of another.
    grants = livekit_api.VideoGrants(room_admin=True, room_join=True, room="free")
    foreign = livekit_api.AccessToken(house.first.api_key, house.first.api_secret)
    token = foreign.with_identity("mallory").with_grants(grants).to_jwt()
    assert (await make(house, 400, "mallory", project="tokyo", host_token=token))["code"] == "invalid_request"
    assert (await house.api.call("GET", "/api/live/rooms", "mallory"))[1]["data"] == []


async def test_a_claimed_room_is_in_its_tokens_livekit_and_so_is_its_broadcast(
    house: House, database: Database
) -> None:
    grants = livekit_api.VideoGrants(room_admin=True, room_join=True, room="claimed")
    own = livekit_api.AccessToken(house.second.api_key, house.second.api_secret)
    token = own.with_identity("me").with_grants(grants).to_jwt()
    made = await make(house, host_token=token)
    assert (made["room_id"], made["project"], made["host_identity"]) == ("claimed", "tokyo", "me")
    await save(house.api)
    begun = await go_live(house.api, room_id="claimed")
    rows = await sql(database, "SELECT livekit_project FROM broadcasts WHERE id = :id", id=begun["session_id"])
    assert rows == [("tokyo",)]


@pytest.mark.parametrize("command", ["api", "controller"])
async def test_a_file_that_is_wrong_at_the_start_is_told_in_one_line(
    live_settings: Settings, tmp_path: Path, command: str
) -> None:
    file = tmp_path / "projects.json"
    file.write_text('{"tokyo": {"url": "ws://x", "keys": [{"api_key": "a", "api_secret": ["canary-in-a-bad-file"]}]}}')
    done = await forked.command(command, env=environment(live_settings, BUTAI_LIVEKIT_PROJECTS_FILE=str(file)))
    (line,) = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 1 and str(file) in line and "canary" not in line


async def test_keys_are_exchanged_while_the_api_runs(house: House, capfd: pytest.CaptureFixture[str]) -> None:
    old = (house.second.api_key, house.second.api_secret)
    new = ("new-key", "canary-new-secret-of-32-letters-xx")
    before = (await make(house, room_id="turned", project="tokyo"))["host_token"]

    async def status(token: str) -> int:
        return (await house.api.call("GET", "/api/live/status?room_id=turned", headers=bearer(token)))[0]

    async def until(token: str, wanted: int) -> None:
        async with asyncio.timeout(60):
            while await status(token) != wanted:
                await asyncio.sleep(0.1)

    assert await status(before) == 200
    house.write(new, old)
    by_new = host_token(new, "turned", "h")
    await until(by_new, 200)
    assert await status(before) == 200, "those of the old key still rule"
    after = (await make(house, room_id="turned"))["host_token"]
    assert livekit_api.TokenVerifier(*new).verify(after).identity
    house.file.write_text("{ half")
    assert await status(before) == 200
    house.write(new)
    await until(before, 401)
    assert await status(after) == 200
    said = capfd.readouterr()
    assert new[1] not in said.out + said.err and old[1] not in said.out + said.err
