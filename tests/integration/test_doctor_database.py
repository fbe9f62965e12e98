"""`butai doctor` on the database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from psycopg import sql

from butai.config import (
    AssetSettings,
    Settings,
)
from butai.database import migrate
from butai.doctor.database import judge_clock, judge_version
from butai.doctor.findings import Findings, Level
from butai.embedded.postgres import EmbeddedPostgres
from tests.databases import Databases
from tests.doctor_reports import (
    report,
    with_database,
)
from tests.processes import free_port


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
