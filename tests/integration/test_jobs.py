"""Background jobs: what failed is kept with its reason, can be tried again, and a worker's death loses none."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import msgspec
import psycopg
import pytest
from procrastinate import App
from procrastinate.jobs import Status
from psycopg.rows import dict_row
from sqlalchemy import text

from butai import jobs
from butai.assets.library import assemble
from butai.assets.storage.client import Store
from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import Conflict, StoreUnavailable
from butai.identity.api_keys import create_api_key
from butai.jobs import service
from butai.jobs.queue import QUEUES
from butai.jobs.schemas import JobsOut
from butai.jobs.service import explain_failures
from butai.worker import make_app, retry_stalled, run
from tests.conftest import Api
from tests.processes import process


async def rows(settings: Settings, statement: str, *values: Any) -> list[dict[str, Any]]:
    url = settings.database.url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def operator(database: Database) -> dict[str, str]:
    return {"X-API-Key": (await create_api_key(database, "root", ["user", "operator"], ""))[1]}


async def fail_once(settings: Settings, database: Database, error: Exception) -> int:
    """A job that failed for good, of a task that raises `error`. Its id."""
    app = make_app(settings.database.url.get_secret_value())
    app.periodic_registry.periodic_tasks.clear()
    calls: list[int] = []

    async def act(context: Any, **_: Any) -> None:
        calls.append(1)
        raise error

    app.task(name="test.fails", pass_context=True)(act)
    explain_failures(app)
    async with Store(settings.store) as store, app.open_async():
        async with database.transaction() as session:
            await jobs.enqueue(session, "test.fails", {"asset_id": "x"})
        library = assemble(database, store, settings.assets, settings.http)
        await app.run_worker_async(
            wait=False,
            additional_context={"library": library, "settings": settings},
            delete_jobs="successful",
            install_signal_handlers=False,
        )
    assert calls == [1]
    return (await rows(settings, "SELECT max(id) AS id FROM procrastinate_jobs"))[0]["id"]


async def test_what_failed_for_good_is_kept_with_its_reason_and_tried_again(
    api: Api, settings: Settings, database: Database
) -> None:
    job_id = await fail_once(settings, database, StoreUnavailable("The store is on fire"))
    headers = await operator(database)
    status, body = await api.call("GET", "/api/jobs?status=failed", headers=headers)
    assert status == 200, body
    assert msgspec.convert(body, JobsOut, strict=False).jobs[0].error_code == body["jobs"][0]["errorCode"]
    found = [(one["id"], one["task"], one["error_code"], one["error_detail"], one["args"]) for one in body["jobs"]]
    assert found == [(job_id, "test.fails", "store_unavailable", "The store is on fire", {"asset_id": "x"})]
    assert (await api.call("POST", f"/api/jobs/{job_id}/cancel", headers=headers))[0] == 409
    assert (await api.call("POST", f"/api/jobs/{job_id}/retry", headers=headers))[0] == 204
    assert (await api.call("POST", f"/api/jobs/{job_id}/retry", headers=headers))[0] == 409
    assert (await api.call("POST", f"/api/jobs/{job_id}/cancel", headers=headers))[0] == 204
    assert (await api.call("POST", "/api/jobs/999999/cancel", headers=headers))[0] == 404
    assert (await rows(settings, "SELECT status::text FROM procrastinate_jobs"))[0]["status"] == "cancelled"
    acts = [row["action"] for row in await rows(settings, "SELECT action FROM audit ORDER BY id")]
    assert acts[-2:] == ["jobs.retry", "jobs.cancel"]
    for method, path in (("GET", "/api/jobs"), ("POST", f"/api/jobs/{job_id}/retry")):
        assert (await api.call(method, path, "alice"))[0] == 403


async def test_jobs_come_in_pages_newest_first(api: Api, database: Database) -> None:
    async with database.transaction() as session:
        for number in range(5):
            await jobs.enqueue(session, "assets.inspect", {"asset_id": str(number)})
    headers = await operator(database)
    seen: list[str] = []
    sizes: list[int] = []
    before = ""
    while True:
        status, body = await api.call("GET", f"/api/jobs?limit=2{before}", headers=headers)
        assert status == 200, body
        assert body["next"] == body["nextBefore"], "the old name stays for one version"
        page = msgspec.convert(body, JobsOut, strict=False)
        seen += [job.args["asset_id"] for job in page.jobs]
        sizes.append(len(page.jobs))
        if page.next is None:
            break
        before = f"&before={page.next}"
    assert (seen, sizes) == (["4", "3", "2", "1", "0"], [2, 2, 1])
    for wrong in ("before=0", "before=x", "limit=0", "limit=201"):
        assert (await api.call("GET", f"/api/jobs?{wrong}", headers=headers))[1]["code"] == "invalid_request", wrong


async def test_an_exception_that_quotes_a_secret_is_not_quoted(settings: Settings, database: Database) -> None:
    await fail_once(settings, database, RuntimeError("postgres://user:canary-5e1f@host"))
    assert (await rows(settings, "SELECT code, text FROM job_failures")) == [
        {"code": "RuntimeError", "text": "see the worker's log"}
    ]


async def test_metrics_count_jobs_and_alerts(api: Api, settings: Settings, database: Database) -> None:
    await fail_once(settings, database, ValueError())
    async with database.transaction() as session:
        await jobs.enqueue(session, "assets.inspect", {})
    text = (await api.call("GET", "/metrics"))[1].decode()
    assert 'butai_jobs{status="failed",task="test.fails"} 1.0' in text
    assert 'butai_jobs{status="todo",task="assets.inspect"} 1.0' in text
    assert "butai_alerts_open 0.0" in text


async def test_a_job_that_kills_its_workers_is_left_aside(settings: Settings, database: Database) -> None:
    app = make_app(settings.database.url.get_secret_value())
    async with database.transaction() as session:
        await jobs.enqueue(session, "assets.inspect", {"asset_id": "x", "object_key": "y"})
    async with Store(settings.store) as store, app.open_async():
        library = assemble(database, store, settings.assets, settings.http)

        class Context:
            additional_context: ClassVar[dict[str, Any]] = {"library": library}

        context = Context()
        context.app = app  # pyright: ignore[reportAttributeAccessIssue]
        for death in range(5):
            # A worker took it and was never heard of again.
            await rows(
                settings,
                """WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')
                                 RETURNING id)
                   UPDATE procrastinate_jobs SET status = 'doing', worker_id = (SELECT id FROM dead)
                   WHERE status = 'todo' AND task_name = 'assets.inspect'""",
            )
            await retry_stalled(context, 0)  # pyright: ignore[reportArgumentType]
            row = (await rows(settings, "SELECT status::text, attempts FROM procrastinate_jobs"))[0]
            expected = Status.TODO if death < 4 else Status.FAILED
            assert (row["status"], row["attempts"]) == (expected.value, death + 1)
    assert (await rows(settings, "SELECT code FROM job_failures")) == [{"code": "worker_died"}]


async def test_a_dead_worker_s_job_whose_like_waits_holds_up_no_other(settings: Settings, database: Database) -> None:
    """Of the jobs with one queueing lock only one may wait: the dead worker's cannot be put back beside it."""
    app = make_app(settings.database.url.get_secret_value())
    await rows(
        settings,
        """WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute') RETURNING id)
           INSERT INTO procrastinate_jobs (task_name, queue_name, args, status, queueing_lock, worker_id)
           VALUES ('assets.patrol', 'default', '{}', 'doing', 'assets.patrol', (SELECT id FROM dead)),
                  ('assets.inspect', 'default', '{}', 'doing', NULL, (SELECT id FROM dead)),
                  ('assets.patrol', 'default', '{}', 'todo', 'assets.patrol', NULL),
                  ('assets.patrol', 'default', '{}', 'failed', 'assets.patrol', NULL)""",
    )
    async with app.open_async():

        class Context:
            additional_context: ClassVar[dict[str, Any]] = {"library": SimpleNamespace(database=database)}

        context = Context()
        context.app = app  # pyright: ignore[reportAttributeAccessIssue]
        await retry_stalled(context, 0)  # pyright: ignore[reportArgumentType]
    left = await rows(settings, "SELECT id, task_name, status::text FROM procrastinate_jobs ORDER BY id")
    assert [(row["task_name"], row["status"]) for row in left] == [
        ("assets.inspect", "todo"),
        ("assets.patrol", "todo"),
        ("assets.patrol", "failed"),
    ]
    with pytest.raises(Conflict):
        await service.retry(database, Origin("test"), left[2]["id"])


async def test_a_queue_that_ends_unasked_is_run_again(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """procrastinate's worker may return instead of raising when it loses the database at a bad moment."""
    runs = 0
    again = asyncio.Event()

    async def ends_at_first(_app: App, **_how: Any) -> None:
        nonlocal runs
        runs += 1
        if runs > len(QUEUES):
            again.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(App, "run_worker_async", ends_at_first)
    running, waiting = asyncio.create_task(run(settings)), asyncio.create_task(again.wait())
    try:
        await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert not running.done(), "the worker ended"
    finally:
        for one in (running, waiting):
            one.cancel()
        await asyncio.gather(running, waiting, return_exceptions=True)


@pytest.mark.slow
async def test_a_worker_s_death_loses_no_job(
    settings: Settings, database: Database, proxy: Any, tmp_path: Path
) -> None:
    """A real worker, killed in the middle of a job that hangs at the store; another one does it."""
    await rows(
        settings,
        """INSERT INTO asset_objects (object_key, origin, state, attempt) VALUES ('dead/object', 'upload', 'condemned', 1)""",
    )
    fault = proxy.fault("DELETE", hang=True)
    async with database.transaction() as session:
        await jobs.enqueue(session, "assets.remove_objects", {"object_keys": ["dead/object"]})
    log = tmp_path / "worker.log"
    with process(settings, log, "worker") as first:
        async with asyncio.timeout(60):
            while not fault.met:
                assert first.poll() is None, log.read_text()[-2000:]
                await asyncio.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert (
        await rows(settings, "SELECT status::text FROM procrastinate_jobs WHERE task_name = 'assets.remove_objects'")
    ) == [{"status": "doing"}]
    proxy.heal()
    with process(settings, log, "worker") as second:
        async with asyncio.timeout(60):
            while (await rows(settings, "SELECT state FROM asset_objects"))[0]["state"] != "removed":
                assert second.poll() is None, log.read_text()[-2000:]
                await asyncio.sleep(0.1)
    assert "job.stalled" in log.read_text()


async def test_a_periodic_job_that_still_waits_is_not_enqueued_again_and_is_no_error(database: Database) -> None:
    """A unique violation would be an error in the log of Postgres, each time that the job is due while one waits."""
    defer = text(
        "SELECT procrastinate_defer_periodic_job_v2('care', 'one', 'one', 'a.task', 0, '', CAST(:due AS bigint), '{}')"
    )
    async with database.transaction() as session:
        first = await session.scalar(defer, {"due": 1})
        assert first is not None
        assert await session.scalar(defer, {"due": 2}) is None
        await session.execute(text("UPDATE procrastinate_jobs SET status = 'doing' WHERE id = :id"), {"id": first})
        assert await session.scalar(defer, {"due": 3}) not in (None, first)
        assert await session.scalar(defer, {"due": 3}) is None
