"""Moving in where files are already: what belongs to somebody stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy import text

from butai.assets import keys
from butai.config import Settings
from butai.database import Database
from tests import files
from tests.conftest import Api
from tests.imports import Fill, counts, import_, snapshot


async def test_what_was_uploaded_through_the_api_is_never_touched(
    api: Api, database: Database, settings: Settings, fill: Fill, store_keys: Callable[[], list[str]]
) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    await api.upload("alice", "vrm/broken.vrm", b"nonsense" * 20)
    before = await snapshot(database)
    await fill({"vrm/a.vrm": files.vrm(2), "vrm/broken.vrm": files.vrm(3)})
    uploaded = [key.removeprefix(settings.store.prefix) for key in store_keys() if "/butai/" in key]
    assert uploaded
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/broken.vrm", *uploaded])
    assert counts(tally) == {"skipped key_taken": 2, "skipped own_object": len(uploaded)}
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/broken.vrm"], owner="alice")
    assert counts(tally) == {"skipped key_taken": 2}
    assert await snapshot(database) == before


async def test_an_owner_gets_their_files_under_their_own_name(
    api: Api, database: Database, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1), "vrm/a_thumb.png": files.png()})
    await import_(settings, ["vrm/a.vrm", "vrm/a_thumb.png"], owner="alice", visibility="private")
    (item,) = await api.items("alice")
    assert item["hasThumbnail"] is True
    assert await api.items("bob") == []
    assert (await api.read(item["url"], "alice"))[1] == files.vrm(1)
    assert (await api.read(item["url"], "bob"))[0] == 404
    assert (await api.read(item["thumbnail"], "bob"))[0] == 404
    status, _ = await api.call("PATCH", f"/api/assets/{item['id']}", "alice", json={"visibility": "public"})
    assert status == 200
    # A later run leaves what the owner decided.
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice", visibility="private")
    assert counts(tally) == {"skipped unchanged": 1}
    assert len(await api.items("bob")) == 1


async def test_what_is_in_the_trash_stays_there(api: Api, settings: Settings, fill: Fill) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"], owner="alice")
    (item,) = await api.items("alice")
    assert (await api.call("DELETE", f"/api/assets/{item['id']}", "alice"))[0] in (200, 202, 204)
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped trashed": 1}
    assert await api.items("alice") == []


async def test_a_purged_asset_takes_its_object_along_and_may_come_again(
    api: Api,
    database: Database,
    settings: Settings,
    fill: Fill,
    run_jobs: Callable[..., Any],
    store_keys: Callable[[], list[str]],
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1), "vrm/b.vrm": files.vrm(2)})
    await import_(settings, ["vrm/a.vrm", "vrm/b.vrm"], owner="alice")
    (item,) = [item for item in await api.items("alice") if item["name"] == "a"]
    await api.call("DELETE", f"/api/assets/{item['id']}", "alice")
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE assets SET deleted_at = now() - interval '1 year' WHERE deleted_at IS NOT NULL")
        )
    await run_jobs("assets.purge_trash")
    # Its row is gone, its object waits for those who are reading it: nothing may point at it again.
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped being_removed": 1}
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    assert store_keys() == [settings.store.prefix + "vrm/b.vrm"]
    tally, _ = await import_(settings, ["vrm/a.vrm", "vrm/b.vrm"], owner="alice")
    assert counts(tally) == {"skipped removed": 1, "skipped unchanged": 1}
    await fill({"vrm/a.vrm": files.vrm(3)})
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"added": 1}
    assert (await api.read(keys.read_url("vrm/a.vrm"), "alice"))[1] == files.vrm(3)


async def test_a_replaced_object_is_not_taken_back_from_an_old_listing(
    api: Api, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert (await api.upload("alice", "vrm/a.vrm", files.vrm(2)))[0] == 200
    tally, _ = await import_(settings, ["vrm/a.vrm"], owner="alice")
    assert counts(tally) == {"skipped being_removed": 1}
    assert (await api.read(keys.read_url("vrm/a.vrm"), "alice"))[1] == files.vrm(2)


async def test_an_object_serves_one_asset_only(settings: Settings, fill: Fill) -> None:
    await fill({"vrm/vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/vrm/a.vrm"])
    tally, _ = await import_(settings, ["vrm/vrm/a.vrm"], strip_prefix=settings.store.prefix + "vrm/")
    assert counts(tally) == {"skipped already_in_use": 1}


async def test_a_missing_asset_that_is_there_again_is_ready(
    api: Api, database: Database, settings: Settings, fill: Fill
) -> None:
    await fill({"vrm/a.vrm": files.vrm(1)})
    await import_(settings, ["vrm/a.vrm"])
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET status = 'missing', missing_since = now()"))
    tally, _ = await import_(settings, ["vrm/a.vrm"])
    assert counts(tally) == {"updated recovered": 1}
    assert len(await api.items("anyone")) == 1
