"""Signed uploads: what a URL may write, for how long, and what is left of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from yarl import URL

from butai.database import Database
from tests import files
from tests.conftest import Api
from tests.fakes.store_proxy import StoreProxy


async def presign(api: Api, key: str, user: str = "alice", **more: Any) -> dict[str, Any]:
    wanted = {"fileName": key, "fileType": "model/vrm", **more}
    status, answer = await api.call("POST", "/api/s3/presigned-url", user, json=wanted)
    assert status == 200, answer
    return answer["data"]


async def put(api: Api, url: str, body: Any, headers: dict[str, str] | None = None) -> int:
    async with api.client.put(URL(url, encoded=True), data=body, headers=headers) as answer:
        return answer.status


async def do(database: Database, *statements: str) -> None:
    async with database.transaction() as session:
        for statement in statements:
            await session.execute(text(statement))


async def test_twelve_reports_at_once_make_one_copy(api: Api, proxy: StoreProxy) -> None:
    body = files.vrm(5, 300_000)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    before = len(proxy.seen)
    reports = await asyncio.gather(*(api.call("POST", data["completeUrl"], "alice") for _ in range(12)))
    assert [(status, asset["status"]) for status, asset in reports] == [(200, "ready")] * 12
    assert [seen.method for seen in proxy.seen[before:]].count("PUT") == 1
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)


async def test_a_sweep_leaves_an_upload_to_the_report_that_has_it(
    api: Api, database: Database, run_jobs: Any, proxy: StoreProxy
) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    fault = proxy.fault("HEAD", hang=True)
    report = asyncio.create_task(api.call("POST", data["completeUrl"], "alice"))
    async with asyncio.timeout(20):
        while not fault.met:
            await asyncio.sleep(0.02)
    await do(
        database,
        "UPDATE asset_objects SET next_look_at = now() - interval '1 s', lease_until = now() - interval '1 s'",
    )
    await run_jobs("assets.sweep_uploads")
    assert fault.met == 1
    # The store's silence ends the first report; the upload is neither given up nor held.
    assert (await report)[0] == 504
    proxy.heal()
    assert (await api.call("POST", data["completeUrl"], "alice"))[1]["status"] == "ready"


async def test_the_copy_of_a_report_whose_process_died_is_made_again(api: Api, database: Database) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    await do(database, "UPDATE asset_objects SET claimed_until = now() - interval '1 s'")
    assert (await api.call("POST", data["completeUrl"], "alice"))[1]["status"] == "ready"


async def refuse(api: Api, database: Database, run_jobs: Any, data: dict[str, Any], body: bytes) -> None:
    assert await put(api, data["url"], bytes(len(body))) == 200
    assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 422


async def complete(api: Api, database: Database, run_jobs: Any, data: dict[str, Any], body: bytes) -> None:
    assert await put(api, data["url"], body) == 200
    assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 200


async def give_up(api: Api, database: Database, run_jobs: Any, data: dict[str, Any], body: bytes) -> None:
    await do(database, "UPDATE asset_objects SET lease_until = now() - interval '1 s' WHERE state = 'writing'")
    await run_jobs("assets.sweep_uploads")


async def purge(api: Api, database: Database, run_jobs: Any, data: dict[str, Any], body: bytes) -> None:
    assert (await api.call("DELETE", f"/api/assets/{data['id']}", "alice"))[0] == 204
    await do(database, "UPDATE assets SET deleted_at = now() - interval '99 days'")
    await run_jobs("assets.purge_trash")


@pytest.mark.parametrize("end", [refuse, complete, give_up, purge])
async def test_what_a_url_writes_after_the_uploads_end_is_removed(
    api: Api, database: Database, run_jobs: Any, store_keys: Callable[[], list[str]], end: Any
) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    await end(api, database, run_jobs, data, body)
    kept = 1 if end is complete else 0
    due = "UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"
    await do(database, due)
    await run_jobs()
    assert len(store_keys()) == kept, "bytes are removed at once"
    # The URL has not expired.
    assert await put(api, data["url"], body) == 200
    async with database.transaction() as session:
        at = await session.execute(
            text(
                "SELECT max(j.scheduled_at) >= max(o.writable_until), max(o.writable_until) > now() + interval '25 min'"
                " FROM procrastinate_jobs j, asset_objects o WHERE j.status = 'todo' AND o.origin = 'signed'"
            )
        )
        assert tuple(at.one()) == (True, True)
    await do(database, "UPDATE asset_objects SET writable_until = now() - interval '1 s'", due)
    await run_jobs()
    assert len(store_keys()) == kept
    # A transfer that began in time and ended late.
    assert await put(api, data["url"], body) == 200
    await do(database, "UPDATE asset_objects SET writable_until = now() - interval '2 days'", due)
    await run_jobs()
    assert len(store_keys()) == kept
    async with database.transaction() as session:
        states = await session.execute(text("SELECT state FROM asset_objects WHERE origin = 'signed'"))
        assert states.scalars().all() == ["removed"]
