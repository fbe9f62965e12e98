"""Finds a page of a search, in a time bounded by the page's size and not the library's.

There are two ways to a page, and neither is fast for all filters:

- Walking: read rows in the list's order from the ordered indexes and keep those that match, until the page is full.
  Fast when matches are common. The statement is planned once for each kind of list, with bound parameters, and reads at
  most a fixed number of rows.
- Gathering: find all matching rows by the rarest of their conditions (words and tags by GIN, ranges, names by
  trigrams), then sort them. Fast when matches are rare. Its values are literals, so that the planner sees how rare they
  are; words, tags and ranges that the statistics show to be rare (`rarity`) are gathered by a statement that is planned
  once.

The planner's estimate decides which is tried first. It can be wrong by a factor of a thousand, because it takes words
to be independent: for two common words that never occur together it expects many matches, and would walk the whole
index for none. So each way has a limit, and the other is tried after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal
from weakref import WeakKeyDictionary

from cachetools import TTLCache
from psycopg import sql

from butai.assets.kinds import AssetType
from butai.assets.listing import EXACT_TOTAL, SORT_COLUMNS, Page, PagePosition, Sort
from butai.assets.models import LISTED
from butai.assets.queries import NAMED_ITEM, TAKEN_DOWN
from butai.assets.search import rarity
from butai.assets.search.filters import HIDDEN_NAME, WORDS, Filters
from butai.database import Connection, Database

FEW = 4000
"""Matching rows, by the planner's estimate, up to which gathering is tried first. A gathered row costs 1.3 µs, or 5
when it comes from the system's cache, a walked one 2 (measured): for a page of 50 out of a million rows of which this
many match, either way takes 10 to 20 ms, which is the worst case when the estimate is right."""

WAYS: tuple[tuple[Literal["walk", "gather"], int | None], ...] = (
    ("walk", 10_000),
    ("gather", 20_000),
    ("walk", 200_000),
    ("gather", None),
)
"""The ways in the order they are tried, each with its most rows: 20, 30, 400 ms. The last two are for matches that are
many and all far from the list's beginning."""

RARE = 2 * FEW
"""Most rows that are gathered by a condition that the statistics call rare. With more it is common in fact, and the
planner's estimate decides."""

KEPT_SECONDS, KEPT = 60.0, 1000
"""Seconds for which the planner's estimates are cached, and most cached searches: an EXPLAIN takes as long as a
page."""


@dataclass(frozen=True, slots=True)
class Search:
    """One page of a search. `user_id` None sees public assets only."""

    filters: Filters
    user_id: str | None
    sort: Sort
    limit: int
    place: PagePosition | None = None


# Names of a summary, which a studio's own `_meta.json` must not override.
_MORE = "{status,triangles,facts,warnings,ownedByMe,takenDown}"


def _item(user: str) -> str:
    """SQL of an item: `ownedByMe`, the summary, the item's stored text. The text comes last: cutting off its first
    character is cheaper than its last."""
    item = f"CASE WHEN a.meta ?| '{_MORE}' THEN (a.item::jsonb - '{_MORE}'::text[])::text ELSE a.item END"
    return f"""CASE WHEN a.owner_user_id = {user} THEN '{{"ownedByMe": true' ELSE '{{"ownedByMe": false' END || a.summary
        || {TAKEN_DOWN} || ', ' || right({NAMED_ITEM.format(a="a.", user=user, item=item)}, -1)"""


def _tail(direction: str, *, user: str, limit: str, budget: int) -> str:
    """SQL from ordered `hits` (at, id, k, matches, place) to one row: items, how many, whether the row limit was
    reached, and the sort value and id of the page's last item.

    Rows are fetched by their place in the table (`at`): the same version of the row, without another index.
    """
    return f"""
        SELECT convert_to(string_agg({_item(user)}, ',' ORDER BY h.n) FILTER (WHERE h.matches AND h.n <= {limit}), 'UTF8'),
               count(*) FILTER (WHERE h.matches),
               coalesce(bool_or(h.place = {budget}), false),
               max(h.k::text) FILTER (WHERE h.n = {limit}),
               max(h.id::text) FILTER (WHERE h.n = {limit})
        FROM (SELECT *, row_number() OVER (ORDER BY k {direction}, id {direction}) AS n FROM hits) AS h
             JOIN assets AS a ON a.ctid = h.at
    """


def _scopes(filters: Filters, user_id: str | None) -> list[str]:
    """Conditions of the parts of the table that the caller may see; `{user}` stands for the caller. Conditions of
    listed rows are those of the partial indexes, word for word."""
    if filters.everything or not filters.listed:
        parts = ["sidecar IS NULL", f"deleted_at IS {'NOT ' if filters.trashed else ''}NULL"]
        if filters.status is not None:
            parts.append(f"status = '{filters.status}'")
        if filters.visibility is not None:
            parts.append(f"visibility = '{filters.visibility}'")
        if filters.mine or not filters.everything:
            parts.append("owner_user_id = {user}")
        return [" AND ".join(parts)]
    owner = "owner_user_id = {user} AND "
    scopes: list[str] = []
    if filters.visibility != "private":
        scopes.append(f"{owner if filters.mine else ''}{LISTED} AND visibility = 'public'")
    if filters.visibility != "public" and user_id is not None:
        scopes.append(f"{owner}{LISTED} AND visibility = 'private'")
    return scopes


def _behind(sort: Sort, value: str, asset_id: str) -> str:
    column, kind = SORT_COLUMNS[sort.field]
    return f" AND ({column}, id) {'<' if sort.descending else '>'} ({value}::{kind}, {asset_id}::uuid)"


@lru_cache(maxsize=512)
def _walk_statement(
    types: tuple[AssetType, ...],
    scopes: tuple[str, ...],
    conditions: tuple[tuple[str, str], ...],
    sort: Sort,
    budget: int,
    *,
    placed: bool,
) -> str:
    """The statement that walks a kind of list, with parameters for values. It has one plan only, so it is planned
    once."""
    column, direction = SORT_COLUMNS[sort.field][0], "DESC" if sort.descending else "ASC"
    order = f"ORDER BY k {direction}, id {direction}"
    named = [(about, text.format(f"%(c{number})s")) for number, (about, text) in enumerate(conditions)]
    # A bound on the column of the order is where the scan of the index begins or ends.
    bounds = "".join(f" AND {text}" for about, text in named if about == column)
    wanted = " AND ".join(text for about, text in named if about != column) or "true"
    behind = _behind(sort, "%(value)s", "%(id)s") if placed else ""
    scans = " UNION ALL ".join(
        f"(SELECT ctid AS at, id, {column} AS k, ({wanted}) AS matches FROM assets WHERE {kind}{scope}{behind}{bounds} "
        f"ORDER BY {column} {direction}, id {direction} LIMIT {budget})"
        for scope in scopes
        for kind in ([f"type = '{one}' AND " for one in types] or [""])
    )
    tail = _tail(direction, user="%(user)s::text", limit="%(limit)s", budget=budget)
    scans = scans.replace("{user}", "%(user)s")
    return f"""
        WITH walked AS (
            SELECT at, id, k, matches, row_number() OVER ({order}) AS place
            FROM (SELECT * FROM ({scans}) AS parts {order} LIMIT {budget}) AS rows_in_order
        ), hits AS MATERIALIZED (
            SELECT * FROM walked WHERE matches OR place = {budget} {order} LIMIT %(window)s
        ) {tail}"""


def _literal(value: Any) -> str:
    return sql.Literal(value).as_string(None)


def matching(filters: Filters, user_id: str | None, columns: str, more: str = "") -> str:
    """A statement that selects `columns` of all matching rows, unordered, with its values as literals. `more`: a
    further condition, with its `AND`."""
    wanted = "".join(f" AND {one.text.format(_literal(one.value))}" for one in filters.conditions())
    kinds = f" AND type IN ({', '.join(repr(one.value) for one in filters.types)})" if filters.types else ""
    scopes = [scope.replace("{user}", _literal(user_id)) for scope in _scopes(filters, user_id)]
    if not scopes:
        scopes = ["false"]
    return " UNION ALL ".join(f"SELECT {columns} FROM assets WHERE {scope}{kinds}{wanted}{more}" for scope in scopes)


def gather_statement(search: Search, most: int | None) -> str:
    """The statement that gathers at most `most` rows, with its values as literals."""
    place = search.place
    behind = _behind(search.sort, _literal(place.value), _literal(place.id)) if place else ""
    rows = matching(
        search.filters, search.user_id, f"ctid AS at, id, {SORT_COLUMNS[search.sort.field][0]} AS k", behind
    )
    return _gathering(rows, search.sort, most, user=_literal(search.user_id), limit=str(search.limit))


def rare_statement(search: Search, column: str, most: int) -> tuple[str, dict[str, Any]]:
    """The statement that gathers by the index of `column`, whose condition is known to be rare, and its parameters:
    planned once for all searches with the same conditions. The planner, which does not see the values, would choose
    another index."""
    filters, place = search.filters, search.place
    conditions = filters.conditions()
    values: dict[str, Any] = {f"c{number}": one.value for number, one in enumerate(conditions)}
    values |= {"user": search.user_id, "limit": search.limit}
    if place is not None:
        values |= {"value": place.value, "id": place.id}
    shape = tuple(one.led_by(column) for one in conditions)
    scopes = tuple(_scopes(filters, search.user_id))
    # The indexes of numbers begin with the type.
    types = filters.types or (() if column in WORDS else tuple(AssetType))
    return _rare_statement(types, scopes, shape, search.sort, most, placed=place is not None), values


@lru_cache(maxsize=512)
def _rare_statement(
    types: tuple[AssetType, ...],
    scopes: tuple[str, ...],
    conditions: tuple[str, ...],
    sort: Sort,
    most: int,
    *,
    placed: bool,
) -> str:
    wanted = "".join(f" AND {text.format(f'%(c{number})s')}" for number, text in enumerate(conditions))
    kinds = f" AND type IN ({', '.join(repr(one.value) for one in types)})" if types else ""
    behind = _behind(sort, "%(value)s", "%(id)s") if placed else ""
    rows = " UNION ALL ".join(
        f"SELECT ctid AS at, id, {SORT_COLUMNS[sort.field][0]} AS k FROM assets WHERE {scope}{kinds}{wanted}{behind}"
        for scope in (one.replace("{user}", "%(user)s") for one in scopes)
    )
    return _gathering(rows, sort, most, user="%(user)s", limit="%(limit)s")


def _gathering(rows: str, sort: Sort, most: int | None, *, user: str, limit: str) -> str:
    """SQL that gathers. `MATERIALIZED` hides the limit from the planner, which would walk because of it."""
    direction = "DESC" if sort.descending else "ASC"
    beyond = -1 if most is None else most + 1
    return f"""
        WITH found AS MATERIALIZED ({rows}),
             capped AS MATERIALIZED (SELECT * FROM found LIMIT {"ALL" if most is None else beyond}),
             hits AS MATERIALIZED (
                 SELECT at, id, k, true AS matches, (SELECT count(*) FROM capped) AS place FROM capped
                 ORDER BY k {direction}, id {direction} LIMIT {limit}::int + 1
             ) {_tail(direction, user=f"{user}::text", limit=limit, budget=beyond)}"""


def walk_statement(search: Search, budget: int) -> tuple[str, dict[str, Any]] | None:
    """The statement that walks and its parameters; None where no index has the order."""
    filters = search.filters
    types: tuple[AssetType, ...] = filters.types or tuple(AssetType)
    conditions = filters.conditions()
    shape = [(one.column, one.text) for one in conditions]
    values: dict[str, Any] = {f"c{number}": one.value for number, one in enumerate(conditions)}
    if filters.everything:
        if search.sort.field != "created_at":
            return None
        if filters.types:
            shape.append(("type", "type = ANY({}::text[])"))
            values[f"c{len(conditions)}"] = [kind.value for kind in filters.types]
        types = ()
    elif not filters.listed or (filters.mine and filters.visibility != "private"):
        return None
    scopes = _scopes(filters, search.user_id)
    if not scopes:
        return None
    values |= {
        "user": search.user_id,
        "limit": search.limit,
        # One more than the page shows whether there is a next one.
        "window": search.limit + 1,
        "value": search.place.value if search.place else None,
        "id": search.place.id if search.place else None,
    }
    text = _walk_statement(types, tuple(scopes), tuple(shape), search.sort, budget, placed=search.place is not None)
    return text, values


async def page(database: Database, search: Search) -> Page:
    """One page. Raises `DatabaseUnavailable`."""

    async def ask(connection: Connection) -> Page:
        walkable = walk_statement(search, 1) is not None
        gathers_first = walkable and bool(search.filters.conditions())
        if gathers_first and search.filters.listed:
            rarest = await rarity.rarest(database, connection, search.filters)
            if rarest is not None and rarest.rows <= FEW:
                statement = rare_statement(search, rarest.column, RARE)
                items, count, ended, value, asset_id = await _one(connection, *statement)
                if not ended:
                    return Page(items or b"", min(count, search.limit), count > search.limit, value, asset_id)
        if gathers_first:
            gathers_first = await _known_estimate(database, connection, search) <= FEW
        ways = WAYS[-1:] if not walkable else WAYS[1:] if gathers_first else WAYS
        for way, most in ways:
            if way == "walk":
                made = walk_statement(search, most or 0)
                assert made is not None
                items, count, ended, value, asset_id = await _one(connection, *made)
                enough = count > search.limit or not ended
            else:
                items, count, ended, value, asset_id = await _one(connection, gather_statement(search, most), None)
                enough = not ended
            if enough:
                return Page(items or b"", min(count, search.limit), count > search.limit, value, asset_id)
        raise AssertionError("unreachable")

    return await database.query(ask)


_known: WeakKeyDictionary[Database, TTLCache[tuple[Filters, str | None], int]] = WeakKeyDictionary()


async def _known_estimate(database: Database, connection: Connection, search: Search) -> int:
    """The planner's estimate, up to `KEPT_SECONDS` old. For filters that do not need sign-in it is that of public rows
    alone, so that all callers share it."""
    filters = search.filters
    about = None if not filters.needs_sign_in else search.user_id
    known = _known.setdefault(database, TTLCache(KEPT, KEPT_SECONDS))
    found = known.get((filters, about))
    if found is None:
        found = known[filters, about] = await estimate(connection, filters, about)
    return found


async def _one(connection: Connection, statement: str, parameters: dict[str, Any] | None) -> tuple[Any, ...]:
    prepare = parameters is not None
    cursor = await connection.execute(sql.SQL(statement), parameters, prepare=prepare, binary=True)  # pyright: ignore[reportArgumentType]
    row = await cursor.fetchone()
    assert row is not None
    return row


async def estimate(connection: Connection, filters: Filters, user_id: str | None) -> int:
    """How many matching rows the planner expects."""
    # The planner has no statistics of the hidden name (`Filters.conditions`), and would take it for rare.
    rows = matching(filters, user_id, "1").replace(HIDDEN_NAME, "display_name")
    statement = sql.SQL("EXPLAIN (FORMAT JSON) " + rows)  # pyright: ignore[reportArgumentType]
    row = await (await connection.execute(statement, prepare=False)).fetchone()
    assert row is not None
    return int(row[0][0]["Plan"]["Plan Rows"])


async def total(database: Database, filters: Filters, user_id: str | None, *, exactly: bool) -> tuple[int, bool]:
    """How many rows match, and whether that is exact: counted up to `EXACT_TOTAL` and estimated beyond, unless
    `exactly`. Raises `DatabaseUnavailable`."""
    rows = matching(filters, user_id, "1")
    most = "ALL" if exactly else str(EXACT_TOTAL + 1)
    counted = f"WITH found AS MATERIALIZED ({rows}) SELECT count(*) FROM (SELECT 1 FROM found LIMIT {most}) AS counted"

    async def ask(connection: Connection) -> tuple[int, bool]:
        (count,) = await _one(connection, counted, None)
        if exactly or count <= EXACT_TOTAL:
            return count, True
        return max(EXACT_TOTAL + 1, await estimate(connection, filters, user_id)), False

    return await database.query(ask)
