"""Each way a store can fail a patrol: exactly which rows change, and what arrives at an operator's HTTP endpoint.

The store is the real one, behind the proxy. Messages go the whole way: from the transaction that raised them through a job
of the real worker and Apprise to an endpoint on loopback.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from butai.assets.patrol import run as patrolling
from butai.assets.patrol.progress import RunProgress
from butai.assets.storage.client import BytesPayload
from butai.config import AlertSettings
from tests.fakes.store_proxy import Fault, StoreProxy
from tests.patrols import Hooks, Studio

UNRELIABLE = "The store's answers cannot be trusted"
MASS = "Very many files seem to be missing from the store"

MAY_CHANGE = {"status", "missing_since", "change_seq", "updated_at", "item", "summary"}
"""Columns that a file's being lost or found touches; the last two are made of the others."""


@dataclass
class Watch:
    """A library under watch: `went` tells of a step which rows changed in it, and what the operator heard."""

    studio: Studio
    proxy: StoreProxy
    hooks: Hooks
    run_jobs: Callable[..., Any]

    async def go(self, **how: Any) -> tuple[RunProgress, dict[UUID, tuple[str, str]], list[str]]:
        """A round: the run, the rows that changed (status before and after), the titles that arrived."""
        before, heard = await self.studio.rows(), len(self.hooks.got)
        run = await self.studio.go(**how)
        after = await self.studio.rows()
        assert before.keys() == after.keys()
        changed: dict[UUID, tuple[str, str]] = {}
        for asset_id, row in after.items():
            columns = {name for name, value in row.items() if before[asset_id][name] != value}
            assert columns <= MAY_CHANGE, columns
            if columns:
                changed[asset_id] = (before[asset_id]["status"], row["status"])
        await self.tell()
        return run, changed, [body["title"] for _, body in self.hooks.got[heard:] if body["answered"] == 200]

    async def tell(self) -> None:
        """Has a worker deliver what is due."""
        settings = replace(self.studio.settings, alerts=AlertSettings(urls=SecretStr(self.hooks.url("phone"))))
        await self.run_jobs(settings=settings)

    def fault(self, how: dict[str, Any], *keys: str, behind: int = 0) -> Fault:
        """Does it to HEADs of these keys, or of all, behind so many HEADs."""
        fault = self.proxy.fault(**how)
        seen = 0

        def matches(request: Any) -> bool:
            nonlocal seen
            seen += request.method == "HEAD"
            named = not keys or any(request.path.endswith(key) for key in keys)
            return request.method == "HEAD" and named and seen > behind

        fault.matches = matches
        return fault


@pytest.fixture
def watch(studio: Studio, proxy: StoreProxy, hooks: Hooks, run_jobs: Any) -> Watch:
    return Watch(studio, proxy, hooks, run_jobs)


async def test_a_store_that_hides_absence_and_has_everything(watch: Watch) -> None:
    watch.proxy.hide_absence = True
    await watch.studio.fill(40)
    run, changed, heard = await watch.go()
    assert (run.state, run.found, run.hides_absence) == ("finished", 40, True)
    assert (changed, heard) == ({}, [])
    assert any(seen.status == 403 for seen in watch.proxy.seen), "it never answered as AWS"


@pytest.mark.parametrize("hides", [False, True])
async def test_one_is_lost_and_comes_back(watch: Watch, hides: bool) -> None:
    watch.proxy.hide_absence = hides
    studio = watch.studio
    ids = await studio.fill(40)
    await studio.lose(ids[7])
    if hides:
        run, changed, heard = await watch.go()
        assert (run.suspected, changed, heard) == (1, {}, [])
        studio.now += timedelta(minutes=11)
    run, changed, heard = await watch.go()
    assert (run.lost, run.found) == (1, 39)
    assert changed == {ids[7]: ("ready", "missing")}
    assert heard == ["Patrol: 1 file lost"]
    # By name, and once.
    assert str(ids[7]) in watch.hooks.got[-1][1]["message"]
    assert (await watch.go())[1:] == ({}, [])
    await studio.bring_back(ids[7])
    run, changed, heard = await watch.go()
    assert run.recovered == 1
    assert changed == {ids[7]: ("missing", "ready")}
    assert heard == ["Patrol: 1 file recovered"]


@pytest.mark.parametrize("hides", [False, True])
async def test_a_third_is_lost_and_comes_back(watch: Watch, hides: bool) -> None:
    watch.proxy.hide_absence = hides
    studio = watch.studio
    ids = await studio.fill(90)
    await studio.lose(*ids[:30])
    run, changed, heard = await watch.go()
    assert (run.state, run.stop_code) == ("stopped", "patrol_mass_missing")
    assert (changed, heard) == ({}, [MASS])
    assert "30 of 90" in watch.hooks.got[-1][1]["message"]
    # As long as it lasts, it is told once.
    for _ in range(2):
        studio.now += timedelta(minutes=11)
        run, changed, heard = await watch.go()
        assert (run.stop_code, changed, heard) == ("patrol_mass_missing", {}, [])
    await studio.bring_back(*ids[:30])
    run, changed, heard = await watch.go()
    assert (run.state, run.found) == ("finished", 90)
    assert (changed, heard) == ({}, [f"Recovered: {MASS}"])


@pytest.mark.parametrize("hides", [False, True])
async def test_all_is_denied_in_the_middle(watch: Watch, hides: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patrolling, "BATCH", 20)
    watch.proxy.hide_absence = hides
    await watch.studio.fill(60)
    fault = watch.fault({"status": 403, "code": "AccessDenied"}, behind=30)
    run, changed, heard = await watch.go()
    assert fault.met > 5, "nothing was denied"
    assert (run.state, run.stop_code, run.checked) == ("stopped", "patrol_unreliable", 20)
    assert (changed, heard) == ({}, [UNRELIABLE])
    watch.proxy.heal()
    watch.proxy.hide_absence = hides
    run, changed, heard = await watch.go()
    assert (run.state, run.found) == ("finished", 60)
    assert (changed, heard) == ({}, [f"Recovered: {UNRELIABLE}"])


@pytest.mark.store_hangs
@pytest.mark.parametrize(
    "how", [{"status": 500}, {"status": 503, "code": "SlowDown"}, {"status": 429}, {"hang": True}], ids=str
)
async def test_errors_throttling_and_silence(
    watch: Watch, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("butai.assets.storage.heads.HEAD_SECONDS", 1)
    studio = watch.studio
    ids = await studio.fill(30)
    # Of one file: it is checked again in the next run, and no alert is raised.
    fault = watch.fault(how, studio.keys[ids[0]])
    run, changed, heard = await watch.go()
    assert fault.met >= 1
    assert (run.state, run.undecided, run.found) == ("finished", 1, 29)
    assert (changed, heard) == ({}, [])
    watch.proxy.heal()
    # Of all files, with good canaries; and of everything.
    fault = watch.fault(how, *studio.keys.values())
    run, changed, heard = await watch.go()
    assert fault.met >= 16
    assert (run.state, run.stop_code) == ("stopped", "patrol_unreliable")
    assert (changed, heard) == ({}, [UNRELIABLE])
    watch.proxy.heal()
    fault = watch.fault(how)
    run, changed, heard = await watch.go()
    assert fault.met >= 1
    assert (run.stop_code, changed, heard) == ("patrol_unreliable", {}, [])
    watch.proxy.heal()
    run, changed, heard = await watch.go()
    assert (run.state, run.found) == ("finished", 30)
    assert (changed, heard) == ({}, [f"Recovered: {UNRELIABLE}"])


async def test_lost_in_an_outage_and_found_missing_when_it_is_over(watch: Watch) -> None:
    """The outage hides the loss for as long as it lasts, and no longer."""
    studio = watch.studio
    ids = await studio.fill(40)
    await studio.lose(ids[3])
    fault = watch.fault({"status": 503})
    run, changed, heard = await watch.go()
    assert fault.met >= 1
    assert (run.stop_code, changed, heard) == ("patrol_unreliable", {}, [UNRELIABLE])
    watch.proxy.heal()
    run, changed, heard = await watch.go()
    assert changed == {ids[3]: ("ready", "missing")}
    assert sorted(heard) == ["Patrol: 1 file lost", f"Recovered: {UNRELIABLE}"]


async def test_other_bytes_are_told_and_the_status_stays(watch: Watch) -> None:
    studio = watch.studio
    ids = await studio.fill(10)
    await studio.store.put(studio.keys[ids[2]], BytesPayload(b"something else entirely"), "text/plain")
    run, changed, heard = await watch.go()
    assert run.mismatched == 1
    # Its event gives it a place in the change feed; the status stays.
    assert changed == {ids[2]: ("ready", "ready")}
    assert heard == ["Patrol: 1 file changed in the store"]
    assert (await watch.go())[1:] == ({}, [])


async def test_a_message_that_was_refused_comes_with_the_next_try(watch: Watch) -> None:
    studio = watch.studio
    ids = await studio.fill(90)
    await studio.lose(*ids[:30])
    watch.hooks.answers["phone"] = 500
    assert (await watch.go())[2] == []
    assert [body["answered"] for _, body in watch.hooks.got] == [500]
    waiting = await studio.do(
        "SELECT status::text, scheduled_at > now() AS later FROM procrastinate_jobs WHERE task_name = 'alerts.deliver'"
    )
    assert waiting == [{"status": "todo", "later": True}]
    watch.hooks.answers.clear()
    await studio.do("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE task_name = 'alerts.deliver'")
    await watch.tell()
    assert watch.hooks.taken_by("phone") == [MASS]


async def test_a_dry_run_tells_nobody(watch: Watch) -> None:
    ids = await watch.studio.fill(30)
    await watch.studio.lose(*ids)
    run, changed, heard = await watch.go(dry_run=True)
    assert (run.stop_code, changed, heard) == ("patrol_mass_missing", {}, [])


async def test_a_run_is_seen_going_on(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two batches its row says how far it has come, for `butai patrol status` and the API."""
    monkeypatch.setattr(patrolling, "BATCH", 10)
    await watch.studio.fill(30)
    seen: list[tuple[int, int]] = []
    told: list[int] = []

    original = patrolling.require_lock

    async def look(connection: Any) -> None:
        row = (await watch.studio.do("SELECT state, due, checked FROM patrol_runs"))[0]
        assert row["state"] == "running"
        seen.append((row["checked"], row["due"]))
        await original(connection)

    monkeypatch.setattr(patrolling, "require_lock", look)
    await watch.studio.go(on_progress=lambda run: told.append(run.checked))
    assert seen == [(0, 30), (10, 30), (20, 30)]
    assert told == [10, 20, 30, 30]
