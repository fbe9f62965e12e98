"""A listing against the index: what is found, and that nothing is deleted on its word alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from butai.assets.findings import service
from butai.assets.findings.reconcile import ListingReconciler, ReconcileOptions
from butai.assets.findings.service import act
from butai.assets.imports.listings import FileListing
from butai.assets.patrol.finding_states import FindingAction
from butai.assets.storage.client import BytesPayload, ObjectAbsent, Store
from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import Conflict, StoreUnavailable
from butai.identity.api_keys import create_api_key
from tests import files
from tests.conftest import Api

ROOT = Origin("root")


class Bench:
    def __init__(self, api: Api, database: Database, store: Store, folder: Path, store_keys: Any) -> None:
        self.api, self.database, self.store, self.folder, self.store_keys = api, database, store, folder, store_keys
        self.settings: Settings = api.settings

    async def compare(self, *without: str, write: bool = True) -> Any:
        """With a true listing of the bucket, less some keys."""
        names = [key for key in self.store_keys() if key not in without]
        path = self.folder / "listing.csv"
        path.write_text("key,size\n" + "".join(f'"{name}",1\n' for name in names))
        options = ReconcileOptions(strip_prefix=self.store.prefix, write=write)
        return await ListingReconciler(self.database, self.store, self.settings.patrol, options).run(FileListing(path))

    async def rows(self, statement: str) -> list[Any]:
        async with self.database.transaction() as session:
            return list((await session.execute(text(statement))).all())

    async def finding(self) -> int:
        return (await self.rows("SELECT max(id) FROM findings WHERE resolved_at IS NULL"))[0][0]

    async def act(self, action: FindingAction) -> str:
        return await act(self.database, self.store, self.settings.assets, await self.finding(), action, ROOT)

    async def there(self, key: str) -> bool:
        try:
            await self.store.head(key)
        except ObjectAbsent:
            return False
        return True


@pytest.fixture
async def bench(api: Api, database: Database, settings: Settings, tmp_path: Path, store_keys: Any) -> Any:
    async with Store(settings.store) as store:
        assert (await api.upload("alice", "vrm/known.vrm", files.vrm(1)))[0] == 200
        yield Bench(api, database, store, tmp_path, store_keys)


async def orphan(bench: Bench, name: str = "vrm/orphan.vrm") -> str:
    key = bench.store.prefix + name
    await bench.store.put(key, BytesPayload(files.vrm(2)), "model/gltf-binary")
    return key


async def test_all_agrees(bench: Bench) -> None:
    found = await bench.compare()
    assert (found.unknown, found.absent) == (0, 0)
    assert await bench.rows("SELECT 1 FROM findings") == []


async def test_a_dry_run_writes_nothing(bench: Bench) -> None:
    key = await orphan(bench)
    found = await bench.compare(write=False)
    assert found.unknown_keys == [key]
    assert await bench.rows("SELECT 1 FROM findings UNION ALL SELECT 1 FROM patrol_runs") == []


async def test_an_orphan_is_adopted(bench: Bench, run_jobs: Any) -> None:
    await orphan(bench)
    await bench.compare()
    assert await bench.act(FindingAction.ADOPT) == "adopted"
    assert [row[0] for row in await bench.rows("SELECT wanted_key FROM assets ORDER BY wanted_key")] == [
        "vrm/known.vrm",
        "vrm/orphan.vrm",
    ]
    assert (await bench.compare()).unknown == 0


async def test_an_orphan_is_moved_before_it_is_deleted(bench: Bench, run_jobs: Any) -> None:
    key = await orphan(bench)
    await bench.compare()
    assert await bench.act(FindingAction.TRASH) == "trashed"
    await run_jobs()
    assert not await bench.there(key)
    ledger = "SELECT object_key FROM asset_objects WHERE origin = 'trash' AND object_key LIKE '%butai/%'"
    kept = (await bench.rows(ledger))[0][0]
    assert (await bench.store.head(kept)).size == len(files.vrm(2))
    # The copy itself goes after the trash period.
    due = await bench.rows(
        "SELECT scheduled_at > now() + interval '29 days' FROM procrastinate_jobs "
        "WHERE status = 'todo' AND scheduled_at IS NOT NULL AND task_name = 'assets.remove_objects'"
    )
    assert due == [(True,)]
    assert (await bench.compare()).unknown == 0
    acts = [row[0] for row in await bench.rows("SELECT action FROM audit WHERE action LIKE 'finding%'")]
    assert acts == ["finding.trash"]


async def test_a_stale_listing_deletes_nothing(bench: Bench, run_jobs: Any) -> None:
    key = await orphan(bench)
    await bench.compare()
    finding = await bench.finding()
    # It was written again by another program.
    await bench.store.put(key, BytesPayload(files.vrm(3)), "model/gltf-binary")
    with pytest.raises(Conflict):
        await bench.act(FindingAction.TRASH)
    await run_jobs()
    assert await bench.there(key)
    assert await bench.finding() == finding
    # It has got a row.
    await bench.compare()
    assert await bench.act(FindingAction.ADOPT) == "adopted"
    async with bench.database.transaction() as session:
        await session.execute(text("UPDATE findings SET resolved_at = NULL"))
    with pytest.raises(Conflict):
        await bench.act(FindingAction.TRASH)
    await run_jobs()
    assert await bench.there(key)


async def test_a_crash_between_copy_and_delete_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, run_jobs: Any
) -> None:
    key = await orphan(bench)
    await bench.compare()
    crashed: list[int] = []

    async def crash(*_: Any, **__: Any) -> None:
        crashed.append(1)
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(service.jobs, "enqueue", crash)
        with pytest.raises(StoreUnavailable):
            await bench.act(FindingAction.TRASH)
    assert crashed
    await run_jobs()
    assert await bench.there(key)
    assert await bench.act(FindingAction.TRASH) == "trashed"
    await run_jobs()
    assert not await bench.there(key)


async def test_a_row_whose_object_is_gone_goes_to_the_trash(bench: Bench) -> None:
    key = (await bench.rows("SELECT object_key FROM assets"))[0][0]
    # In the store, though not in the listing: nothing is found.
    assert (await bench.compare(key)).absent == 0
    await bench.store.delete(key)
    found = await bench.compare()
    assert found.absent_keys == [key]
    with pytest.raises(Conflict):
        await bench.act(FindingAction.ADOPT)
    await bench.store.put(key, BytesPayload(files.vrm(1)), "model/gltf-binary")
    with pytest.raises(Conflict):
        await bench.act(FindingAction.TRASH)
    await bench.store.delete(key)
    assert await bench.act(FindingAction.TRASH) == "trashed"
    assert (await bench.rows("SELECT deleted_at IS NOT NULL FROM assets")) == [(True,)]


async def test_what_is_ignored_stays_ignored(bench: Bench) -> None:
    await orphan(bench)
    await bench.compare()
    _, key = await create_api_key(bench.database, "root", ["user", "operator"], "")
    path = f"/api/assets/findings/{await bench.finding()}/ignore"
    _, listed = await bench.api.call("GET", "/api/assets/findings", headers={"X-API-Key": key})
    assert [one["actions"] for one in listed["findings"]] == [["adopt", "trash", "ignore"]]
    assert (await bench.api.call("POST", path, "alice"))[0] == 403
    assert (await bench.api.call("POST", path, headers={"X-API-Key": key})) == (200, {"resolution": "ignored"})
    assert (await bench.api.call("POST", path, headers={"X-API-Key": key}))[0] == 409
    _, listed = await bench.api.call("GET", "/api/assets/findings?resolved=true", headers={"X-API-Key": key})
    assert [(one["resolution"], one["actions"]) for one in listed["findings"]] == [("ignored", [])]
    found = await bench.compare()
    assert (found.unknown, found.ignored) == (0, 1)
    assert (await bench.api.call("POST", "/api/assets/findings/999/trash", headers={"X-API-Key": key}))[0] == 404


async def test_what_was_written_anew_after_the_act_stays(bench: Bench, run_jobs: Any) -> None:
    key = await orphan(bench)
    await bench.compare()
    assert await bench.act(FindingAction.TRASH) == "trashed"
    await bench.store.put(key, BytesPayload(files.vrm(7)), "model/gltf-binary")
    await run_jobs()
    assert (await bench.store.head(key)).size == len(files.vrm(7))
    # And is found like any other.
    assert (await bench.compare()).unknown_keys == [key]


async def test_nothing_goes_whose_copy_is_lost(bench: Bench, run_jobs: Any) -> None:
    key = await orphan(bench)
    await bench.compare()
    await bench.act(FindingAction.TRASH)
    ledger = "SELECT object_key FROM asset_objects WHERE origin = 'trash' AND object_key LIKE '%butai/%'"
    await bench.store.delete((await bench.rows(ledger))[0][0])
    await run_jobs()
    assert await bench.there(key)


async def test_findings_end_by_themselves(bench: Bench) -> None:
    """An object with no row that is gone, and a row whose object is there again."""
    stray = await orphan(bench)
    known = (await bench.rows("SELECT object_key FROM assets"))[0][0]
    body = files.vrm(1)
    await bench.store.delete(known)
    await bench.compare()
    open_ones = "SELECT kind FROM findings WHERE resolved_at IS NULL ORDER BY kind"
    assert [row[0] for row in await bench.rows(open_ones)] == ["object_without_row", "row_without_object"]
    await bench.store.delete(stray)
    await bench.store.put(known, BytesPayload(body), "model/gltf-binary")
    await bench.compare()
    assert await bench.rows(open_ones) == []
    assert {row[0] for row in await bench.rows("SELECT resolution FROM findings")} == {"agrees"}


async def test_a_row_goes_into_the_trash_where_absence_is_hidden(bench: Bench, proxy: Any) -> None:
    key = (await bench.rows("SELECT object_key FROM assets"))[0][0]
    await bench.store.delete(key)
    await bench.compare()
    proxy.fault("HEAD", status=403, times=1)
    with pytest.raises(StoreUnavailable):
        await bench.act(FindingAction.TRASH)
    proxy.heal()
    proxy.hide_absence = True
    assert await bench.act(FindingAction.TRASH) == "trashed"


async def test_an_adoption_whose_end_was_not_written_is_completed(bench: Bench) -> None:
    await orphan(bench)
    await bench.compare()
    await bench.act(FindingAction.ADOPT)
    await bench.rows("UPDATE findings SET resolved_at = NULL, resolution = NULL RETURNING 1")
    assert await bench.act(FindingAction.ADOPT) == "adopted"
    assert (await bench.rows("SELECT count(*) FROM assets"))[0][0] == 2
