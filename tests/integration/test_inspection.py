"""What is inside files, from the upload to what the API shows, with a real store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from butai.assets.contents import tasks
from butai.assets.contents.thumbnails import store_thumbnail
from butai.assets.library import assemble
from butai.assets.storage.client import BytesPayload, Store
from butai.assets.uploads.attempts import INSPECT
from butai.config import Settings
from butai.database import Database
from butai.errors import Code, UploadRefused
from tests import avatars, files
from tests.conftest import Api
from tests.fakes.store_proxy import Fault, StoreProxy

PICTURE = files.png(8, 8)

RunJobs = Callable[..., Any]


async def upload(api: Api, key: str, body: bytes, user: str = "mio") -> str:
    """The asset's id."""
    status, answer = await api.upload(user, key, body)
    assert status == 200, answer
    return answer["data"]["id"]


async def shown(api: Api, asset_id: str, user: str | None = "mio") -> dict[str, Any]:
    status, body = await api.call("GET", f"/api/assets/{asset_id}", user)
    assert status == 200, body
    return body


async def rows(database: Database, statement: str, **values: Any) -> list[Any]:
    async with database.transaction() as session:
        return list((await session.execute(text(statement), values)).all())


async def due_now(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))


async def test_an_uploaded_avatar_shows_what_is_inside(api: Api, run_jobs: RunJobs, database: Database) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    before = await shown(api, one)
    assert (before["facts"], before["triangles"], before["inspect_error"]) == ({}, None, None)
    await run_jobs()
    found = await shown(api, one)
    assert found["facts"]["model"]["title"] == "Aoi" and found["triangles"] == 14
    assert found["facts"]["licence"]["commercial"] == "personal_profit"
    assert found["inspect_error"] is None and found["warnings"] == []
    # Looking is news for those who sync, and no change of the file.
    assert found["change_seq"] > before["change_seq"]
    [(terms, status, event)] = await rows(
        database,
        "SELECT terms, status, (SELECT count(*) FROM asset_events WHERE asset_id = assets.id AND event = 'inspected') "
        "FROM assets WHERE id = :id",
        id=one,
    )
    assert {"format=vrm1", "expression=happy", "expression=wink", "humanoid", "licence.credit=unnecessary"} <= set(
        terms
    )
    assert (status, event) == ("ready", 1)


async def test_the_embedded_picture_becomes_the_thumbnail(api: Api, run_jobs: RunJobs, database: Database) -> None:
    for key, body in (("vrm/One.vrm", avatars.vrm1(PICTURE)), ("vrm/Zero.vrm", avatars.vrm0(PICTURE))):
        await upload(api, key, body)
    assert [item["hasThumbnail"] for item in await api.items("mio")] == [False, False]
    await run_jobs()
    for item in await api.items("mio"):
        assert item["hasThumbnail"], item
        status, body, headers = await api.read(item["thumbnail"], "mio")
        assert (status, body, headers["content-type"]) == (200, PICTURE, "image/png")
        # It is as private as its avatar.
        assert (await api.read(item["thumbnail"], "ren"))[0] == 404
    ledger = await rows(
        database,
        "SELECT o.origin, o.state, a.facts->>'derived_from' FROM asset_objects o JOIN assets a ON a.id = o.asset_id "
        "WHERE a.sidecar = 'thumb'",
    )
    mains = {key for (key,) in await rows(database, "SELECT object_key FROM assets WHERE sidecar IS NULL")}
    assert [(origin, state) for origin, state, _ in ledger] == [("derived", "current")] * 2
    assert {source for _, _, source in ledger} == mains
    # The key of an object is never shown.
    [(thumbnail,)] = await rows(database, "SELECT id FROM assets WHERE wanted_key = 'vrm/One_thumb.png'")
    assert (await shown(api, str(thumbnail)))["facts"] == {}


async def test_a_process_that_fails_is_no_word_about_the_file(
    api: Api, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*_: object, **__: object) -> tuple[dict[str, Any], Code | None]:
        return {}, Code.DECODE_FAILED

    monkeypatch.setattr(tasks, "run_child", failing)
    large = await upload(api, "vrm/Large.vrm", files.glb({"asset": {"version": "2.0"}, "extras": [[]] * 410_000}))
    await run_jobs()
    assert (await shown(api, large))["inspect_error"] == "inspection_failed"


async def test_a_corrupt_file_is_a_reason_on_its_own_row(api: Api, run_jobs: RunJobs, database: Database) -> None:
    whole = bytearray(avatars.vrm1(PICTURE))
    whole[20:60] = b"\xff" * 40
    bad = await upload(api, "vrm/Bad.vrm", bytes(whole))
    huge = await upload(api, "vrm/Huge.vrm", files.glb({"asset": {"version": "2.0"}, "extras": [[]] * 2_100_000}))
    good = await upload(api, "vrm/Good.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    assert (await shown(api, bad))["inspect_error"] == "glb_invalid"
    assert (await shown(api, huge))["inspect_error"] == "inspection_too_large"
    assert (await shown(api, good))["triangles"] == 14
    assert [(await shown(api, one))["status"] for one in (bad, huge, good)] == ["ready"] * 3
    assert await rows(
        database, "SELECT DISTINCT status::text FROM procrastinate_jobs WHERE task_name = :name", name=INSPECT
    ) == [("succeeded",)]


async def test_an_avatar_that_cannot_be_read_has_the_strictest_licence(api: Api, run_jobs: RunJobs) -> None:
    whole = bytearray(avatars.vrm1(PICTURE, meta=avatars.META_1 | {"allowRedistribution": True}))
    whole[20:60] = b"\xff" * 40
    broken = await upload(api, "vrm/Bad.vrm", bytes(whole))
    plain = await upload(api, "vrm/Plain.glb", files.glb())
    await run_jobs()
    for one in (broken, plain):
        assert (await api.call("PATCH", f"/api/assets/{one}", "mio", json={"visibility": "public"}))[0] == 200
        assert (await shown(api, one))["warnings"] == ["licence_forbids_redistribution"]
        licence = (await shown(api, one))["facts"]["licence"]
        assert (licence["spec"], licence["redistribution"], licence["commercial"]) == (None, "forbidden", "forbidden")
    for wanted, found in (("forbidden", {broken, plain}), ("allowed", set())):
        status, page = await api.call("GET", f"/api/assets?type=vrm&licence.redistribution={wanted}", "mio")
        assert (status, {item["id"] for item in page["items"]}) == (200, found)


async def test_a_public_avatar_that_must_not_be_passed_on_has_a_warning(api: Api, run_jobs: RunJobs) -> None:
    closed = await upload(api, "vrm/Closed.vrm", avatars.vrm1())
    free = await upload(api, "vrm/Open.vrm", avatars.vrm1(meta=avatars.META_1 | {"allowRedistribution": True}))
    await run_jobs()
    for one in (closed, free):
        status, _ = await api.call("PATCH", f"/api/assets/{one}", "mio", json={"visibility": "public"})
        assert status == 200
    assert (await shown(api, closed))["warnings"] == ["licence_forbids_redistribution"]
    assert (await shown(api, free))["warnings"] == []
    await api.call("PATCH", f"/api/assets/{closed}", "mio", json={"visibility": "private"})
    assert (await shown(api, closed))["warnings"] == []


async def test_a_new_version_has_new_facts_and_a_new_picture(api: Api, run_jobs: RunJobs, database: Database) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    other = files.png(9, 9)
    await upload(api, "vrm/Aoi.vrm", avatars.vrm0(other))
    await run_jobs()
    found = await shown(api, one)
    assert found["facts"]["licence"]["spec"] == "0.x"
    [item] = await api.items("mio")
    assert (await api.read(item["thumbnail"], "mio"))[1] == other
    # In another format, it has another name; the old one is gone.
    photo = avatars.jpeg(8, 8)
    await upload(api, "vrm/Aoi.vrm", avatars.vrm1(photo, mime="image/jpeg"))
    await run_jobs()
    [item] = await api.items("mio")
    status, body, headers = await api.read(item["thumbnail"], "mio")
    assert (status, body, headers["content-type"]) == (200, photo, "image/jpeg")
    thumbnails = await rows(
        database, "SELECT wanted_key, deleted_at IS NULL FROM assets WHERE sidecar = 'thumb' ORDER BY wanted_key"
    )
    assert thumbnails == [("vrm/Aoi_thumb.jpg", True), ("vrm/Aoi_thumb.png", False)]


@pytest.mark.parametrize("name", ["vrm/Aoi_thumb.png", "vrm/Aoi_thumb.webp"])
async def test_a_thumbnail_from_a_person_is_never_touched(
    name: str, api: Api, run_jobs: RunJobs, database: Database
) -> None:
    own = files.png(3, 3) if name.endswith("png") else avatars.webp(3, 3)
    await upload(api, name, own)
    await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    [item] = await api.items("mio")
    assert (await api.read(item["thumbnail"], "mio"))[1] == own
    assert await rows(database, "SELECT 1 FROM asset_objects WHERE origin = 'derived'") == []


async def test_a_person_may_replace_our_thumbnail_for_good(api: Api, run_jobs: RunJobs) -> None:
    await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    own = files.png(3, 3)
    await upload(api, "vrm/Aoi_thumb.png", own)
    await upload(api, "vrm/Aoi.vrm", avatars.vrm1(files.png(9, 9)))
    await run_jobs()
    [item] = await api.items("mio")
    assert (await api.read(item["thumbnail"], "mio"))[1] == own


async def test_a_thumbnail_that_its_owner_threw_away_stays_away(
    api: Api, run_jobs: RunJobs, database: Database
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    [(thumbnail,)] = await rows(database, "SELECT id FROM assets WHERE sidecar = 'thumb'")
    assert (await api.call("DELETE", f"/api/assets/{thumbnail}", "mio"))[0] == 204
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET inspected_key = NULL WHERE id = :id"), {"id": one})
    await run_jobs("assets.inspect_backlog")
    assert [item["hasThumbnail"] for item in await api.items("mio")] == [False]
    assert (await shown(api, one))["triangles"] == 14


async def test_the_backlog_finds_what_nobody_has_looked_into(
    api: Api, run_jobs: RunJobs, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "BACKLOG_BATCH", 2)
    ids = [await upload(api, f"vrm/A{number}.vrm", avatars.vrm1(PICTURE)) for number in range(5)]
    whole = bytearray(avatars.vrm1())
    whole[20:60] = b"\xff" * 40
    ids.append(await upload(api, "vrm/Bad.vrm", bytes(whole)))
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM procrastinate_jobs"))
        # As an import leaves them.
        await session.execute(text("UPDATE assets SET owner_user_id = NULL, visibility = 'public'"))
    await run_jobs("assets.inspect_backlog")
    assert [(await shown(api, one, None))["triangles"] for one in ids] == [14] * 5 + [None]
    assert (await shown(api, ids[-1], None))["inspect_error"] == "glb_invalid"
    # Avatars without an owner have a thumbnail each, too.
    assert sum(item["hasThumbnail"] for item in await api.items("ren")) == 5
    events = "SELECT count(*) FROM asset_events WHERE event = 'inspected'"
    assert await rows(database, events) == [(6,)]
    await run_jobs("assets.inspect_backlog")
    assert await rows(database, events) == [(6,)]


async def test_a_store_that_is_away_is_waited_for(
    api: Api, run_jobs: RunJobs, database: Database, proxy: StoreProxy
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    fault = proxy.fault("GET", status=503)
    await run_jobs()
    assert fault.met
    assert (await rows(database, "SELECT inspected_key, inspect_error FROM assets")) == [(None, None)]
    proxy.heal()
    await due_now(database)
    await run_jobs()
    assert (await shown(api, one))["triangles"] == 14


async def test_a_store_that_stays_away_is_the_reason_in_the_end(
    api: Api, run_jobs: RunJobs, database: Database, proxy: StoreProxy
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    fault = proxy.fault("GET", status=403, code="AccessDenied")
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET attempts = :n"), {"n": tasks.RETRIES})
    await run_jobs()
    assert fault.met
    proxy.heal()
    assert (await shown(api, one))["inspect_error"] == "store_access_denied"


async def test_an_imported_object_that_was_written_anew_is_looked_into_again(
    api: Api, run_jobs: RunJobs, database: Database, settings: Settings
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    await run_jobs()
    [(key,)] = await rows(database, "SELECT object_key FROM assets WHERE sidecar IS NULL")
    other, body = files.png(9, 9), avatars.vrm0(files.png(9, 9))
    async with Store(settings.store) as store:
        etag = await store.put(key, BytesPayload(body), "model/gltf-binary")
    async with database.transaction() as session:
        # As an import run writes what it finds.
        await session.execute(
            text("UPDATE assets SET size_bytes = :size, etag = :etag, inspected_key = NULL WHERE id = :id"),
            {"size": len(body), "etag": etag, "id": one},
        )
    await run_jobs("assets.inspect_backlog")
    assert (await shown(api, one))["facts"]["licence"]["spec"] == "0.x"
    [item] = await api.items("mio")
    assert (await api.read(item["thumbnail"], "mio"))[1] == other


async def test_a_backlog_writes_nothing_while_the_store_is_away_and_leaves_one_bad_key_aside(
    api: Api, run_jobs: RunJobs, database: Database, proxy: StoreProxy
) -> None:
    for number in range(3):
        await upload(api, f"vrm/A{number}.vrm", avatars.vrm1())
    async with database.transaction() as session:
        await session.execute(text("DELETE FROM procrastinate_jobs"))
    away = proxy.fault("GET", status=503)
    await run_jobs("assets.inspect_backlog")
    assert away.met
    assert await rows(database, "SELECT DISTINCT inspected_key, inspect_error FROM assets") == [(None, None)]
    proxy.heal()
    [(denied,)] = await rows(database, "SELECT object_key FROM assets WHERE wanted_key = 'vrm/A1.vrm'")
    fault = Fault(lambda request: denied in request.path, status=403, code="AccessDenied")
    proxy.faults.append(fault)
    await run_jobs("assets.inspect_backlog")
    assert fault.met
    found = await rows(database, "SELECT triangles, inspect_error FROM assets ORDER BY wanted_key")
    assert found == [(14, None), (None, "store_access_denied"), (14, None)]


async def test_facts_of_an_object_that_was_replaced_meanwhile_are_not_written(
    api: Api, run_jobs: RunJobs, database: Database, settings: Settings
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    [(old, etag)] = await rows(database, "SELECT object_key, etag FROM assets")
    await upload(api, "vrm/Aoi.vrm", avatars.vrm0())
    async with Store(settings.store) as store:
        library = assemble(database, store, settings.assets, settings.http)
        target = tasks._Target(UUID(one), old, etag, 1, tasks.AssetType.VRM, "vrm")
        await tasks._write(library, target, tasks.Facts(triangles=99), None)
        await store_thumbnail(library, UUID(one), old, PICTURE, "image/png")
    assert (await shown(api, one))["triangles"] is None
    await run_jobs()
    assert (await shown(api, one))["facts"]["licence"]["spec"] == "0.x"
    assert await rows(database, "SELECT 1 FROM assets WHERE sidecar IS NOT NULL") == []


async def test_thumbnails_made_at_the_same_time_leave_one(
    api: Api, run_jobs: RunJobs, database: Database, settings: Settings
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1())
    async with database.transaction() as session:
        # Rows without an owner have no constraint that keeps them apart.
        await session.execute(text("UPDATE assets SET owner_user_id = NULL, visibility = 'public'"))
    [(key,)] = await rows(database, "SELECT object_key FROM assets")
    async with Store(settings.store) as store:
        library = assemble(database, store, settings.assets, settings.http)
        await asyncio.gather(*(store_thumbnail(library, UUID(one), key, PICTURE, "image/png") for _ in range(6)))
    assert await rows(database, "SELECT status FROM assets WHERE sidecar = 'thumb'") == [("ready",)]
    [(current,)] = await rows(
        database, "SELECT count(*) FROM asset_objects WHERE origin = 'derived' AND state = 'current'"
    )
    assert current == 1
    failed = "SELECT error_code FROM asset_events WHERE event = 'upload_failed'"
    assert await rows(database, failed) == [], "the service's own attempts count as failed uploads"
    [item] = await api.items("ren")
    assert (await api.read(item["thumbnail"]))[1] == PICTURE


async def test_a_person_who_uploads_a_thumbnail_while_ours_is_on_its_way_wins(
    api: Api, database: Database, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1())
    [(key,)] = await rows(database, "SELECT object_key FROM assets")
    own = files.png(3, 3)
    async with Store(settings.store) as store:
        put = store.put

        async def overtaken(name: str, body: Any, mime: str) -> str:
            etag = await put(name, body, mime)
            await upload(api, "vrm/Aoi_thumb.png", own)
            return etag

        monkeypatch.setattr(store, "put", overtaken)
        library = assemble(database, store, settings.assets, settings.http)
        await store_thumbnail(library, UUID(one), key, PICTURE, "image/png")
    [item] = await api.items("mio")
    assert (await api.read(item["thumbnail"], "mio"))[1] == own
    left = "SELECT state FROM asset_objects WHERE origin = 'derived'"
    assert await rows(database, left) == [("condemned",)]


async def test_a_thumbnail_that_the_store_does_not_take_comes_with_the_next_try(
    api: Api, run_jobs: RunJobs, database: Database, proxy: StoreProxy
) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1(PICTURE))
    fault = proxy.fault("PUT", status=503)
    await run_jobs()
    assert fault.met
    assert [item["hasThumbnail"] for item in await api.items("mio")] == [False]
    proxy.heal()
    await due_now(database)
    await run_jobs()
    assert [item["hasThumbnail"] for item in await api.items("mio")] == [True]
    assert (await shown(api, one))["triangles"] == 14


async def test_what_is_no_picture_is_no_thumbnail(api: Api, database: Database, settings: Settings) -> None:
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1())
    [(key,)] = await rows(database, "SELECT object_key FROM assets")
    async with Store(settings.store) as store:
        library = assemble(database, store, settings.assets, settings.http)
        for body, mime in ((b"no picture", "image/png"), (PICTURE, "image/svg+xml"), (b"", "image/png")):
            with pytest.raises(UploadRefused):
                await store_thumbnail(library, UUID(one), key, body, mime)
    assert await rows(database, "SELECT 1 FROM assets WHERE sidecar IS NOT NULL") == []


async def test_a_file_that_takes_too_long_is_left_aside(
    api: Api, run_jobs: RunJobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "SECONDS", 0.0)
    one = await upload(api, "vrm/Aoi.vrm", avatars.vrm1())
    await run_jobs()
    assert (await shown(api, one))["inspect_error"] == "inspection_timeout"


async def test_motions_have_lengths(api: Api, run_jobs: RunJobs) -> None:
    wave = await upload(api, "animations/Wave.vrma", avatars.vrma(2.5))
    walk = await upload(api, "animations/Walk.bvh", avatars.bvh(20, 300, "0.01"))
    old = await upload(api, "animations/Old.fbx", avatars.fbx(7400))
    await run_jobs()
    assert (await shown(api, wave))["duration_seconds"] == 2.5
    assert (await shown(api, walk))["duration_seconds"] == 3.0
    assert (await shown(api, old))["facts"] == {"animation": {"encoding": "binary", "fbx_version": 7400}}
    lengths = {item["name"]: item.get("duration") for item in await api.items("mio", "animation")}
    assert lengths["Wave"] == 2.5
