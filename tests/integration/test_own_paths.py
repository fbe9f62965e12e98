"""The library's own paths: one asset, its owner's acts, the feed of changes, signed uploads."""

from __future__ import annotations

import asyncio
import hashlib
import json
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec
import pytest
from sqlalchemy import text
from yarl import URL

from butai.assets.schemas import AssetItem, AssetOut, AssetPage, ChangesOut, FacetsOut, ResourcePage
from butai.assets.tus.schemas import UsageOut
from butai.config import AssetSettings, Settings
from butai.database import Database
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy


async def upload(api: Api, key: str = "vrm/a.vrm", user: str = "alice") -> str:
    status, answer = await api.upload(user, key, files.vrm(1))
    assert status == 200
    return answer["data"]["id"]


async def test_only_owner_and_operator_may_change(api: Api) -> None:
    asset_id = await upload(api)
    path = f"/api/assets/{asset_id}"
    for method, target, body in (
        ("PATCH", path, {"display_name": "x"}),
        ("DELETE", path, None),
        ("POST", f"{path}/restore", None),
    ):
        status, problem = await api.call(method, target, "bob", json=body)
        assert (status, problem["code"]) == (404, "asset_not_found"), "a stranger learned of a private asset"
        assert (await api.call(method, target, json=body))[0] == 401
    await api.call("PATCH", path, "alice", json={"visibility": "public"})
    status, problem = await api.call("PATCH", path, "bob", json={"display_name": "mine"})
    assert (status, problem["code"]) == (403, "forbidden")
    assert (await api.call("DELETE", path, "bob"))[0] == 403


async def test_an_edit_changes_what_it_names_and_nothing_else(api: Api, database: Database) -> None:
    asset_id = await upload(api)
    edit = {"display_name": "  Aoi 舞台 ", "description": "She sings.", "tags": ["blue", "singer"]}
    status, asset = await api.call("PATCH", f"/api/assets/{asset_id}", "alice", json=edit)
    assert status == 200
    assert (asset["display_name"], asset["description"], asset["tags"]) == (
        "Aoi 舞台",
        "She sings.",
        ["blue", "singer"],
    )
    assert asset["visibility"] == "private"
    (item,) = await api.items("alice")
    assert (item["name"], item["tags"]) == ("Aoi 舞台", ["blue", "singer"])
    async with database.transaction() as session:
        rows = (await session.execute(text("SELECT actor, action, subject FROM audit ORDER BY id"))).all()
    assert ("user:alice", "asset.edit", f"asset:{asset_id}") in [tuple(row) for row in rows]


@pytest.mark.parametrize(
    "body",
    [{"display_name": ""}, {"display_name": "a\u0000b"}, {"visibility": "everyone"}, {"tags": "blue"}, {"owner": "bob"},
     {"display_name": "x" * 256}, [], "text",
     {"displayName": ""}, {"displayName": "x" * 256}, {"displayName": "a\u0000b"},
     {"tags": ["x" * 65]}, {"description": "\ud800"}],
)  # fmt: skip
async def test_an_edit_that_cannot_be_is_400(api: Api, body: Any) -> None:
    asset_id = await upload(api)
    status, problem = await api.call(
        "PATCH", f"/api/assets/{asset_id}", "alice", data=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert (status, problem["code"]) == (400, "invalid_request")


async def test_writes_by_cookie_from_another_site_are_refused(api: Api) -> None:
    asset_id = await upload(api)
    for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}):
        status, problem = await api.call("DELETE", f"/api/assets/{asset_id}", "alice", headers=headers)
        assert (status, problem["code"]) == (403, "origin_denied")


async def test_trash_is_purged_by_a_job_after_its_time_and_leaves_a_tombstone(
    api: Api, database: Database, run_jobs: Any, store_keys: Any
) -> None:
    asset_id = await upload(api)
    await api.call("DELETE", f"/api/assets/{asset_id}", "alice")
    await run_jobs("assets.purge_trash")
    assert (await api.call("GET", f"/api/assets/{asset_id}", "alice"))[1]["deleted_at"] is not None
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET deleted_at = now() - interval '31 days'"))
    await run_jobs("assets.purge_trash")
    assert (await api.call("GET", f"/api/assets/{asset_id}", "alice"))[0] == 404
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    assert store_keys() == []
    _, feed = await api.call("GET", "/api/assets/changes", "alice")
    assert feed["gone"] == [asset_id]
    # The key is free again.
    assert (await upload(api)) != asset_id


async def test_a_picture_waits_for_a_file_that_never_came(api: Api, database: Database, run_jobs: Any) -> None:
    assert (await api.upload("alice", "vrm/a.vrm", b"no avatar at all"))[0] == 422
    assert (await api.upload("alice", "vrm/a_thumb.png", files.png()))[0] == 200
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET updated_at = now() - interval '31 days' WHERE status = 'failed'"))
    await run_jobs("assets.purge_trash")
    async with database.transaction() as session:
        left = await session.scalars(text("SELECT wanted_key FROM assets"))
        assert left.all() == ["vrm/a_thumb.png"]
    await upload(api)
    (item,) = await api.items("alice")
    assert item["hasThumbnail"]


async def test_an_owner_purges_from_the_trash_at_once(
    api: Api, database: Database, run_jobs: Any, store_keys: Any
) -> None:
    asset_id = await upload(api)
    purge = f"/api/assets/{asset_id}/purge"
    status, problem = await api.call("POST", purge, "alice")
    assert (status, problem["code"]) == (409, "conflict"), "purged a file that is not in the trash"
    await api.call("DELETE", f"/api/assets/{asset_id}", "alice")
    assert [(await api.call("POST", purge, user))[0] for user in ("bob", None)] == [404, 401]
    assert (await api.call("POST", purge, "alice"))[0] == 204
    assert (await api.call("POST", purge, "alice"))[0] == 404
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
        audited = await session.scalars(text("SELECT actor FROM audit WHERE action = 'asset.purge'"))
        assert audited.all() == ["user:alice"]
    await run_jobs()
    assert store_keys() == []
    assert (await api.call("GET", "/api/assets/changes", "alice"))[1]["gone"] == [asset_id]


async def test_the_feed_tells_each_caller_what_concerns_them(api: Api) -> None:
    public, private = await upload(api, "vrm/p.vrm"), await upload(api, "vrm/q.vrm")
    await api.call("PATCH", f"/api/assets/{public}", "alice", json={"visibility": "public"})
    _, hers = await api.call("GET", "/api/assets/changes", "alice")
    assert {item["id"] for item in hers["assets"]} == {public, private}
    _, his = await api.call("GET", "/api/assets/changes", "bob")
    assert [item["id"] for item in his["assets"]] == [public]
    assert his["gone"] == []
    await api.call("PATCH", f"/api/assets/{public}", "alice", json={"visibility": "private"})
    _, more = await api.call("GET", f"/api/assets/changes?after={his['next']}", "bob")
    assert (more["assets"], more["gone"]) == ([], [public])
    _, none = await api.call("GET", f"/api/assets/changes?after={more['next']}", "bob")
    assert (none["assets"], none["gone"], none["has_more"]) == ([], [], False)


async def test_a_reader_of_the_feed_misses_nothing_while_many_write(api: Api) -> None:
    wanted: set[str] = set()

    async def write(number: int) -> None:
        wanted.add(await upload(api, f"vrm/{number}.vrm"))

    writers = asyncio.gather(*(write(number) for number in range(30)))
    seen: set[str] = set()
    since, done = 0, False
    while True:
        done = writers.done()
        _, feed = await api.call("GET", f"/api/assets/changes?after={since}&limit=7", "alice")
        seen |= {item["id"] for item in feed["assets"] if item["status"] == "ready"}
        since = feed["next"]
        if done and not feed["has_more"]:
            break
    await writers
    assert seen == wanted


OLD_NAMES = {
    "/api/assets/{id}": {
        "s3_key": "s3Key", "display_name": "displayName", "mime_type": "mimeType", "size_bytes": "sizeBytes",
        "owner_user_id": "ownerUserId", "created_at": "createdAt", "updated_at": "updatedAt", "error_code": "errorCode",
        "error_detail": "errorDetail", "missing_since": "missingSince", "deleted_at": "deletedAt",
        "change_seq": "changeSeq", "inspect_error": "inspectError", "duration_seconds": "durationSeconds",
    },
    "/api/assets?limit=1": {"next": "nextCursor", "total_is_exact": "totalIsExact"},
    "/api/assets/changes?limit=1": {"next": "nextSince", "has_more": "hasMore"},
    "/api/assets/facets": {"is_exact": "isExact"},
    "/api/assets/usage": {
        "reserved_bytes": "reservedBytes", "reserved_files": "reservedFiles", "quota_bytes": "quotaBytes",
        "quota_files": "quotaFiles",
    },
    "/api/session": {"user_id": "userId", "dev_sign_in": "devSignIn"},
}  # fmt: skip


async def test_old_names_are_answered_and_taken_for_one_version(api: Api) -> None:
    ids = [await upload(api, f"vrm/{name}.vrm") for name in "ab"]
    for path, names in OLD_NAMES.items():
        status, body = await api.call("GET", path.format(id=ids[0]), "alice")
        assert status == 200
        for name, old in names.items():
            assert body[name] == body[old], (path, name)
    path = f"/api/assets/{ids[0]}"
    status, asset = await api.call("PATCH", path, "alice", json={"displayName": "Aoi"})
    assert (status, asset["display_name"]) == (200, "Aoi")
    _, first = await api.call("GET", "/api/assets/changes?limit=1", "alice")
    for name in ("after", "since"):
        _, rest = await api.call("GET", f"/api/assets/changes?{name}={first['next']}", "alice")
        assert [one["id"] for one in first["assets"] + rest["assets"]] == [ids[1], ids[0]]


# Signed uploads


async def presign(api: Api, key: str, **more: Any) -> dict[str, Any]:
    status, answer = await api.call(
        "POST", "/api/s3/presigned-url", "alice", json={"fileName": key, "fileType": "model/vrm", **more}
    )
    assert status == 200, answer
    assert answer["data"]["expiresIn"] == 900
    return answer["data"]


async def put(api: Api, url: str, body: bytes, headers: dict[str, str] | None = None) -> int:
    async with api.client.put(URL(url, encoded=True), data=body, headers=headers) as answer:
        return answer.status


async def test_a_signed_upload_is_ready_after_the_clients_word(api: Api, database: Database, run_jobs: Any) -> None:
    body = files.vrm(5, 100_000)
    data = await presign(api, "vrm/direct.vrm")
    assert (await api.call("GET", f"/api/assets/{data['id']}", "alice"))[1]["status"] == "uploading"
    status, problem = await api.call("POST", data["completeUrl"], "alice")
    assert (status, problem["code"]) == (409, "asset_not_ready")
    assert await put(api, data["url"], body, {"Content-Type": "whatever/browser"}) == 200
    assert (await api.call("POST", data["completeUrl"], "bob"))[0] == 404
    status, asset = await api.call("POST", data["completeUrl"], "alice")
    assert (status, asset["status"], asset["size_bytes"]) == (200, "ready", len(body))
    assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 200
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)
    await run_jobs()
    _, asset = await api.call("GET", f"/api/assets/{data['id']}", "alice")
    assert asset["sha256"] == hashlib.sha256(body).hexdigest()


async def test_whoever_holds_the_url_cannot_change_bytes_after_the_check(api: Api) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    await put(api, data["url"], body)
    await api.call("POST", data["completeUrl"], "alice")
    other = b"<script>".ljust(len(body))
    assert await put(api, data["url"], other) == 200, "the URL is still good; that is the point"
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)


async def test_a_signed_upload_is_completed_by_the_sweep_when_the_client_falls_silent(
    api: Api, database: Database, run_jobs: Any, proxy: StoreProxy
) -> None:
    data = await presign(api, "vrm/direct.vrm", size=len(files.vrm(5)))
    proxy.hide_absence = True
    await look_now(database)
    await run_jobs("assets.sweep_uploads")
    assert (await api.call("GET", f"/api/assets/{data['id']}", "alice"))[1]["status"] == "uploading"
    await put(api, data["url"], files.vrm(5))
    await look_now(database)
    await run_jobs("assets.sweep_uploads")
    assert (await api.call("GET", f"/api/assets/{data['id']}", "alice"))[1]["status"] == "ready"
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, files.vrm(5))


async def look_now(database: Database, *, expired: bool = False) -> None:
    async with database.transaction() as session:
        column = "lease_until" if expired else "next_look_at"
        await session.execute(
            text(f"UPDATE asset_objects SET {column} = now() - interval '1 s' WHERE state = 'writing'")
        )


@pytest.mark.parametrize("size", [{}, {"size": 1000}])
async def test_a_signed_upload_that_never_comes_expires(
    api: Api, database: Database, run_jobs: Any, size: dict[str, int]
) -> None:
    data = await presign(api, "vrm/direct.vrm", **size)
    await look_now(database, expired=True)
    await run_jobs("assets.sweep_uploads")
    _, asset = await api.call("GET", f"/api/assets/{data['id']}", "alice")
    assert (asset["status"], asset["error_code"]) == ("failed", "upload_interrupted")
    status, problem = await api.call("POST", data["completeUrl"], "alice")
    assert (status, problem["code"]) == (409, "upload_interrupted")


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        ("vrm/a.vrm", b"nonsense" * 20, 422, "signature_mismatch"),
        ("vrm/a.vrm", files.vrm(1)[:-4], 422, "glb_invalid"),
        ("vrm/a_meta.json", b"[]", 422, "signature_mismatch"),
        ("vrm/a.vrm", files.vrm(1, 150_000), 413, "file_too_large"),
    ],
)
@pytest.mark.parametrize("sized", [True, False])
async def test_a_signed_upload_is_checked_when_it_arrives(
    settings: Settings,
    key: str,
    body: bytes,
    status: int,
    code: str,
    sized: bool,
    run_jobs: Any,
    store_keys: Any,
) -> None:
    """With a size the store takes the bytes, and the report is refused; without one, this service refuses the bytes, and
    the report says why."""
    async with serving(replace(settings, assets=AssetSettings(max_vrm_bytes=100_000))) as api:
        wanted = {"fileName": key, "fileType": "model/vrm", "size": len(body)}
        if sized and code == "file_too_large":
            got, answer = await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted)
            assert (got, answer["error"]["code"]) == (status, code)
            return
        data = await presign(api, key, **({"size": len(body)} if sized else {}))
        assert await put(api, data["url"], body) == (200 if sized else status)
        got, problem = await api.call("POST", data["completeUrl"], "alice")
        assert (got, problem["code"]) == (status, code)
        _, asset = await api.call("GET", f"/api/assets/{data['id']}", "alice")
        assert (asset["status"], asset["error_code"]) == ("failed", code)
    await run_jobs()
    assert store_keys() == []


async def test_a_declared_size_is_held_by_the_store(api: Api) -> None:
    data = await presign(api, "vrm/a.vrm", size=len(files.vrm(1)))
    assert await put(api, data["url"], files.vrm(1) + b"more") == 403
    assert await put(api, data["url"], files.vrm(1)) == 200
    assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 200


async def test_what_may_not_be_signed(api: Api) -> None:
    call = "/api/s3/presigned-url"
    status, body = await api.call("POST", call, "alice", json={"fileName": "vrm/a.vrm"})
    assert (status, body["error"]["code"]) == (400, "MISSING_PARAMETERS")
    status, body = await api.call("POST", call, "alice", json={"fileName": "", "fileType": "x"})
    assert (status, body["error"]["code"]) == (400, "MISSING_PARAMETERS")
    status, body = await api.call("POST", call, "alice", json={"fileName": "../a.vrm", "fileType": "x"})
    assert (status, body["error"]["code"]) == (400, "key_invalid")
    huge = {"fileName": "vrm/a.vrm", "fileType": "x", "size": 4 * 1024**3}
    status, body = await api.call("POST", call, "alice", json=huge)
    assert (status, body["error"]["code"]) == (413, "file_too_large")
    assert (await api.call("POST", call, json={"fileName": "vrm/a.vrm", "fileType": "x"}))[0] == 401
    async with api.client.post(api.url + call, data=b"{", headers=api.cookie("alice")) as answer:
        assert answer.status == 400
        assert isinstance(answer, aiohttp.ClientResponse)


async def test_answers_are_what_their_structs_say(api: Api, database: Database) -> None:
    """Pages leave Postgres as they are: each item decodes into the struct that the OpenAPI document has of it."""
    meta = b'{"gender": "female", "styleTags": ["Neon"], "name": 7, "status": "lost"}'
    for key, body in [
        ("vrm/a.vrm", files.vrm(1)),
        ("vrm/a_meta.json", meta),
        ("vrm/a_thumb.png", files.png()),
        ("animations/b.fbx", b"Kaydara FBX Binary  \x00" + bytes(100)),
    ]:
        assert (await api.upload("alice", key, body))[0] == 200

    async def raw(path: str) -> bytes:
        async with api.client.get(api.url + path, headers=api.cookie("alice")) as answer:
            assert answer.status == 200
            return await answer.read()

    page = msgspec.json.decode(await raw("/api/assets?total=exact"), type=AssetPage)
    assert {item.s3_key for item in page.items} == {"vrm/a.vrm", "animations/b.fbx"}
    assert (page.total, page.total_is_exact, page.next) == (2, True, None)
    avatar = next(item for item in page.items if item.category == "vrm")
    assert (avatar.has_thumbnail, avatar.owned_by_me, avatar.status) == (True, True, "ready")
    changes = msgspec.json.decode(await raw("/api/assets/changes"), type=ChangesOut)
    assert {(item.id, item.status) for item in changes.assets} == {(item.id, "ready") for item in page.items}
    given = msgspec.json.decode(await raw("/api/s3/resources?type=vrm&total=exact"), type=ResourcePage)
    assert (given.success, given.data[0].id, given.pagination.total) == (True, avatar.id, 1)
    listed = json.loads(await raw("/api/s3/resources?type=vrm"))["data"]
    assert msgspec.convert(listed, list[AssetItem])[0].id == avatar.id
    assert listed[0]["gender"] == "female", "fields of a `_meta.json` stand beside those of the struct"
    asset = msgspec.json.decode(await raw(f"/api/assets/{avatar.id}"), type=AssetOut)
    assert (asset.s3_key, asset.meta["gender"], asset.attempts) == ("vrm/a.vrm", "female", 1)
    facets = msgspec.json.decode(await raw("/api/assets/facets"), type=FacetsOut)
    assert facets.counted == 2
    usage = msgspec.json.decode(await raw("/api/assets/usage"), type=UsageOut)
    assert (usage.files, usage.quota_bytes) == (4, None)
