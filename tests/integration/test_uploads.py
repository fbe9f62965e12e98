"""Uploads through the form: what is stored, what is refused, whose it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from butai.assets import keys
from butai.config import AssetSettings, Settings
from butai.database import Database
from tests import files
from tests.conftest import Api, serving


async def test_an_upload_is_listed_and_reads_back_byte_for_byte(api: Api) -> None:
    body = files.vrm(1, 50_000)
    status, answer = await api.upload("alice", "vrm/My Avatar (1) 舞台.vrm", body)
    assert status == 200, answer
    assert answer["success"] is True
    data = answer["data"]
    assert data["size"] == len(body)
    assert data["fileName"] == data["s3Key"] == "vrm/My Avatar (1) 舞台.vrm"
    (item,) = await api.items("alice")
    assert item["id"] == data["id"]
    assert item["name"] == "My Avatar (1) 舞台"
    assert item["url"] == data["url"] == keys.read_url("vrm/My Avatar (1) 舞台.vrm")
    assert item["size"] == len(body)
    status, read, headers = await api.read(item["url"], "alice")
    assert (status, read) == (200, body)
    assert headers["content-type"] == "model/gltf-binary"
    _, asset = await api.call("GET", f"/api/assets/{data['id']}", "alice")
    assert asset["sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_form_may_send_its_file_before_its_fields(api: Api) -> None:
    body = files.vrm(2)
    status, answer = await api.upload("alice", "vrm/late.vrm", body, field_order="file first")
    assert status == 200, answer
    assert (await api.read(answer["data"]["url"], "alice"))[1] == body


async def test_an_upload_larger_than_a_part_goes_in_parts(api: Api, database: Database) -> None:
    body = files.vrm(3, 20 * 1024**2)
    status, answer = await api.upload("alice", "vrm/large.vrm", body)
    assert status == 200, answer
    assert (await api.read(answer["data"]["url"], "alice"))[1] == body
    _, asset = await api.call("GET", f"/api/assets/{answer['data']['id']}", "alice")
    assert asset["sha256"] == hashlib.sha256(body).hexdigest()


async def test_the_same_key_again_is_the_same_row_with_new_bytes(api: Api) -> None:
    _, first = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    _, second = await api.upload("alice", "vrm/a.vrm", files.vrm(2, 3000))
    assert first["data"]["id"] == second["data"]["id"]
    (item,) = await api.items("alice")
    assert (await api.read(item["url"], "alice"))[1] == files.vrm(2, 3000)


async def test_two_users_have_a_name_space_each(api: Api) -> None:
    _, hers = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    status, his = await api.upload("bob", "vrm/a.vrm", files.vrm(2))
    assert status == 200
    assert his["data"]["fileName"] == his["data"]["s3Key"] == hers["data"]["s3Key"] == "vrm/a.vrm"
    _, asset = await api.call("GET", f"/api/assets/{his['data']['id']}", "bob")
    _, other = await api.call("GET", f"/api/assets/{hers['data']['id']}", "alice")
    assert asset["public_url"] != other["public_url"]
    assert asset["public_url"].endswith(".vrm")
    sent = keys.read_url("vrm/a.vrm")
    assert (await api.read(sent, "alice"))[1] == files.vrm(1)
    assert (await api.read(sent, "bob"))[1] == files.vrm(2)
    assert (await api.read(sent, "carol"))[0] == 404
    assert (await api.read(sent))[0] == 401
    assert (await api.read(asset["public_url"], "bob"))[1] == files.vrm(2)
    assert (await api.read(asset["public_url"], "alice"))[0] == 404
    (item,) = await api.items("bob")
    assert item["s3Key"] == his["data"]["s3Key"]


@pytest.mark.parametrize(
    ("key", "body", "status", "code"),
    [
        ("vrm/a.vrm", b"not a glb at all" * 10, 422, "signature_mismatch"),
        ("vrm/a.vrm", b"", 422, "signature_mismatch"),
        ("vrm/a.vrm", files.glb()[:-4], 422, "glb_invalid"),
        ("vrm/a.vrm", b"glTF\x02\0\0\0\xff\xff\xff\x7f\xff\xff\xff\x7fJSON" + b"\0" * 60, 422, "glb_invalid"),
        ("bgm/a.mp3", b"MZ\x90\0" * 30, 422, "signature_mismatch"),
        ("hdr/a.hdr", files.png(), 422, "signature_mismatch"),
        ("vrm/a_meta.json", b"[1,2]", 422, "signature_mismatch"),
        ("vrm/a_meta.json", b'{"a": "\\u0000"}', 422, "signature_mismatch"),
        ("vrm/a_meta.json", b'{"a": NaN}', 422, "signature_mismatch"),
        ("vrm/a.exe", b"MZ", 415, "type_unsupported"),
        ("vrm/a", b"MZ", 415, "type_unsupported"),
        ("secret/a.vrm", files.glb(), 400, "key_invalid"),
        ("vrm/../a.vrm", files.glb(), 400, "key_invalid"),
        ("vrm//a.vrm", files.glb(), 400, "key_invalid"),
        ("vrm/a\x00.vrm", files.glb(), 400, "key_invalid"),
        ("vrm/" + "a" * 10_000 + ".vrm", files.glb(), 400, "key_invalid"),
    ],
)
@pytest.mark.parametrize("order", ["fields first", "file first"])
async def test_what_cannot_be_kept_is_refused_with_its_code(
    api: Api, key: str, body: bytes, status: int, code: str, order: str
) -> None:
    got, answer = await api.upload("alice", key, body, field_order=order)
    assert (got, answer["error"]["code"]) == (status, code), answer
    assert answer["success"] is False
    assert await api.items("alice") == []


async def test_a_refused_upload_leaves_a_failed_row_that_a_retry_takes_over(api: Api, database: Database) -> None:
    await api.upload("alice", "vrm/a.vrm", b"nonsense" * 20)
    async with database.transaction() as session:
        row = (await session.execute(text("SELECT id, status, error_code, attempts FROM assets"))).one()
    assert (row.status, row.error_code, row.attempts) == ("failed", "signature_mismatch", 1)
    status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    assert status == 200
    assert answer["data"]["id"] == str(row.id)
    async with database.transaction() as session:
        row = (await session.execute(text("SELECT status, error_code, attempts FROM assets"))).one()
    assert (row.status, row.error_code, row.attempts) == ("ready", None, 2)


async def test_a_failed_replacement_leaves_the_old_bytes_readable(api: Api) -> None:
    _, first = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    status, _ = await api.upload("alice", "vrm/a.vrm", b"nonsense" * 20)
    assert status == 422
    assert (await api.read(first["data"]["url"], "alice"))[1] == files.vrm(1)


async def test_a_file_over_its_limit_is_refused_and_leaves_nothing(
    settings: Settings, run_jobs: Callable[..., Any], store_keys: Callable[[], list[str]]
) -> None:
    small = replace(settings, assets=AssetSettings(max_vrm_bytes=100_000))
    async with serving(small) as api:
        for order in ("fields first", "file first"):
            status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1, 150_000), field_order=order)
            # Without its key, a file is only known to be too large when the form ends.
            assert (status, answer["error"]["code"]) == (413, "file_too_large"), answer
    await run_jobs()
    assert store_keys() == []


async def test_a_declared_checksum_is_held_against_the_bytes(api: Api) -> None:
    body = files.vrm(1)
    status, answer = await api.upload("alice", "vrm/a.vrm", body, sha256="0" * 64)
    assert (status, answer["error"]["code"]) == (422, "checksum_mismatch")
    status, _ = await api.upload("alice", "vrm/a.vrm", body, sha256=hashlib.sha256(body).hexdigest().upper())
    assert status == 200


async def test_replaced_and_refused_objects_are_removed_by_jobs(
    api: Api, database: Database, run_jobs: Callable[..., Any], store_keys: Callable[[], list[str]]
) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    await api.upload("alice", "vrm/a.vrm", files.vrm(2))
    await api.upload("alice", "vrm/b.vrm", b"nonsense" * 20)
    await run_jobs()
    # The replaced one stays a while for those who are reading it.
    assert len(store_keys()) == 2
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    async with database.transaction() as session:
        known = (
            (await session.execute(text("SELECT object_key FROM assets WHERE object_key IS NOT NULL"))).scalars().all()
        )
    assert store_keys() == list(known)


async def test_missing_fields_are_named(api: Api) -> None:
    status, answer = await api.upload("alice", "", files.vrm(1))
    assert (status, answer["error"]["code"]) == (400, "MISSING_PARAMETERS")
    status, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1), fileType="")
    assert (status, answer["error"]["code"]) == (400, "MISSING_PARAMETERS")
    status, answer = await api.call("POST", "/api/s3/upload", "alice", data={"fileName": "vrm/a.vrm"})
    assert status == 400
    status, answer = await api.call("POST", "/api/s3/upload", "alice", json={})
    assert (status, answer["error"]["code"]) == (400, "invalid_request")


async def test_uploading_needs_a_session(api: Api) -> None:
    status, answer = await api.call("POST", "/api/s3/upload", data={"fileName": "vrm/a.vrm"})
    assert status == 401
    assert answer["success"] is False
