"""Postgres: one driver (psycopg 3), three ways to use it, and notifications of changes.

`Database.query` reads, and may be repeated; Postgres refuses a write in it. `Database.execute` is one statement that
writes, commits by itself and is never repeated. `Database.transaction` is a SQLAlchemy session, for writes whose rules
are in Python and need models. Services open transactions; routes and commands never do.

Queries and single statements use plain psycopg: Postgres builds the answer as JSON and no ORM touches it. Their
connections force generic plans: custom plans cost a third of the server's time on the list query, and were never
better."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Self, TypeVar

import psycopg
import psycopg_pool
import structlog
from psycopg import sql
from sqlalchemy import DateTime, MetaData, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from butai.config import DatabaseSettings
from butai.errors import DatabaseUnavailable
from butai.migrations import privileges

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

MIGRATIONS = Path(__file__).parent / "migrations"

MIGRATION_LOCK = 0x6275_7461_69
"""One key for every process that migrates this database; the number only has to stay the same."""

# The exceptions that mean an unreachable Postgres, whichever way was used. A wrong statement is not among them:
# `InterfaceError` and the classes below are raised for connections, time-outs and shut-downs.
UNREACHABLE = (psycopg.OperationalError, psycopg_pool.PoolTimeout, OperationalError, PoolTimeout)

_KEEP_ALIVE: dict[str, Any] = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
"""Idle seconds, interval in seconds, and count of probes: a network that drops all packets is noticed after 11 s."""
_LISTEN_PAUSES = (0.25, 2.0)


class Model(DeclarativeBase):
    """Base class of all tables. Constraint names follow one rule, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        str: Text,
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
    }


class _Cancellation:
    """Whether the current task was cancelled since this was made.

    The drivers drop a cancellation at times: psycopg_pool 3.3 hands its connection to a caller that was cancelled in the
    same turn of the loop, `asyncio.wait_for` of Python 3.11 does so too, and a connection that is lost while a statement
    is cancelled raises its own error. The task would then run on, and a time limit would have no effect.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._before = task, task.cancelling()

    def check(self) -> None:
        """Raises `CancelledError` if it was."""
        if self._task.cancelling() > self._before:
            raise asyncio.CancelledError


class Database:
    """The connection pools of one process. Use as an async context manager; connections are opened when first
    needed."""

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
        self.reads = self._pool(1, "-c default_transaction_read_only=on")
        # Each connection is checked before it is used: a statement that is never repeated must not meet a connection
        # that Postgres has closed long ago.
        self.writes = self._pool(0, check=psycopg_pool.AsyncConnectionPool.check_connection)

    def _pool(self, least: int, options: str = "", **more: Any) -> psycopg_pool.AsyncConnectionPool:
        return psycopg_pool.AsyncConnectionPool(
            self.url,
            min_size=least,
            max_size=self.settings.pool_size,
            timeout=self.settings.connect_timeout,
            # A failed connection is given up soon, so that the next request tries again: the pool's own back-off
            # doubles its waits, and would delay us after Postgres is back.
            reconnect_timeout=1,
            open=False,
            kwargs={
                "autocommit": True,
                "prepare_threshold": 0,
                "options": f"-c plan_cache_mode=force_generic_plan -c statement_timeout=15000 {options}",
            },
            **more,
        )

    async def __aenter__(self) -> Self:
        await self.reads.open(wait=False)
        await self.writes.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.reads.close()
        await self.writes.close()
        await self.engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncSession]:
        """One transaction: commits when the block ends, rolls back when it raises.

        Raises `DatabaseUnavailable` when Postgres cannot be reached.
        """
        cancellation = _Cancellation()
        try:
            async with self._sessions() as session, session.begin():
                yield session
                cancellation.check()
        except UNREACHABLE as error:
            cancellation.check()
            raise DatabaseUnavailable from error

    async def persist(
        self,
        act: Callable[[AsyncSession], Awaitable[T]],
        *,
        tries: int = 4,
        first_pause: float = 0.5,
        also: tuple[type[Exception], ...] = (),
    ) -> T:
        """Runs `act` in one transaction, again when Postgres cannot be reached or `act` raises one of `also`, with
        pauses that double. `act` may run more than once, since the answer to a commit can be lost: it must be
        idempotent.

        Raises the exception of the last try. Four tries take at least 3.5 s, longer than Postgres takes to restart.
        """
        for left in range(tries - 1, -1, -1):
            try:
                async with self.transaction() as session:
                    return await act(session)
            except (DatabaseUnavailable, *also):
                if not left:
                    raise
            await asyncio.sleep(first_pause * 2 ** (tries - 1 - left))
        raise ValueError("tries must be positive")

    async def query(self, act: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs a read, in which Postgres refuses to write. Raises `DatabaseUnavailable` when it cannot be reached.

        A connection that Postgres has closed looks usable until it is used, and then the other pooled ones are closed
        too: all are checked, and the read is repeated once.
        """
        cancellation = _Cancellation()
        for last in (False, True):
            broken = False
            try:
                async with self.reads.connection() as connection:
                    cancellation.check()
                    try:
                        return await act(connection)
                    finally:
                        broken = connection.broken
            except UNREACHABLE as error:
                cancellation.check()
                if last or not broken:
                    raise DatabaseUnavailable from error
            await self.reads.check()
        raise AssertionError("unreachable")

    async def execute(self, act: Callable[[Connection], Awaitable[T]]) -> T:
        """Runs one statement that writes, and commits it by itself. Never repeated: when this raises
        `DatabaseUnavailable`, it is not known whether the statement was carried out."""
        cancellation = _Cancellation()
        try:
            async with self.writes.connection() as connection:
                cancellation.check()
                return await act(connection)
        except UNREACHABLE as error:
            cancellation.check()
            raise DatabaseUnavailable from error

    async def listen(
        self, channels: Sequence[str], heard: Callable[[str, str], None], begun: Callable[[], None]
    ) -> NoReturn:
        """Calls `heard` with the channel and the payload of each notification, until it is cancelled.

        A notification is a hint: those sent while the connection is down are lost. `begun` is called each time
        listening begins, to catch up on what was missed. A lost connection is opened again after a quarter of a second,
        doubling up to two.
        """
        pause, told = _LISTEN_PAUSES[0], False
        cancellation = _Cancellation()
        while True:
            try:
                connection: Connection
                async with await psycopg.AsyncConnection.connect(
                    self.url, autocommit=True, connect_timeout=5, **_KEEP_ALIVE
                ) as connection:
                    for channel in channels:
                        await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    pause, told = _LISTEN_PAUSES[0], False
                    begun()
                    async for notice in connection.notifies():
                        heard(notice.channel, notice.payload)
            except (psycopg.Error, OSError) as error:
                cancellation.check()
                if not told:
                    log.warning("database.listen_lost", channels=list(channels), reason=type(error).__name__)
                told = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LISTEN_PAUSES[1])

    async def ready(self) -> bool:
        """Whether Postgres answers within two seconds, and its tables are of this version and may be read."""

        async def ask(connection: Connection) -> bool:
            row = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
            return row is not None and row[0] >= head_revision()

        try:
            async with asyncio.timeout(2):
                return await self.query(ask)
        except (
            DatabaseUnavailable,
            TimeoutError,
            psycopg.errors.UndefinedTable,
            psycopg.errors.InsufficientPrivilege,
        ):
            return False


def sqlalchemy_url(url: str) -> str:
    """`postgresql://…` as SQLAlchemy takes it, with the driver named."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.split("+")[0] not in ("postgresql", "postgres"):
        raise ValueError("BUTAI_DATABASE_URL must begin with postgresql://")
    return f"postgresql+psycopg://{rest}"


@lru_cache
def head_revision() -> str:
    """The newest migration's number, from the file names (`0001_what.py`), without loading the files."""
    return max(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*_*.py"))


def migrate(url: str, revision: str = "head", *, service_url: str = "") -> None:
    """Brings the database to `revision`. Several processes may call it at once: an advisory lock makes them take
    turns.

    `service_url`: the service's address, where `url` is that of another role, the owner. Its role gets the privileges of
    `butai.migrations.privileges`, in the transaction of the last migration. Raises `RolesNotApart`.
    """
    from alembic import command
    from alembic.config import Config

    if service_url:
        with psycopg.connect(url, connect_timeout=5) as connection:
            privileges.check_owner(connection)
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["url"] = url
    config.attributes["service"] = privileges.role_of(service_url) if service_url else ""
    command.upgrade(config, revision)
    log.info("database.migrated", revision=head_revision() if revision == "head" else revision)
