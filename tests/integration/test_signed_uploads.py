"""Signed uploads: what a URL may write, for how long, and what is left of it."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from yarl import URL

from butai.assets.models import Asset
from butai.config import Settings
from butai.database import Database
from tests import files
from tests.conftest import Api, serving
from tests.fakes.store_proxy import StoreProxy
from tests.processes import api_process


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


async def test_coded_bytes_that_were_sent_to_the_store_are_refused(api: Api) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/coded.vrm", size=len(body))
    assert await put(api, data["url"], body, {"Content-Encoding": "compress"}) == 200
    status, answer = await api.call("POST", data["completeUrl"], "alice")
    assert (status, answer["code"]) == (422, "signature_mismatch"), answer
    assert await api.items("alice") == []


async def test_a_report_that_looked_before_another_one_ended_is_told_that_the_file_is_ready(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    looked, ended = asyncio.Event(), asyncio.Event()
    scalar = AsyncSession.scalar

    async def slow(self: AsyncSession, *given: Any, **more: Any) -> Any:
        found = await scalar(self, *given, **more)
        if isinstance(found, Asset) and not looked.is_set():
            looked.set()
            await ended.wait()
        return found

    monkeypatch.setattr(AsyncSession, "scalar", slow)
    late = asyncio.create_task(api.call("POST", data["completeUrl"], "alice"))
    await looked.wait()
    first = await api.call("POST", data["completeUrl"], "alice")
    ended.set()
    assert [(status, asset["status"]) for status, asset in (first, await late)] == [(200, "ready")] * 2


async def test_a_file_that_was_taken_down_ends_no_sweep(
    api: Api, database: Database, run_jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = files.vrm(5)
    sent = [await presign(api, f"vrm/{number}.vrm", size=len(body)) for number in range(3)]
    assert [await put(api, data["url"], body) for data in sent] == [200] * 3
    await do(
        database,
        "UPDATE assets SET taken_down_at = now(), taken_down_reason = 'x' WHERE wanted_key = 'vrm/0.vrm'",
        "UPDATE asset_objects SET next_look_at = now() - interval '1 s', lease_until = now() - interval '1 s'",
        "UPDATE asset_objects SET lease_until = now() - interval '1 h' WHERE asset_id = "
        "(SELECT id FROM assets WHERE wanted_key = 'vrm/0.vrm')",
    )
    await run_jobs("assets.sweep_uploads")
    async with database.transaction() as session:
        found = await session.execute(text("SELECT wanted_key, status, error_code FROM assets ORDER BY wanted_key"))
        assert [tuple(row) for row in found] == [
            ("vrm/0.vrm", "failed", "taken_down"), ("vrm/1.vrm", "ready", None), ("vrm/2.vrm", "ready", None),
        ]  # fmt: skip
        assert await session.scalar(text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'failed'")) == 0


async def test_a_declared_size_bounds_a_body_of_unknown_length(api: Api) -> None:
    body = files.vrm(1, 3_000_000)
    data = await presign(api, "vrm/a.vrm", size=100, sha256=hashlib.sha256(body).hexdigest())

    async def unannounced() -> AsyncIterator[bytes]:
        yield body

    async with api.client.put(URL(data["url"], encoded=True), data=unannounced()) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (413, "file_too_large")
        assert "reserved for it" in await answer.text()


@pytest.mark.store_hangs
async def test_a_sweep_leaves_an_upload_to_the_report_that_has_it(
    api: Api, database: Database, run_jobs: Any, proxy: StoreProxy
) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    fault = proxy.fault("HEAD", hang=True)
    report = asyncio.create_task(api.call("POST", data["completeUrl"], "alice"))
    async with asyncio.timeout(60):
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


async def test_the_copy_of_a_report_whose_process_died_is_made_again(
    api: Api, database: Database, proxy: StoreProxy, tmp_path: Path
) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm", size=len(body))
    assert await put(api, data["url"], body) == 200
    fault = proxy.fault("PUT", hang=True, times=1)
    async with api_process(api.settings, tmp_path / "api.log") as (child, doomed):
        report = asyncio.create_task(doomed.call("POST", data["completeUrl"], "alice"))
        async with asyncio.timeout(20):
            while not fault.met:
                await asyncio.sleep(0.02)
        child.kill()
        with pytest.raises(aiohttp.ClientError):
            await report
    claims = "SELECT count(*) FROM asset_objects WHERE claimed_until > now() AND state = 'writing'"
    async with database.transaction() as session:
        assert await session.scalar(text(claims)) == 1, "the dead process has the upload to itself"
    await do(database, "UPDATE asset_objects SET claimed_until = now() - interval '1 s' WHERE claimed_until > now()")
    assert (await api.call("POST", data["completeUrl"], "alice"))[1]["status"] == "ready"
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)


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


async def sent_in_chunks(url: str, body: bytes) -> int:
    """The status of a PUT without Content-Length."""
    where = urlsplit(url)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    head = f"PUT {where.path}?{where.query} HTTP/1.1\r\nHost: {where.netloc}\r\nTransfer-Encoding: chunked\r\n\r\n"
    writer.write(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    await writer.drain()
    status = int((await asyncio.wait_for(reader.readline(), 60)).split()[1])
    writer.close()
    return status


async def test_the_store_takes_the_signed_length_and_no_other(seaweed: Any, settings: Settings) -> None:
    """Asked without the proxy, which counts lengths by itself."""
    body = files.vrm(1)
    straight = replace(settings, store=settings.store.model_copy(update={"endpoint": seaweed.store.endpoint}))
    async with serving(straight) as api:
        data = await presign(api, "vrm/a.vrm", size=len(body))
        assert data["headers"] == {"Content-Length": str(len(body))}
        assert "content-length" in data["url"].lower()
        assert await put(api, data["url"], body + b"more") == 403
        assert await put(api, data["url"], body[:-1]) == 403
        assert await sent_in_chunks(data["url"], body + b"more") != 200
        assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 409
        assert await put(api, data["url"], body) == 200
        assert (await api.call("POST", data["completeUrl"], "alice"))[0] == 200


async def test_without_a_size_the_bytes_go_through_this_service(api: Api, proxy: StoreProxy) -> None:
    body = files.vrm(5, 9 * 1024**2)
    data = await presign(api, "vrm/direct.vrm")
    assert data["url"].startswith(f"{api.url}/api/s3/")
    assert set(data) == {
        "url", "expiresIn", "method", "headers", "id", "fileName", "s3Key", "readUrl", "completeUrl",
    }  # fmt: skip
    assert (data["method"], data["headers"], data["expiresIn"]) == ("PUT", {}, 900)
    async with api.client.put(URL(data["url"], encoded=True), data=body, headers={"Content-Type": "any/thing"}) as put_:
        assert put_.status == 200
        assert put_.headers["ETag"].strip('"')
        assert await put_.read() == b""
    status, asset = await api.call("POST", data["completeUrl"], "alice")
    assert (status, asset["status"], asset["sha256"]) == (200, "ready", hashlib.sha256(body).hexdigest())
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)


async def test_an_address_of_this_service_works_once_and_for_its_own_upload(api: Api, store_keys: Any) -> None:
    body = files.vrm(5)
    data = await presign(api, "vrm/direct.vrm")
    where, query = data["url"].split("?")
    other = (await presign(api, "vrm/other.vrm"))["url"].split("?")
    expires, signature = query.split("&")
    for wrong in (
        f"{where}?{expires}",
        f"{where}?{other[1]}",
        f"{other[0]}?{query}",
        f"{where}?expires={int(expires.split('=')[1]) + 1}&{signature}",
        f"{where}?expires=soon&{signature}",
        f"{where}?{expires}&X-Amz-Signature=%C3%A9",
    ):
        assert await put(api, wrong, body) == 403
    statuses = await asyncio.gather(*(put(api, data["url"], body) for _ in range(8)))
    assert sorted(statuses) == [200] + [409] * 7
    assert await put(api, data["url"], bytes(len(body))) == 409
    assert (await api.read(data["readUrl"], "alice"))[:2] == (200, body)
    assert len(store_keys()) == 1


async def test_an_address_of_this_service_expires(settings: Settings) -> None:
    async with serving(replace(settings, assets=settings.assets.model_copy(update={"presigned_expiry": -1}))) as api:
        status, answer = await api.call(
            "POST", "/api/s3/presigned-url", "alice", json={"fileName": "vrm/a.vrm", "fileType": "x"}
        )
        assert status == 200
        assert await put(api, answer["data"]["url"], files.vrm(1)) == 403


@pytest.mark.parametrize("announced", [True, False])
async def test_a_put_to_this_service_is_held_to_the_types_limit(
    settings: Settings, announced: bool, run_jobs: Any, store_keys: Any
) -> None:
    async def unannounced() -> AsyncIterator[bytes]:
        yield files.vrm(1, 150_000)

    async with serving(replace(settings, assets=settings.assets.model_copy(update={"max_vrm_bytes": 100_000}))) as api:
        data = await presign(api, "vrm/a.vrm")
        body = files.vrm(1, 150_000) if announced else unannounced()
        assert await put(api, data["url"], body) == 413
        status, problem = await api.call("POST", data["completeUrl"], "alice")
        assert (status, problem["code"]) == (413, "file_too_large")
    await run_jobs()
    assert store_keys() == []


@pytest.mark.parametrize("size", [None, len(files.vrm(1))])
async def test_a_declared_checksum_is_checked_on_the_way(api: Api, size: int | None) -> None:
    more: dict[str, Any] = {} if size is None else {"size": size}
    data = await presign(api, "vrm/a.vrm", sha256="0" * 64, **more)
    assert await put(api, data["url"], files.vrm(1)) == 422
    status, problem = await api.call("POST", data["completeUrl"], "alice")
    assert (status, problem["code"]) == (422, "checksum_mismatch")


@pytest.mark.parametrize("origins", [(), ("https://studio.example",)])
@pytest.mark.parametrize("origin", ["https://studio.example", "https://elsewhere.example"])
async def test_pages_of_any_origin_may_send_to_a_signed_address(
    settings: Settings, origins: tuple[str, ...], origin: str
) -> None:
    """As the rule of the store's bucket has it: the address is the credential."""
    allowing = replace(settings, http=settings.http.model_copy(update={"cors_origins": origins}))
    async with serving(allowing) as api:
        data = await presign(api, "vrm/a.vrm")
        asked = {
            "Origin": origin,
            "Access-Control-Request-Method": "PUT",
            "Access-Control-Request-Headers": "content-type",
        }
        async with api.client.options(URL(data["url"], encoded=True), headers=asked) as answer:
            assert answer.status == 200
            assert answer.headers["Access-Control-Allow-Origin"] == "*"
            assert "PUT" in answer.headers["Access-Control-Allow-Methods"]
            assert "content-type" in answer.headers["Access-Control-Allow-Headers"].lower()
            assert "Access-Control-Allow-Credentials" not in answer.headers
        url = URL(data["url"], encoded=True)
        async with api.client.put(url, data=files.vrm(1), headers={"Origin": origin}) as answer:
            assert answer.status == 200
            assert answer.headers.getall("Access-Control-Allow-Origin") == ["*"]


@pytest.mark.parametrize(
    ("public_url", "headers", "begins"),
    [
        ("https://studio.example", {}, "https://studio.example/api/s3/"),
        # A proxy has ended the TLS of this page.
        ("", {"Host": "localhost:1234", "Origin": "https://localhost:1234"}, "https://localhost:1234/api/s3/"),
        ("", {"Host": "localhost:1234"}, "http://localhost:1234/api/s3/"),
    ],
)
async def test_the_address_is_the_one_by_which_the_caller_came(
    settings: Settings, public_url: str, headers: dict[str, str], begins: str
) -> None:
    async with serving(replace(settings, http=settings.http.model_copy(update={"public_url": public_url}))) as api:
        wanted = {"fileName": "vrm/a.vrm", "fileType": "x"}
        fetched = {"Sec-Fetch-Site": "same-origin"} | headers
        status, answer = await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted, headers=fetched)
        assert status == 200
        assert answer["data"]["url"].startswith(begins)
