"""Limits of rate over HTTP: 429 with a code and a time, for one caller, and no one else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from typing import Any

import aiohttp
import pytest

import butai.api
from butai.assets.storage.client import Store
from butai.config import AssetSettings, Rate, RateSettings, Settings
from butai.database import Database
from butai.identity.api_keys import create_api_key
from butai.web.refusals import PAUSE, Refusals
from tests.conftest import Api, serving
from tests.live_api import Listener, bearer, make_room

FEW = Rate(burst=3, per_second=0.05)


@contextlib.asynccontextmanager
async def limited(settings: Settings, **rates: Any) -> AsyncGenerator[Api]:
    async with serving(replace(settings, rates=RateSettings(**rates))) as api:
        yield api


async def statuses(api: Api, count: int, method: str, path: str, user: str | None = None, **how: Any) -> list[int]:
    return [(await api.call(method, path, user, **how))[0] for _ in range(count)]


async def check_refusal(api: Api, method: str, path: str, user: str | None = None, **how: Any) -> None:
    headers = (api.cookie(user) if user else {}) | how.pop("headers", {})
    async with api.client.request(method, api.url + path, headers=headers, **how) as answer:
        assert answer.status == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 20
        said = await answer.json()
        assert "rate_limited" in (said.get("code"), said.get("error", {}).get("code"))


async def test_refused_stops_and_rooms_by_chosen_names_end_in_429(live_settings: Settings) -> None:
    async with limited(live_settings, begin=FEW) as api:
        assert await statuses(api, 3, "POST", "/api/live/stop", "mallory", json={"room_id": "studio-1"}) == [403] * 3
        await check_refusal(api, "POST", "/api/live/stop", "mallory", json={"room_id": "studio-1"})
        await check_refusal(api, "POST", "/api/live/rooms", "mallory", json={"room_id": "other"})
        # What only reads, and what others do, goes on.
        assert (await api.call("GET", "/api/live/rooms", "mallory"))[0] == 200
        assert (await api.call("POST", "/api/live/stop", "alice", json={"room_id": "studio-1"}))[0] == 403


async def test_failing_uploads_of_any_kind_end_in_429(settings: Settings) -> None:
    async with limited(settings, write=FEW) as api:
        assert [(await api.upload("mallory", f"vrm/{n}.vrm", b"GIF89a" + bytes(99)))[0] for n in range(3)] == [422] * 3
        await check_refusal(api, "POST", "/api/s3/upload", "mallory", data=b"")
        await check_refusal(api, "POST", "/api/assets/uploads", "mallory", headers={"Tus-Resumable": "1.0.0"})
        await check_refusal(api, "POST", "/api/s3/presigned-url", "mallory", json={})


@pytest.mark.parametrize("path", ["/api/s3/presigned-url", "/api/assets/uploads"])
async def test_refusals_that_are_asked_for_without_pause_have_one(
    settings: Settings, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def pause(refusals: Refusals, address: str, found: Callable[[Refusals, str], float] = Refusals.pause) -> float:
        pauses.append(found(refusals, address))
        return 0

    monkeypatch.setattr(Refusals, "pause", pause)
    async with limited(settings, write=FEW) as api:
        tus = {"Tus-Resumable": "1.0.0"}
        await statuses(api, 3, "POST", path, "mallory", json={}, headers=tus)
        assert pauses == []
        assert await statuses(api, 3, "POST", path, "mallory", json={}, headers=tus) == [429] * 3
        assert pauses == [0, PAUSE, PAUSE]


async def test_tests_of_destinations_end_in_429(live_settings: Settings) -> None:
    async with limited(live_settings, test=FEW) as api:
        path = "/api/live/destinations/0190aaaa-0000-7000-8000-000000000000/test"
        assert await statuses(api, 3, "POST", path, "mallory") == [404] * 3
        await check_refusal(api, "POST", path, "mallory")


async def test_callers_without_a_credential_share_their_address(settings: Settings) -> None:
    async with limited(settings, anonymous=FEW) as api:
        path = "/api/s3/read-object?key=vrm/none.vrm"
        assert await statuses(api, 2, "GET", path) == [401] * 2
        # One that is not accepted is none.
        assert await statuses(api, 1, "GET", path, headers=bearer("a.b.c")) == [401]
        await check_refusal(api, "GET", path)
        await check_refusal(api, "GET", path, headers=bearer("a.b.c"))
        assert (await api.call("GET", path, "alice"))[0] == 404
        # Elsewhere, as the proxy that the test's server trusts says.
        assert await statuses(api, 1, "GET", path, headers={"X-Forwarded-For": "203.0.113.7"}) == [401]
        assert await statuses(api, 20, "GET", "/healthz") == [200] * 20


async def test_invitations_and_api_keys_are_limited_by_address(live_settings: Settings, database: Database) -> None:
    _, good = await create_api_key(database, "alice", ["user"])
    async with limited(live_settings, invitation=FEW, guess=FEW) as api:
        wrong = {"invitation": "a.b.c"}
        assert await statuses(api, 3, "POST", "/api/live/watch", json=wrong) == [403] * 3
        await check_refusal(api, "POST", "/api/live/watch", json=wrong)
        assert (await api.call("GET", "/api/assets/usage", headers={"X-API-Key": good}))[0] == 200
        for number in range(3):
            guess = {"X-API-Key": f"butai_{number:016x}_{number:064x}"}
            assert (await api.call("GET", "/api/assets/usage", headers=guess))[0] == 401
        await check_refusal(api, "GET", "/api/assets/usage", headers={"X-API-Key": f"butai_{9:016x}_{9:064x}"})
        await check_refusal(api, "GET", "/api/assets/usage", headers=bearer(f"butai_{9:016x}_{9:064x}"))
        assert (await api.call("GET", "/api/assets/usage", headers={"X-API-Key": good}))[0] == 200
        # One that this process has not seen before, too.
        _, other = await create_api_key(database, "bob", ["user"])
        assert (await api.call("GET", "/api/assets/usage", headers=bearer(other)))[0] == 200


async def test_metrics_are_limited_by_address(settings: Settings) -> None:
    async with limited(settings, probe=FEW) as api:
        assert await statuses(api, 3, "GET", "/metrics") == [200] * 3
        await check_refusal(api, "GET", "/metrics")
        assert await statuses(api, 20, "GET", "/readyz") == [200] * 20


async def test_all_who_ask_whether_it_is_ready_share_one_check(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds: list[str] = []
    ready = Database.ready

    async def counted(database: Database) -> bool:
        rounds.append("database")
        return await ready(database)

    async def stored(_store: Store) -> bool:
        rounds.append("store")
        return False

    monkeypatch.setattr(Database, "ready", counted)
    monkeypatch.setattr(Store, "ready", stored)
    # So that it does not end while they ask.
    monkeypatch.setattr(butai.api, "_READY_SECONDS", 3600.0)
    async with serving(settings) as api:
        answers = await asyncio.gather(*(api.call("GET", "/readyz") for _ in range(60)))
    assert {status for status, _ in answers} == {503}
    assert all((body["database"], body["store"]) == (True, False) for _, body in answers)
    assert rounds == ["database", "store"]


async def test_event_streams_of_one_user_are_counted(live_settings: Settings) -> None:
    live = live_settings.live.model_copy(update={"max_streams": 2})
    async with serving(replace(live_settings, live=live)) as api:
        await make_room(api)
        url, who = f"{api.url}/api/live/events?room_id=studio-1", api.cookie("alice")
        async with api.client.get(url, headers=who) as first:
            await Listener(first).next("status")
            async with api.client.ws_connect(url.replace("/events?", "/events/ws?"), headers=who) as second:
                await second.receive()
                await check_refusal(api, "GET", "/api/live/events?room_id=studio-1", "alice")
                with pytest.raises(aiohttp.WSServerHandshakeError):
                    await api.client.ws_connect(url.replace("/events?", "/events/ws?"), headers=who)
        # Their ends are noticed.
        for _ in range(2):
            while True:
                async with api.client.get(url, headers=who) as again:
                    if again.status == 200:
                        break


async def test_streams_that_open_again_and_again_end_in_429(live_settings: Settings) -> None:
    async with limited(live_settings, stream=FEW) as api:
        path = "/api/live/events?room_id=studio-1"
        assert await statuses(api, 3, "GET", path, "mallory") == [403] * 3
        await check_refusal(api, "GET", path, "mallory")
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await api.client.ws_connect(f"{api.url}/api/live/events/ws?room_id=studio-1", headers=api.cookie("mallory"))


async def test_rooms_that_are_not_closed_are_limited_for_each_user(live_settings: Settings) -> None:
    live = live_settings.live.model_copy(update={"max_rooms": 2})
    async with serving(replace(live_settings, live=live)) as api:
        for expected in (200, 200, 403):
            assert (await api.call("POST", "/api/live/rooms", "alice", json={}))[0] == expected
        assert (await api.call("POST", "/api/live/rooms", "bob", json={}))[0] == 200


async def test_rooms_that_are_made_at_once_are_limited_too(live_settings: Settings) -> None:
    live = live_settings.live.model_copy(update={"max_rooms": 2})
    async with serving(replace(live_settings, live=live)) as api:
        made = await asyncio.gather(*(api.call("POST", "/api/live/rooms", "alice", json={}) for _ in range(8)))
        assert sorted(status for status, _ in made) == [200] * 2 + [403] * 6


def test_quotas_are_on_unless_they_are_switched_off() -> None:
    assert (AssetSettings().quota_bytes, AssetSettings().quota_files) == (20 * 1024**3, 5000)
