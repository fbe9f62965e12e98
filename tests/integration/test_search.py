"""The library's own list: whatever is asked for comes, by whichever way it is found, in order, each item once."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import psycopg
import pytest

from butai.assets.search import filters, pages, rarity
from butai.database import Database
from butai.identity.api_keys import create_api_key
from tests import files
from tests.conftest import Api
from tests.databases import Databases
from tests.searches import (
    INSERT,
    SORTS,
    Query,
    make_rows,
    matches,
    random_query,
    walk_pages,
)


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
