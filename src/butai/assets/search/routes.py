"""`GET /api/assets` and `/api/assets/facets`: search by the facts inside files.

Both are hot routes (`butai.web.hot_route`), which parse their parameters themselves and therefore document them by
hand."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from butai.assets import listing
from butai.assets.kinds import AssetType
from butai.assets.library import get_library
from butai.assets.schemas import AssetPage, FacetsOut
from butai.assets.search import facets, filters, pages
from butai.assets.search.filters import Filters
from butai.assets.search.pages import Search
from butai.assets.states import AssetStatus
from butai.errors import Forbidden
from butai.identity import Caller
from butai.web.dependencies import TAKES_SIGN_IN, caller
from butai.web.hot_route import DirectRoute, query_parameter
from butai.web.old_names import with_old_names
from butai.web.responses import answers, respond, stored_list

router = APIRouter(prefix="/api/assets", tags=["assets"], route_class=DirectRoute)

LIMIT, MOST = 50, 200
"""Items of a page: the default, and the maximum."""

_HEADERS = {"cache-control": "private, no-cache", "vary": "Cookie, Authorization"}
_PAGING = frozenset({"sort", "limit", "cursor", "total"})
_NOTHING: frozenset[str] = frozenset()


def _several(values: tuple[str, ...]) -> str:
    one = f"({'|'.join(values)})"
    return f"^{one}(,{one}){{0,{filters.VALUES - 1}}}$"


def _labels(name: str, description: str, example: str) -> dict[str, Any]:
    item = {"type": "string", "minLength": 1, "maxLength": filters.LABEL, "pattern": r"^[^\u0000]*$"}
    made = query_parameter(name, description, kind="array", items=item, maxItems=filters.VALUES)
    return made | {"example": [example]}


def _range(name: str, description: str, kind: str, most: float) -> list[dict[str, Any]]:
    return [
        query_parameter(f"{end}_{name}", f"{description}, at {side}", kind=kind, minimum=0, maximum=most)
        for end, side in (("min", "least"), ("max", "most"))
    ]


_FILTERS: list[dict[str, Any]] = [
    query_parameter(
        "type", "One or several, separated by commas", pattern=_several(tuple(AssetType)), example="vrm,scene"
    ),
    query_parameter(
        "q",
        "Part of a name; a search for fewer than three letters is slow",
        maxLength=filters.TEXT,
        pattern=r"^[^\u0000]*$",
    ),
    _labels("tag", "Once for each tag; an asset must have all of them", "Neon"),
    _labels("has_expression", "Once for each expression; an avatar must have all of them", "happy"),
    query_parameter(
        "format",
        "The file's format (`vrm0`, `vrm1`, `vrma`, `mp3`, …), any of several separated by commas",
        pattern=_several((filters.FORMAT,)),
        example="vrm1",
    ),
    *(
        query_parameter(
            f"licence.{part}",
            "The terms of an avatar's licence, any of several separated by commas",
            pattern=_several(words),
        )
        for part, words in filters.LICENCE.items()
    ),
    *_range("duration", "Seconds", "number", filters.MOST_SECONDS),
    *_range("triangles", "Triangles", "integer", filters.MOST_TRIANGLES),
    *_range("size", "Bytes", "integer", filters.MOST_BYTES),
    query_parameter("owner", "The caller's own", enum=("me",)),
    query_parameter("visibility", "`private`: the caller's own", enum=("public", "private")),
    query_parameter("status", "Other than `ready`: the caller's own", enum=tuple(AssetStatus)),
    query_parameter("trashed", "The caller's own assets in the trash, of any status", enum=("true", "false")),
    query_parameter("all", "For operators: all users' assets, private ones too", enum=("true", "false")),
]


@router.get(
    "",
    **answers(AssetPage, 400, 403),
    operation_id="search_assets",
    summary="Search the library",
    openapi_extra=TAKES_SIGN_IN
    | {
        "parameters": [
            *_FILTERS,
            query_parameter(
                "sort",
                "`created_at|updated_at|display_name|size_bytes`, `-` before it: descending; newest first when empty",
                pattern=listing.SORT_PATTERN,
                example="-created_at",
            ),
            query_parameter("limit", "Items of a page", kind="integer", minimum=1, maximum=MOST, default=LIMIT),
            query_parameter("cursor", "`next` of the previous page; with the same filters and order"),
            query_parameter("total", "How to count matches", enum=listing.TOTALS, default="none"),
        ]
    },
)
async def search(request: Request) -> Response:
    """Public assets and the caller's own, filtered by the facts inside their files. Each item is as in lists, with a
    summary of its file."""
    who = await caller(request)
    wanted = _filters(request, who, _PAGING)
    query = request.query_params
    mode = listing.parse_total(query.get("total", "none"))
    order = listing.parse_sort(query.get("sort"))
    cursor = query.get("cursor")
    place = listing.decode_cursor(cursor, order) if cursor else None
    limit = listing.whole_number("limit", query.get("limit"), MOST) or LIMIT
    database = get_library(request).database
    found = await pages.page(database, Search(wanted, who.user_id, order, limit, place))
    count, exact = await listing.count(
        mode, found, place, 0, lambda exactly: pages.total(database, wanted, who.user_id, exactly=exactly)
    )
    answer = AssetPage(stored_list(found.items), listing.following(found, order, place, 1), count, exact)
    return respond(with_old_names(answer, {"next": "nextCursor"}), headers=_HEADERS)


@router.get(
    "/facets",
    **answers(FacetsOut, 400, 403),
    operation_id="list_facets",
    summary="Count the values to filter by",
    openapi_extra=TAKES_SIGN_IN | {"parameters": _FILTERS},
)
async def list_facets(request: Request) -> Response:
    """The number of matching assets with each type, licence, format, expression and tag, counted over at most 10,000 of
    them (`is_exact`)."""
    who = await caller(request)
    found = await facets.facets(get_library(request).database, _filters(request, who, _NOTHING), who.user_id)
    return respond(with_old_names(found), headers=_HEADERS)


def _filters(request: Request, who: Caller, others: frozenset[str]) -> Filters:
    """The query's filters. Raises `FilterInvalid`, and `Unauthenticated` or `Forbidden` when the caller may not use
    them."""
    wanted = filters.parse(request.query_params.multi_items(), others)
    filters.check_sign_in(wanted, anonymous=who.user_id is None)
    if wanted.everything and not who.is_operator:
        raise Forbidden("all=true is for operators")
    return wanted
