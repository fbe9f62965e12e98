"""`butai patrol`, `reconcile`, `jobs` and `alerts`: what they print, change and end with."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from butai.alerts.service import raise_alert
from butai.assets.patrol.lock import PATROL_LOCK
from butai.assets.storage.client import BytesPayload, ObjectAbsent
from butai.config import Settings
from butai.jobs.service import note_failure
from tests import files
from tests.fakes.store_proxy import StoreProxy
from tests.forked import command
from tests.patrols import Hooks, Studio
from tests.processes import environment


@dataclass(frozen=True)
class Ended:
    """How a command ended; `said` is all that it printed, in one line."""

    status: int
    said: str


Butai = Callable[..., Awaitable[Ended]]


@pytest.fixture
def butai(settings: Settings) -> Butai:
    """Runs the command in a process of its own."""

    async def run(*arguments: str, **more: str) -> Ended:
        env = environment(settings, BUTAI_LOG_LEVEL="error", COLUMNS="300", **more)
        ended = await command(*arguments, env=env)
        return Ended(ended.returncode, " ".join((ended.stdout + ended.stderr).split()))

    return run


async def test_a_patrol_says_what_it_found(butai: Butai, studio: Studio) -> None:
    ids = await studio.fill(12)
    assert await butai("patrol", "run") == Ended(0, "12 files checked: 12 there.")
    await studio.lose(ids[4])
    dry = await butai("patrol", "run", "--dry-run")
    assert dry == Ended(0, "12 files checked: 11 there, 1 missing. Nothing was changed.")
    assert await studio.missing() == set()
    assert await butai("patrol", "run") == Ended(0, "12 files checked: 11 there, 1 missing.")
    assert await studio.missing() == {ids[4]}
    # Files that are not read were checked just now.
    assert (await butai("patrol", "run", "--due")).said == "0 files checked: nothing to check."
    status = await butai("patrol", "status")
    assert status.status == 0
    assert "asked (dry) finished" in status.said
    assert f"missing vrm/{ids[4]}.vrm since" in status.said


async def test_a_patrol_that_cannot_believe_ends_with_1(butai: Butai, studio: Studio, proxy: StoreProxy) -> None:
    ids = await studio.fill(30)
    await studio.lose(*ids)
    ended = await butai("patrol", "run")
    assert ended.status == 1
    assert "Stopped (patrol_mass_missing)" in ended.said
    fault = proxy.fault("HEAD", status=403, code="AccessDenied")
    ended = await butai("patrol", "run")
    assert fault.met >= 1
    assert ended.status == 1
    assert "Stopped (patrol_unreliable)" in ended.said
    assert await studio.missing() == set()


async def test_a_second_patrol_ends_with_2(butai: Butai, studio: Studio) -> None:
    await studio.fill(1)
    async with await psycopg.AsyncConnection.connect(studio.database.url, autocommit=True) as connection:
        await connection.execute("SELECT pg_advisory_lock(%s)", (PATROL_LOCK,))
        ended = await butai("patrol", "run")
    assert ended == Ended(2, "Another patrol run is in progress: butai patrol status")


async def strays(studio: Studio, folder: Path, count: int) -> tuple[list[str], str]:
    """Objects with no row, and a listing of them."""
    keys = [f"{studio.store.prefix}vrm/stray{number}.vrm" for number in range(count)]
    for number, key in enumerate(keys):
        await studio.store.put(key, BytesPayload(files.vrm(number)), "model/gltf-binary")
    listing = folder / "listing.csv"
    listing.write_text("key,size\n" + "".join(f"{key},{len(files.vrm(1))}\n" for key in keys))
    return keys, str(listing)


async def there(studio: Studio, key: str) -> bool:
    try:
        await studio.store.head(key)
    except ObjectAbsent:
        return False
    return True


async def test_a_listing_is_told_of_and_acted_on_within_a_limit(
    butai: Butai, studio: Studio, tmp_path: Path, run_jobs: Any
) -> None:
    keys, listing = await strays(studio, tmp_path, 5)
    ended = await butai("reconcile", listing)
    assert ended.status == 0
    assert "5 objects have no row:" in ended.said
    assert "Nothing was written." in ended.said
    assert await studio.findings() == []
    ended = await butai("reconcile", listing, "--trash")
    assert ended.status == 1, "an act needs --apply"
    assert await studio.findings() == []
    ended = await butai("reconcile", listing, "--apply", "--adopt", "--limit", "2")
    assert ended.status == 0
    assert "adopt: 2 done, 0 left as they are (at most 2 in one run)." in ended.said
    adopted = {row["object_key"] for row in await studio.do("SELECT object_key FROM assets WHERE status = 'ready'")}
    assert len(adopted) == 2
    ended = await butai("reconcile", listing, "--apply", "--trash", "--limit", "2")
    assert "trash: 2 done" in ended.said
    await run_jobs()
    left = {key for key in keys if await there(studio, key)}
    assert len(left) == 3
    assert adopted < left
    ended = await butai("reconcile", listing, "--apply", "--ignore")
    assert "ignore: 1 done" in ended.said
    assert "1 are ignored" in (await butai("reconcile", listing)).said
    assert {key for key in keys if await there(studio, key)} == left


async def test_what_has_changed_since_the_listing_is_left_and_said(
    butai: Butai, studio: Studio, tmp_path: Path, run_jobs: Any
) -> None:
    keys, listing = await strays(studio, tmp_path, 2)
    assert (await butai("reconcile", listing, "--apply")).status == 0
    # The command asks the store itself, so what was found is made old behind its back.
    await studio.do('UPDATE findings SET detail = detail || \'{"etag": "other"}\' WHERE object_key = %s', keys[0])
    finding = (await studio.do("SELECT id FROM findings WHERE object_key = %s", keys[0]))[0]["id"]
    empty = tmp_path / "empty.csv"
    empty.write_text("key,size\n")
    ended = await butai("reconcile", str(empty), "--apply", "--trash")
    assert ended.status == 1
    assert f"finding {finding}: The object has changed since it was found" in ended.said
    assert "trash: 1 done, 1 left as they are" in ended.said
    await run_jobs()
    assert [await there(studio, key) for key in keys] == [True, False]


async def test_jobs_that_failed_are_shown_and_tried_again(butai: Butai, studio: Studio) -> None:
    """Also those of which another waits, as one of each minute's does: they are put away, and hold up no other."""
    await studio.do(
        """INSERT INTO procrastinate_jobs (task_name, queue_name, args, status, queueing_lock)
           VALUES ('assets.inspect', 'default', '{}', 'failed', NULL), ('assets.patrol', 'default', '{}', 'failed', 'p'),
                  ('assets.patrol', 'default', '{}', 'failed', 'p'), ('assets.patrol', 'default', '{}', 'todo', 'p')"""
    )
    ids = [row["id"] for row in await studio.do("SELECT id FROM procrastinate_jobs ORDER BY id")]
    await note_failure(studio.database, ids[0], "store_timeout", "The store took too long")
    shown = await butai("jobs", "list", "--status", "failed")
    assert shown.status == 0
    assert f"{ids[0]} failed assets.inspect" in shown.said
    assert "store_timeout: The store took too long" in shown.said
    assert (await butai("jobs", "retry")).status == 1, "it has to be said which"
    conflict = await butai("jobs", "retry", str(ids[1]))
    assert conflict.status != 0
    assert "Traceback" not in conflict.said
    ended = await butai("jobs", "retry", "--all-failed")
    assert ended == Ended(0, "1 put back into the queue. 2 removed: equal jobs are waiting already.")
    rows = await studio.do("SELECT status::text FROM procrastinate_jobs ORDER BY id")
    assert [row["status"] for row in rows] == ["todo", "aborted", "aborted", "todo"]
    assert await butai("jobs", "cancel", str(ids[0])) == Ended(0, "Cancelled.")
    again = await butai("jobs", "cancel", str(ids[0]))
    assert again.status != 0
    assert "Traceback" not in again.said
    acts = [
        row["action"] for row in await studio.do("SELECT action FROM audit WHERE action LIKE 'jobs.%%' ORDER BY id")
    ]
    assert acts == ["jobs.retry", "jobs.put_away", "jobs.put_away", "jobs.cancel"]


async def test_alerts_are_listed_and_tried(butai: Butai, studio: Studio, hooks: Hooks) -> None:
    async with studio.database.transaction() as session:
        await raise_alert(session, key="x", code="jobs_failed", severity="warning", title="3 jobs failed", body="…")
    listed = await butai("alerts", "list")
    assert listed.status == 0
    assert "open warning jobs_failed 3 jobs failed" in listed.said
    assert (await butai("alerts", "test")).status == 1, "nobody is to be told"
    ended = await butai("alerts", "test", BUTAI_ALERT_URLS=hooks.url("phone"))
    assert ended.status == 0
    assert ended.said.endswith("json: delivered")
    assert hooks.taken_by("phone") == ["Butai: a test message"]
    assert json.loads(json.dumps(hooks.got))[0][1]["type"] == "info"
