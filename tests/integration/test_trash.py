"""A delete wins over what was begun before it."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import text
from yarl import URL

from butai.database import Database
from tests import files
from tests.conftest import Api
from tests.integration.test_resumable import create, patch
from tests.integration.test_upload_faults import slow_upload

KEYS = ("vrm/put.vrm", "vrm/direct.vrm", "vrm/resumed.vrm", "vrm/slow.vrm")


async def ids(database: Database, condition: str = "true") -> dict[str, str]:
    async with database.transaction() as session:
        found = await session.execute(text(f"SELECT wanted_key, id FROM assets WHERE {condition}"))
        return {key: str(asset_id) for key, asset_id in found}


async def test_an_upload_that_was_begun_before_a_delete_brings_nothing_back(api: Api, database: Database) -> None:
    old, new = files.vrm(1), files.vrm(2, 300_000)
    for key in KEYS[:3]:  # the fourth has no bytes yet: its first upload is the one that is too late
        assert (await api.upload("alice", key, old))[0] == 200
    gate = asyncio.Event()
    signed: list[Any] = []
    for key, more in zip(KEYS, ({}, {"size": len(new)}), strict=False):
        wanted = {"fileName": key, "fileType": "model/vrm", **more}
        signed.append((await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted))[1]["data"])
    resumed = await create(api, len(new), KEYS[2])
    by_form = slow_upload(api, new, gate)
    async with asyncio.timeout(60):
        while len(known := await ids(database)) < len(KEYS):
            await asyncio.sleep(0.01)
    for asset_id in known.values():
        assert (await api.call("DELETE", f"/api/assets/{asset_id}", "alice"))[0] == 204

    async with api.client.put(URL(signed[0]["url"], encoded=True), data=new) as answer:
        told = [(answer.status, (await answer.json())["error"]["code"])]
    async with api.client.put(URL(signed[1]["url"], encoded=True), data=new) as answer:
        assert answer.status == 200, "the store itself knows of no trash"
    status, problem = await api.call("POST", signed[1]["completeUrl"], "alice")
    told.append((status, problem["code"]))
    status, _, problem = await patch(api, resumed, 0, new)
    told.append((status, problem["code"]))
    gate.set()
    async with await by_form as answer:
        told.append((answer.status, (await answer.json())["error"]["code"]))
    assert told == [(409, "upload_cancelled")] * 4
    assert await ids(database, "deleted_at IS NOT NULL") == known

    # What is begun after the delete brings the file back, with its own bytes.
    for key in KEYS:
        status, made = await api.upload("alice", key, new)
        assert (status, made["data"]["id"]) == (200, known[key])
        assert (await api.read(made["data"]["url"], "alice"))[:2] == (200, new)
