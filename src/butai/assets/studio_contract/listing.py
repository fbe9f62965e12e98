"""Reads what a list is asked for, and makes its answer."""

from __future__ import annotations

import msgspec
from fastapi.datastructures import QueryParams
from fastapi.responses import Response

from butai.assets import queries
from butai.assets.kinds import AssetType
from butai.assets.queries import ListRequest, PagePosition
from butai.database import Database
from butai.errors import FilterInvalid

TOTALS = ("none", "estimate", "exact")
DEFAULT_PAGE = 50
"""Items of a page for those who ask for a page but not how large."""

MOST_PAGES = 1_000_000
TYPES = {kind.value: kind for kind in AssetType} | {"models": AssetType.VRM, "animations": AssetType.ANIMATION}


async def answer(database: Database, user_id: str | None, asked: QueryParams) -> Response:
    """The page that `asked` names, for one user. Raises `FilterInvalid`, `SortInvalid`, `CursorInvalid`.

    Without any paging: everything, up to 10,000 items.
    """
    kind = TYPES.get(asked.get("type", ""))
    if kind is None:
        raise FilterInvalid(f"type is one of {', '.join(TYPES)}")
    mode = asked.get("total")
    if mode not in (None, *TOTALS):
        raise FilterInvalid(f"total is one of {', '.join(TOTALS)}")
    order = queries.parse_sort(asked.get("sort"))
    cursor = asked.get("cursor")
    size = _whole_number("pageSize", asked.get("pageSize"), queries.PAGE_LIMIT)
    number = _whole_number("page", asked.get("page"), MOST_PAGES)
    paged = size is not None or number is not None or cursor is not None
    limit = size or (DEFAULT_PAGE if paged else queries.EVERYTHING)
    place = queries.decode_cursor(cursor, order) if cursor else None
    wanted = ListRequest(
        type=kind,
        user_id=user_id,
        sort=order,
        limit=limit,
        place=place,
        offset=0 if place else ((number or 1) - 1) * limit,
        q=asked.get("q") or None,
    )
    found = await queries.list_page(database, wanted)
    count, exact = await _total(database, wanted, found, mode)
    at = place.page if place else number or 1
    next_cursor = None
    if found.has_more and found.last_value is not None and found.last_id is not None:
        next_cursor = queries.encode_cursor(order, PagePosition(found.last_value, found.last_id, count, at + 1))
    pagination = {
        "page": at,
        "pageSize": limit,
        "total": count,
        "totalIsExact": exact,
        "hasMore": found.has_more,
        "nextCursor": next_cursor,
    }
    body = b"".join(
        (b'{"success":true,"data":[', found.items, b'],"pagination":', msgspec.json.encode(pagination), b"}")
    )
    return Response(
        body, 200, {"cache-control": "private, no-cache", "vary": "Cookie, Authorization"}, "application/json"
    )


async def _total(
    database: Database, wanted: ListRequest, found: queries.Page, mode: str | None
) -> tuple[int | None, bool]:
    """How many there are in all. A list that ends on its first page counts itself; a cursor carries what was counted."""
    if mode == "none":
        return None, False
    if wanted.place is not None:
        if mode is None:
            return wanted.place.total, wanted.place.total is not None and wanted.place.total <= queries.EXACT_TOTAL
    elif not found.has_more and (found.count or wanted.offset == 0):
        return wanted.offset + found.count, True
    return await queries.total(database, wanted, exactly=mode == "exact")


def _whole_number(name: str, text: str | None, most: int) -> int | None:
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise FilterInvalid(f"{name} is a whole number from 1 to {most}")
    return int(text)
