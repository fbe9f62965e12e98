"""Suspended users: nothing of theirs goes on or begins, their files are hidden, and all of it comes back."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest

from butai.assets import names
from butai.audit import Origin
from butai.cli import users
from butai.config import Settings
from butai.database import Database
from butai.errors import InvalidRequest, UserSuspended
from butai.identity.api_keys import create_api_key
from butai.identity.suspensions import SuspendedUser, check_not_suspended, lock_out
from butai.live.models import Room
from butai.live.projects import Projects
from butai.operations import suspension
from butai.sign_in.codes import make_code
from tests import files
from tests.conftest import Api, serving
from tests.live_api import ROOM, Listener, bearer, go_live, make_room, save, sql

USERS = "/api/operations/users"
REASON = {"reason": "Sells other people's avatars"}


def with_operator(settings: Settings) -> Settings:
    return replace(settings, identity=settings.identity.model_copy(update={"operators": ("op",)}))


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(with_operator(live_settings)) as running:
        yield running


async def suspend(api: Api, user: str = "alice") -> None:
    status, said = await api.call("POST", f"{USERS}/{user}/suspend", "op", json=REASON)
    assert status == 200, said
    assert (said["user_id"], said["reason"], said["suspended_by"]) == (user, REASON["reason"], "user:op")


async def restore(api: Api, user: str = "alice") -> None:
    assert (await api.call("POST", f"{USERS}/{user}/restore", "op"))[0] == 204


async def refused(api: Api, user: str = "alice") -> None:
    """Waits until this API process refuses the user: a second, by its copy of the table."""
    async with asyncio.timeout(10):
        while (await api.call("GET", "/api/session", user))[0] != 403:
            await asyncio.sleep(0.05)


async def publish(api: Api, key: str = "vrm/Aoi.vrm", user: str = "alice", body: bytes | None = None) -> str:
    status, said = await api.upload(user, key, body or files.vrm())
    assert status == 200, said
    asset = said["data"]["id"]
    assert (await api.call("PATCH", f"/api/assets/{asset}", user, json={"visibility": "public"}))[0] == 200
    return asset


async def test_a_suspended_users_broadcast_ends_and_their_room_makes_nothing(api: Api, database: Database) -> None:
    made = await make_room(api)
    invitation = (await api.call("POST", f"/api/live/rooms/{ROOM}/tokens", "alice", json={"role": "viewer"}))[1][
        "token"
    ]
    await save(api)
    begun = await go_live(api)
    path = f"{api.url}/api/live/events?room_id={ROOM}"
    headers = bearer(made["host_token"])
    async with (
        api.client.get(path, headers=api.cookie("alice")) as owners,
        api.client.get(path, headers=headers) as holders,
    ):
        streams = [Listener(owners), Listener(holders)]
        for stream in streams:
            await stream.next("status")
        await suspend(api)
        # Open streams end at once, of the owner and of whoever holds a token.
        for stream in streams:
            async with asyncio.timeout(10):
                await stream.answer.content.read()
    assert await sql(database, "SELECT wanted FROM broadcasts WHERE id = :id", id=begun["session_id"]) == [("off_air",)]
    for held in (headers, api.cookie("op")):
        for what, body in (
            ("start", {"room_id": ROOM, "platforms": "youtube"}),
            (f"rooms/{ROOM}/tokens", {"role": "guest"}),
        ):
            status, problem = await api.call("POST", f"/api/live/{what}", headers=held, json=body)
            assert (status, problem["code"]) in ((403, "not_host"), (403, "user_suspended")), (what, problem)
    assert (await api.call("POST", "/api/live/watch", json={"invitation": invitation}))[1][
        "code"
    ] == "invitation_invalid"
    entries = (await api.call("GET", "/api/audit?action=user.", "op"))[1]["entries"]
    assert [(one["action"], one["actor"], one["subject"]) for one in entries] == [
        ("user.suspend", "user:op", "user:alice")
    ]


async def test_every_credential_of_a_suspended_user_is_refused_until_they_are_restored(
    api: Api, database: Database
) -> None:
    key = (await create_api_key(database, "alice", ["user"]))[1]
    code = make_code(api.settings.up.data_dir, "alice")
    assert (await api.call("GET", "/api/live/rooms", headers={"X-API-Key": key}))[0] == 200
    await suspend(api)
    await refused(api)
    for headers in (api.cookie("alice"), {"X-API-Key": key}, bearer(key)):
        for method, path in (
            ("GET", "/api/s3/resources?type=vrm"),
            ("GET", "/api/s3/read-object?key=vrm/A.vrm"),
            ("GET", "/api/live/rooms"),
            ("POST", "/api/live/rooms"),
        ):
            status, said = await api.call(method, path, headers=headers)
            told = said.get("code") or said["error"]["code"]
            assert (status, told) == (403, "user_suspended"), path
    for _ in range(2):
        # It is not used up.
        status, said = await api.call("POST", "/api/session", json={"code": code})
        assert (status, said["code"]) == (403, "user_suspended")
    with pytest.raises(UserSuspended):
        await create_api_key(database, "alice", ["user"])
    await restore(api)
    async with asyncio.timeout(10):
        while (await api.call("GET", "/api/live/rooms", headers={"X-API-Key": key}))[0] != 200:
            await asyncio.sleep(0.05)
    assert (await api.call("POST", f"{USERS}/alice/restore", "op"))[0] == 404


async def test_a_suspended_users_files_are_hidden_and_come_back_as_they_were(api: Api, database: Database) -> None:
    public, private = await publish(api), (await api.upload("alice", "vrm/Own.vrm", files.vrm()))[1]["data"]["id"]
    before = (await api.call("GET", "/api/assets/changes", "bob"))[1]
    assert [item["id"] for item in await api.items("bob")] == [public]
    await suspend(api)
    assert await api.items("bob") == []
    found = (await api.call("GET", "/api/assets?type=vrm", "bob"))[1]
    assert found["items"] == []
    for user, expected in (("bob", 404), (None, 401), ("op", 200)):
        assert (await api.read("/api/s3/read-object?key=vrm/Aoi.vrm", user))[0] == expected, user
        assert (await api.call("GET", f"/api/assets/{public}", user))[0] == expected, user
    assert (await api.call("GET", f"/api/assets/changes?after={before['next']}", "bob"))[1]["gone"] == [public]
    # Neither an operator's edit nor any other statement makes one public meanwhile.
    status, said = await api.call("PATCH", f"/api/assets/{private}", "op", json={"visibility": "public"})
    assert (status, said["code"]) == (403, "user_suspended")
    await sql(database, "UPDATE assets SET visibility = 'public' WHERE owner_user_id = 'alice' AND NOT public_again")
    assert await api.items("bob") == []
    await sql(database, "UPDATE assets SET public_again = false WHERE id = :id", id=private)
    await restore(api)
    assert [item["id"] for item in await api.items("bob")] == [public]
    assert (await api.call("GET", f"/api/assets/changes?after={before['next']}", "bob"))[1]["assets"][0]["id"] == public
    assert await sql(
        database, "SELECT event FROM asset_events WHERE asset_id = :id ORDER BY id DESC LIMIT 2", id=public
    ) == [
        ("shown",),
        ("hidden",),
    ]


async def test_uploads_under_way_when_a_user_is_suspended_do_not_become_visible(
    live_settings: Settings, run_jobs: Callable[..., Any]
) -> None:
    settings = with_operator(live_settings)
    settings = replace(settings, assets=settings.assets.model_copy(update={"default_visibility": "public"}))
    body = files.vrm()
    async with serving(settings) as api:
        wanted = {"fileName": "vrm/Signed.vrm", "fileType": "vrm"}
        unsized = (await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted))[1]["data"]
        sized = {**wanted, "fileName": "vrm/Sized.vrm", "size": len(body)}
        signed = (await api.call("POST", "/api/s3/presigned-url", "alice", json=sized))[1]["data"]
        name = base64.b64encode(b"vrm/Resumed.vrm").decode()
        tus = {"Tus-Resumable": "1.0.0", **api.cookie("alice")}
        begin = {**tus, "Upload-Length": str(len(body)), "Upload-Metadata": f"filename {name}"}
        async with api.client.post(f"{api.url}/api/assets/uploads", headers=begin) as answer:
            assert answer.status == 201, await answer.text()
            place = answer.headers["Location"]
        going, release = asyncio.Event(), asyncio.Event()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:1000]
            going.set()
            await release.wait()
            yield body[1000:]

        patch = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        url = place if place.startswith("http") else api.url + place
        sending = asyncio.create_task(
            api.client.patch(url, headers={**patch, "Content-Length": str(len(body))}, data=slowly())
        )
        await going.wait()
        async with api.client.put(signed["url"], data=body, headers=signed["headers"]) as answer:
            assert answer.status == 200
        await suspend(api)
        release.set()
        await sending
        async with api.client.put(unsized["url"], data=body) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (403, "user_suspended")
        await run_jobs("assets.sweep_uploads", settings=settings)
        assert await api.items("bob") == []
        await restore(api)
        # What had arrived completely is there; nothing was lost by the suspension.
        assert {names.plain(item["s3Key"]) for item in await api.items("bob")} >= {"vrm/Resumed.vrm"}


@pytest.mark.parametrize("first", ["start", "suspend"])
async def test_a_start_at_the_same_moment_is_refused_or_ended(api: Api, database: Database, first: str) -> None:
    """Both orders: the start is held in its transaction while the suspension waits for it, and the other way round."""
    await make_room(api)
    await save(api)

    async def waiting() -> None:
        query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while (await sql(database, query))[0][0] == 0:
            await asyncio.sleep(0.02)

    async with asyncio.timeout(20):
        async with database.transaction() as session:
            if first == "start":
                await check_not_suspended(session, "alice")
                other = asyncio.create_task(suspend(api))
            else:
                await lock_out(session, "alice")
                session.add(SuspendedUser(user_id="alice", reason="r"))
                await session.flush()
                wanted = {"room_id": ROOM, "platforms": "youtube"}
                other = asyncio.create_task(api.call("POST", "/api/live/start", "alice", json=wanted))
            await waiting()
        answer = await other
    if first == "suspend":
        assert answer is not None
        assert (answer[0], answer[1]["code"]) == (403, "user_suspended")
    assert await sql(database, "SELECT 1 FROM broadcasts WHERE wanted = 'on_air'") == []


async def test_a_suspension_at_the_same_moment_as_the_end_of_the_one_before_holds(database: Database) -> None:
    await suspension.suspend(database, Origin("user:op"), "alice", "the one before")
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(20):
        async with database.transaction() as session:
            await session.delete(await session.get_one(SuspendedUser, "alice", with_for_update=True))
            await session.flush()
            again = asyncio.create_task(suspension.suspend(database, Origin("user:op"), "alice", "again"))
            while (await sql(database, waiting))[0][0] == 0:
                await asyncio.sleep(0.02)
        await again
    assert await sql(database, "SELECT user_id, reason FROM suspended_users") == [("alice", "again")]


async def test_bringing_down_a_room_waits_for_it_without_holding_the_suspension(api: Api, database: Database) -> None:
    """What has locked a room may go on to the suspension of its owner."""
    await make_room(api)
    await suspension.suspend(database, Origin("user:op"), "alice", "r")
    projects = Projects(api.settings.livekit, api.settings.live)
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    async with asyncio.timeout(20):
        async with database.transaction() as session:
            await session.get_one(Room, ROOM, with_for_update=True)
            down = asyncio.create_task(suspension.apply(database, projects, api.settings.live, "alice"))
            while (await sql(database, waiting))[0][0] == 0:
                await asyncio.sleep(0.02)
            await session.get_one(SuspendedUser, "alice", with_for_update={"nowait": True})
        await down


async def test_livekit_is_asked_once_for_a_room_that_is_brought_down(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_room(api)
    await suspension.suspend(database, Origin("user:op"), "alice", "r")
    projects = Projects(api.settings.livekit, api.settings.live)
    asked: list[str] = []

    async def ask(_database: Database, _projects: Projects, room_id: str) -> int:
        asked.append(room_id)
        return 0

    monkeypatch.setattr(suspension, "remove_now", ask)
    for _ in range(2):
        await suspension.apply(database, projects, api.settings.live, "alice")
    assert asked == [ROOM]


async def test_a_suspension_is_finished_by_a_job_when_its_process_dies(
    api: Api, database: Database, run_jobs: Callable[..., Any]
) -> None:
    await publish(api)
    await make_room(api)
    await save(api)
    await go_live(api)
    # Without the rest of what the route does.
    await suspension.suspend(database, Origin("service:cli"), "alice", "r")
    assert len(await api.items("bob")) == 1
    await run_jobs(settings=api.settings)
    assert await api.items("bob") == []
    assert await sql(database, "SELECT wanted FROM broadcasts") == [("off_air",)]


async def test_only_operators_suspend_and_nobody_suspends_themselves(
    api: Api, database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (await api.call("POST", f"{USERS}/bob/suspend", "alice", json=REASON))[0] == 403
    assert (await api.call("POST", f"{USERS}/op/suspend", "op", json=REASON))[0] == 400
    for wrong in ({}, {"reason": ""}, {"reason": "  "}, {"reason": "x" * 501}):
        assert (await api.call("POST", f"{USERS}/bob/suspend", "op", json=wrong))[0] == 400
    # No user has such an id (`usable_user_id`), neither here nor for the commands.
    for act in ("suspend", "restore"):
        status, said = await api.call("POST", f"{USERS}/bo%E2%80%8Bb/{act}", "op", json=REASON)
        assert (status, said["code"]) == (400, "invalid_request"), act
    with pytest.raises(SystemExit):
        await users.suspend(database, api.settings, "bo\u200bb", "spam")
    # The command does the same, also for an id with a slash.
    await users.suspend(database, api.settings, "auth0/bob", "spam")
    listed = (await api.call("GET", f"{USERS}/suspended", "op"))[1]["data"]
    assert [(one["user_id"], one["suspended_by"]) for one in listed] == [("auth0/bob", "service:cli")]
    await restore(api, "auth0%2Fbob")
    assert (await api.call("GET", f"{USERS}/suspended", "op"))[1]["data"] == []
    with pytest.raises(InvalidRequest):
        await suspension.suspend(database, Origin("user:op"), "op", "r")
