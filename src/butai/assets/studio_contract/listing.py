"""The given path of lists: its parameters and its answer."""

from __future__ import annotations

from fastapi.datastructures import QueryParams
from fastapi.responses import Response

from butai.assets import listing, queries
from butai.assets.kinds import AssetType
from butai.assets.queries import ListRequest
from butai.assets.schemas import Pagination, ResourcePage
from butai.database import Database
from butai.errors import FilterInvalid
from butai.web.responses import respond, stored_list

DEFAULT_PAGE = 50
"""Items of a page for a request with `page` or `cursor` but without `pageSize`."""

MOST_PAGES = 1_000_000
"""Highest `page`: no user reads a list beyond that offset."""

TYPES = {kind.value: kind for kind in AssetType} | {"models": AssetType.VRM, "animations": AssetType.ANIMATION}


async def answer(database: Database, user_id: str | None, parameters: QueryParams) -> Response:
    """Answers with the page that the parameters name. Raises `FilterInvalid`, `SortInvalid`, `CursorInvalid`.

    Without any paging the answer has all items, up to 10,000.
    """
    kind = TYPES.get(parameters.get("type", ""))
    if kind is None:
        raise FilterInvalid(f"type is one of {', '.join(TYPES)}")
    mode = listing.parse_total(parameters.get("total"))
    order = listing.parse_sort(parameters.get("sort"))
    cursor = parameters.get("cursor")
    size = listing.whole_number("pageSize", parameters.get("pageSize") or None, queries.PAGE_LIMIT)
    number = listing.whole_number("page", parameters.get("page") or None, MOST_PAGES)
    paged = size is not None or number is not None or cursor is not None
    limit = size or (DEFAULT_PAGE if paged else queries.EVERYTHING)
    place = listing.decode_cursor(cursor, order) if cursor else None
    wanted = ListRequest(
        type=kind,
        user_id=user_id,
        sort=order,
        limit=limit,
        place=place,
        offset=0 if place else ((number or 1) - 1) * limit,
        q=parameters.get("q") or None,
    )
    found = await queries.list_page(database, wanted)
    count, exact = await listing.count(
        mode, found, place, wanted.offset, lambda exactly: queries.total(database, wanted, exactly=exactly)
    )
    pagination = Pagination(
        page=place.page if place else number or 1,
        page_size=limit,
        total=count,
        total_is_exact=exact,
        has_more=found.has_more,
        next_cursor=listing.following(found, order, place, number or 1, count),
    )
    return respond(
        ResourcePage(success=True, data=stored_list(found.items), pagination=pagination),
        headers={"cache-control": "private, no-cache", "vary": "Cookie, Authorization"},
    )
