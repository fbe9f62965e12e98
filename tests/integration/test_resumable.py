"""tus against the real store: each extension, each way an upload can break, and what is left of it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import random
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import psycopg
import pytest
from psycopg.rows import dict_row
from tusclient import client as tus

from butai.assets import keys
from butai.assets.library import assemble
from butai.assets.storage.client import Store
from butai.assets.tus import service, task_names
from butai.assets.tus.digests import Digests
from butai.assets.tus.schemas import UsageOut
from butai.assets.tus.service import Resumables
from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import InvalidRequest
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy

TUS = {"Tus-Resumable": "1.0.0"}
BYTES = {**TUS, "Content-Type": "application/offset+octet-stream"}
MIB = 1024**2


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def big(size: int, seed: int = 1) -> bytes:
    """A GLB of about `size` bytes."""
    return files.glb(None, random.Random(seed).randbytes(size))


async def send(
    api: Api, method: str, path: str, user: str | None = "alice", **headers: str
) -> tuple[int, dict[str, str], Any]:
    body = headers.pop("body", b"")
    sent = {**TUS, **(api.cookie(user) if user else {}), **{k.replace("_", "-"): v for k, v in headers.items()}}
    async with api.client.request(method, api.url + path, headers=sent, data=body) as answer:
        told = await answer.json() if answer.content_type.endswith("json") else await answer.read()
        return answer.status, {k.lower(): v for k, v in answer.headers.items()}, told


async def create(api: Api, length: int, key: str = "scene/a.glb", user: str = "alice", **more: str) -> str:
    said = f"filename {b64(key)}" + "".join(f",{k} {b64(v)}" for k, v in more.items())
    status, headers, told = await send(
        api, "POST", "/api/assets/uploads", user, Upload_Length=str(length), Upload_Metadata=said
    )
    assert status == 201, told
    assert headers["tus-resumable"] == "1.0.0"
    assert "GMT" in headers["upload-expires"]
    return headers["location"]


async def patch(api: Api, path: str, offset: int, body: Any, user: str = "alice", **more: str) -> tuple[int, int, Any]:
    headers = {
        **BYTES,
        **api.cookie(user),
        "Upload-Offset": str(offset),
        **{k.replace("_", "-"): v for k, v in more.items()},
    }
    async with api.client.patch(api.url + path, headers=headers, data=body) as answer:
        told = await answer.json() if answer.content_type.endswith("json") else None
        return answer.status, int(answer.headers.get("Upload-Offset", "-1")), told


async def offset_of(api: Api, path: str, user: str = "alice") -> int:
    status, headers, _ = await send(api, "HEAD", path, user)
    assert status == 200, status
    assert headers["cache-control"] == "no-store"
    return int(headers["upload-offset"])


async def rows(settings: Settings, statement: str) -> list[dict[str, Any]]:
    async with await psycopg.AsyncConnection.connect(
        settings.database.url.get_secret_value(), autocommit=True
    ) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(statement.encode())
        return await cursor.fetchall() if cursor.description else []


async def stored(api: Api, key: str = "scene/a.glb") -> bytes:
    status, body, _ = await api.read(f"/api/s3/read-object?key={key}", "alice")
    assert status == 200
    return body


async def test_in_one_go_and_in_pieces(api: Api) -> None:
    body = big(20 * MIB)
    path = await create(api, len(body), sha256=hashlib.sha256(body).hexdigest())
    assert (await rows(api.settings, "SELECT status FROM assets")) == [{"status": "uploading"}]
    at = 0
    for size in (100, 3 * MIB, 1, 9 * MIB, len(body)):
        piece = body[at : at + size]
        status, at_now, told = await patch(api, path, at, piece)
        assert (status, at_now) == (204, at + len(piece)), told
        at = at_now
        assert await offset_of(api, path) == at
    assert await stored(api) == body
    row = (await rows(api.settings, "SELECT status, size_bytes, sha256 FROM assets"))[0]
    assert row == {"status": "ready", "size_bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    # Again is fine: the answer to the last request may have been lost.
    assert (await patch(api, path, len(body), b""))[:2] == (204, len(body))


async def test_another_process_goes_on(settings: Settings) -> None:
    body = big(12 * MIB)
    async with serving(settings) as first:
        path = await create(first, len(body))
        assert (await patch(first, path, 0, body[: 6 * MIB]))[1] == 6 * MIB
    async with serving(settings) as second:
        assert await offset_of(second, path) == 6 * MIB
        assert (await patch(second, path, 6 * MIB, body[6 * MIB :]))[0] == 204
        assert await stored(second) == body
    # The digest of the first half died with the first process: the whole was read back.
    sha256 = (await rows(settings, "SELECT sha256 FROM assets"))[0]["sha256"]
    assert sha256 == hashlib.sha256(body).hexdigest()


async def test_a_sidecar_of_a_few_bytes(api: Api) -> None:
    await api.upload("alice", "vrm/a.vrm", files.vrm(1))
    body = b'{"gender": "female"}'
    path = await create(api, len(body), "vrm/a_meta.json")
    assert (await patch(api, path, 0, body))[0] == 204
    assert (await api.items("alice"))[0]["gender"] == "female"


async def test_creation_with_the_first_bytes(api: Api) -> None:
    body = big(1000)
    headers = {
        **BYTES,
        **api.cookie("alice"),
        "Upload-Length": str(len(body)),
        "Upload-Metadata": f"filename {b64('scene/a.glb')}",
    }
    async with api.client.post(f"{api.url}/api/assets/uploads", headers=headers, data=body) as answer:
        assert (answer.status, answer.headers["Upload-Offset"]) == (201, str(len(body)))
    assert await stored(api) == body


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Upload_Length": "x"}, 400, "invalid_request"),
        ({"Upload_Defer_Length": "1"}, 400, "invalid_request"),
        ({"Upload_Length": "5"}, 400, "MISSING_PARAMETERS"),
        ({"Upload_Length": "5", "Upload_Metadata": "filename " + b64("nowhere/a.vrm")}, 400, "key_invalid"),
        ({"Upload_Length": "5", "Upload_Metadata": "filename " + b64("vrm/a.exe")}, 415, "type_unsupported"),
        ({"Upload_Length": str(10**12), "Upload_Metadata": "filename " + b64("vrm/a.vrm")}, 413, "file_too_large"),
        ({"Upload_Length": "0", "Upload_Metadata": "filename " + b64("vrm/a.vrm")}, 422, "signature_mismatch"),
        (
            {"Upload_Length": "5", "Upload_Metadata": f"filename {b64('vrm/a.vrm')},sha256 {b64('x')}"},
            400,
            "invalid_request",
        ),
    ],
)
async def test_what_cannot_be_begun(api: Api, headers: dict[str, str], status: int, code: str) -> None:
    answered, sent, told = await send(api, "POST", "/api/assets/uploads", **headers)
    assert (answered, told["code"], sent["tus-resumable"]) == (status, code, "1.0.0")
    assert await rows(api.settings, "SELECT 1 FROM assets UNION ALL SELECT 1 FROM asset_objects") == []


async def test_versions_options_and_strangers(api: Api) -> None:
    async with api.client.options(f"{api.url}/api/assets/uploads") as answer:
        assert answer.status == 204
        assert answer.headers["Tus-Extension"] == "creation,creation-with-upload,termination,expiration,checksum"
        assert answer.headers["Tus-Version"] == "1.0.0"
    status, headers, _ = await send(api, "POST", "/api/assets/uploads", Tus_Resumable="0.2.2")
    assert (status, headers["tus-version"]) == (412, "1.0.0")
    path = await create(api, 100)
    assert (await send(api, "HEAD", path, "bob"))[0] == 404
    assert (await send(api, "HEAD", path, None))[0] == 401
    assert (await send(api, "DELETE", path, "bob"))[0] == 404
    status, _, told = await patch(api, path, 0, b"x", "bob")
    assert (status, told["code"]) == (404, "asset_not_found")
    async with api.client.patch(
        api.url + path, headers={**TUS, **api.cookie("alice"), "Upload-Offset": "0"}, data=b"x"
    ) as answer:
        assert answer.status == 415
    assert await offset_of(api, path) == 0


async def test_offsets_must_agree_and_nothing_is_lost(api: Api) -> None:
    body = big(7 * MIB)
    path = await create(api, len(body))
    assert (await patch(api, path, 0, body[:MIB]))[0] == 204
    status, _, told = await patch(api, path, 5, body[5:])
    assert (status, told["code"]) == (409, "upload_offset_wrong")
    status, _, told = await patch(api, path, MIB, body[MIB:] + b"more")
    assert (status, told["code"]) == (400, "invalid_request")
    assert await offset_of(api, path) == MIB
    assert (await patch(api, path, MIB, body[MIB:]))[0] == 204
    assert await stored(api) == body


async def test_checksums_keep_all_or_nothing(api: Api) -> None:
    body = big(18 * MIB)
    path = await create(api, len(body))
    for algorithm in ("sha1", "sha256", "md5"):
        at = await offset_of(api, path)
        piece = body[at : at + 6 * MIB] if algorithm != "md5" else body[at:]
        digest = base64.b64encode(hashlib.new(algorithm, piece).digest()).decode()
        wrong = piece[:-1] + bytes([piece[-1] ^ 1])
        status, _, told = await patch(api, path, at, wrong, Upload_Checksum=f"{algorithm} {digest}")
        assert (status, told["code"]) == (460, "upload_checksum_wrong")
        assert await offset_of(api, path) == at
        status, now, told = await patch(api, path, at, piece, Upload_Checksum=f"{algorithm} {digest}")
        assert (status, now) == (204, at + len(piece)), told
    assert await stored(api) == body


async def test_a_wrong_beginning_and_a_wrong_sum_are_refused(
    api: Api, multiparts: Callable[[], list[str]], run_jobs: Any
) -> None:
    path = await create(api, 10_000)
    status, _, told = await patch(api, path, 0, b"MZ" + bytes(9_998))
    assert (status, told["code"]) == (422, "signature_mismatch")
    body = big(MIB)
    other = await create(api, len(body), "scene/b.glb", sha256="0" * 64)
    status, _, told = await patch(api, other, 0, body)
    assert (status, told["code"]) == (422, "checksum_mismatch")
    found = await rows(api.settings, "SELECT status, error_code FROM assets ORDER BY s3_key")
    assert [(row["status"], row["error_code"]) for row in found] == [
        ("failed", "signature_mismatch"),
        ("failed", "checksum_mismatch"),
    ]
    for one in (path, other):
        assert (await send(api, "HEAD", one))[0] == 410
    await run_jobs()
    assert multiparts() == []


async def cut(api: Api, path: str, offset: int, body: bytes, announced: int) -> None:
    """A request whose client goes away behind `body`."""
    where = urlsplit(api.url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    headers = {
        **BYTES,
        **api.cookie("alice"),
        "Host": "localhost",
        "Upload-Offset": str(offset),
        "Content-Length": str(announced),
    }
    writer.transport.set_write_buffer_limits(0)  # so that `drain` waits for the last byte
    writer.write(
        (f"PATCH {path} HTTP/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n").encode()
    )
    writer.write(body)
    # What is sent must arrive, so that what is kept can be said.
    await writer.drain()
    sock: socket.socket = writer.get_extra_info("socket")
    sock.shutdown(socket.SHUT_WR)
    await asyncio.wait_for(reader.read(), 60)
    writer.close()


async def test_a_client_that_goes_away_loses_nothing(api: Api) -> None:
    body = big(20 * MIB)
    path = await create(api, len(body))
    await cut(api, path, 0, body[: 11 * MIB], len(body))

    async def kept() -> int:
        return (await rows(api.settings, "SELECT upload_offset FROM resumable_uploads"))[0]["upload_offset"]

    async with asyncio.timeout(60):
        while await kept() < 11 * MIB:
            await asyncio.sleep(0.02)
    at = await offset_of(api, path)
    assert at == 11 * MIB
    assert (await patch(api, path, at, body[at:]))[0] == 204
    assert await stored(api) == body


async def test_a_newer_request_takes_over_from_one_that_hangs(api: Api) -> None:
    body = big(20 * MIB)
    path = await create(api, len(body))
    release = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield body[: 9 * MIB]
        await release.wait()
        yield bytes(9 * MIB)

    old = asyncio.create_task(patch(api, path, 0, stalling()))
    async with asyncio.timeout(60):
        while await offset_of(api, path) < 8 * MIB:
            await asyncio.sleep(0.02)
    at = await offset_of(api, path)
    assert at == 8 * MIB
    assert (await patch(api, path, at, body[at : at + 7 * MIB]))[0] == 204
    release.set()
    status, _, told = await old
    assert (status, told["code"]) == (409, "upload_taken")
    at = await offset_of(api, path)
    assert (await patch(api, path, at, body[at:]))[0] == 204
    assert await stored(api) == body


async def test_the_store_fails_in_the_middle(api: Api, proxy: StoreProxy) -> None:
    body = big(20 * MIB)
    path = await create(api, len(body))
    assert (await patch(api, path, 0, body[: 9 * MIB]))[0] == 204
    fault = proxy.fault("PUT", status=503)
    status, _, told = await patch(api, path, 9 * MIB, body[9 * MIB :])
    assert (status, told["code"]) == (503, "store_unavailable")
    assert fault.met >= 1
    proxy.heal()
    at = await offset_of(api, path)
    assert at >= 8 * MIB
    assert (await patch(api, path, at, body[at:]))[0] == 204
    assert await stored(api) == body


async def test_whole_but_not_finished_is_finished_by_the_next_who_asks(
    api: Api, proxy: StoreProxy, monkeypatch: pytest.MonkeyPatch, run_jobs: Any
) -> None:
    body = big(MIB)
    for key, by_worker in (("scene/a.glb", False), ("scene/b.glb", True)):
        path = await create(api, len(body), key)
        fault = proxy.fault("POST", status=503)
        fault.matches = lambda request: request.method == "POST" and "uploadId" in request.query
        status, _, told = await patch(api, path, 0, body)
        assert (status, told["code"], fault.met) == (503, "store_unavailable", 3)
        proxy.heal()
        await rows(
            api.settings,
            "UPDATE resumable_uploads SET updated_at = now() - interval '2 minutes' WHERE state = 'finishing'",
        )
        if by_worker:
            await rows(
                api.settings,
                f"UPDATE procrastinate_jobs SET scheduled_at = now() WHERE task_name = '{task_names.FINISH}'",
            )
            await run_jobs()
        else:
            assert await offset_of(api, path) == len(body)
        assert await stored(api, key) == body


async def test_given_up_and_run_out(api: Api, run_jobs: Any, multiparts: Callable[[], list[str]]) -> None:
    body = big(30 * MIB)
    path = await create(api, len(body))
    assert (await patch(api, path, 0, body[: 9 * MIB]))[0] == 204
    assert len(multiparts()) == 1
    assert (await send(api, "DELETE", path))[0] == 204
    assert (await send(api, "HEAD", path))[0] == 410
    late = await create(api, len(body), "scene/late.glb")
    assert (await patch(api, late, 0, body[: 9 * MIB]))[0] == 204
    await rows(
        api.settings, "UPDATE resumable_uploads SET expires_at = now() - interval '1 second' WHERE state = 'open';"
    )
    await rows(
        api.settings, "UPDATE asset_objects SET lease_until = now() - interval '1 second' WHERE state = 'writing'"
    )
    assert (await send(api, "HEAD", late))[0] == 410
    await run_jobs("assets.sweep_uploads")
    await run_jobs()
    assert multiparts() == []
    found = await rows(api.settings, "SELECT status, error_code FROM assets ORDER BY s3_key")
    assert [(row["status"], row["error_code"]) for row in found] == [
        ("failed", "upload_cancelled"),
        ("failed", "upload_interrupted"),
    ]


async def test_known_bytes_are_told_to_their_owner_alone(api: Api) -> None:
    body = files.vrm(1)
    await api.upload("alice", "vrm/a.vrm", body)
    asked = {"sha256": hashlib.sha256(body).hexdigest().upper(), "size": len(body)}
    status, told = await api.call("POST", "/api/assets/uploads/check", "alice", json=asked)
    assert (status, told["known"], told["asset"]["s3_key"]) == (200, True, "vrm/a.vrm")
    assert (await api.call("POST", "/api/assets/uploads/check", "bob", json=asked))[1] == {
        "known": False,
        "asset": None,
    }
    other = {**asked, "size": 5}
    assert (await api.call("POST", "/api/assets/uploads/check", "alice", json=other))[1]["known"] is False


async def test_an_unmodified_python_client(api: Api, tmp_path: Path) -> None:
    body = big(21 * MIB)
    file = tmp_path / "a.glb"
    file.write_bytes(body)

    def run() -> None:
        uploader = tus.TusClient(f"{api.url}/api/assets/uploads", headers=api.cookie("alice")).uploader(
            str(file), chunk_size=5 * MIB, metadata={"filename": "scene/a.glb"}, upload_checksum=True
        )
        uploader.upload()

    await asyncio.to_thread(run)
    assert await stored(api) == body


async def test_a_part_whose_sending_never_began_is_given_back(settings: Settings, database: Database) -> None:
    """Memory for parts is the process's: what one upload does not give back, all others lack."""
    body = big(9 * MIB)
    async with Store(settings.store) as store:
        library = assemble(database, store, settings.assets, settings.http)
        resumables = Resumables(library.uploads, Digests())
        key = keys.parse("scene/a.glb")
        made = await service.create(
            resumables, "alice", Origin("alice"), key, length=len(body), sha256=None, metadata=""
        )

        async def at_once() -> AsyncIterator[bytes]:
            # Never waits, so the first part's task has no turn before the request is refused.
            yield body
            yield b"more"

        with pytest.raises(InvalidRequest):
            await service.append(
                resumables, "alice", Origin("alice"), made.id, offset=0, chunks=at_once(), declared=None
            )
        memory = library.uploads.memory
        assert memory._made == len(memory._free) > 0


async def test_a_quota_holds_under_fifty_at_once(settings: Settings) -> None:
    small = replace(
        settings,
        assets=settings.assets.model_copy(update={"quota_bytes": 10_000}),
        # They wait for each other, and for a connection.
        database=settings.database.model_copy(update={"connect_timeout": 30}),
    )
    async with serving(small) as api:

        async def one(number: int) -> int:
            status, _, told = await send(
                api,
                "POST",
                "/api/assets/uploads",
                Upload_Length="900",
                Upload_Metadata=f"filename {b64(f'scene/{number}.glb')}",
            )
            assert status == 201 or (status, told["code"]) == (403, "quota_exceeded"), told
            return status

        statuses = await asyncio.gather(*(one(number) for number in range(50)))
        assert statuses.count(201) == 11
        usage = (await api.call("GET", "/api/assets/usage", "alice"))[1]
        assert msgspec.convert(usage, UsageOut) == UsageOut(
            bytes=0, files=0, reserved_bytes=9900, reserved_files=11, quota_bytes=10_000, quota_files=None
        )
        # Bob has room of his own, and what fails gives its room back.
        assert (await api.upload("bob", "vrm/a.vrm", files.vrm(1)))[0] == 200
        assert (await api.upload("alice", "vrm/a.vrm", files.vrm(1)))[0] == 403
        location = (await rows(small, "SELECT id FROM resumable_uploads LIMIT 1"))[0]["id"]
        assert (await send(api, "DELETE", f"/api/assets/uploads/{location}"))[0] == 204
        usage = (await api.call("GET", "/api/assets/usage", "alice"))[1]
        assert usage["reserved_bytes"] == 9000
        await create(api, 1000, "scene/x.glb")
        assert (await api.call("GET", "/api/assets/usage", "bob"))[1]["bytes"] == len(files.vrm(1))


async def test_a_preflight_lets_other_origins_in(settings: Settings) -> None:
    open_to = replace(settings, http=settings.http.model_copy(update={"cors_origins": ("https://studio.example",)}))
    async with serving(open_to) as api, aiohttp.ClientSession() as client:
        headers = {
            "Origin": "https://studio.example",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "tus-resumable,upload-offset,content-type",
        }
        async with client.options(f"{api.url}/api/assets/uploads/x", headers=headers) as answer:
            assert answer.status == 200, await answer.text()
            assert "PATCH" in answer.headers["Access-Control-Allow-Methods"]
