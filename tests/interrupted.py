"""A migration that is killed at a chosen moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psycopg

from tests.forked import Forked

AFTER_THE_FIRST = "CREATE TABLE broadcasts ()"
"""What the second migration creates."""

AT_THE_PRIVILEGES = "REVOKE ALL ON alembic_version FROM butai"
"""Whose privileges are given anew with those of all tables, after the last migration's own statements."""


def migration(service: str, owners: str) -> dict[str, str]:
    """The environment of `butai migrate` for these two addresses of one database."""
    return {**os.environ, "BUTAI_DATABASE_URL": service, "BUTAI_DATABASE_OWNER_URL": owners}


def kill_migration(service: str, owners: str, obstacle: str, log: Path) -> None:
    """Runs `butai migrate`, and kills it when it waits for `obstacle`: a statement of the owner that conflicts with one of
    the migration, is not committed meanwhile, and is rolled back at the end."""
    with psycopg.connect(owners) as holding, psycopg.connect(owners, autocommit=True) as looking:
        holding.execute(obstacle.encode())
        child = Forked("butai.cli.__main__", ["migrate"], env=migration(service, owners), stdout=log)
        try:
            _wait(looking, "EXISTS", child, log)
        finally:
            child.kill()
            child.wait(10)
        holding.rollback()
        # Its connection ends once Postgres looks at it again.
        _wait(looking, "NOT EXISTS", None, log)


def _wait(looking: psycopg.Connection, there: str, child: Forked | None, log: Path) -> None:
    blocked = (
        "SELECT FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
    )
    others = (
        "SELECT FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND state <> 'idle' AND backend_type = 'client backend'"
    )
    query = f"SELECT {there} ({blocked if child else others})"
    deadline = time.monotonic() + 60
    while looking.execute(query.encode()).fetchone() != (True,):
        assert child is None or child.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.01)
