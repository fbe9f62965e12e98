"""`butai doctor` on the store, by itself and as browsers reach it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web
from pydantic import SecretStr, ValidationError

from butai.config import (
    HttpSettings,
    Settings,
)
from butai.doctor import asking
from butai.doctor import store as doctor_store
from butai.doctor.findings import Level
from tests.doctor_reports import (
    Serve,
    report,
    with_store,
)
from tests.fakes.store_proxy import StoreProxy
from tests.processes import free_port

# The store


async def test_a_store_that_hides_absence_is_explained(bare: Settings, faulty: StoreProxy) -> None:
    faulty.hide_absence = True
    found = await report(with_store(bare, endpoint=faulty.endpoint))
    assert found.broken == []
    assert "403" in found.said("Store", "absent key") and "s3:ListBucket" in found.said("Store", "absent key")
    assert any(seen.lists for seen in faulty.seen)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"secret_access_key": SecretStr("canary-wrong-secret")}, "BUTAI_S3_SECRET_ACCESS_KEY"),
        ({"access_key_id": SecretStr("CANARYUNKNOWNKEY")}, "BUTAI_S3_ACCESS_KEY_ID"),
        ({"bucket": "no-such-bucket"}, "BUTAI_S3_BUCKET"),
    ],
)
async def test_wrong_credentials_and_buckets_are_named(bare: Settings, change: dict[str, Any], word: str) -> None:
    found = await report(with_store(bare, **change))
    told = [f"{each.message} {each.advice}" for each in found.found if each.area == "Store" and each.advice]
    assert word in told[0], told
    assert "canary" not in str(found.found).lower()


@pytest.mark.slow
async def test_a_store_that_does_not_answer_or_hangs_is_told_soon(
    bare: Settings, faulty: StoreProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "CHECK_SECONDS", 1.0)
    monkeypatch.setattr(doctor_store, "CHECK_SECONDS", 1.0)
    found = await report(with_store(bare, endpoint=f"http://127.0.0.1:{free_port()}"))
    assert found.broken == [("Store", "reachable"), ("Browsers and the store", "signed URLs")]
    assert "BUTAI_S3_ENDPOINT" in found.said("Store", "reachable")
    found = await report(with_store(bare, endpoint="localhost:9000"))
    assert ("Store", "configured") in found.broken

    # Each question ends by its own limit, before that of its whole area.
    fault = faulty.fault(hang=True)
    found = await report(with_store(bare, endpoint=faulty.endpoint))
    assert fault.met > 0
    assert "no answer within 1 s" in found.said("Store", "reachable")
    assert not any("these checks were not done" in each.message for each in found.found)
    faulty.heal()
    fault = faulty.fault("PUT", hang=True)
    found = await report(with_store(bare, endpoint=faulty.endpoint))
    assert fault.met > 0
    assert "no answer within 1 s" in found.said("Store", "put")
    assert not any("these checks were not done" in each.message for each in found.found)


@pytest.mark.parametrize(
    ("method", "checks", "right"),
    [
        ("PUT", {"put", "multipart"}, "s3:PutObject"),
        ("HEAD", {"head"}, "s3:GetObject"),
        ("POST", {"multipart"}, "s3:AbortMultipartUpload"),
        ("DELETE", {"multipart", "delete"}, "s3:DeleteObject"),
    ],
)
async def test_each_missing_right_is_named(
    bare: Settings, faulty: StoreProxy, method: str, checks: set[str], right: str
) -> None:
    fault = faulty.fault(method, status=403, code="AccessDenied")
    found = await report(with_store(bare, endpoint=faulty.endpoint))
    assert fault.met > 0
    broken = {check for area, check in found.broken if area == "Store"}
    assert broken == checks
    assert any(right in each.advice for each in found.found if each.area == "Store")
    if method == "DELETE":
        assert "/butai/doctor/" in found.said("Store", "delete")


async def test_a_store_with_fewer_virtues_is_described(bare: Settings, faulty: StoreProxy) -> None:
    def has(name: str) -> Callable[[web.BaseRequest], bool]:
        return lambda request: name in request.headers

    faults = [faulty.fault(status=200) for _ in range(4)]
    faults[0].matches = has("If-None-Match")
    faults[1].matches = has("x-amz-checksum-sha256")
    faults[2].matches = lambda request: request.method == "GET" and "X-Amz-Signature" not in request.query
    faults[3].matches = has("Range")
    found = await report(with_store(bare, endpoint=faulty.endpoint))
    assert all(fault.met for fault in faults)
    assert found.broken == [("Store", "ranges")]
    assert {("Store", check) for check in ("conditional put", "checksums", "anonymous reads")} <= set(found.warnings)
    assert "does not verify" in found.said("Store", "checksums")
    assert "anyone who knows" in found.said("Store", "anonymous reads")


async def test_something_else_in_the_stores_place_is_found_out(bare: Settings, web_server: Serve) -> None:
    async with web_server(lambda _request: web.Response(text="<html>Welcome</html>")) as address:
        found = await report(with_store(bare, endpoint=address))
        assert {("Store", "get"), ("Store", "absent key"), ("Store", "signatures")} <= set(found.broken)
    async with web_server(lambda _request: web.Response(status=503)) as address:
        found = await report(with_store(bare, endpoint=address))
        assert ("Store", "accepted") in found.broken
    async with web_server(lambda _request: web.Response(status=301, headers={"Location": "/"})) as address:
        found = await report(with_store(bare, endpoint=address))
        assert "BUTAI_S3_REGION" in found.said("Store", "accepted")


@pytest.mark.parametrize(("off", "level"), [(30, Level.OK), (-120, Level.WARNING), (1200, Level.BROKEN)])
async def test_a_clock_that_is_off_is_told(bare: Settings, web_server: Serve, off: int, level: Level) -> None:
    def answer(_request: web.Request) -> web.Response:
        text = "<Error><Code>RequestTimeTooSkewed</Code></Error>"
        return web.Response(status=403, text=text, headers={"Date": formatdate(time.time() + off, usegmt=True)})

    async with web_server(answer) as address:
        found = await report(with_store(bare, endpoint=address))
    clock = found.one("Store", "clock")
    assert clock.level is level
    assert ("ahead of" in clock.message) == (off > 60) and ("behind" in clock.message) == (off < -60)
    assert "clock" in found.said("Store", "accepted")


# Browsers


async def test_pages_that_the_store_lets_not_send_are_named(bare: Settings, faulty: StoreProxy) -> None:
    fault = faulty.fault("OPTIONS", status=403, code="AccessForbidden")
    with pytest.raises(ValidationError, match="'nonsense' is not an origin"):
        HttpSettings(cors_origins=("https://studio.example", "nonsense"))
    page = replace(bare, http=HttpSettings(cors_origins=("https://studio.example",)))
    found = await report(with_store(page, endpoint=faulty.endpoint))
    assert fault.met == 1
    told = [each for each in found.found if each.check == "CORS"]
    assert [each.level for each in told] == [Level.WARNING]
    assert "AllowedOrigin https://studio.example" in told[0].advice
    faulty.heal()
    fault = faulty.fault("OPTIONS", status=200)
    found = await report(with_store(page, endpoint=faulty.endpoint))
    assert fault.met == 1 and "its answer lacks the origin, PUT, content-type" in str(found.found)


async def test_the_public_address_is_tried_by_itself(bare: Settings, faulty: StoreProxy) -> None:
    found = await report(with_store(bare, public_endpoint=faulty.endpoint))
    assert found.broken == []
    assert faulty.endpoint in found.said("Browsers and the store", "signed URLs")
    assert {seen.method for seen in faulty.seen} == {"PUT", "GET", "DELETE"}
    found = await report(with_store(bare, public_endpoint=f"http://127.0.0.1:{free_port()}"))
    assert found.broken == [("Browsers and the store", "signed URLs")]
    assert "BUTAI_S3_PUBLIC_ENDPOINT" in found.said("Browsers and the store", "signed URLs")
    found = await report(with_store(bare, public_endpoint="files.example"))
    assert found.broken == [("Browsers and the store", "address")]


async def test_an_address_that_browsers_cannot_use_is_told(bare: Settings) -> None:
    for http in (HttpSettings(host="0.0.0.0"), HttpSettings(public_url="https://studio.example")):
        found = await report(replace(bare, http=http))
        assert "BUTAI_S3_PUBLIC_ENDPOINT" in found.said("Browsers and the store", "address")
