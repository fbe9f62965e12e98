"""The library's own list: whatever is asked for comes, by whichever way it is found, in order, each item once."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlencode
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Jsonb
from pydantic import SecretStr

from butai.assets import purge
from butai.assets.listing import parse_sort
from butai.assets.search import filters, pages, rarity
from butai.assets.search.pages import Search
from butai.config import DatabaseSettings
from butai.database import Database
from butai.identity.api_keys import create_api_key
from tests import files
from tests.conftest import Api
from tests.databases import Databases
from tests.integration.test_query_plans import nodes

TYPES = ("vrm", "animation", "bgm", "hdr", "scene")
MOODS = ("Neon", "Gentle", "夜の", "it's {x} %(y)s")
EXPRESSIONS = ("happy", "blinkleft", "tongue", "it's {0} 100%")
COMMERCIAL = ("forbidden", "personal_non_profit", "personal_profit", "corporation")
OWNERS = ("alice", "bob", None)

INSERT = """
INSERT INTO assets (id, type, sidecar, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status,
                    owner_user_id, visibility, ever_public, object_key, change_seq, created_at, updated_at, tags, terms,
                    triangles, duration_seconds, facts, deleted_at, meta)
VALUES (%(id)s, %(type)s, %(sidecar)s, %(key)s, %(key)s, %(key)s, %(name)s, 'x/y', %(size)s, %(status)s, %(owner)s,
        %(visibility)s, true, %(key)s, %(number)s, %(created)s, %(created)s, %(tags)s, %(terms)s, %(triangles)s,
        %(duration)s, %(facts)s, %(deleted)s, %(meta)s)
"""


def make_rows(count: int, seed: int = 1) -> list[dict[str, Any]]:
    """Assets as inspection leaves them; every value is frequent in some and rare in others."""
    rng = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        kind = rng.choices(TYPES, (8, 2, 2, 1, 2))[0]
        vrm = kind == "vrm"
        licence = {
            "commercial": rng.choice(COMMERCIAL),
            "redistribution": rng.choices(("forbidden", "allowed"), (4, 1))[0],
            "modification": rng.choice(("forbidden", "allowed", "allowed_redistribution")),
            "credit": rng.choice(("required", "unnecessary")),
        }
        found = [name for name in EXPRESSIONS if rng.random() < 0.5] if vrm else []
        form = (
            rng.choice(("vrm0", "vrm1")) if vrm else {"animation": "fbx", "bgm": "mp3", "hdr": "hdr"}.get(kind, "glb")
        )
        terms = [f"format={form}", *(f"expression={name}" for name in found)]
        if vrm:
            terms += [f"licence.{part}={word}" for part, word in licence.items()]
        rows.append(
            {
                "id": uuid4(),
                "number": number,
                "type": kind,
                "sidecar": "thumb" if rng.random() < 0.03 else None,
                "key": f"{kind}/{number}",
                "name": f"{rng.choice(MOODS)} {rng.choice(('Aoi', 'あおい', '雪女', 'fox_1'))} {number % 37}",
                "size": rng.randrange(1, 40),
                "status": rng.choices(("ready", "failed", "missing", "uploading"), (30, 1, 1, 1))[0],
                "owner": rng.choice(OWNERS),
                "visibility": rng.choices(("public", "private"), (2, 1))[0],
                "created": datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=rng.randrange(count // 2)),
                "tags": sorted({rng.choice(MOODS), f"series {number % 50}"}) if rng.random() < 0.8 else [],
                "terms": terms,
                "triangles": rng.randrange(1000) if kind in ("vrm", "scene") else None,
                "duration": round(rng.random() * 100, 2) if kind in ("animation", "bgm") else None,
                "facts": Jsonb({"licence": licence, "model": {"bones": ["hips"], "meshes": 1}} if vrm else {}),
                "licence": licence if vrm else {},
                "deleted": datetime(2026, 2, 1, tzinfo=UTC) if rng.random() < 0.05 else None,
                # A studio's own words may be ours.
                "meta": Jsonb({"status": "evil", "facts": 1, "gender": "female"} if number % 7 == 0 else {}),
            }
        )
    return rows


@dataclass
class Filled:
    """A database of assets that copies are made of, and its rows."""

    url: str
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def filled(databases: Databases) -> Iterator[Filled]:
    made = make_rows(900)
    with databases.fresh() as url:
        with psycopg.connect(databases.owners(url), autocommit=True) as connection:
            with connection.cursor() as cursor:
                cursor.executemany(INSERT, made)
            connection.execute("ANALYZE assets")
        yield Filled(url, made)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """As in all modules, but with rows for a test that has `rows`."""
    filled = request.getfixturevalue("filled") if "rows" in request.fixturenames else None
    with databases.fresh(template=filled.url if filled else "") as url:
        yield url


@pytest.fixture
def rows(filled: Filled) -> list[dict[str, Any]]:
    """What is in the test's database."""
    return filled.rows


Query = list[tuple[str, str]]

SORTS = {
    "created_at": lambda row: (row["created"], row["id"].bytes),
    "display_name": lambda row: (row["name"].lower().encode(), row["id"].bytes),
    "size_bytes": lambda row: (row["size"], row["id"].bytes),
}


def matches(row: dict[str, Any], query: Query, user: str | None, *, operator: bool = False) -> bool:
    """What a search should say of a row: the rules once more, as plain as can be."""
    asked = dict(query)
    own = user is not None and row["owner"] == user
    trashed = asked.get("trashed") == "true"
    status = asked.get("status") or (None if trashed else "ready")
    everything = operator and asked.get("all") == "true"
    if row["sidecar"] or trashed != (row["deleted"] is not None) or (status and row["status"] != status):
        return False
    ordinary = status == "ready" and not trashed
    if not (everything or own or (ordinary and row["visibility"] == "public")):
        return False
    if (asked.get("owner") == "me" and not own) or asked.get("visibility", row["visibility"]) != row["visibility"]:
        return False
    for name, value in query:
        several = value.split(",")
        if name == "type" and row["type"] not in several:
            return False
        if name == "q" and value.lower() not in row["name"].lower():
            return False
        if name == "tag" and value not in row["tags"]:
            return False
        if name == "has_expression" and f"expression={value.lower()}" not in row["terms"]:
            return False
        if (name == "format" or name.startswith("licence.")) and not {f"{name}={one}" for one in several} & set(
            row["terms"]
        ):
            return False
        end, _, field = name.partition("_")
        if end in ("min", "max"):
            have = row[field]
            if have is None or (have < float(value) if end == "min" else have > float(value)):
                return False
    return True


def random_query(rng: random.Random) -> Query:
    parts: list[Query] = [
        [("type", ",".join(rng.sample(TYPES, rng.choice((1, 1, 2, 5)))))],
        [("q", rng.choice(("Aoi", "あおい", "雪女", "%", "fox_1", "夜の あ", "nobody")))],
        [("tag", rng.choice((*MOODS, f"series {rng.randrange(50)}", "none")))],
        [("tag", "Neon"), ("tag", f"series {rng.randrange(50)}")],
        [("has_expression", rng.choice((*EXPRESSIONS, "blinkLeft", "no")))],
        [("has_expression", "happy"), ("has_expression", "tongue")],
        [("format", rng.choice(("vrm1", "vrm0,vrm1", "mp3", "nothing", "glb,fbx")))],
        [("licence.commercial", ",".join(rng.sample(COMMERCIAL, rng.choice((1, 2)))))],
        [("licence.credit", "required"), ("licence.redistribution", rng.choice(("allowed", "forbidden")))],
        [("min_duration", str(rng.randrange(100)))],
        [("min_triangles", str(low := rng.randrange(1000))), ("max_triangles", str(low + rng.choice((0, 30, 500))))],
        [(rng.choice(("min_size", "max_size")), str(rng.randrange(40)))],
        [("visibility", rng.choice(("public", "private")))],
        [("owner", "me")],
        [("status", rng.choice(("failed", "missing", "ready")))],
        [("trashed", "true")],
    ]
    chosen = rng.sample(parts, rng.choice((0, 1, 1, 2, 2, 3)))
    found: Query = []
    for name, value in (pair for part in chosen for pair in part):
        if name in ("tag", "has_expression") or name not in dict(found):
            found.append((name, value))
    return found


async def walk_pages(api: Api, query: Query, user: str | None, headers: dict[str, str] | None = None) -> list[Any]:
    items: list[Any] = []
    cursor: str | None = None
    while True:
        asked = [*query, *([("cursor", cursor)] if cursor else [])]
        status, body = await api.call("GET", f"/api/assets?{urlencode(asked, quote_via=quote)}", user, headers=headers)
        assert status == 200, (asked, body)
        items += body["items"]
        cursor = body["next"]
        if cursor is None:
            return items


WAYS = {
    "as it comes": (pages.FEW, pages.WAYS),
    "walks that end too early": (-1, (("walk", 3), ("gather", 5), ("walk", 40), ("gather", None))),
    "gathers that end too early": (10**9, (("walk", 3), ("gather", 2), ("walk", 25), ("gather", None))),
    "gathers only": (10**9, (("gather", None),) * 2),
    "known to be rare": (pages.FEW, pages.WAYS),
    "taken for rare": (pages.FEW, pages.WAYS),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("user", ["alice", "carol"])
async def test_a_search_finds_what_matches_by_every_way(
    api: Api, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, way: str, user: str
) -> None:
    few, ways = WAYS[way]
    monkeypatch.setattr(pages, "FEW", few)
    monkeypatch.setattr(pages, "WAYS", ways)
    gathered = 0
    rare_statement = pages.rare_statement

    def counted(*arguments: Any) -> Any:
        nonlocal gathered
        gathered += 1
        return rare_statement(*arguments)

    async def rarest(_database: Any, _connection: Any, wanted: filters.Filters) -> rarity.Rarest | None:
        asked = [name for name, values in (("terms", wanted.words), ("tags", wanted.tags)) if values]
        asked += [column for column, _, _ in wanted.ranges]
        return rarity.Rarest(rng.choice(asked), 1) if asked else None

    if way in ("known to be rare", "taken for rare"):
        monkeypatch.setattr(rarity, "rarest", rarest)
        monkeypatch.setattr(pages, "rare_statement", counted)
        monkeypatch.setattr(pages, "RARE", 3 if way == "taken for rare" else pages.RARE)
    rng = random.Random(f"{way} {user}")
    found_some = 0
    for _ in range(40):
        query = random_query(rng)
        field = rng.choice(list(SORTS))
        down = rng.random() < 0.5
        paging = [("sort", ("-" if down else "") + field), ("limit", rng.choice(("7", "50", "200")))]
        items = await walk_pages(api, query + paging, user)
        expected = sorted((row for row in rows if matches(row, query, user)), key=SORTS[field], reverse=down)
        assert [item["id"] for item in items] == [str(row["id"]) for row in expected], query + paging
        found_some += bool(items)
        for item, row in zip(items, expected, strict=True):
            assert item["status"] == row["status"]
            assert item["triangles"] == row["triangles"]
            assert item["ownedByMe"] is (row["owner"] == user)
            assert item["facts"].get("licence", {}) == row["licence"]
            warned = (row["type"], row["visibility"], row["licence"].get("redistribution")) == (
                "vrm",
                "public",
                "forbidden",
            )
            assert item["warnings"] == (["licence_forbids_redistribution"] if warned else [])
            assert "bones" not in item["facts"].get("model", {})
    assert found_some > 10
    assert (gathered > 10) is (way in ("known to be rare", "taken for rare"))


async def test_nobody_in_particular_sees_what_is_public(api: Api, rows: list[dict[str, Any]]) -> None:
    for query in ([], [("type", "vrm"), ("tag", "Neon")], [("format", "mp3")]):
        items = await walk_pages(api, [*query, ("limit", "200")], None)
        assert {item["id"] for item in items} == {str(row["id"]) for row in rows if matches(row, query, None)}
        assert not any(item["ownedByMe"] for item in items)
    for query in ("owner=me", "visibility=private", "status=failed", "trashed=true", "all=true"):
        for path in ("/api/assets", "/api/assets/facets"):
            status, problem = await api.call("GET", f"{path}?{query}")
            assert (status, problem["code"]) == (401, "auth_required")


async def test_operators_see_everything_when_they_ask_for_it(
    api: Api, database: Database, rows: list[dict[str, Any]]
) -> None:
    _, token = await create_api_key(database, "root", ["user", "operator"], "test")
    headers = {"X-API-Key": token}
    queries: list[Query] = [
        [],
        [("all", "true")],
        [("all", "true"), ("type", "vrm,bgm")],
        [("all", "true"), ("sort", "size_bytes")],
        [("all", "true"), ("visibility", "private"), ("tag", "Neon")],
        [("all", "true"), ("status", "failed")],
        [("all", "true"), ("trashed", "true")],
        [("status", "failed")],
    ]
    for query in queries:
        items = await walk_pages(api, [*query, ("limit", "100")], None, headers)
        expected = {str(row["id"]) for row in rows if matches(row, query, "root", operator=True)}
        assert {item["id"] for item in items} == expected, query
        assert len(items) == len(expected)
    for path in ("/api/assets", "/api/assets/facets"):
        status, problem = await api.call("GET", f"{path}?all=true", "alice")
        assert (status, problem["code"]) == (403, "forbidden")


async def test_what_a_studio_writes_beside_a_file_does_not_speak_for_the_library(
    api: Api, rows: list[dict[str, Any]]
) -> None:
    status, body = await api.call("GET", "/api/assets?limit=200", "alice")
    assert status == 200
    # A name that stands twice in an object reads as one to most and as the other to some.
    async with api.client.get(f"{api.url}/api/assets?limit=200", headers=api.cookie("alice")) as answer:
        raw = await answer.text()
    twice: set[str] = set()

    def look(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        twice.update(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        return dict(pairs)

    json.loads(raw, object_pairs_hook=look)
    assert not twice
    with_meta = [item for item in body["items"] if item.get("gender") == "female"]
    assert with_meta
    assert {item["status"] for item in with_meta} == {"ready"}
    assert all(isinstance(item["facts"], dict) for item in with_meta)


async def test_totals_are_counted_when_asked_for(
    api: Api, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    query: Query = [("type", "vrm"), ("licence.credit", "required")]
    count = sum(matches(row, query, "alice") for row in rows)
    path = f"/api/assets?{urlencode(query)}&limit=5"
    _, body = await api.call("GET", path, "alice")
    assert (body["total"], body["total_is_exact"]) == (None, False)
    for mode in ("exact", "estimate"):
        _, body = await api.call("GET", f"{path}&total={mode}", "alice")
        assert (body["total"], body["total_is_exact"]) == (count, True)
        _, body = await api.call("GET", f"{path}&total={mode}&cursor={body['next']}", "alice")
        assert (body["total"], body["total_is_exact"]) == (count, True)
    monkeypatch.setattr(pages, "EXACT_TOTAL", 10)
    _, body = await api.call("GET", f"{path}&total=estimate", "alice")
    assert body["total_is_exact"] is False
    assert count / 3 < body["total"] < count * 3
    _, body = await api.call("GET", f"{path}&total=exact", "alice")
    assert (body["total"], body["total_is_exact"]) == (count, True)
    _, body = await api.call("GET", "/api/assets?tag=none&total=estimate", "alice")
    assert (body["items"], body["total"], body["total_is_exact"], body["next"]) == ([], 0, True, None)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("typ=vrm", "filter_invalid"), ("type=models", "filter_invalid"), ("limit=0", "filter_invalid"),
        ("limit=201", "filter_invalid"), ("limit=", "filter_invalid"), ("total=maybe", "filter_invalid"),
        ("sort=owner", "sort_invalid"), ("cursor=nonsense", "cursor_invalid"), ("q=%00", "filter_invalid"),
        ("licence.commercial=yes", "filter_invalid"), ("min_size=-1", "filter_invalid"), ("page=2", "filter_invalid"),
        ("type=vrm&type=bgm", "filter_invalid"),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_400_and_named(api: Api, query: str, code: str) -> None:
    status, problem = await api.call("GET", f"/api/assets?{query}", "alice")
    assert (status, problem["code"]) == (400, code)
    if code == "filter_invalid":
        assert query.partition("=")[0] in problem["detail"]
    if "sort" not in query and "cursor" not in query and "total" not in query:
        status, problem = await api.call("GET", f"/api/assets/facets?{query}", "alice")
        assert (status, problem["code"]) == (400, "filter_invalid")


async def test_facets_count_what_a_search_would_find(api: Api, rows: list[dict[str, Any]]) -> None:
    for query in ([], [("type", "vrm"), ("has_expression", "happy")], [("owner", "me")], [("tag", "none")]):
        status, body = await api.call("GET", f"/api/assets/facets?{urlencode(query)}", "alice")
        assert status == 200, body
        found = [row for row in rows if matches(row, query, "alice")]
        assert (body["counted"], body["is_exact"]) == (len(found), True)
        words = Counter(word for row in found for word in row["terms"])
        tags = Counter(tag for row in found for tag in row["tags"])
        for name, counts, expected in (
            ("types", body["types"], Counter(row["type"] for row in found)),
            ("formats", body["formats"], _part(words, "format=")),
            ("expressions", body["expressions"], _part(words, "expression=")),
            *((part, body["licence"][part], _part(words, f"licence.{part}=")) for part in body["licence"]),
        ):
            assert {one["value"]: one["count"] for one in counts} == expected, name
            assert [one["count"] for one in counts] == sorted(expected.values(), reverse=True)
        assert len(body["tags"]) == min(50, len(tags))
        assert all(tags[one["value"]] == one["count"] for one in body["tags"])
        assert [one["count"] for one in body["tags"]] == [count for _, count in tags.most_common(50)]


def _part(words: Counter[str], prefix: str) -> dict[str, int]:
    return {word.removeprefix(prefix): count for word, count in words.items() if word.startswith(prefix)}


async def test_one_asset_and_the_feed_are_where_they_were(api: Api) -> None:
    _, answer = await api.upload("alice", "vrm/a.vrm", files.vrm())
    assert (await api.call("GET", f"/api/assets/{answer['data']['id']}", "alice"))[1]["id"] == answer["data"]["id"]
    assert (await api.call("GET", "/api/assets/changes", "alice"))[1]["has_more"] is False
    assert (await api.call("GET", "/api/assets/facets", "alice"))[1]["counted"] == 1
    assert (await api.call("GET", "/api/assets/", "alice"))[0] == 404


# Plans

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
    with databases.fresh() as url:
        with psycopg.connect(databases.owners(url), autocommit=True) as connection:
            connection.execute(MANY_ROWS)
            connection.execute("VACUUM ANALYZE assets")
        yield url


@pytest.fixture
async def many(many_url: str) -> AsyncIterator[Database]:
    async with Database(DatabaseSettings(url=SecretStr(many_url))) as opened:
        yield opened


async def scans(database: Database, statement: str, parameters: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The nodes of a plan that read the table, or an index, for candidates."""
    async with database.reads.connection() as connection:
        explain = "EXPLAIN (ANALYZE, TIMING OFF, FORMAT JSON) " + statement
        row = await (await connection.execute(explain.encode(), parameters)).fetchone()
    assert row is not None
    return [node for node in nodes(row[0][0]["Plan"]) if "Scan" in node["Node Type"] and "CTE" not in node["Node Type"]]


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


# The feed


async def test_who_follows_the_feed_sees_what_the_list_shows(api: Api, database: Database) -> None:
    rng = random.Random(5)
    ids: dict[str, list[str]] = {"alice": [], "bob": []}
    views: dict[str, dict[str, dict[str, Any]]] = {"alice": {}, "bob": {}, "carol": {}}
    places = dict.fromkeys(views, 0)
    purged = 0
    acts = Counter[str]()

    async def follow(user: str) -> None:
        while True:
            path = f"/api/assets/changes?after={places[user]}&limit={rng.choice((1, 3, 500))}"
            status, feed = await api.call("GET", path, user)
            assert status == 200
            for item in feed["assets"]:
                views[user][item["id"]] = item
            for gone in feed["gone"]:
                views[user].pop(gone, None)
            places[user] = feed["next"]
            if not feed["has_more"]:
                return

    async def act(user: str) -> None:
        nonlocal purged
        what = rng.choice(("upload", "publish", "hide", "trash", "restore", "rename", "publish and hide", "purge"))
        acts[what] += 1
        if what == "upload" or not ids[user]:
            status, answer = await api.upload(user, f"vrm/{len(ids[user])}.vrm", files.vrm(len(ids[user])))
            assert status == 200
            ids[user].append(answer["data"]["id"])
            return
        asset = rng.choice(ids[user])
        path = f"/api/assets/{asset}"
        if what in ("publish", "publish and hide"):
            await api.call("PATCH", path, user, json={"visibility": "public"})
        if what in ("hide", "publish and hide"):
            await api.call("PATCH", path, user, json={"visibility": "private"})
        if what == "rename":
            await api.call("PATCH", path, user, json={"display_name": f"n{rng.randrange(99)}", "tags": ["x"]})
        if what == "trash":
            await api.call("DELETE", path, user)
        if what == "restore":
            await api.call("POST", f"{path}/restore", user)
        if what == "purge":
            async with database.transaction() as session:
                purged += await purge.purge(session, UUID(asset), datetime.now(UTC) + timedelta(days=1))

    for _ in range(250):
        await act(rng.choice(("alice", "bob")))
        if rng.random() < 0.3:
            await follow(rng.choice(list(views)))
    assert purged > 2, "nothing was purged, so nothing was tried"
    assert min(acts.values()) > 10
    for user, view in views.items():
        await follow(user)
        listed = {item["id"]: item for item in await walk_pages(api, [("limit", "20")], user)}
        followed = {key: item for key, item in view.items() if item["status"] == "ready"}
        assert followed.keys() == listed.keys()
        for key, item in followed.items():
            assert item == {name: listed[key][name] for name in item}
    assert views["carol"], "carol saw nothing, so nothing was hidden from her"
