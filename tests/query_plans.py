"""Postgres's plans of statements in a large table."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import Any

import psycopg

from butai.database import Database
from tests.databases import Databases


@contextlib.contextmanager
def filled_database(databases: Databases, rows: str) -> Generator[str]:
    """The URL of a database with the assets that the statement `rows` inserts, vacuumed and with statistics of them."""
    with databases.fresh() as url:
        with psycopg.connect(databases.owners(url), autocommit=True) as connection:
            connection.execute(rows.encode())
            connection.execute("VACUUM ANALYZE assets")
        yield url


async def plan_nodes(
    database: Database, statement: str, parameters: Mapping[str, Any] | None, *options: str
) -> list[dict[str, Any]]:
    """All nodes of the statement's plan, the root first. `options`: of EXPLAIN."""
    explain = f"EXPLAIN ({', '.join((*options, 'FORMAT JSON'))}) {statement}"
    async with database.reads.connection() as connection:
        row = await (await connection.execute(explain.encode(), parameters)).fetchone()
    assert row is not None
    return nodes(row[0][0]["Plan"])


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """A node of a plan and all below it."""
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]
