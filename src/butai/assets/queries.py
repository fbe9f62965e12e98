"""Queries of the index: lists, one item, the change feed. No ORM, no writes. `reading.lookup` has those by key.

Lists are called most: Postgres joins the items' stored text into one JSON array, so a page is one round trip and needs
no Python objects. "Public or the caller's own" is a merge of two index scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from uuid import UUID

from psycopg import sql
from psycopg.rows import class_row, dict_row

from butai.assets.kinds import AssetType
from butai.assets.listing import EXACT_TOTAL, SORT_COLUMNS, Page, PagePosition, Sort
from butai.assets.models import LISTED
from butai.assets.schemas import AssetOut, ChangesOut, WaveformOut
from butai.assets.transitions import CHANGES_LOCK
from butai.database import Connection, Database
from butai.errors import Code, FilterInvalid
from butai.web.responses import stored_list

PAGE_LIMIT = 1000
"""Most items of one page (studio contract)."""

EVERYTHING = 10_000
"""Most items of a list without paging (studio contract)."""


@dataclass(frozen=True, slots=True)
class ListRequest:
    """One page of a list. `place` and `offset` exclude each other; `user_id` None sees public assets only."""

    type: AssetType
    user_id: str | None
    sort: Sort
    limit: int
    place: PagePosition | None = None
    offset: int = 0
    q: str | None = None


TAKEN_DOWN = """CASE WHEN taken_down_at IS NULL THEN '' ELSE ', "takenDown": ' || json_build_object(
        'at', butai_timestamp(taken_down_at), 'reason', taken_down_reason)::text END"""
"""SQL of what an item of a list says of a file that is down, beside its stored text. Only private items need it."""

NAMED_ITEM = "CASE WHEN {a}owner_user_id = {user} THEN {a}own_names ELSE {a}names END || right({item}, -1)"
"""SQL of an item with the names by which a caller knows it."""

_PUBLIC_ITEM = NAMED_ITEM.format(a="", user="%(user)s::text", item="item") + " AS item"
# Without a brace: a statement with a pattern is a template.
_PRIVATE_ITEM = f"""own_names || CASE WHEN taken_down_at IS NULL THEN right(item, -1)
                                      ELSE substr(item, 2, length(item) - 2) || {TAKEN_DOWN} || right(item, 1) END AS item"""


@lru_cache
def _list_query(sort: Sort, *, mine: bool, placed: bool, q: str | None) -> sql.Composed | str:
    """The statement for a kind of list. Its text must repeat the partial indexes' conditions word for word."""
    column, kind = SORT_COLUMNS[sort.field]
    direction = "DESC" if sort.descending else "ASC"
    behind = f"AND ({column}, id) {'<' if sort.descending else '>'} (%(value)s::{kind}, %(id)s::uuid)" if placed else ""
    name = " AND display_name ILIKE {pattern}" if q is not None else ""
    parts = [("visibility = 'public'", "", _PUBLIC_ITEM if mine else "names || right(item, -1) AS item")]
    if mine:
        parts.append(("visibility = 'private'", "owner_user_id = %(user)s AND ", _PRIVATE_ITEM))
    scans = " UNION ALL ".join(
        f"(SELECT {item}, {column} AS k, id FROM assets WHERE {owner}type = %(type)s AND {LISTED} AND {part} {behind}{name} "
        f"ORDER BY {column} {direction}, id {direction} LIMIT %(fetch)s)"
        for part, owner, item in parts
    )
    text = f"""
        SELECT convert_to(string_agg(item, ',' ORDER BY place) FILTER (WHERE place <= %(limit)s), 'UTF8'),
               count(*),
               (max(k::text) FILTER (WHERE place = %(limit)s)),
               (max(id::text) FILTER (WHERE place = %(limit)s))
        FROM (SELECT item, k, id, row_number() OVER (ORDER BY k {direction}, id {direction}) AS place
              FROM (SELECT * FROM ({scans}) AS both_parts
                    ORDER BY k {direction}, id {direction} LIMIT %(window)s OFFSET %(offset)s) AS window_rows) AS page
    """
    if q is None:
        return text
    # The pattern is part of the statement, so that the planner can tell a rare name from a common one.
    # The driver reads a single % as the beginning of a parameter.
    return sql.SQL(text).format(pattern=sql.Literal(like_pattern(q).replace("%", "%%")))  # pyright: ignore[reportArgumentType]


def like_pattern(q: str) -> str:
    """`q` as an ILIKE pattern that matches it literally."""
    escaped = q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def page_statement(request: ListRequest) -> tuple[sql.Composed | str, dict[str, Any]]:
    """The statement of one page and its parameters. Raises `FilterInvalid`."""
    if request.q is not None and ("\0" in request.q or len(request.q) > 200):
        raise FilterInvalid("q is at most 200 characters, none of them NUL")
    mine, placed = request.user_id is not None, request.place is not None
    # A statement with a pattern is made for one request; the others are few and always the same.
    build = _list_query if request.q is None else _list_query.__wrapped__
    parameters = {
        "type": request.type.value,
        "user": request.user_id,
        "limit": request.limit,
        # One row beyond the page shows whether there are more.
        "window": request.limit + 1,
        "fetch": request.limit + 1 + request.offset,
        "offset": request.offset,
        "value": request.place.value if request.place else None,
        "id": request.place.id if request.place else None,
    }
    return build(request.sort, mine=mine, placed=placed, q=request.q), parameters


async def list_page(database: Database, request: ListRequest) -> Page:
    """One page. Raises `DatabaseUnavailable`, `FilterInvalid`."""
    statement, parameters = page_statement(request)

    async def ask(connection: Connection) -> tuple[Any, ...] | None:
        cursor = await connection.execute(statement, parameters, prepare=request.q is None, binary=True)  # pyright: ignore[reportArgumentType]
        return await cursor.fetchone()

    row = await database.query(ask)
    assert row is not None
    items, count, last_value, last_id = row
    return Page(items or b"", min(count, request.limit), count > request.limit, last_value, last_id)


async def total(database: Database, request: ListRequest, *, exactly: bool = False) -> tuple[int, bool]:
    """The total of a list, and whether it is exact: counted to `EXACT_TOTAL`, estimated beyond, unless `exactly`."""
    parts = [sql.SQL("SELECT 1 FROM assets WHERE type = {type} AND " + LISTED + " AND visibility = 'public'{name}")]
    if request.user_id is not None:
        parts.append(
            sql.SQL(
                "SELECT 1 FROM assets WHERE owner_user_id = {user} AND type = {type} AND "
                + LISTED
                + " AND visibility = 'private'{name}"
            )
        )
    name = (
        sql.SQL("")
        if request.q is None
        else sql.SQL(" AND display_name ILIKE {}").format(sql.Literal(like_pattern(request.q)))
    )
    rows = sql.SQL(" UNION ALL ").join(
        part.format(type=sql.Literal(request.type.value), user=sql.Literal(request.user_id or ""), name=name)
        for part in parts
    )
    counted = sql.SQL("SELECT count(*) FROM (SELECT 1 FROM ({}) AS matching LIMIT {}) AS counted").format(
        rows, sql.SQL("ALL") if exactly else sql.Literal(EXACT_TOTAL + 1)
    )

    async def ask(connection: Connection) -> tuple[int, bool]:
        row = await (await connection.execute(counted, prepare=False)).fetchone()
        assert row is not None
        if exactly or row[0] <= EXACT_TOTAL:
            return row[0], True
        explain = sql.SQL("EXPLAIN (FORMAT JSON) {}").format(rows)
        explained = await (await connection.execute(explain, prepare=False)).fetchone()
        assert explained is not None
        return max(EXACT_TOTAL + 1, int(explained[0][0]["Plan"]["Plan Rows"])), False

    return await database.query(ask)


# One file


_MINE = "owner_user_id IS NOT DISTINCT FROM %(user)s::text AND owner_user_id IS NOT NULL"

_ASSET = f"""
    SELECT id, type, CASE WHEN {_MINE} THEN wanted_key ELSE s3_key END AS s3_key, display_name, description, mime_type,
           size_bytes, status, owner_user_id, visibility,
           created_at, updated_at, error_code,
           error_detail, attempts, sha256, tags, meta, sidecar,
           butai_read_url(CASE WHEN {_MINE} THEN wanted_key ELSE s3_key END) AS url, butai_read_url(s3_key) AS public_url,
           butai_read_url(CASE WHEN {_MINE} THEN own_thumbnail_key ELSE thumbnail_key END) AS thumbnail,
           missing_since, deleted_at, change_seq,
           facts - ARRAY['derived_from', 'derived_etag'] AS facts, inspect_error, triangles,
           duration_seconds, taken_down_at, taken_down_reason
    FROM assets
"""


async def get_asset(database: Database, asset_id: UUID, user_id: str | None, *, operator: bool) -> AssetOut | None:
    """Returns one asset with all its fields to its owner or an operator, and to other callers if it is public and
    ready."""

    async def ask(connection: Connection) -> dict[str, Any] | None:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(
            _ASSET
            + """
            WHERE id = %(id)s AND (owner_user_id = %(user)s OR %(operator)s
                  OR (visibility = 'public' AND sidecar IS NULL AND status = 'ready' AND deleted_at IS NULL))""",
            {"id": asset_id, "user": user_id, "operator": operator},
        )
        return await cursor.fetchone()

    row = await database.query(ask)
    if row is None:
        return None
    if row["owner_user_id"] != user_id and not operator:
        # Past failures, and the owner, are not disclosed to other users.
        row |= {"owner_user_id": None, "error_detail": None, "attempts": 0}
    return AssetOut(**row, warnings=_warnings(row))


def _warnings(row: dict[str, Any]) -> list[str]:
    """Returns codes for the owner's attention: a public file is redistributed to all its readers."""
    licence = row["facts"].get("licence")
    forbidden = isinstance(licence, dict) and licence.get("redistribution") == "forbidden"
    return (
        [Code.LICENCE_FORBIDS_REDISTRIBUTION]
        if forbidden and (row["visibility"], row["type"]) == ("public", "vrm")
        else []
    )


_WAVEFORM = """
    SELECT w.peaks, coalesce(a.duration_seconds, 0) AS duration_seconds
    FROM asset_waveforms w JOIN assets a ON a.id = w.asset_id AND a.object_key = w.object_key WHERE w.asset_id = %(id)s
"""


async def waveform(database: Database, asset_id: UUID) -> WaveformOut | None:
    """Returns the waveform of an asset's current bytes, None without one. The caller has checked the access."""

    async def ask(connection: Connection) -> WaveformOut | None:
        cursor = connection.cursor(row_factory=class_row(WaveformOut))
        await cursor.execute(_WAVEFORM, {"id": asset_id})
        return await cursor.fetchone()

    return await database.query(ask)


# The change feed


# The item with the asset's status, which a `_meta.json` must not override.
_CHANGED = (
    """
    SELECT id, change_seq,
           '{"status": "' || status || '"' || """
    + TAKEN_DOWN
    + """ || ', ' || right("""
    + NAMED_ITEM.format(
        a="",
        user="%(user)s::text",
        item="CASE WHEN meta ?| '{status,takenDown}' THEN (item::jsonb - '{status,takenDown}'::text[])::text ELSE item END",
    )
    + """, -1) AS item,
           deleted_at IS NULL AND (coalesce(owner_user_id = %(user)s, false) OR %(operator)s
                                   OR visibility = 'public' AND status = 'ready') AS visible
    FROM assets
    WHERE change_seq > %(after)s AND change_seq <= %(horizon)s AND sidecar IS NULL
      AND (ever_public OR owner_user_id = %(user)s OR %(operator)s)
    ORDER BY change_seq LIMIT %(fetch)s
"""
)

_PURGED = """
    SELECT id, change_seq FROM asset_tombstones
    WHERE change_seq > %(after)s AND change_seq <= %(horizon)s
      AND (ever_public OR owner_user_id = %(user)s OR %(operator)s)
    ORDER BY change_seq LIMIT %(fetch)s
"""


async def changes(database: Database, after: int, user_id: str | None, limit: int, *, operator: bool) -> ChangesOut:
    """Returns the changes after place `after`, in order, each asset once with its newest state.

    Briefly takes the lock that all writers share: at that moment all numbers up to the horizon are committed or rolled
    back, so that none can appear below it later.
    """
    parameters = {"after": after, "user": user_id, "operator": operator, "fetch": limit + 1}

    async def ask(connection: Connection) -> tuple[int, list[dict[str, Any]]]:
        async with connection.transaction():
            await connection.execute("SET LOCAL lock_timeout = '5s'")
            await connection.execute("SELECT pg_advisory_xact_lock(%s)", (CHANGES_LOCK,))
            row = await (await connection.execute("SELECT last_value FROM asset_changes")).fetchone()
        assert row is not None
        cursor = connection.cursor(row_factory=dict_row)
        found: list[dict[str, Any]] = []
        for statement in (_CHANGED, _PURGED):
            await cursor.execute(statement, parameters | {"horizon": row[0]})
            found += await cursor.fetchall()
        return row[0], found

    horizon, rows = await database.query(ask)
    merged = sorted(rows, key=lambda row: row["change_seq"])
    page, more = merged[:limit], len(merged) > limit
    return ChangesOut(
        assets=stored_list(",".join(row["item"] for row in page if row.get("visible")).encode()),
        gone=[row["id"] for row in page if not row.get("visible")],
        next=page[-1]["change_seq"] if more else max(after, horizon),
        has_more=more,
    )
