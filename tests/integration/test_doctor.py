"""`butai doctor` on parts that are well, and on each of them broken in turn."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from aiohttp import web
from psycopg import sql
from pydantic import SecretStr, ValidationError

from butai.config import (
    AssetSettings,
    DatabaseSettings,
    HttpSettings,
    IdentitySettings,
    LiveKitSettings,
    LiveSettings,
    Settings,
)
from butai.database import head_revision, migrate
from butai.doctor import asking, examine
from butai.doctor import store as doctor_store
from butai.doctor.capacity import examine_capacity
from butai.doctor.database import judge_clock, judge_version
from butai.doctor.findings import Finding, Findings, Level
from butai.embedded.postgres import EmbeddedPostgres
from butai.embedded.seaweed import EmbeddedSeaweed
from tests.conftest import NEXTAUTH_SECRET
from tests.databases import Databases
from tests.fakes.oidc_issuer import AUDIENCE, OidcIssuer
from tests.fakes.store_proxy import StoreProxy
from tests.forked import command
from tests.processes import environment, free_port

LIVEKIT_SECRET = "canary-livekit-secret-0123456789abcdef"


@pytest.fixture
def bare(settings: Settings, seaweed: EmbeddedSeaweed) -> Settings:
    """Settings of a service that talks to the store itself: doctor asks whether it may list, which the suite's proxy
    forbids."""
    return replace(settings, store=settings.store.model_copy(update={"endpoint": seaweed.store.endpoint}))


@pytest.fixture(scope="module")
def _own_proxy(seaweed: EmbeddedSeaweed) -> Iterator[StoreProxy]:
    with StoreProxy(seaweed.store.endpoint) as proxy:
        yield proxy


@pytest.fixture
def faulty(_own_proxy: StoreProxy) -> Iterator[StoreProxy]:
    """A proxy through which listing may pass."""
    _own_proxy.heal()
    _own_proxy.seen.clear()
    yield _own_proxy
    _own_proxy.heal()


def with_store(settings: Settings, **changes: Any) -> Settings:
    return replace(settings, store=settings.store.model_copy(update=changes))


def with_database(settings: Settings, url: str) -> Settings:
    return replace(settings, database=DatabaseSettings(url=SecretStr(url)))


def with_identity(settings: Settings, **how: Any) -> Settings:
    return replace(settings, identity=IdentitySettings(**how))


Serve = Callable[[Callable[[web.Request], Any]], contextlib.AbstractAsyncContextManager[str]]


@pytest.fixture
def web_server() -> Serve:
    """A server of the test's own making on loopback."""

    @contextlib.asynccontextmanager
    async def serve(answer: Callable[[web.Request], Any]) -> AsyncGenerator[str]:
        async def handle(request: web.Request) -> web.StreamResponse:
            return answer(request)

        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()

    return serve


class Report:
    """What doctor found, by area and check."""

    def __init__(self, found: list[Finding]) -> None:
        self.found = found
        for finding in found:
            assert finding.message and "\n" not in finding.message + finding.advice, finding
            assert bool(finding.advice) == (finding.level is not Level.OK), finding
            assert "Traceback" not in finding.message

    @property
    def broken(self) -> list[tuple[str, str]]:
        return [(each.area, each.check) for each in self.found if each.level is Level.BROKEN]

    @property
    def warnings(self) -> list[tuple[str, str]]:
        return [(each.area, each.check) for each in self.found if each.level is Level.WARNING]

    def one(self, area: str, check: str) -> Finding:
        (finding,) = [each for each in self.found if (each.area, each.check) == (area, check)]
        return finding

    def said(self, area: str, check: str) -> str:
        finding = self.one(area, check)
        return f"{finding.level}: {finding.message} → {finding.advice}"


async def report(settings: Settings) -> Report:
    return Report(await examine(settings))


def livekit(request: web.Request) -> web.Response:
    """What a LiveKit does with a call: the token is checked by hand, not with the library that made it."""
    head, _, signature = request.headers["Authorization"].removeprefix("Bearer ").rpartition(".")
    expected = base64.urlsafe_b64encode(hmac.new(LIVEKIT_SECRET.encode(), head.encode(), hashlib.sha256).digest())
    body = head.partition(".")[2]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    good = signature == expected.rstrip(b"=").decode() and claims["iss"] == "devkey" and claims["exp"] > time.time()
    if not good or request.path != "/twirp/livekit.RoomService/ListRooms":
        return web.json_response({"code": "unauthenticated"}, status=401)
    if claims["video"] != {"roomList": True}:
        return web.json_response({"code": "permission_denied"}, status=403)
    return web.json_response({})


def livekit_at(url: str, secret: str = LIVEKIT_SECRET) -> LiveKitSettings:
    return LiveKitSettings(url=url.replace("http://", "ws://"), api_key="devkey", api_secret=SecretStr(secret))


# All is well


async def test_all_is_well_and_nothing_is_left_behind(
    bare: Settings, web_server: Serve, store_keys: Callable[[], list[str]], multiparts: Callable[[], list[str]]
) -> None:
    async with web_server(livekit) as address, OidcIssuer() as issuer:
        whole = replace(
            bare,
            livekit=livekit_at(address),
            http=HttpSettings(cors_origins=("http://localhost:3000",), public_url="http://localhost:8080"),
            identity=IdentitySettings(
                NEXTAUTH_SECRET=SecretStr(NEXTAUTH_SECRET),  # pyright: ignore[reportCallIssue]
                oidc_issuer=issuer.url,
                oidc_audience=AUDIENCE,
                dev_sign_in=True,
            ),
        )
        found = await report(whole)
    assert (found.broken, found.warnings) == ([], [])
    checks = {(each.area, each.check) for each in found.found}
    assert {
        ("Database", check) for check in ("reachable", "version", "clock", "pg_trgm", "tables", "may create")
    } <= checks
    assert {
        ("Store", check)
        for check in (
            *(
                "reachable",
                "clock",
                "put",
                "get",
                "head",
                "absent key",
                "ranges",
                "conditional put",
                "checksums",
                "copy",
            ),
            *("signatures", "anonymous reads", "multipart", "listing", "delete"),
        )
    } <= checks
    assert "404" in found.said("Store", "absent key")
    assert "may not list" in found.said("Store", "listing")
    assert head_revision() in found.said("Database", "tables")
    assert [each.message for each in found.found if each.check == "CORS"] == [
        "pages of http://localhost:3000 may send files straight to the store",
        "pages of http://localhost:8080 may send files straight to the store",
    ]
    assert store_keys() == multiparts() == []


async def test_an_identity_that_may_list_is_told_so(bare: Settings, seaweed: EmbeddedSeaweed) -> None:
    admin = seaweed.store.admin
    found = await report(
        with_store(
            bare,
            access_key_id=SecretStr(admin.access_key_id),
            secret_access_key=SecretStr(admin.secret_access_key),
        )
    )
    assert found.broken == []
    assert "--list works" in found.said("Store", "listing")


async def test_nothing_configured_says_what_would_configure_it() -> None:
    found = await report(
        Settings(
            database=DatabaseSettings(url=SecretStr("")),
            identity=IdentitySettings(NEXTAUTH_SECRET=SecretStr(""), AUTH_SECRET=SecretStr("")),  # pyright: ignore[reportCallIssue]
        )
    )
    assert found.broken == [("Database", "configured"), ("Store", "configured")]
    assert "export BUTAI_DATABASE_URL=" in found.said("Database", "configured")
    assert "export BUTAI_S3_ENDPOINT=" in found.said("Store", "configured")
    assert "export LIVEKIT_URL=" in found.said("LiveKit", "configured")
    assert "NEXTAUTH_SECRET" in found.said("Sign-in", "sessions")


@pytest.mark.parametrize(
    ("live", "level", "word", "advice"),
    [
        (LiveSettings(capacity=1.7), Level.OK, "1.7 cores for broadcasts: 5 at 720p30", ""),
        (LiveSettings(capacity=0.3), Level.WARNING, "one at a time", "raise or unset BUTAI_CAPACITY"),
        (LiveSettings(capacity_reserve=1000), Level.WARNING, "one at a time", "lower BUTAI_CAPACITY_RESERVE"),
        (LiveSettings(capacity=0), Level.WARNING, "takes no new broadcasts", "raise it"),
    ],
)
async def test_how_many_broadcasts_fit_is_told(live: LiveSettings, level: Level, word: str, advice: str) -> None:
    findings = Findings("Capacity", [])
    await examine_capacity(replace(Settings(), live=live), findings)
    [found] = findings.found
    assert found.level is level and word in found.message
    # A number of the operator's takes the place of the reserve.
    assert advice in (found.advice or "")
    assert ("RESERVE" in (found.advice or "")) is (live.capacity is None)


# The database


@pytest.fixture
def make_database(postgres: EmbeddedPostgres) -> Iterator[Callable[[], str]]:
    """Empty databases, without Butai's tables."""
    made: list[str] = []

    def make() -> str:
        made.append(f"empty_{uuid.uuid4().hex}")
        with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER butai").format(sql.Identifier(made[-1])))
        return urlunsplit(urlsplit(postgres.url)._replace(path=f"/{made[-1]}"))

    yield make
    with psycopg.connect(postgres.admin_url, autocommit=True) as connection:
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


async def test_a_database_without_tables_needs_a_migration(bare: Settings, make_database: Callable[[], str]) -> None:
    found = await report(with_database(bare, make_database()))
    assert found.broken == [("Database", "tables")]
    assert "butai migrate" in found.said("Database", "tables")


async def test_older_and_newer_tables_are_told_apart(bare: Settings, databases: Databases, database_url: str) -> None:
    with psycopg.connect(databases.owners(database_url), autocommit=True) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
        old = await report(bare)
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
        new = await report(bare)
    assert old.broken == [("Database", "tables")] and "butai migrate" in old.said("Database", "tables")
    assert new.broken == [] and "newer version" in new.said("Database", "tables")


async def test_tables_that_only_their_owner_may_read_need_its_address(
    bare: Settings, as_owner: Callable[[str], None]
) -> None:
    as_owner("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM butai")
    found = await report(bare)
    assert found.broken == [("Database", "tables")]
    assert "BUTAI_DATABASE_OWNER_URL" in found.said("Database", "tables")


async def test_the_services_role_owning_the_tables_is_a_warning(
    bare: Settings, databases: Databases, make_database: Callable[[], str]
) -> None:
    apart = await report(bare)
    assert apart.one("Database", "owner").message.startswith("the tables belong to butai_owner")
    assert apart.one("Database", "may create").level is Level.OK
    url = make_database()
    await asyncio.to_thread(migrate, url)
    assert ("Database", "owner") in (await report(with_database(bare, url))).warnings
    with psycopg.connect(databases.owners(bare.database.url.get_secret_value()), autocommit=True) as connection:
        connection.execute("GRANT DELETE ON audit TO butai")
    assert "can change what the audit trail has" in (await report(bare)).said("Database", "owner")


async def test_a_user_who_may_not_create_is_found_out(
    bare: Settings, make_database: Callable[[], str], postgres: EmbeddedPostgres
) -> None:
    url = make_database()
    role = f"guest_{uuid.uuid4().hex[:8]}"
    admin = urlunsplit(urlsplit(postgres.admin_url)._replace(path=urlsplit(url).path))
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'canary-guest'").format(sql.Identifier(role)))
        try:
            parts = urlsplit(url)
            guest = urlunsplit(parts._replace(netloc=f"{role}:canary-guest@{parts.hostname}:{parts.port}"))
            found = await report(with_database(bare, guest))
        finally:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))
    assert found.broken == [("Database", "tables"), ("Database", "may create")]
    assert "GRANT CREATE" in found.said("Database", "may create")


async def test_a_database_that_cannot_be_reached_is_told_with_its_reason(
    bare: Settings, postgres: EmbeddedPostgres
) -> None:
    parts = urlsplit(postgres.url)
    nobody = f"postgresql://butai:canary-password@127.0.0.1:{free_port()}/butai"
    stranger = urlunsplit(parts._replace(netloc=f"butai:canary-password@{parts.hostname}:{parts.port}"))
    absent = urlunsplit(parts._replace(path="/canary_absent"))
    for url, check, word in (
        (nobody, "reachable", "host and port"),
        (stranger, "reachable", "password"),
        (absent, "reachable", "make the database"),
        ("postgresql://butai:canary/pass@w0rd@127.0.0.1/butai", "configured", "%40"),
        ("postgresql://butai:canary@pass@w0rd@127.0.0.1/butai", "configured", "%40"),
        ("postgresql://butai:12/canary@127.0.0.1/butai", "configured", "%40"),
        ("mysql://butai:canary@localhost/butai", "configured", "postgresql://"),
        ("postgresql://butai:canary@no-such-host.invalid/butai", "reachable", "DNS"),
    ):
        found = await report(with_database(bare, url))
        assert [each for each in found.broken if each[0] == "Database"] == [("Database", check)], url
        told = found.said("Database", check)
        assert word in told, told
        assert "canary" not in told.replace("canary_absent", "") and "w0rd" not in told, told


def _judged(act: Callable[[Findings], None]) -> Level:
    findings = Findings("Database", ())
    act(findings)
    return findings.found[0].level


def test_versions_and_clocks_are_judged_by_their_limits() -> None:
    lease = AssetSettings().upload_lease
    assert _judged(lambda to: judge_version(140012, "14.12", to)) is Level.BROKEN
    assert _judged(lambda to: judge_version(150000, "15.0", to)) is Level.OK
    assert _judged(lambda to: judge_clock(1.9, 0.0, lease, to)) is Level.OK
    assert _judged(lambda to: judge_clock(-3.0, 2.0, lease, to)) is Level.OK
    assert _judged(lambda to: judge_clock(-3.0, 0.1, lease, to)) is Level.WARNING
    assert _judged(lambda to: judge_clock(lease + 1, 0.1, lease, to)) is Level.BROKEN


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


# Sign-in


async def test_development_sign_in_in_the_open_is_broken(bare: Settings) -> None:
    for http in (HttpSettings(host="0.0.0.0"), HttpSettings(public_url="https://studio.example")):
        found = await report(replace(bare, http=http))
        assert found.broken == [("Sign-in", "development sign-in")]
        assert "unset BUTAI_DEV_SIGN_IN" in found.said("Sign-in", "development sign-in")


async def test_secrets_are_judged_and_never_shown(bare: Settings) -> None:
    found = await report(with_identity(bare, NEXTAUTH_SECRET=SecretStr("canary-sho"), AUTH_SECRET=SecretStr("c" * 40)))
    told = [each for each in found.found if each.check == "sessions"]
    assert [each.level for each in told] == [Level.WARNING, Level.OK]
    assert "canary-sho" not in str(found.found) and "c" * 40 not in str(found.found)
    found = await report(
        with_identity(bare, dev_sign_in=True, NEXTAUTH_SECRET=SecretStr(""), AUTH_SECRET=SecretStr(""))
    )
    assert found.broken == [("Sign-in", "development sign-in")]


@pytest.mark.slow
async def test_an_issuer_is_asked_for_its_keys(bare: Settings) -> None:
    async with OidcIssuer() as issuer:
        good = with_identity(bare, oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
        assert "publishes 1 keys" in (await report(good)).said("Sign-in", "issuer")
        found = await report(with_identity(bare, oidc_issuer=issuer.url))
        assert "BUTAI_OIDC_AUDIENCE" in str(found.found) and found.broken == [("Sign-in", "issuer")]
        found = await report(with_identity(bare, oidc_issuer=issuer.url + "/", oidc_audience=AUDIENCE))
        assert f"export BUTAI_OIDC_ISSUER={issuer.url}" in found.said("Sign-in", "issuer")
        issuer.status = 500
        assert "500" in (await report(good)).said("Sign-in", "issuer")
        issuer.status, issuer.body = 200, b"<html>"
        assert (await report(good)).broken == [("Sign-in", "issuer")]
        issuer.body = None
        issuer.keys.clear()
        assert "gives no keys" in (await report(good)).said("Sign-in", "issuer")
        issuer.gate.clear()
        assert "no answer within" in (await report(good)).said("Sign-in", "issuer")
    assert (await report(good)).broken == [("Sign-in", "issuer")]


# LiveKit


async def test_livekit_takes_the_key_or_refuses_it(bare: Settings, web_server: Serve) -> None:
    async with web_server(livekit) as address:
        found = await report(replace(bare, livekit=livekit_at(address)))
        assert "accepted" in found.said("LiveKit", "key")
        found = await report(replace(bare, livekit=livekit_at(address, "canary-other-secret-0123456789abcdef")))
        assert found.broken == [("LiveKit", "key")]
        assert "LIVEKIT_API_SECRET" in found.said("LiveKit", "key") and "canary" not in str(found.found)
        found = await report(replace(bare, livekit=livekit_at(address, "short")))
        assert ("LiveKit", "secret") in found.warnings
        found = await report(replace(bare, livekit=LiveKitSettings(url=address)))
        assert "LIVEKIT_API_KEY" in found.said("LiveKit", "configured")
    found = await report(replace(bare, livekit=livekit_at(address)))
    assert found.broken == [("LiveKit", "reachable")]
    found = await report(replace(bare, livekit=livekit_at("livekit.example")))
    assert found.broken == [("LiveKit", "configured")]
    async with web_server(lambda _request: web.Response(status=404)) as address:
        found = await report(replace(bare, livekit=livekit_at(address)))
        assert "another program" in found.said("LiveKit", "reachable")


async def test_every_livekit_project_is_asked_with_every_key(bare: Settings, web_server: Serve, tmp_path: Path) -> None:
    file = tmp_path / "projects.json"

    def with_file(**projects: Any) -> Settings:
        file.write_text(json.dumps(projects))
        return replace(found_by, live=bare.live.model_copy(update={"livekit_projects_file": file}))

    def entry(url: str, *secrets: str) -> dict[str, Any]:
        return {"url": url, "keys": [{"api_key": "devkey", "api_secret": secret} for secret in secrets]}

    other = "canary-other-secret-0123456789abcdef"
    async with web_server(livekit) as address:
        found_by = replace(bare, livekit=livekit_at(address, other))
        settings = with_file(tokyo=entry(address, LIVEKIT_SECRET))
        file.chmod(0o644)
        found = await report(settings)
        assert "accepted" in found.said("LiveKit", "key of tokyo")
        assert "LIVEKIT_API_SECRET" in found.said("LiveKit", "key") and found.broken == [("LiveKit", "key")]
        assert f"chmod 600 {file}" in found.said("LiveKit", "projects")
        file.chmod(0o600)
        # The file's word on the default project is the newer one.
        found = await report(with_file(default=entry(address, LIVEKIT_SECRET, other, "short")))
        assert found.broken == [] and "default" in found.said("LiveKit", "projects")
        assert "accepted" in found.said("LiveKit", "key of default")
        assert [check for area, check in found.warnings if area == "LiveKit"] == [
            "key of default (key 2)",
            "key of default (key 3)",
            "secret of default (key 3)",
        ]
        found = await report(with_file(tokyo=entry(address, other + "x"), osaka=entry("ws://127.0.0.1:9", other + "y")))
        assert set(found.broken) == {("LiveKit", f"{what}") for what in ("key", "key of tokyo", "reachable of osaka")}
        assert f"url of osaka in {file}" in found.said("LiveKit", "reachable of osaka")
        assert f"key 1 of tokyo in {file}" in found.said("LiveKit", "key of tokyo")
        found = await report(with_file(tokyo=entry("x", LIVEKIT_SECRET)))
        assert "wss://" in found.said("LiveKit", "projects") and ("LiveKit", "projects") in found.broken
        file.unlink()
        found = await report(settings)
        assert "No such file" in found.said("LiveKit", "projects")
        assert "canary" not in str(found.found)
        found_by = replace(bare, livekit=LiveKitSettings(url="", api_key="", api_secret=SecretStr("")))
        assert ("LiveKit", "configured") in (await report(with_file())).warnings
        found = await report(with_file(tokyo=entry(address, LIVEKIT_SECRET)))
        assert ("LiveKit", "configured") not in found.warnings and found.broken == []


# The command


def _doctor(settings: Settings, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "butai.cli", "doctor", *arguments],
        env=environment(settings, **env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
async def test_the_command_prints_lines_and_json(bare: Settings) -> None:
    done = await command("doctor", env=environment(bare))
    assert done.returncode == 0, done.stdout
    assert "✓ reachable" in done.stdout and "! configured: not configured" in done.stdout
    assert "→ export LIVEKIT_URL=" in done.stdout and "✗" not in done.stdout
    done = await command("doctor", "--json", env=environment(bare, BUTAI_DEV_SIGN_IN="true", BUTAI_HOST="0.0.0.0"))
    told = json.loads(done.stdout)
    assert done.returncode == 1 and told["ok"] is False
    (broken,) = [each for each in told["findings"] if each["level"] == "broken"]
    assert (broken["area"], broken["check"]) == ("Sign-in", "development sign-in") and broken["advice"]


@pytest.mark.slow
async def test_the_command_works_when_everything_is_down_and_shows_no_secret(bare: Settings) -> None:
    down = f"127.0.0.1:{free_port()}"
    canaries = {
        "BUTAI_DATABASE_URL": f"postgresql://butai:canary-one%40x@{down}/butai?application_name=x",
        "BUTAI_S3_ENDPOINT": f"http://{down}",
        "BUTAI_S3_ACCESS_KEY_ID": "canary-two-id",
        "BUTAI_S3_SECRET_ACCESS_KEY": "canary-three",
        "BUTAI_S3_SESSION_TOKEN": "canary-four",
        "NEXTAUTH_SECRET": "canary-five",
        "AUTH_SECRET": "canary-six, canary-seven",
        "BUTAI_OIDC_ISSUER": f"http://{down}",
        "LIVEKIT_URL": f"ws://{down}",
        "LIVEKIT_API_KEY": "key",
        "LIVEKIT_API_SECRET": "canary-eight",
    }
    for arguments in ((), ("--json",)):
        done = await asyncio.to_thread(_doctor, bare, *arguments, PYTHONIOENCODING="ascii", **canaries)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr + done.stdout
        assert "canary" not in (done.stderr + done.stdout).replace("canary_", "")
        assert down.rpartition(":")[2] in done.stdout
    told = json.loads(done.stdout)
    broken = {(each["area"], each["check"]) for each in told["findings"] if each["level"] == "broken"}
    assert broken == {
        ("Database", "reachable"),
        ("Store", "reachable"),
        ("Browsers and the store", "signed URLs"),
        ("Sign-in", "issuer"),
        ("LiveKit", "reachable"),
    }
