"""Plans of searches in a large table: what is read, and by which index."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from psycopg import sql
from pydantic import SecretStr

from butai.assets.listing import parse_sort
from butai.assets.search import filters, pages, rarity
from butai.assets.search.pages import Search
from butai.config import DatabaseSettings
from butai.database import Database
from tests.databases import Databases
from tests.query_plans import filled_database, nodes, plan_nodes

MANY_ROWS = """
INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, owner_user_id,
                    visibility, ever_public, object_key, change_seq, created_at, updated_at, terms, tags, triangles,
                    duration_seconds)
SELECT gen_random_uuid(), 'vrm', 'vrm/' || n, 'vrm/' || n, 'vrm/' || n, 'Name ' || md5(n::text), 'x/y', n % 4999, 'ready',
       'user ' || n % 10, CASE WHEN n % 5 = 0 THEN 'private' ELSE 'public' END, true, 'object/' || n, n,
       timestamptz '2026-01-01' + n * interval '1 second', now(),
       ARRAY['format=vrm' || n % 2, 'expression=' || CASE n % 2 WHEN 0 THEN 'even' ELSE 'odd' END, 'expression=rare' || n % 3000],
       ARRAY['tag ' || n % 3, 'series ' || n % 2500], n,
       CASE n % 10 WHEN 0 THEN NULL WHEN 1 THEN n / 2000.0 ELSE 1 + n % 36 END
FROM generate_series(1, 20000) AS n
"""


@pytest.fixture(scope="module")
def many_url(databases: Databases) -> Iterator[str]:
    """One database for all tests that ask for plans: they only read."""
    with filled_database(databases, MANY_ROWS) as url:
        yield url


@pytest.fixture
async def many(many_url: str) -> AsyncIterator[Database]:
    async with Database(DatabaseSettings(url=SecretStr(many_url))) as opened:
        yield opened


async def scans(database: Database, statement: str, parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The nodes of a plan that read the table, or an index, for candidates."""
    found = await plan_nodes(database, statement, parameters, "ANALYZE, TIMING OFF")
    return [node for node in found if "Scan" in node["Node Type"] and "CTE" not in node["Node Type"]]


def asking(query: str, field: str = "-created_at", user: str = "user 0") -> Search:
    pairs = [tuple(pair.split("=", 1)) for pair in query.split("&")]
    return Search(filters.parse(pairs), user, parse_sort(field), 50)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("field", ["created_at", "-updated_at", "display_name", "-size_bytes"])
async def test_a_walk_reads_no_more_than_it_may(many: Database, field: str) -> None:
    made = pages.walk_statement(asking("type=vrm&format=vrm1", field), 300)
    assert made is not None
    found = await scans(many, *made)
    indexes = {scan["Index Name"] for scan in found if "Index Name" in scan}
    column = {"display_name": "sort_name"}.get(field.removeprefix("-"), field.removeprefix("-"))
    assert indexes == {f"ix_assets_public_{column}", f"ix_assets_private_{column}"}
    assert not [scan for scan in found if scan["Node Type"] == "Seq Scan"]
    assert sum(scan["Actual Rows"] for scan in found if "Index Name" in scan) <= 302
    # What is on the page is found where the walk saw it.
    assert [scan["Actual Loops"] for scan in found if scan["Node Type"] == "Tid Scan"] == [51]


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("type=vrm&has_expression=rare77", "ix_assets_search"),
        ("tag=series 77", "ix_assets_search"),
        ("tag=series 77&tag=tag 1&format=vrm1", "ix_assets_search"),
        ("q=c4ca4238a0", "ix_assets_search"),
        ("q=c4&tag=series 77", "ix_assets_search"),
        ("tag=nothing", "ix_assets_search"),
        ("format=vrm0&has_expression=odd&tag=series 4", "ix_assets_search"),
        ("type=vrm&min_triangles=500&max_triangles=510", "ix_assets_triangles"),
    ],
)
async def test_what_is_rare_is_found_by_its_index(many: Database, query: str, index: str) -> None:
    search = asking(query, user="nobody")
    found = await scans(many, pages.gather_statement(search, 20_000), None)
    assert index in {scan.get("Index Name") for scan in found}
    assert not [scan for scan in found if scan["Node Type"] == "Seq Scan"]
    assert sum(scan["Actual Rows"] for scan in found if scan["Node Type"] == "Bitmap Heap Scan") <= 50


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("type=vrm&has_expression=rare77", "ix_assets_search"),
        ("tag=series 77", "ix_assets_search"),
        ("tag=series 77&tag=tag 1&format=vrm1", "ix_assets_search"),
        ("q=Name&tag=series 77", "ix_assets_search"),
        ("q=c4&tag=series 77", "ix_assets_search"),
        ("tag=nothing", "ix_assets_search"),
        ("format=vrm0,vrm1&has_expression=odd&tag=series 4", "ix_assets_search"),
        ("type=vrm&min_triangles=500&tag=series 4", "ix_assets_search"),
        ("type=vrm&min_triangles=500&max_triangles=510", "ix_assets_triangles"),
        ("min_triangles=19990", "ix_assets_triangles"),
        ("max_triangles=10&min_duration=0", "ix_assets_triangles"),
        ("min_triangles=500&max_triangles=510&tag=tag 1&has_expression=odd&q=Name", "ix_assets_triangles"),
        ("type=vrm,scene&min_duration=9.2&max_duration=9.3&min_triangles=5", "ix_assets_duration"),
        ("min_size=100&max_size=104&tag=tag 1", "ix_assets_public_size_bytes"),
    ],
)
async def test_what_is_known_to_be_rare_is_found_with_one_plan_for_all_values(
    many: Database, query: str, index: str
) -> None:
    search = asking(query, user="nobody")
    async with many.reads.connection() as connection:
        known = await rarity.rarest(many, connection, search.filters)
        assert known is not None
        assert known.rows <= 100
        statement, values = pages.rare_statement(search, known.column, 20_000)
        names = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", statement)))
        for number, name in enumerate(names, 1):
            statement = statement.replace(f"%({name})s", f"${number}")
        # Whatever the values are: planned without them.
        await connection.execute("SET plan_cache_mode = force_generic_plan")
        await connection.execute(f"PREPARE rare AS {statement}".encode())
        given = ", ".join(sql.Literal(values[name]).as_string(None) for name in names)
        row = await (
            await connection.execute(f"EXPLAIN (ANALYZE, FORMAT JSON) EXECUTE rare({given})".encode())
        ).fetchone()
    assert row is not None
    found = nodes(row[0][0]["Plan"])
    used = {node["Index Name"] for node in found if "Index Name" in node}
    assert index in used
    # A caller's own rows are few, and found by whose they are as well.
    assert not used & {"ix_assets_search", "ix_assets_triangles", "ix_assets_duration"} - {index}
    assert not [node for node in found if node["Node Type"] == "Seq Scan"]
    read = ("Bitmap Heap Scan", "Index Scan")
    assert (
        sum(node["Actual Rows"] + node.get("Rows Removed by Filter", 0) for node in found if node["Node Type"] in read)
        <= 50
    )


@pytest.mark.parametrize(
    ("query", "rows"),
    [
        ("min_triangles=1", 20_000),
        ("min_triangles=5001&max_triangles=10000", 5000),
        ("min_triangles=5001&max_triangles=5020", 20),
        ("max_triangles=0", 0),
        ("min_triangles=20001", 0),
        ("min_triangles=10&max_triangles=9", 0),
        ("min_duration=3&max_duration=3", 500),
        ("min_duration=3&max_duration=4", 1000),
        ("min_size=0", 20_000),
        ("min_size=4000", 4000),
    ],
)
async def test_how_rare_a_range_is_taken_for(many: Database, query: str, rows: int) -> None:
    async with many.reads.connection() as connection:
        known = await rarity.rarest(many, connection, asking(query).filters)
    assert known is not None
    assert known.rows == pytest.approx(rows, rel=0.3, abs=20)


async def test_the_planner_is_not_asked_about_what_is_known_to_be_rare(
    many: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def estimate(*_: Any) -> int:
        asked.append("estimate")
        return 10**6

    monkeypatch.setattr(pages, "estimate", estimate)
    assert (await pages.page(many, asking("tag=series 77"))).count == 8
    assert (await pages.page(many, asking("min_triangles=100&max_triangles=110"))).count == 10
    assert asked == []
    assert (await pages.page(many, asking("tag=tag 1"))).has_more
    assert asked == ["estimate"]


async def test_nothing_is_known_of_a_table_that_was_never_analysed(database: Database) -> None:
    async with database.reads.connection() as connection:
        assert await rarity.rarest(database, connection, filters.parse([("tag", "x"), ("min_size", "1")])) is None
    assert (await pages.page(database, asking("tag=x"))).count == 0


async def test_a_common_name_of_two_letters_is_not_taken_for_rare(many: Database) -> None:
    async with many.reads.connection() as connection:
        assert await pages.estimate(connection, filters.parse([("q", "Na")]), None) > 10_000
        assert await pages.estimate(connection, filters.parse([("q", "zz")]), None) < 1000


async def test_two_common_words_that_never_meet_are_not_looked_for_in_vain(
    many: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, int]] = []
    one = pages._one

    async def seen(connection: Any, statement: str, parameters: dict[str, Any] | None) -> tuple[Any, ...]:
        row = await one(connection, statement, parameters)
        ran.append(("gather" if parameters is None else "walk", row[1]))
        return row

    monkeypatch.setattr(pages, "_one", seen)
    monkeypatch.setattr(pages, "FEW", 100)
    monkeypatch.setattr(pages, "WAYS", (("walk", 500), *pages.WAYS[1:]))
    found = await pages.page(many, asking("type=vrm&format=vrm0&has_expression=odd"))
    assert (found.count, found.has_more) == (0, False)
    # The planner took them for common; the walk ended after 500 rows of 17,600, and GIN settled it.
    assert ran == [("walk", 0), ("gather", 0)]
