"""The patrol against the real store, through a proxy that lies, breaks and comes back: which rows change, and who is told."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import Mock

import psycopg
import pytest

from butai.assets import transitions
from butai.assets.library import assemble
from butai.assets.moderation import HASH_OBJECT
from butai.assets.patrol import run as patrolling
from butai.assets.patrol import tasks
from butai.assets.patrol.lock import PatrolBusy
from butai.assets.patrol.progress import RunProgress
from butai.assets.patrol.run import Patrol
from butai.assets.storage.client import BytesPayload
from butai.assets.storage.heads import StoreHeads
from butai.config import Settings
from butai.errors import DatabaseUnavailable, Unavailable
from butai.identity.api_keys import create_api_key
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy
from tests.patrols import Studio


async def test_all_is_well_and_nothing_changes(studio: Studio) -> None:
    await studio.fill(50)
    run = await studio.go()
    assert (run.state, run.checked, run.found, run.hides_absence) == ("finished", 50, 50, False)
    assert await studio.statuses() == {"ready": 50}
    assert await studio.events() == {}
    assert await studio.messages() == []
    # All are noted; files that are not read are not due again within the hour.
    assert len(await studio.do("SELECT 1 FROM asset_checks WHERE due_at > now() + interval '2 hours'")) == 50
    assert (await studio.patrol().run("scheduled")).checked == 0


async def test_one_object_is_lost_and_comes_back(studio: Studio) -> None:
    ids = await studio.fill(50)
    await studio.lose(ids[7])
    run = await studio.go()
    assert (run.lost, run.found) == (1, 49)
    assert await studio.missing() == {ids[7]}
    assert await studio.events() == {"lost": 1}
    assert await studio.findings() == [("missing", True)]
    assert await studio.messages() == [("digest", "Patrol: 1 file lost")]
    await studio.go()
    assert len(await studio.messages()) == 1, "it was told once"
    await studio.bring_back(ids[7])
    run = await studio.go()
    assert (run.recovered, run.found) == (1, 49)
    assert await studio.statuses() == {"ready": 50}
    assert await studio.events() == {"lost": 1, "recovered": 1}
    assert await studio.findings() == [("missing", False)]
    assert (await studio.messages())[1:] == [("digest", "Patrol: 1 file recovered")]


async def test_one_that_an_operator_has_hidden_is_read_once_it_is_back(studio: Studio) -> None:
    """Its SHA-256 says whether it has the bytes of a file that was taken down; other files may wait for that."""
    hidden, down, other, known = await studio.fill(4)
    await studio.do("UPDATE assets SET public_again = true WHERE id = %s", hidden)
    await studio.do("UPDATE assets SET taken_down_at = now() WHERE id = %s", down)
    await studio.do("UPDATE assets SET public_again = true, sha256 = repeat('a', 64) WHERE id = %s", known)
    for wanted in ("missing", "ready"):
        await (studio.lose if wanted == "missing" else studio.bring_back)(hidden, down, other, known)
        await studio.do("UPDATE asset_checks SET due_at = now()")
        for _ in range(2):
            await studio.go()
        assert await studio.statuses() == {wanted: 4}
    asked = await studio.do(
        "SELECT args ->> 'asset_id' AS id FROM procrastinate_jobs WHERE task_name = %s", HASH_OBJECT
    )
    assert {row["id"] for row in asked} == {str(hidden), str(down)}


async def test_a_store_that_answers_as_aws_needs_two_looks_ten_minutes_apart(studio: Studio, proxy: StoreProxy) -> None:
    proxy.hide_absence = True
    ids = await studio.fill(50)
    await studio.lose(ids[3])
    run = await studio.go()
    assert (run.hides_absence, run.suspected, run.lost) == (True, 1, 0)
    assert await studio.missing() == set()
    studio.now += timedelta(minutes=9)
    assert (await studio.go()).suspected == 1
    assert await studio.missing() == set()
    studio.now += timedelta(minutes=2)
    assert (await studio.go()).lost == 1
    assert await studio.missing() == {ids[3]}
    assert any(seen.status == 403 and seen.method == "HEAD" for seen in proxy.seen), "it never answered as AWS"
    # It was put on the list for a second look by itself.
    assert await studio.do("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'assets.recheck'")


async def test_a_third_is_gone_and_nothing_is_marked(studio: Studio) -> None:
    ids = await studio.fill(90)
    await studio.lose(*ids[:30])
    for _ in range(2):
        run = await studio.go()
        assert (run.state, run.stop_code) == ("stopped", "patrol_mass_missing")
    assert await studio.statuses() == {"ready": 90}
    assert await studio.events() == {}
    assert await studio.messages() == [("raised", "patrol_mass_missing")]
    await studio.bring_back(*ids[:30])
    assert (await studio.go()).state == "finished"
    assert await studio.messages() == [("raised", "patrol_mass_missing"), ("recovered", "patrol_mass_missing")]


async def test_all_is_denied_in_the_middle_of_a_run(
    studio: Studio, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patrolling, "BATCH", 20)
    await studio.fill(60)
    for hides in (False, True):
        proxy.hide_absence = hides
        seen = 0

        def later(request: Any) -> bool:
            nonlocal seen
            seen += request.method == "HEAD"
            return seen > 30

        fault = proxy.fault(status=403, code="AccessDenied")
        fault.matches = later
        run = await studio.go()
        assert fault.met > 5
        assert (run.state, run.stop_code, run.checked) == ("stopped", "patrol_unreliable", 20)
        proxy.heal()
        assert await studio.statuses() == {"ready": 60}
    assert await studio.messages() == [("raised", "patrol_unreliable")]
    assert (await studio.go()).found == 60
    assert (await studio.messages())[1:] == [("recovered", "patrol_unreliable")]


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_errors_are_never_a_finding(studio: Studio, proxy: StoreProxy, status: int) -> None:
    ids = await studio.fill(30)
    unlucky = studio.keys[ids[0]]
    fault = proxy.fault("HEAD", status=status)
    fault.matches = lambda request: request.method == "HEAD" and request.path.endswith(unlucky)
    run = await studio.go()
    assert fault.met >= 1
    assert (run.state, run.undecided, run.found) == ("finished", 1, 29)
    assert await studio.statuses() == {"ready": 30}
    # It is due again with the next round.
    assert (await studio.patrol().run("scheduled")).checked == 1
    fault.matches = lambda request: request.method == "HEAD" and "canary" not in request.path
    run = await studio.go()
    assert (run.state, run.stop_code) == ("stopped", "patrol_unreliable")
    assert await studio.statuses() == {"ready": 30}


@pytest.mark.store_hangs
async def test_a_store_that_hangs_stops_the_run(
    studio: Studio, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butai.assets.storage.heads.HEAD_SECONDS", 1)
    await studio.fill(30)
    fault = proxy.fault("HEAD", hang=True)
    fault.matches = lambda request: request.method == "HEAD" and "/objects/" in request.path
    run = await studio.go()
    assert fault.met >= 20
    assert (run.state, run.stop_code) == ("stopped", "patrol_unreliable")
    assert await studio.statuses() == {"ready": 30}


async def test_other_bytes_are_a_mismatch_and_the_state_stays(studio: Studio) -> None:
    ids = await studio.fill(10)
    await studio.store.put(studio.keys[ids[2]], BytesPayload(b"something else entirely"), "text/plain")
    for _ in range(2):
        assert (await studio.go()).mismatched == 1
    assert await studio.statuses() == {"ready": 10}
    assert await studio.events() == {"mismatch": 1}
    assert await studio.messages() == [("digest", "Patrol: 1 file changed in the store")]
    await studio.bring_back(ids[2])
    assert (await studio.go()).found == 10
    assert await studio.findings() == [("mismatch", False)]


async def test_a_dry_run_counts_and_changes_nothing(studio: Studio) -> None:
    ids = await studio.fill(10)
    await studio.lose(ids[0])
    run = await studio.go(dry_run=True)
    assert (run.lost, run.found) == (1, 9)
    assert await studio.statuses() == {"ready": 10}
    assert await studio.findings() == []
    assert await studio.messages() == []
    assert await studio.do("SELECT 1 FROM asset_checks") == []


async def test_trashed_ones_and_new_versions_are_left_alone(studio: Studio) -> None:
    ids = await studio.fill(5)
    await studio.do("UPDATE assets SET deleted_at = now() WHERE id = %s", ids[0])
    await studio.lose(ids[0], ids[1])
    heads = StoreHeads(studio.store, 0)
    many = heads.many

    async def slow(keys: Any) -> Any:
        answers = await many(keys)
        # While the store was asked, the asset got a new object.
        await studio.do("UPDATE assets SET object_key = 'new' WHERE id = %s", ids[1])
        return answers

    heads.many = slow
    patrol = Patrol(studio.database, studio.store, studio.settings.patrol, heads=heads)
    run = await patrol.run("asked", everything=True)
    assert run.checked == 4
    assert await studio.missing() == set()


async def test_a_run_that_died_is_taken_up_where_it_stood(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrolling, "BATCH", 10)
    await studio.fill(50)

    class Killed(BaseException):
        pass

    def die(run: RunProgress) -> None:
        if run.checked == 30:
            raise Killed

    with pytest.raises(Killed):
        await studio.patrol().run("scheduled", on_progress=die)
    rows = await studio.do("SELECT id, state, checked FROM patrol_runs")
    assert [(row["state"], row["checked"]) for row in rows] == [("running", 30)]
    seen: list[int] = []
    run = await studio.patrol().run("scheduled", on_progress=lambda run: seen.append(run.checked))
    assert (run.id, run.state, run.checked, run.found) == (rows[0]["id"], "finished", 50, 50)
    assert seen[:2] == [40, 50]


async def test_one_patrol_at_a_time(studio: Studio) -> None:
    await studio.fill(5)
    busy: list[bool] = []
    reached = asyncio.Event()

    class Slow(StoreHeads):
        async def many(self, keys: Any) -> Any:
            reached.set()
            with contextlib.suppress(PatrolBusy):
                await studio.go()
                busy.append(False)
            busy.append(True)
            return await super().many(keys)

    patrol = Patrol(studio.database, studio.store, studio.settings.patrol, heads=Slow(studio.store, 0))
    assert (await patrol.run("asked", everything=True)).found == 5
    assert reached.is_set()
    assert busy == [True]


async def test_a_round_does_not_wait_for_those_who_change_a_file(studio: Studio) -> None:
    # A thumbnail that comes locks its own row and then the avatar's, which is the older one; a round notes rows by their
    # ids. If they excluded each other, each could hold what the other wants.
    first, second = sorted(await studio.fill(2))
    async with studio.database.transaction() as session:
        assert await transitions.lock(session, second) is not None
        with pytest.raises(psycopg.errors.LockNotAvailable):
            await studio.do("SELECT 1 FROM assets WHERE id = %s FOR NO KEY UPDATE NOWAIT", second)
        async with asyncio.timeout(60):
            run = await studio.go()
        assert (run.state, run.found) == ("finished", 2)
        assert await transitions.lock(session, first) is not None


async def test_a_round_that_breaks_off_is_no_failed_job(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    await studio.fill(3)
    broken: list[str] = []

    async def gone(*_: Any) -> None:
        broken.append("gone")
        raise DatabaseUnavailable

    library = assemble(studio.database, studio.store, studio.settings.assets, studio.settings.http)
    context = Mock(additional_context={"library": library, "settings": studio.settings})
    with monkeypatch.context() as patched:
        patched.setattr(patrolling, "require_lock", gone)
        await tasks.patrol(context, 0)
    assert broken == ["gone"]
    assert await studio.do("SELECT 1 FROM patrol_runs WHERE state = 'running'") != []
    await tasks.patrol(context, 0)
    assert [row["checked"] for row in await studio.do("SELECT checked FROM patrol_runs WHERE state = 'finished'")] == [
        3
    ]


async def test_a_read_that_fails_has_its_file_looked_for_at_once(
    api: Api, studio: Studio, run_jobs: Callable[..., Any]
) -> None:
    status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    assert status == 200
    object_key = (await studio.do("SELECT object_key FROM assets"))[0]["object_key"]
    assert (await api.read(answer["data"]["url"], "alice"))[0] == 200
    await studio.store.delete(object_key)
    assert (await api.read(answer["data"]["url"], "alice"))[0] == 410

    async def queued() -> bool:
        return bool(await studio.do("SELECT 1 FROM procrastinate_jobs WHERE task_name = 'assets.recheck'"))

    async with asyncio.timeout(60):
        while not await queued():
            await asyncio.sleep(0.02)
    assert (await api.read(answer["data"]["url"], "alice"))[0] == 410
    await run_jobs()
    assert await studio.statuses() == {"missing": 1}
    assert ("raised", "assets_missing") in await studio.messages()
    assert await api.items("alice") == []
    status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    assert status == 200
    assert (await studio.go()).state == "finished"
    assert await studio.findings() == [("missing", False)]
    assert ("recovered", "assets_missing") in await studio.messages()


async def test_rechecks_one_by_one_mark_no_mass(studio: Studio) -> None:
    ids = await studio.fill(40)
    await studio.lose(*ids)
    for asset_id in ids:
        await studio.patrol().recheck([asset_id])
    assert await studio.statuses() == {"missing": 20, "ready": 20}
    assert ("raised", "patrol_mass_missing") in await studio.messages()


async def test_files_in_use_are_due_each_round(settings: Settings, studio: Studio) -> None:
    async with serving(settings) as api:
        status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
        assert status == 200
        await api.upload("alice", "vrm/b.vrm", files.vrm(2))
        await studio.go()
        assert (await api.read(answer["data"]["url"], "alice"))[0] == 200
    # What was used is written each minute, and when the API ends.
    studio.now += timedelta(minutes=1)
    assert (await studio.patrol().run("scheduled")).checked == 1
    studio.now += timedelta(minutes=58)
    assert (await studio.patrol().run("scheduled")).checked == 1


async def test_operators_see_runs_and_findings_and_others_do_not(api: Api, studio: Studio) -> None:
    ids = await studio.fill(3)
    await studio.lose(ids[0])
    await studio.go()
    _, key = await create_api_key(studio.database, "root", ["user", "operator"], "")
    headers = {"X-API-Key": key}
    status, body = await api.call("GET", "/api/assets/patrol", headers=headers)
    assert status == 200, body
    assert [(run["state"], run["checked"], run["missing"]) for run in body["runs"]] == [("finished", 3, 1)]
    assert [(one["kind"], one["assetId"]) for one in body["findings"]] == [("missing", str(ids[0]))]
    assert (body["stale"], body["openFindings"]["missing"]) == (False, 1)
    # The new names, and the lists by themselves, page by page.
    assert (body["open_findings"]["missing"], body["runs"][0]["dry_run"]) == (1, False)
    await studio.go(dry_run=True)
    status, first = await api.call("GET", "/api/assets/patrol/runs?limit=1", headers=headers)
    assert (status, [run["dry_run"] for run in first["runs"]]) == (200, [True])
    status, second = await api.call("GET", f"/api/assets/patrol/runs?limit=1&before={first['next']}", headers=headers)
    assert (status, [run["missing"] for run in second["runs"]], second["next"]) == (200, [1], None)
    status, found = await api.call("GET", "/api/assets/findings?kind=missing", headers=headers)
    assert (status, found["next"]) == (200, None)
    assert [(one["asset_id"], one["actions"]) for one in found["findings"]] == [(str(ids[0]), ["trash", "ignore"])]
    assert (await api.call("GET", "/api/assets/findings", "alice"))[0] == 403
    assert (await api.call("GET", "/api/assets/patrol", "alice"))[0] == 403
    assert (await api.call("GET", "/api/assets/patrol"))[0] == 401
    assert (await api.call("POST", "/api/assets/patrol/run", headers=headers, json={"dryRun": True}))[0] == 202
    assert (await api.call("POST", "/api/assets/patrol/run", "alice", json={}))[0] == 403


async def test_the_database_goes_away_in_the_middle(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrolling, "BATCH", 5)
    await studio.fill(20)
    killed: list[int] = []

    async def kill() -> None:
        async with await psycopg.AsyncConnection.connect(studio.database.url, autocommit=True) as connection:
            cursor = await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid()"
            )
            killed.append(len(await cursor.fetchall()))

    class Cutting(StoreHeads):
        async def many(self, keys: Any) -> Any:
            answers = await super().many(keys)
            if not killed:
                await kill()
            return answers

    patrol = Patrol(studio.database, studio.store, studio.settings.patrol, heads=Cutting(studio.store, 0))
    with pytest.raises(Unavailable):
        await patrol.run("scheduled")
    assert killed[0] >= 1
    async with asyncio.timeout(60):
        while True:
            # The lock is free once the killed connection is gone, which was told before it is.
            with contextlib.suppress(PatrolBusy):
                run = await studio.patrol().run("scheduled")
                break
    assert (run.state, run.checked) == ("finished", 20)
    assert await studio.statuses() == {"ready": 20}
    assert replace(run, checkpoint=None).undecided == 0
