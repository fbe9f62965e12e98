"""Three ways into Postgres and what each does when the connection is lost, against a real one."""

from __future__ import annotations

import asyncio

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.config import DatabaseSettings
from butai.database import Connection, Database
from butai.errors import Conflict, DatabaseUnavailable

WRITE = "INSERT INTO job_failures (job_id, code, text) VALUES (1, 'x', 'y')"


async def backend(connection: Connection) -> int:
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    assert row is not None
    return row[0]


async def end(database: Database, pid: int) -> None:
    """Ends a connection, as a restart of Postgres does."""
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as other:
        await other.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


async def count(database: Database) -> int:
    async def ask(connection: Connection) -> int:
        row = await (await connection.execute("SELECT count(*) FROM job_failures")).fetchone()
        assert row is not None
        return row[0]

    return await database.query(ask)


async def test_a_write_within_a_query_is_refused(database: Database) -> None:
    async def write(connection: Connection) -> None:
        await connection.execute(WRITE)

    async def write_in_a_transaction(connection: Connection) -> None:
        async with connection.transaction():
            await connection.execute(WRITE)

    for act in (write, write_in_a_transaction):
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            await database.query(act)
    assert await count(database) == 0
    await database.execute(write)
    assert await count(database) == 1


async def test_a_query_whose_connection_is_lost_is_done_once_more(database: Database) -> None:
    pids: list[int] = []

    async def read(connection: Connection) -> int:
        pids.append(await backend(connection))
        if len(pids) == 1:
            await end(database, pids[0])
        return await backend(connection)

    assert await database.query(read) == pids[1]
    assert len(pids) == 2 and pids[0] != pids[1], "the fault did not happen"


async def test_a_query_that_loses_two_connections_fails(database: Database) -> None:
    tries = 0

    async def read(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        await end(database, await backend(connection))
        await backend(connection)

    with pytest.raises(DatabaseUnavailable):
        await database.query(read)
    assert tries == 2


async def test_an_execute_whose_connection_is_lost_is_never_repeated(database: Database) -> None:
    tries = 0

    async def write(connection: Connection) -> None:
        nonlocal tries
        tries += 1
        await connection.execute(WRITE)
        await end(database, await backend(connection))
        await backend(connection)

    with pytest.raises(DatabaseUnavailable):
        await database.execute(write)
    assert tries == 1
    assert await count(database) == 1, "what was committed before the loss stays"


async def test_an_execute_never_meets_a_connection_that_was_closed_before(database: Database) -> None:
    before = await database.execute(backend)
    await end(database, before)
    assert await database.execute(backend) != before


async def test_a_transaction_is_begun_anew_until_it_succeeds_or_the_tries_are_used_up(database: Database) -> None:
    tries = 0

    async def act(session: AsyncSession) -> str:
        nonlocal tries
        tries += 1
        await session.execute(text(WRITE))
        if tries == 1:
            raise Conflict
        if tries == 2:
            row = (await session.execute(text("SELECT pg_backend_pid()"))).one()
            await end(database, row[0])
        return "done"

    assert await database.persist(act, first_pause=0.01, also=(Conflict,)) == "done"
    assert (tries, await count(database)) == (3, 1)

    async def fail(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        raise DatabaseUnavailable

    tries = 0
    with pytest.raises(DatabaseUnavailable):
        await database.persist(fail, tries=3, first_pause=0.01)
    assert tries == 3

    async def refuse(session: AsyncSession) -> None:
        nonlocal tries
        tries += 1
        raise Conflict

    tries = 0
    with pytest.raises(Conflict):
        await database.persist(refuse)
    assert tries == 1


async def test_listening_goes_on_after_a_lost_connection_and_says_that_it_began_anew(database: Database) -> None:
    heard: asyncio.Queue[tuple[str, str] | None] = asyncio.Queue()
    listening = asyncio.create_task(
        database.listen(["one", "Two"], lambda *notice: heard.put_nowait(notice), lambda: heard.put_nowait(None))
    )

    async def notify(connection: Connection) -> None:
        await connection.execute("SELECT pg_notify('one', 'a'), pg_notify('Two', 'b'), pg_notify('three', 'c')")

    async def listener(connection: Connection) -> int:
        found = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND starts_with(query, 'LISTEN')"
        row = await (await connection.execute(found)).fetchone()
        assert row is not None
        return row[0]

    try:
        async with asyncio.timeout(60):
            for _ in range(2):
                assert await heard.get() is None
                await database.execute(notify)
                assert [await heard.get(), await heard.get()] == [("one", "a"), ("Two", "b")]
                await end(database, await database.query(listener))
            assert await heard.get() is None
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


@pytest.mark.parametrize("way", ["query", "execute"])
async def test_who_waits_for_a_connection_is_cancelled_at_any_turn_of_the_loop(database: Database, way: str) -> None:
    """A pool that is just handing out a connection gives it to a caller that was cancelled, and tells it nothing."""
    async with Database(DatabaseSettings(url=SecretStr(database.url), pool_size=1)) as single:
        use = getattr(single, way)
        for turns in range(200):
            release, taken = asyncio.Event(), asyncio.Event()

            async def hold(_: Connection, taken: asyncio.Event = taken, release: asyncio.Event = release) -> None:
                taken.set()
                await release.wait()

            holding = asyncio.create_task(use(hold))
            await taken.wait()
            waiting = asyncio.create_task(use(lambda _: asyncio.Event().wait()))
            await asyncio.sleep(0)
            release.set()
            for _ in range(turns):
                await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting], timeout=10)
            assert waiting.cancelled(), f"the cancellation was lost after {turns} turns"
            await holding
