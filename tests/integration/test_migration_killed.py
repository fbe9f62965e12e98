"""A migration that is killed is taken up by the next one; a database at the newest revision is open to the service's role."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest
from pydantic import SecretStr

from butai import database as database_module
from butai.config import DatabaseSettings
from butai.database import Database, head_revision
from tests.databases import Databases
from tests.forked import run_butai
from tests.interrupted import AFTER_THE_FIRST, AT_THE_PRIVILEGES, kill_migration, migration


@pytest.fixture
def empty_url(databases: Databases) -> Iterator[str]:
    """A database without tables."""
    parts = urlsplit(databases.server.url)
    with databases.fresh(urlunsplit(parts._replace(path="/template0"))) as url:
        yield url


def closed_to_the_service(service: str) -> list[str]:
    """The tables that the service's role may not read."""
    with psycopg.connect(service) as connection:
        rows = connection.execute(
            """SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
               AND NOT has_table_privilege(oid, 'SELECT')"""
        ).fetchall()
    return [name for (name,) in rows]


def revision(owners: str) -> str:
    with psycopg.connect(owners) as connection:
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        assert row is not None
        return row[0]


async def ready(service: str) -> bool:
    async with Database(DatabaseSettings(url=SecretStr(service))) as database:
        return await database.ready()


async def test_killed_after_the_first_migration_of_a_new_database(
    databases: Databases, empty_url: str, tmp_path: Path
) -> None:
    owners = databases.owners(empty_url)
    kill_migration(empty_url, owners, AFTER_THE_FIRST, tmp_path / "log")
    assert revision(owners) == "0001"
    assert not await ready(empty_url)
    ended = run_butai("migrate", env=migration(empty_url, owners))
    assert (ended.returncode, closed_to_the_service(empty_url)) == (0, []), ended.stderr
    assert await ready(empty_url)


async def test_killed_before_the_services_role_has_its_privileges(
    databases: Databases, empty_url: str, tmp_path: Path
) -> None:
    owners = databases.owners(empty_url)
    before = f"{int(head_revision()) - 1:04}"
    database_module.migrate(owners, before, service_url=empty_url)
    kill_migration(empty_url, owners, AT_THE_PRIVILEGES, tmp_path / "log")
    assert (revision(owners), closed_to_the_service(empty_url)) == (before, [])
    assert not await ready(empty_url)
    ended = run_butai("migrate", env=migration(empty_url, owners))
    assert (ended.returncode, closed_to_the_service(empty_url)) == (0, []), ended.stderr
    assert await ready(empty_url)


def test_another_migration_gives_the_privileges_that_are_not_there(databases: Databases, database_url: str) -> None:
    owners = databases.owners(database_url)
    with psycopg.connect(owners) as connection:
        connection.execute("REVOKE ALL ON assets, alembic_version FROM butai")
    assert sorted(closed_to_the_service(database_url)) == ["alembic_version", "assets"]
    assert run_butai("migrate", env=migration(database_url, owners)).returncode == 0
    assert closed_to_the_service(database_url) == []
