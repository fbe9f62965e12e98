"""Quotas: each way into the library ends in the same check, and what is still stored or writable counts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text
from yarl import URL

from butai.assets import keys
from butai.config import Settings
from butai.database import Database
from tests import files
from tests.conftest import Api, serving

BYTES = 3_000_000


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    """An API whose users have 3 MB and five files each."""
    limits = {"quota_bytes": BYTES, "quota_files": 5}
    async with serving(replace(settings, assets=settings.assets.model_copy(update=limits))) as running:
        yield running


async def usage(api: Api) -> dict[str, Any]:
    return (await api.call("GET", "/api/assets/usage", "alice"))[1]


async def test_replaced_bytes_count_until_they_are_removed(
    api: Api, database: Database, run_jobs: Any, store_keys: Callable[[], list[str]]
) -> None:
    bodies = [files.vrm(number, 2_400_000) for number in range(4)]
    assert (await api.upload("alice", "vrm/a.vrm", bodies[0]))[0] == 200
    # Near the limit, too, a file can be replaced by one of its size.
    assert (await api.upload("alice", "vrm/a.vrm", bodies[1]))[0] == 200
    status, answer = await api.upload("alice", "vrm/a.vrm", bodies[2])
    assert (status, answer["error"]["code"]) == (403, "quota_exceeded")
    assert (await usage(api))["reserved_bytes"] == len(bodies[0])
    assert (await api.read(keys.read_url("vrm/a.vrm"), "alice"))[1] == bodies[1]
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    assert len(store_keys()) == 1
    assert (await usage(api))["reserved_bytes"] == 0
    assert (await api.upload("alice", "vrm/a.vrm", bodies[3]))[0] == 200


async def test_rows_of_failed_uploads_count_as_files_until_they_are_purged(
    api: Api, database: Database, run_jobs: Any
) -> None:
    statuses = [(await api.upload("alice", f"vrm/{n}.vrm", b"nonsense" * 20))[0] for n in range(7)]
    assert statuses == [422] * 5 + [403] * 2
    # The same key again takes the same row.
    assert (await api.upload("alice", "vrm/0.vrm", files.vrm(1)))[0] == 200
    assert (await api.upload("alice", "vrm/9.vrm", files.vrm(1)))[0] == 403
    async with database.transaction() as session:
        await session.execute(text("UPDATE assets SET updated_at = now() - interval '31 days'"))
    await run_jobs("assets.purge_trash")
    async with database.transaction() as session:
        kept = await session.execute(text("SELECT status FROM assets"))
        assert kept.scalars().all() == ["ready"]
    assert (await api.upload("alice", "vrm/9.vrm", files.vrm(1)))[0] == 200


async def test_a_form_with_its_key_last_leaves_no_row_at_a_full_quota(api: Api, database: Database) -> None:
    for number in range(5):
        assert (await api.upload("alice", f"vrm/{number}.vrm", files.vrm(1)))[0] == 200
    for number in range(5, 8):
        status, answer = await api.upload("alice", f"vrm/{number}.vrm", files.vrm(1), field_order="file first")
        assert (status, answer["error"]["code"]) == (403, "quota_exceeded")
    async with database.transaction() as session:
        rows = (await session.execute(text("SELECT count(*) FROM assets"))).scalar_one()
        left = await session.execute(text("SELECT count(*) FROM asset_objects WHERE state = 'writing'"))
    assert rows == 5
    assert left.scalar_one() == 0, "what came is condemned"


async def test_a_form_with_its_key_last_fails_no_attempt_that_it_never_began(api: Api, database: Database) -> None:
    for number in range(4):
        assert (await api.upload("alice", f"vrm/{number}.vrm", files.vrm(1)))[0] == 200
    assert (await presign(api, "vrm/4.vrm", size=1000))[0] == 200
    body = files.vrm(1, BYTES)
    assert (await api.upload("alice", "vrm/4.vrm", body, field_order="file first"))[0] == 403
    async with database.transaction() as session:
        found = await session.execute(text("SELECT status, attempts FROM assets WHERE wanted_key = 'vrm/4.vrm'"))
        assert tuple(found.one()) == ("uploading", 1)


async def presign(api: Api, key: str, **more: Any) -> tuple[int, Any]:
    wanted = {"fileName": key, "fileType": "model/vrm", **more}
    return await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted)


async def put(api: Api, url: str, body: bytes) -> int:
    async with api.client.put(URL(url, encoded=True), data=body) as answer:
        return answer.status


async def test_an_upload_of_unknown_size_meets_the_quota(api: Api) -> None:
    _, answer = await presign(api, "vrm/a.vrm")
    await put(api, answer["data"]["url"], files.vrm(1, 4_000_000))
    status, problem = await api.call("POST", answer["data"]["completeUrl"], "alice")
    assert (status, problem["code"]) == (403, "quota_exceeded")
    assert (await usage(api))["bytes"] == 0


@pytest.mark.parametrize("sized", [True, False])
async def test_four_signed_uploads_opened_first_do_not_exceed_the_quota_together(api: Api, sized: bool) -> None:
    bodies = [files.vrm(number, 2_000_000) for number in range(4)]
    more = [{"size": len(body)} if sized else {} for body in bodies]
    opened = [await presign(api, f"vrm/{n}.vrm", **more[n]) for n in range(4)]
    assert opened[0][0] == 200
    assert {status for status, _ in opened} <= {200, 403}
    going = [(answer["data"], body) for (status, answer), body in zip(opened, bodies, strict=True) if status == 200]
    await asyncio.gather(*(put(api, data["url"], body) for data, body in going))
    await asyncio.gather(*(api.call("POST", data["completeUrl"], "alice") for data, _ in going))
    now = await usage(api)
    assert 0 < now["bytes"] <= BYTES
    assert now["files"] == 1


async def test_what_a_url_can_still_write_counts_after_a_refusal(api: Api, database: Database) -> None:
    size = 2_000_000
    _, answer = await presign(api, "vrm/a.vrm", size=size)
    assert (await usage(api))["reserved_bytes"] == size
    await put(api, answer["data"]["url"], bytes(size))
    assert (await api.call("POST", answer["data"]["completeUrl"], "alice"))[0] == 422
    assert (await usage(api))["reserved_bytes"] == size
    assert (await presign(api, "vrm/b.vrm", size=size))[0] == 403
    async with database.transaction() as session:
        await session.execute(text("UPDATE asset_objects SET writable_until = now() - interval '1 s'"))
    assert (await usage(api))["reserved_bytes"] == 0
    assert (await presign(api, "vrm/b.vrm", size=size))[0] == 200
