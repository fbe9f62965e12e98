"""One patrol at a time: an advisory lock of Postgres, held by a connection of its own during a run.

The connection is in no transaction and no pool, so it blocks only other patrols, however slow the store is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from typing import Any

import psycopg

from butai.database import UNREACHABLE, Database
from butai.errors import DatabaseUnavailable

PATROL_LOCK = 0x6275_7461_6903
"""The key of the advisory lock. Postgres frees it when the patrolling process's connection ends."""


class PatrolBusy(Exception):
    """Another process is on patrol."""


@asynccontextmanager
async def patrol_lock(database: Database) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    """Holds the lock; yields its connection, for `require_lock`. Raises `PatrolBusy`, `DatabaseUnavailable`."""
    try:
        connection = await psycopg.AsyncConnection.connect(database.url, autocommit=True, connect_timeout=5)
    except UNREACHABLE as error:
        raise DatabaseUnavailable from error
    async with connection:
        row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (PATROL_LOCK,))).fetchone()
        if row is None or not row[0]:
            raise PatrolBusy
        try:
            yield connection
        finally:
            # The server notices the end of a connection some time later: the next patrol should not find the lock
            # taken.
            with suppress(psycopg.Error):
                await connection.execute("SELECT pg_advisory_unlock(%s)", (PATROL_LOCK,))


async def require_lock(connection: psycopg.AsyncConnection[Any]) -> None:
    """Raises `DatabaseUnavailable` when the connection is lost, and the lock with it."""
    try:
        await connection.execute("SELECT 1")
    except UNREACHABLE as error:
        raise DatabaseUnavailable from error
