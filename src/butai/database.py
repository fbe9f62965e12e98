"""Postgres: one driver (psycopg 3), two ways in.

`Database.transaction()` is a SQLAlchemy session for writes: the rules live in Python
and want models. `Database.reads` is a plain psycopg pool for hot reads: Postgres builds
the answer as JSON and no ORM touches it. Its connections force generic plans: custom
plans cost a third of the server's time on the list query and never differed.

Built by `butai.cli` for every process; migrations run through `migrate`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import psycopg
import psycopg_pool
import structlog
from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from butai.config import DatabaseSettings
from butai.errors import DatabaseUnavailable

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

MIGRATIONS = Path(__file__).parent / "migrations"

# The errors by which an unreachable Postgres shows, whichever way in was used. A statement that is wrong is not among
# them: `InterfaceError` and the classes below are raised for connections, time-outs and shut-downs.
UNREACHABLE = (psycopg.OperationalError, psycopg_pool.PoolTimeout, OperationalError, PoolTimeout)


class Model(DeclarativeBase):
    """The root of every table's class. Constraint names follow one rule, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {str: Text, datetime: DateTime(timezone=True), dict[str, Any]: JSONB}


class Database:
    """The pools of one process. Use as an async context manager; connections are made when first needed."""

    def __init__(self, settings: DatabaseSettings) -> None:
        self.settings = settings
        self.url = settings.url.get_secret_value()
        if not self.url:
            raise ValueError("BUTAI_DATABASE_URL is not set")
        self.engine: AsyncEngine = create_async_engine(
            sqlalchemy_url(self.url),
            pool_size=settings.pool_size,
            max_overflow=0,
            pool_timeout=settings.connect_timeout,
            pool_pre_ping=True,
            # A transaction left open by a bug must not hold row locks for ever.
            connect_args={"options": "-c idle_in_transaction_session_timeout=30000 -c lock_timeout=10000"},
        )
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self.reads = psycopg_pool.AsyncConnectionPool(
            self.url,
            min_size=1,
            max_size=settings.pool_size,
            timeout=settings.connect_timeout,
            # A failed connection is given up soon, so that the next request tries anew: the pool's own back-off doubles
            # its waits, and would leave us blind for a while after Postgres is back.
            reconnect_timeout=1,
            open=False,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 0,
                "options": "-c plan_cache_mode=force_generic_plan -c statement_timeout=15000",
            },
        )

    async def __aenter__(self) -> Database:
        await self.reads.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reads.close()
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """One transaction: commits when the block ends, rolls back when it raises.

        Raises `DatabaseUnavailable` when Postgres cannot be reached.
        """
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except UNREACHABLE as error:
            raise DatabaseUnavailable from error

    async def read(self, act: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs a read on a connection of the pool. Raises `DatabaseUnavailable` when Postgres cannot be reached.

        A connection that Postgres has closed looks well until it is used, and its neighbours are as dead: they are all
        looked at, and the read is done once more.
        """
        for last in (False, True):
            broken = False
            try:
                async with self.reads.connection() as connection:
                    try:
                        return await act(connection)
                    finally:
                        broken = connection.broken
            except UNREACHABLE as error:
                if last or not broken:
                    raise DatabaseUnavailable from error
            await self.reads.check()
        raise AssertionError("unreachable")

    async def ready(self) -> bool:
        """Whether Postgres answers within two seconds, and has this version's tables."""

        async def ask(connection: Connection) -> bool:
            row = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
            return row is not None and row[0] >= head_revision()

        try:
            async with asyncio.timeout(2):
                return await self.read(ask)
        except (DatabaseUnavailable, TimeoutError, psycopg.errors.UndefinedTable):
            return False


def sqlalchemy_url(url: str) -> str:
    """`postgresql://…` as SQLAlchemy wants it, with the driver named."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("BUTAI_DATABASE_URL must begin with postgresql://")
    return f"postgresql+psycopg://{rest}"


@lru_cache
def head_revision() -> str:
    """The newest migration's number: files are named `0001_what.py`, so no need to load them."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def current_revision(url: str) -> str | None:
    """What the database has been brought to; None for an empty one. Raises `psycopg.OperationalError`."""
    with psycopg.connect(url, connect_timeout=5) as connection:
        if connection.execute("SELECT to_regclass('alembic_version')").fetchone() == (None,):
            return None
        row = connection.execute("SELECT version_num FROM alembic_version").fetchone()
        return row[0] if row else None


def needs_migration(url: str) -> bool:
    """Whether `migrate` would do anything. Cheap: Alembic is not loaded."""
    return current_revision(url) != head_revision()


def migrate(url: str, revision: str = "head") -> None:
    """Brings the database to `revision`. Several processes may call it at once: they take turns."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    command.upgrade(config, revision)
    log.info("database.migrated", revision=head_revision() if revision == "head" else revision)
