"""Ingresses for hosts with OBS, against the stand-in, and what a real LiveKit without the service says."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from livekit import api as livekit_api
from pydantic import SecretStr

from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.embedded.livekit import EmbeddedLiveKit
from butai.live.ingresses import service
from butai.live.ingresses.sweep import end_revoked, sweep
from butai.live.projects import Projects
from tests.conftest import Api, serving
from tests.fakes.livekit_egress import StandIn
from tests.fakes.livekit_egress.twirp import TwirpError
from tests.live_api import bearer, go_live, make_room, save, sql
from tests.processes import free_port

SECRET = "canary-livekit-secret-of-32-letters"
PATH = "/api/live/rooms/studio-1/ingress"
DESTINATION = {"platform": "twitch", "stream_key": "live_1", "ingest_url": "rtmp://127.0.0.1:9/app"}


@pytest.fixture
async def standin(port: int) -> AsyncIterator[StandIn]:
    hook = f"http://127.0.0.1:{port}/api/live/webhook"
    async with StandIn(key="devkey", secret=SECRET, webhooks=[hook], speed=10) as standin:
        yield standin


@pytest.fixture
def port() -> int:
    return free_port()


def at(settings: Settings, url: str, secret: str = SECRET, key: str = "devkey") -> Settings:
    return replace(settings, livekit=LiveKitSettings(url=url, api_key=key, api_secret=SecretStr(secret)))


@pytest.fixture
async def api(live_settings: Settings, standin: StandIn, port: int) -> AsyncIterator[Api]:
    async with serving(at(live_settings, standin.url), port=port) as running:
        yield running


async def make(api: Api, status: int = 201, user: str | None = "alice", **more: Any) -> dict[str, Any]:
    found, made = await api.call("POST", PATH, user, json={"kind": "rtmp"} | more)
    assert found == status, made
    return made


async def listed(api: Api) -> list[dict[str, Any]]:
    status, found = await api.call("GET", PATH, "alice")
    assert status == 200, found
    return found["data"]


async def test_a_key_is_shown_once_and_kept_sealed(
    api: Api, standin: StandIn, database: Database, capfd: pytest.CaptureFixture[str]
) -> None:
    room = await make_room(api)
    made = await make(api, name="OBS")
    whip = await make(api, kind="whip")
    assert made["url"].startswith("rtmp://") and made["stream_key"] and made["state"] == "idle"
    assert made["identity"] == room["host_identity"], "what it sends goes on air"
    assert whip["url"].startswith("http") and whip["stream_key"] != made["stream_key"]
    found = await listed(api)
    assert [one["ingress_id"] for one in found] == [made["ingress_id"], whip["ingress_id"]]
    assert [one["key_fingerprint"] for one in found] == [made["key_fingerprint"], whip["key_fingerprint"]]
    said = capfd.readouterr()
    everything = [str(found), said.out + said.err]
    everything += [
        str(await sql(database, f"SELECT t::text FROM {table} t"))
        for table in ("ingresses", "live_events", "audit", "livekit_webhooks")
    ]
    for text in everything:
        assert made["stream_key"] not in text and whip["stream_key"] not in text
    asked = next(call.request for call in standin.log if call.method == "Ingress/CreateIngress")
    ((row_id,),) = await sql(database, "SELECT id FROM ingresses WHERE ingress_id = :id", id=made["ingress_id"])
    assert asked.name == f"butai-{row_id.hex}-OBS"  # pyright: ignore[reportAttributeAccessIssue]
    assert asked.room_name == "studio-1"  # pyright: ignore[reportAttributeAccessIssue]


async def test_its_state_is_in_list_status_and_timeline(api: Api, standin: StandIn) -> None:
    await make_room(api)
    await save(api)
    await go_live(api)
    made = (await make(api, name="OBS"))["ingress_id"]
    standin.ingress_starts(made)

    async def shown(state: str) -> None:
        async with asyncio.timeout(60):
            while True:
                status, said = await api.call("GET", "/api/live/status?room_id=studio-1", "alice")
                assert status == 200
                (one,) = said["ingress"]
                if one["state"] == state:
                    assert (one["ingress_id"], one["kind"], one["name"]) == (made, "rtmp", "OBS")
                    events = [event["event"] for event in said["timeline"]]
                    assert "ingress.made" in events and "ingress.started" in events
                    return
                await asyncio.sleep(0.05)

    await shown("publishing")
    standin.ingress_ends(made)
    await shown("ended")


async def test_a_lost_webhook_is_made_up_for_by_a_look(api: Api, standin: StandIn) -> None:
    await make_room(api)
    made = await make(api)
    standin.webhook_policy(on=False)
    standin.ingress_starts(made["ingress_id"])
    assert [one["state"] for one in await listed(api)] == ["publishing"]
    await standin.down(True)
    assert [one["state"] for one in await listed(api)] == ["publishing"], "without LiveKit the row stands"


async def test_closing_one_cuts_it_off_and_again_is_fine(api: Api, standin: StandIn) -> None:
    await make_room(api)
    made = (await make(api))["ingress_id"]
    for _ in range(2):
        assert (await api.call("DELETE", f"{PATH}/{made}", "alice"))[0] == 204
    assert await listed(api) == []
    assert standin.calls["DeleteIngress"] == 1
    assert (await api.call("DELETE", f"{PATH}/IN_none", "alice"))[0] == 404
    again = (await make(api))["ingress_id"]
    # LiveKit has lost it: nothing is left to end.
    standin.ingresses._found.clear()
    assert (await api.call("DELETE", f"{PATH}/{again}", "alice"))[0] == 204


async def test_only_the_host_has_any(api: Api) -> None:
    room = await make_room(api)
    made = (await make(api))["ingress_id"]
    for user, wanted in ((None, 401), ("mallory", 403)):
        assert (await api.call("GET", PATH, user))[0] == wanted
        assert (await api.call("POST", PATH, user, json={"kind": "rtmp"}))[0] == wanted
        assert (await api.call("DELETE", f"{PATH}/{made}", user))[0] == wanted
    status, _ = await api.call("POST", PATH, json={"kind": "whip"}, headers=bearer(room["host_token"]))
    assert status == 201
    assert len(await listed(api)) == 2
    # Another room's is none of this one's.
    await make_room(api, "other", "mallory")
    assert (await api.call("DELETE", f"/api/live/rooms/other/ingress/{made}", "mallory"))[0] == 404


async def test_a_room_has_four_at_most_however_fast_they_are_asked_for(api: Api, standin: StandIn) -> None:
    await make_room(api)
    answers = await asyncio.gather(*(api.call("POST", PATH, "alice", json={"kind": "rtmp"}) for _ in range(8)))
    assert sorted(status for status, _ in answers) == [201] * 4 + [409] * 4
    assert len(await listed(api)) == 4
    assert len(standin.ingresses._found) == 4, "what was refused is not left open"


async def test_one_that_nobody_knows_is_closed_by_the_next(api: Api, standin: StandIn) -> None:
    await make_room(api)
    async with livekit_api.LiveKitAPI(standin.url, "devkey", SECRET) as client:
        for name in ("butai-OBS", "theirs"):
            await client.ingress.create_ingress(
                livekit_api.CreateIngressRequest(name=name, room_name="studio-1", participant_identity="x")
            )
    await make(api)
    names = [info.name for info in standin.ingresses._found.values()]
    ours, theirs = sorted(names)
    assert re.fullmatch(r"butai-[0-9a-f]{32}-rtmp", ours) and theirs == "theirs"


async def test_while_livekit_hangs_all_other_writes_go_on(
    live_settings: Settings, standin: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is locked and no connection is held while LiveKit is asked: more requests wait for it than the pool has."""
    # None of them ends by itself while this looks.
    monkeypatch.setattr(service, "_TIMEOUT", 120.0)
    small = live_settings.database.model_copy(update={"pool_size": 2})
    async with serving(at(replace(live_settings, database=small), standin.url)) as api:
        for room in ("studio-1", "studio-2", "studio-3", "studio-4"):
            await make_room(api, room)
        await save(api)
        closing = (await make(api))["ingress_id"]
        await standin.down(how="hang")
        # Two of them in the room in which the writes below happen.
        rooms = ("studio-1", "studio-1", "studio-2", "studio-3")
        waiting = [
            asyncio.create_task(api.call("POST", f"/api/live/rooms/{room}/ingress", "alice", json={"kind": "rtmp"}))
            for room in rooms
        ]
        waiting.append(asyncio.create_task(api.call("DELETE", f"{PATH}/{closing}", "alice")))
        async with asyncio.timeout(60):
            while standin.server.hanging < len(waiting):
                await asyncio.sleep(0.01)
            session = (await go_live(api))["session_id"]
            status, made = await api.call("POST", "/api/live/destinations", "alice", json=DESTINATION)
            assert status == 201, made
            path = f"/api/live/broadcasts/{session}/outputs"
            status, added = await api.call("POST", path, "alice", json={"destination_ids": [made["id"]]})
            assert status == 200 and len(added["outputs"]) == 2
            assert (await api.call("POST", "/api/live/stop", "alice", json={"room_id": "studio-1"}))[0] == 200
            status, token = await api.call("POST", "/api/live/rooms/studio-1/tokens", "alice", json={"role": "guest"})
            assert status == 200, token
            # Its question to LiveKit times out by itself.
            assert (await api.call("POST", "/api/live/rooms", "alice", json={}))[0] == 200
            status, unknown = await api.call("POST", "/api/live/rooms", "alice", json={"room_id": "studio-5"})
            assert (status, unknown["code"]) == (503, "livekit_unreachable")
            assert len(await listed(api)) == 1, "what is still being made is not listed"
        assert not any(task.done() for task in waiting), "LiveKit has answered none of them yet"
        await standin.down(False)
        assert [status for status, _ in await asyncio.gather(*waiting)] == [201] * 4 + [204]
        assert len(await listed(api)) == 2


async def test_what_a_dead_process_left_is_ended_and_its_row_fails(
    api: Api, standin: StandIn, database: Database, live_settings: Settings
) -> None:
    """The process died after LiveKit had made it, before its row was filled."""
    await make_room(api)
    kept = (await make(api))["ingress_id"]
    dead, fresh = uuid4(), uuid4()
    async with livekit_api.LiveKitAPI(standin.url, "devkey", SECRET) as client:
        for row in (dead, fresh):
            await client.ingress.create_ingress(
                livekit_api.CreateIngressRequest(
                    name=f"butai-{row.hex}-OBS", room_name="studio-1", participant_identity="x"
                )
            )
    for row, age in ((dead, "2 minutes"), (fresh, "1 second")):
        await sql(
            database,
            "INSERT INTO ingresses (id, room_id, project, kind, identity, state, created_at) "
            f"VALUES (:id, 'studio-1', 'default', 'rtmp', 'x', 'making', now() - interval '{age}')",
            id=row,
        )
    settings = at(live_settings, standin.url)
    projects = Projects(settings.livekit, settings.live)
    await standin.down()
    assert await sweep(database, projects) == 0, "LiveKit is away: the next time"
    states = {row.id: row.state for row in await sql(database, "SELECT id, state FROM ingresses")}
    assert (states[dead], states[fresh]) == ("abandoned", "making")
    await standin.down(False)
    assert await sweep(database, projects) == 1
    assert await sweep(database, projects) == 0
    states = {row.id: row.state for row in await sql(database, "SELECT id, state FROM ingresses")}
    assert (states[dead], states[fresh]) == ("failed", "making")
    names = {info.name for info in standin.ingresses._found.values()}
    assert f"butai-{dead.hex}-OBS" not in names and f"butai-{fresh.hex}-OBS" in names, "the other may be filled yet"
    assert [one["ingress_id"] for one in await listed(api)] == [kept]


async def test_an_ingress_ends_with_the_host_token_that_made_it(
    api: Api, standin: StandIn, database: Database, live_settings: Settings, run_jobs: Callable[..., Any]
) -> None:
    settings = at(live_settings, standin.url)
    host = bearer((await make_room(api))["host_token"])
    status, theirs = await api.call("POST", PATH, headers=host, json={"kind": "rtmp"})
    assert status == 201
    owners = (await make(api))["ingress_id"]
    await standin.down()
    assert (await api.call("POST", "/api/live/rooms/studio-1/tokens/revoke", "alice"))[1]["removed"] is None
    assert (await api.call("POST", PATH, headers=host, json={"kind": "rtmp"}))[0] == 403
    projects = Projects(settings.livekit, settings.live)
    assert await end_revoked(database, projects) == 0, "LiveKit is away: the next time"
    assert len(await listed(api)) == 2
    await standin.down(False)
    await run_jobs("live.sweep_ingresses", settings=settings)
    assert [one["ingress_id"] for one in await listed(api)] == [owners]
    assert set(standin.ingresses._found) == {owners}, "at LiveKit too"
    audited = await sql(database, "SELECT actor, detail FROM audit WHERE action = 'live.ingress_deleted'")
    assert [(row.actor, row.detail["ingress_id"]) for row in audited] == [("service:worker", theirs["ingress_id"])]


async def test_an_answer_that_is_lost_leaves_nothing_open_and_takes_no_place(
    api: Api, standin: StandIn, database: Database
) -> None:
    await make_room(api)
    create = standin.ingresses.create

    async def lost(request: Any) -> Any:
        await create(request)
        raise TwirpError("unavailable", "twirp error unknown: the answer is lost")

    standin._answers["Ingress/CreateIngress"] = lost
    for _ in range(5):
        assert (await make(api, 503))["code"] == "ingress_unavailable"
    assert await listed(api) == []
    found = await sql(database, "SELECT state, count(*) FROM ingresses GROUP BY state")
    assert [tuple(row) for row in found] == [("abandoned", 5)], "looked for at LiveKit by the sweep"
    assert len(standin.ingresses._found) == 1, "each ended the one before"
    standin._answers["Ingress/CreateIngress"] = create
    await make(api)
    assert len(standin.ingresses._found) == 1
    audited = await sql(database, "SELECT result FROM audit WHERE action = 'live.ingress_made' ORDER BY id")
    assert [row.result for row in audited] == ["failed"] * 5 + ["ok"]


@pytest.mark.parametrize(
    "wanted", [{}, {"kind": "srt"}, {"kind": "rtmp", "name": "x" * 101}, {"kind": "rtmp", "more": 1}]
)
async def test_rubbish_is_refused(api: Api, wanted: dict[str, Any]) -> None:
    await make_room(api)
    status, problem = await api.call("POST", PATH, "alice", json=wanted)
    assert status == 400 and problem["code"], problem


async def test_a_livekit_that_is_away_or_refuses_us_is_named(live_settings: Settings, standin: StandIn) -> None:
    async with serving(live_settings) as api:
        await make_room(api)
    async with serving(at(live_settings, "http://127.0.0.1:9")) as away:
        assert (await make(away, 503))["code"] == "livekit_unreachable"
    async with serving(at(live_settings, standin.url, secret="x" * 32)) as refused:
        assert (await make(refused, 503))["code"] == "livekit_unauthorized"


async def test_a_real_livekit_without_the_service_says_so(live_settings: Settings) -> None:
    folder = Path(tempfile.mkdtemp(prefix="butai-ingress-"))
    try:
        with EmbeddedLiveKit(folder / "livekit") as server:
            real = server.livekit
            async with serving(at(live_settings, real.url, real.api_secret, real.api_key)) as api:
                await make_room(api)
                problem = await make(api, 503)
                assert problem["code"] == "ingress_unavailable" and "Redis" in problem["title"]
    finally:
        shutil.rmtree(folder)
