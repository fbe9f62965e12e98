"""Files that an operator has taken down: nobody else reads them, and their owner sees why and cannot publish them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select

from butai.assets import moderation, names
from butai.assets.models import Asset
from butai.assets.uploads.signed import write_hash
from butai.config import Settings
from butai.database import Database
from butai.operations.take_downs import lock_main
from tests import files
from tests.conftest import Api, serving
from tests.integration.test_suspension import publish, restore, suspend, with_operator
from tests.live_api import sql

REASON = {"reason": "A copyright complaint of Example Inc."}
KEY = "/api/s3/read-object?key=vrm/Aoi.vrm"


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(with_operator(live_settings)) as running:
        yield running


async def take_down(api: Api, asset: str) -> None:
    assert (await api.call("POST", f"/api/operations/assets/{asset}/take_down", "op", json=REASON))[0] == 204


async def put_back(api: Api, asset: str) -> None:
    assert (await api.call("POST", f"/api/operations/assets/{asset}/put_back", "op"))[0] == 204


async def test_a_file_that_is_taken_down_is_read_by_operators_alone_and_its_owner_sees_why(api: Api) -> None:
    asset = await publish(api)
    assert (await api.upload("alice", "vrm/Aoi_thumb.png", files.png()))[0] == 200
    assert (await api.upload("alice", "vrm/Aoi_meta.json", json.dumps({"takenDown": "mine"}).encode()))[0] == 200
    thumbnail = "/api/s3/read-object?key=vrm/Aoi_thumb.png"
    assert (await api.read(thumbnail, "bob"))[0] == 200
    mark = (await api.call("GET", "/api/assets/changes", "bob"))[1]["next"]
    await take_down(api, asset)
    paths = (KEY, thumbnail, "/api/s3/read-object?key=vrm/Aoi_meta.json", f"/api/vrm-thumbnail?url={KEY}")
    for path in paths:
        for user, expected in (("bob", 404), ("alice", 403), (None, 401), ("op", 200)):
            status, body, _ = await api.read(path, user)
            assert status == expected, (path, user)
            assert user != "alice" or b"taken_down" in body
    assert await api.items("bob") == []
    assert (await api.call("GET", f"/api/assets/changes?after={mark}", "bob"))[1]["gone"] == [asset]
    # In each of the owner's lists, and in a form that leaves the given fields as they were.
    searched = (await api.call("GET", "/api/assets?type=vrm", "alice"))[1]["items"]
    changed = (await api.call("GET", f"/api/assets/changes?after={mark}", "alice"))[1]["assets"]
    for item in (*await api.items("alice"), *searched, *changed):
        assert (item["id"], item["visibility"], item["s3Key"]) == (asset, "private", "vrm/Aoi.vrm")
        assert item["takenDown"]["reason"] == REASON["reason"]
    one = (await api.call("GET", f"/api/assets/{asset}", "alice"))[1]
    assert (one["taken_down_reason"], one["taken_down_at"] is None) == (REASON["reason"], False)
    listed = (await api.call("GET", "/api/operations/assets/taken_down", "op"))[1]["data"]
    assert [(each["id"], each["owner_user_id"], each["reason"]) for each in listed] == [
        (asset, "alice", REASON["reason"])
    ]
    await put_back(api, asset)
    assert [item["id"] for item in await api.items("bob")] == [asset]
    for path in paths[:3]:
        assert (await api.read(path, "bob"))[0] == 200, path
    actions = [
        entry["action"] for entry in (await api.call("GET", f"/api/audit?subject=asset:{asset}", "op"))[1]["entries"]
    ]
    assert actions[:2] == ["asset.put_back", "asset.take_down"]


async def test_its_owner_publishes_neither_the_file_nor_its_bytes_again(
    live_settings: Settings, database: Database, run_jobs: Callable[..., Any]
) -> None:
    settings = with_operator(live_settings)
    body = files.vrm(7)
    public = settings.assets.model_copy(update={"default_visibility": "public"})
    async with serving(replace(settings, assets=public)) as api:
        asset, copy = await publish(api, body=body), await publish(api, "vrm/Copy.vrm", body=body)
        others = await publish(api, "vrm/Bobs.vrm", "bob", body)
        await take_down(api, asset)
        # A copy that was public goes with it; what another user has published is that user's.
        assert {item["id"] for item in await api.items("carol")} == {others}
        for each in (asset, copy):
            status, said = await api.call("PATCH", f"/api/assets/{each}", "alice", json={"visibility": "public"})
            assert (status, said["code"]) == (403, "taken_down")
        for key in ("vrm/Aoi.vrm", "vrm/Other.vrm"):
            status, said = await api.upload("alice", key, body)
            assert (status, said["error"]["code"]) == (403, "taken_down"), key
        # Bytes that go to the store are public once their SHA-256 is known, or not at all.
        for key, sent in (("vrm/Signed.vrm", body), ("vrm/New.vrm", files.vrm(8))):
            wanted = {"fileName": key, "fileType": "vrm", "size": len(sent)}
            signed = (await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted))[1]["data"]
            async with api.client.put(signed["url"], data=sent, headers=signed["headers"]) as answer:
                assert answer.status == 200
            assert (await api.call("POST", signed["completeUrl"], "alice"))[0] == 200
        assert {item["id"] for item in await api.items("carol")} == {others}
        await run_jobs(settings=replace(settings, assets=public))
        assert {names.plain(item["s3Key"]) for item in await api.items("carol")} == {"vrm/Bobs.vrm", "vrm/New.vrm"}
        # Deleting it makes nobody forget it.
        assert (await api.call("DELETE", f"/api/assets/{asset}", "alice"))[0] == 204
        await sql(database, "UPDATE assets SET deleted_at = now() - interval '90 days' WHERE id = :id", id=asset)
        await run_jobs("assets.purge_trash", settings=settings)
        assert (await api.upload("alice", "vrm/Other.vrm", body))[1]["error"]["code"] == "taken_down"


@pytest.mark.parametrize("unknown", ["copy", "file"])
async def test_what_may_have_the_same_bytes_is_hidden_until_their_hash_is_known(
    live_settings: Settings, database: Database, run_jobs: Callable[..., Any], unknown: str
) -> None:
    settings = with_operator(live_settings)
    async with serving(settings) as api:
        asset, copy = await publish(api, body=files.vrm(7)), await publish(api, "vrm/Copy.vrm", body=files.vrm(7))
        other = await publish(api, "vrm/Other.vrm", body=files.vrm(8))
        longer = await publish(api, "vrm/Longer.vrm", body=files.vrm(9, 1200))
        await run_jobs(settings=settings)
        without = [copy, other, longer] if unknown == "copy" else [asset]
        await sql(database, "UPDATE assets SET sha256 = NULL WHERE id = ANY(CAST(:ids AS uuid[]))", ids=without)
        await take_down(api, asset)
        assert {item["id"] for item in await api.items("bob")} == {longer}
        await run_jobs(settings=settings)
        assert {item["id"] for item in await api.items("bob")} == {other, longer}
        await put_back(api, asset)
        assert {item["id"] for item in await api.items("bob")} == {asset, copy, other, longer}


async def test_a_thumbnail_with_the_bytes_of_a_file_is_no_copy_of_it(api: Api, database: Database) -> None:
    asset = await publish(api)
    await publish(api, "vrm/Other.vrm", body=files.vrm(8))
    thumb = (await api.upload("alice", "vrm/Other_thumb.png", files.png()))[1]["data"]["id"]
    same = "UPDATE assets SET visibility = 'public', sha256 = b.sha256, size_bytes = b.size_bytes FROM (SELECT * FROM assets) b "
    await sql(database, f"{same} WHERE b.id = :of AND assets.id = :id", of=asset, id=thumb)
    await take_down(api, asset)
    assert await sql(database, "SELECT visibility, taken_down_at FROM assets WHERE id = :id", id=thumb) == [
        ("public", None)
    ]
    await put_back(api, asset)


async def waiting_for_a_lock(database: Database, task: asyncio.Task[Any]) -> bool:
    """Whether the task comes to wait for an advisory lock before it ends."""
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while not task.done():
        if (await sql(database, query))[0][0]:
            return True
        await asyncio.sleep(0.02)
    return False


@pytest.mark.parametrize("act", ["show", "publish", "hash"])
async def test_what_makes_a_copy_public_waits_for_a_taking_down_before_it_locks_the_copy(
    api: Api, database: Database, act: str
) -> None:
    asset, copy = await publish(api), await publish(api, "vrm/Copy.vrm")
    (sha256, object_key), *_ = await sql(database, "SELECT sha256, object_key FROM assets WHERE id = :id", id=copy)
    known = None if act == "hash" else sha256
    hidden = "UPDATE assets SET visibility = 'private', public_again = true, sha256 = :sha256 WHERE id = :id"
    await sql(database, hidden, id=copy, sha256=known)

    async def show() -> None:
        async with database.transaction() as session:
            if act == "show":
                await moderation.show_of(session, "alice", 10, None)
            elif act == "hash":
                await write_hash(session, UUID(copy), object_key, sha256)

    async def publish_copy() -> None:
        await api.call("PATCH", f"/api/assets/{copy}", "alice", json={"visibility": "public"})

    async with asyncio.timeout(20):
        async with database.transaction() as session:
            await moderation.take_down(session, await lock_main(session, UUID(asset)), "r", None)
            other = asyncio.create_task(publish_copy() if act == "publish" else show())
            assert await waiting_for_a_lock(database, other)
            # Else each would wait for the other.
            row = select(Asset.id).where(Asset.id == UUID(copy)).with_for_update(nowait=True)
            assert await session.scalar(row) == UUID(copy)
        await other
    assert await api.items("bob") == []


async def test_taking_down_and_suspending_do_not_undo_each_other(api: Api) -> None:
    down, other = await publish(api), await publish(api, "vrm/Other.vrm", body=files.vrm(3))
    await take_down(api, down)
    await suspend(api)
    await restore(api)
    assert [item["id"] for item in await api.items("bob")] == [other]
    await suspend(api)
    await put_back(api, down)
    assert await api.items("bob") == []
    await restore(api)
    assert {item["id"] for item in await api.items("bob")} == {down, other}


async def test_only_operators_take_files_down_and_only_whole_ones(api: Api) -> None:
    asset = await publish(api)
    status, said = await api.call("POST", f"/api/operations/assets/{asset}/take_down", "bob", json=REASON)
    assert (status, said["code"]) == (403, "forbidden")
    assert (await api.upload("alice", "vrm/Aoi_thumb.png", files.png()))[0] == 200
    thumb = (await api.upload("alice", "vrm/Aoi_thumb.png", files.png()))[1]["data"]["id"]
    for target, body, expected in ((thumb, REASON, 400), (asset, {}, 400), (str(uuid4()), REASON, 404)):
        path = f"/api/operations/assets/{target}/take_down"
        assert (await api.call("POST", path, "op", json=body))[0] == expected
    # Ownership of what is private is the owner's word: kept private by choice, it stays so after a putting back.
    await take_down(api, asset)
    assert (await api.call("PATCH", f"/api/assets/{asset}", "alice", json={"visibility": "private"}))[0] == 200
    await put_back(api, asset)
    assert await api.items("bob") == []
