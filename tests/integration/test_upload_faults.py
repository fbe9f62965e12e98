"""Uploads and reads while things break: the client, the store, the API itself, Postgres.

Afterwards, always: every row is `ready` with the right bytes or `failed` with a code; no object is without a row;
nothing that was acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from pydantic import SecretStr
from sqlalchemy import text

from butai import database as database_module
from butai.assets import keys
from butai.assets.storage import client as storage_client
from butai.assets.uploads import part_buffers
from butai.config import AssetSettings, DatabaseSettings, Settings
from butai.database import Database
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy
from tests.processes import api_process, free_port


async def settle(database: Database, run_jobs: Any, multiparts: Callable[[], list[str]]) -> None:
    """Lets the sweeper find every upload whose process is gone, and the jobs remove what is condemned."""
    async with database.transaction() as session:
        await session.execute(
            text("UPDATE asset_objects SET lease_until = now() - interval '1 s' WHERE state = 'writing'")
        )
    await run_jobs("assets.sweep_uploads")
    async with database.transaction() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE status = 'todo'"))
    await run_jobs()
    assert multiparts() == []


async def assert_whole(
    api: Api,
    database: Database,
    store_keys: Callable[[], list[str]],
    acknowledged: dict[str, int],
    sent: dict[str, list[bytes]],
) -> list[str]:
    """The promise above. Returns the states of all rows."""
    async with database.transaction() as session:
        rows = (await session.execute(text("SELECT wanted_key, status, error_code, object_key FROM assets"))).all()
    for row in rows:
        assert row.status in ("ready", "failed"), row
        if row.status == "failed":
            assert row.error_code
            continue
        status, body, _ = await api.read(keys.read_url(row.wanted_key), "alice")
        assert status == 200
        assert body in sent[row.wanted_key]
    for key, first in acknowledged.items():
        status, body, _ = await api.read(keys.read_url(key), "alice")
        assert status == 200
        assert body in sent[key][first:], f"{key}: older than what was acknowledged"
    assert sorted(store_keys()) == sorted(row.object_key for row in rows if row.object_key)
    return [row.status for row in rows]


@pytest.mark.parametrize("size", [100_000, 20 * 1024**2])
async def test_a_client_cut_off_at_random_bytes(
    api: Api, database: Database, run_jobs: Any, store_keys: Any, multiparts: Any, size: int
) -> None:
    body = files.vrm(1, size)
    form = aiohttp.FormData()
    form.add_field("fileName", "vrm/a.vrm")
    form.add_field("fileType", "model/vrm")
    form.add_field("file", body, filename="a.vrm")
    payload = form()
    head = (
        f"POST /api/s3/upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {payload.content_type}\r\n"
        f"Content-Length: {payload.size}\r\nCookie: {api.cookie('alice')['Cookie']}\r\n\r\n"
    ).encode()
    whole = head + await _bytes_of(payload)
    dice = random.Random(size)
    cuts = sorted(dice.randrange(len(head) + 400, len(whole)) for _ in range(6))
    for attempt, cut in enumerate(cuts, start=1):
        reader, writer = await asyncio.open_connection("127.0.0.1", urlsplit(api.url).port)
        writer.write(whole[:cut])
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        # Of a client that is gone before its form was read, not even the key is known: there is no row to look at.
        await _until(database, f"SELECT status = 'uploading' AND attempts = {attempt} FROM assets")
        writer.transport.abort()
        del reader
        await _until(database, f"SELECT status = 'failed' AND attempts = {attempt} FROM assets")
    async with database.transaction() as session:
        row = (await session.execute(text("SELECT error_code, attempts FROM assets"))).one()
    assert (row.error_code, row.attempts) == ("client_disconnected", len(cuts))
    await settle(database, run_jobs, multiparts)
    assert store_keys() == []
    status, _ = await api.upload("alice", "vrm/a.vrm", body)
    assert status == 200
    assert await assert_whole(api, database, store_keys, {"vrm/a.vrm": 0}, {"vrm/a.vrm": [body]}) == ["ready"]


async def _bytes_of(payload: Any) -> bytes:
    sink = bytearray()

    class Writer:
        async def write(self, chunk: bytes) -> None:
            sink.extend(chunk)

    await payload.write(Writer())
    return bytes(sink)


async def _count(database: Database) -> int:
    """How many objects have been begun."""
    async with database.transaction() as session:
        return (await session.execute(text("SELECT count(*) FROM asset_objects"))).scalar_one()


async def _until(database: Database, question: str) -> None:
    async with asyncio.timeout(60):
        while True:
            async with database.transaction() as session:
                if (await session.execute(text(question))).scalar():
                    return
            await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_hundred_cancelled_uploads_leave_no_multipart(
    api: Api, database: Database, run_jobs: Any, multiparts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The smallest parts that a store takes, and a little more than one: a hundred uploads of three parts of 8 MiB would take
    # half a minute of a processor.
    monkeypatch.setattr(part_buffers, "PART_BYTES", 5 * 1024**2)
    body = files.vrm(1, 5 * 1024**2 + 100_000)
    dice = random.Random(1)
    begun = 0
    whole = 0.0
    # The second one tells how long one takes: the first has connections to make.
    for number in range(2):
        began = time.monotonic()
        assert (await api.upload("alice", f"vrm/whole{number}.vrm", body))[0] == 200
        whole = time.monotonic() - began

    async def cancelled(number: int) -> None:
        nonlocal begun
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            # Five at once take longer than one.
            async with asyncio.timeout(dice.uniform(0.2, 4) * whole):
                begun += 1
                await api.upload("alice", f"vrm/{number}.vrm", body)

    for wave in range(20):
        await asyncio.gather(*(cancelled(wave * 5 + number) for number in range(5)))
        # Cancelling is faster than cleaning up: what a wave leaves is ended before the next one, or they pile up.
        await _until(database, "SELECT count(*) FILTER (WHERE status = 'uploading') = 0 FROM assets")
    assert begun == 100
    async with database.transaction() as session:
        failed = (await session.execute(text("SELECT count(*) FROM assets WHERE status = 'failed'"))).scalar()
        in_parts = (
            await session.execute(text("SELECT count(*) FROM asset_objects WHERE upload_id IS NOT NULL"))
        ).scalar()
    assert failed, "every upload was faster than its cancellation"
    assert in_parts, "no upload had got as far as its first part"
    # What the store did not abort within its five seconds is left to the removal job, which runs here.
    await settle(database, run_jobs, multiparts)


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        ({"status": 503, "code": "SlowDown"}, 503, "store_unavailable"),
        ({"status": 500}, 503, "store_unavailable"),
        ({"status": 403, "code": "AccessDenied"}, 503, "store_access_denied"),
        ({"hang": True}, 504, "store_timeout"),
        ({"cut_request": 10_000}, 503, "store_unavailable"),
    ],
)
@pytest.mark.parametrize("size", [100_000, 20 * 1024**2])
async def test_a_store_that_fails_in_mid_upload(
    settings: Settings, database: Database, proxy: StoreProxy, run_jobs: Any, store_keys: Any, multiparts: Any,
    how: dict[str, Any], status: int, code: str, size: int, capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    # Short, for this test's sake; long enough for the store once it is well again. A part of 8 MiB would have 32 s more.
    waits = {"read_timeout": 2.0} if "hang" in how else {}
    monkeypatch.setattr(storage_client, "SLOWEST", 8 * 1024**2)
    async with serving(replace(settings, store=settings.store.model_copy(update=waits))) as api:
        fault = proxy.fault("PUT", **how)
        got, answer = await api.upload("alice", "vrm/a.vrm", files.vrm(1, size))
        assert fault.met >= 1
        assert (got, answer["error"]["code"]) == (status, code)
        async with database.transaction() as session:
            row = (await session.execute(text("SELECT status, error_code FROM assets"))).one()
        assert tuple(row) == ("failed", code)
        assert "Traceback" not in "".join(capfd.readouterr())
        proxy.heal()
        got, _ = await api.upload("alice", "vrm/a.vrm", files.vrm(2, size))
        assert got == 200
        await settle(database, run_jobs, multiparts)
        body = files.vrm(2, size)
        assert await assert_whole(api, database, store_keys, {"vrm/a.vrm": 0}, {"vrm/a.vrm": [body]}) == ["ready"]


async def test_one_dropped_connection_to_the_store_is_no_failure(api: Api, proxy: StoreProxy) -> None:
    body = files.vrm(1, 20 * 1024**2)
    fault = proxy.fault("PUT", cut_request=100_000, times=1)
    status, answer = await api.upload("alice", "vrm/a.vrm", body)
    assert fault.met == 1
    assert status == 200, answer
    assert (await api.read(answer["data"]["url"], "alice"))[1] == body


@pytest.mark.slow
async def test_sigkill_at_random_points_of_fifty_uploads(
    settings: Settings, database: Database, run_jobs: Any, store_keys: Any, stored_parts: Any, tmp_path: Path
) -> None:
    dice = random.Random(4711)
    port = free_port()
    sent: dict[str, list[bytes]] = {}
    # From here on in `sent`, what may be read: an answer that was never heard may still have been a success.
    acknowledged: dict[str, int] = {}
    kills = 0

    async def upload(api: Api, number: int) -> None:
        key, body = f"vrm/{number % 20}.vrm", files.vrm(number, dice.choice([50_000, 300_000, 18 * 1024**2]))
        sent.setdefault(key, []).append(body)
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            status, _ = await api.upload("alice", key, body)
            if status == 200:
                acknowledged[key] = len(sent[key]) - 1

    number = 0
    while number < 50:
        async with api_process(settings, tmp_path / "api.log", port) as (child, api):
            # Different keys at once: of two uploads of one key, either may be the last.
            begun = await _count(database)
            wave = asyncio.gather(*(upload(api, number + n) for n in range(5)))
            # Mostly, the moment is after the first of them has begun, however slow the machine is.
            if number % 20:
                await _until(database, f"SELECT count(*) > {begun} FROM asset_objects")
            number += 5
            done, _ = await asyncio.wait([wave], timeout=dice.uniform(0.02, 0.8))
            child.send_signal(signal.SIGKILL)
            child.wait()
            kills += not done
            await wave
    assert kills >= 3, "the kills came too late to meet an upload"
    # A process killed between the store's answer and the note of its id leaves an upload behind, but an empty one.
    await settle(database, run_jobs, stored_parts)
    async with api_process(settings, tmp_path / "api.log", port) as (_, api):
        states = await assert_whole(api, database, store_keys, acknowledged, sent)
        assert states
        # A retry of what failed takes the same row and succeeds.
        async with database.transaction() as session:
            failed = (
                (await session.execute(text("SELECT wanted_key FROM assets WHERE status = 'failed'"))).scalars().all()
            )
        for key in failed:
            assert (await api.upload("alice", key, files.vrm(7)))[0] == 200


@pytest.mark.slow
async def test_a_store_killed_in_mid_upload_and_in_mid_read(
    settings: Settings, database: Database, tmp_path: Path, run_jobs: Any
) -> None:
    with EmbeddedSeaweed(tmp_path / "weed") as weed:
        store = weed.store
        own = replace(
            settings,
            store=settings.store.model_copy(
                update={
                    "endpoint": store.endpoint,
                    "access_key_id": SecretStr(store.credentials.access_key_id),
                    "secret_access_key": SecretStr(store.credentials.secret_access_key),
                }
            ),
        )
        async with serving(own) as api:
            kept = files.vrm(1, 30 * 1024**2)
            assert (await api.upload("alice", "vrm/kept.vrm", kept))[0] == 200
            upload = asyncio.create_task(api.upload("alice", "vrm/lost.vrm", files.vrm(2, 60 * 1024**2)))
            await _until(
                database, "SELECT count(*) = 1 FROM asset_objects WHERE upload_id IS NOT NULL AND state = 'writing'"
            )
            assert weed.child is not None
            weed.child.send(signal.SIGKILL)
            status, answer = await upload
            assert (status, answer["error"]["code"]) == (503, "store_unavailable")
            status, body, _ = await api.read(keys.read_url("vrm/kept.vrm"), "alice")
            assert status == 503, body[:200]
            weed.stop()
            weed.start()
            assert (await api.read(keys.read_url("vrm/kept.vrm"), "alice"))[:2] == (200, kept)
            async with api.client.get(api.url + keys.read_url("vrm/kept.vrm"), headers=api.cookie("alice")) as answer:
                await answer.content.readexactly(100_000)
                weed.child.send(signal.SIGKILL)
                with pytest.raises(aiohttp.ClientError):
                    await answer.read()
            weed.stop()
            weed.start()
            assert (await api.upload("alice", "vrm/lost.vrm", files.vrm(3)))[0] == 200


@pytest.mark.slow
def slow_upload(api: Api, body: bytes, gate: asyncio.Event) -> asyncio.Task[aiohttp.ClientResponse]:
    """Alice's upload of `vrm/slow.vrm`, whose first 100,000 bytes are sent at once, and the others when `gate` is set."""

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:100_000]
        await gate.wait()
        yield body[100_000:]

    form = aiohttp.FormData()
    form.add_field("fileName", "vrm/slow.vrm")
    form.add_field("fileType", "model/vrm")
    form.add_field("file", slowly(), filename="a.vrm")

    async def send() -> aiohttp.ClientResponse:
        return await api.client.post(f"{api.url}/api/s3/upload", data=form, headers=api.cookie("alice"))

    return asyncio.create_task(send())


async def test_postgres_stopped_in_mid_upload_and_back(settings: Settings, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path / "postgres") as server:
        database_module.migrate(server.owner_url, service_url=server.url)
        own = replace(settings, database=DatabaseSettings(url=SecretStr(server.url), connect_timeout=1))
        async with serving(own) as api:
            kept = files.vrm(1)
            assert (await api.upload("alice", "vrm/kept.vrm", kept))[0] == 200
            gate = asyncio.Event()
            body = files.vrm(2, 300_000)
            upload = slow_upload(api, body, gate)
            async with Database(own.database) as database:
                await _until(database, "SELECT count(*) = 2 FROM assets")
            server.stop()
            status, answer = await api.call("GET", "/api/s3/resources?type=vrm", "alice")
            assert (status, answer["error"]["code"]) == (503, "database_unavailable")
            assert (await api.call("GET", "/readyz"))[1]["database"] is False
            assert (await api.call("GET", "/healthz"))[0] == 200
            gate.set()
            # The last step waits for the database: it is back before the step gives up.
            server.start()
            async with await upload as done:
                assert done.status == 200, await done.text()
            assert (await api.read(keys.read_url("vrm/slow.vrm"), "alice"))[:2] == (200, body)
            assert (await api.read(keys.read_url("vrm/kept.vrm"), "alice"))[:2] == (200, kept)


async def test_an_upload_whose_lease_ran_out_is_not_switched_in(
    settings: Settings, database: Database, run_jobs: Any, store_keys: Any
) -> None:
    async with serving(replace(settings, assets=AssetSettings(upload_lease=3600))) as api:
        gate = asyncio.Event()
        upload = slow_upload(api, files.vrm(2, 300_000), gate)
        await _until(database, "SELECT count(*) = 1 FROM assets")
        async with database.transaction() as session:
            await session.execute(text("UPDATE asset_objects SET lease_until = now() - interval '1 s'"))
        await run_jobs("assets.sweep_uploads")
        assert (await api.upload("alice", "vrm/slow.vrm", files.vrm(9)))[0] == 200
        gate.set()
        async with await upload as answer:
            assert answer.status == 409
            assert (await answer.json())["error"]["code"] == "upload_interrupted"
        assert (await api.read(keys.read_url("vrm/slow.vrm"), "alice"))[:2] == (200, files.vrm(9))
        await run_jobs()
        assert len(store_keys()) == 1


@pytest.mark.slow
@pytest.mark.store_hangs
@pytest.mark.parametrize("method", ["PUT", "HEAD", "POST"])
async def test_a_store_that_hangs_holds_no_connection_to_postgres(
    settings: Settings, database: Database, proxy: StoreProxy, method: str
) -> None:
    """With one connection for all writes, other writes go on while a form's PUT, a signed upload's HEAD or a multipart's
    POST is not answered."""
    small = replace(settings, database=settings.database.model_copy(update={"pool_size": 1}))
    async with serving(small) as api:
        _, done = await api.upload("alice", "vrm/other.vrm", files.vrm(1))
        other = f"/api/assets/{done['data']['id']}"
        wanted = {"fileName": "vrm/signed.vrm", "fileType": "model/gltf-binary", "size": 1000}
        _, signed = await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted)
        fault = proxy.fault(method, hang=True)
        if method == "HEAD":
            waiting = asyncio.create_task(api.call("POST", signed["data"]["completeUrl"], "alice"))
        else:
            size = 100_000 if method == "PUT" else 20 * 1024**2
            waiting = asyncio.create_task(api.upload("alice", "vrm/slow.vrm", files.vrm(2, size)))
        async with asyncio.timeout(60):
            while not fault.met:
                await asyncio.sleep(0.02)
        for name in ("first", "second"):
            status, asset = await api.call("PATCH", other, "alice", json={"display_name": name})
            assert (status, asset["display_name"]) == (200, name)
        # The same user, the same moment: neither the quota's lock nor a row of the upload is held.
        assert (await api.call("DELETE", other, "alice"))[0] == 204
        assert not waiting.done()
        proxy.heal()
        await waiting
