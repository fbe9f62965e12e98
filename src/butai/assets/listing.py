"""Lists of all kinds: their order, cursors, pages and totals. Pure.

A cursor is the sort value and id of the last item before it, so that every page costs the same.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from butai.errors import CursorInvalid, FilterInvalid, SortInvalid

TOTALS = ("none", "estimate", "exact")
"""The ways to count matches, as a caller chooses them."""

EXACT_TOTAL = 10_000
"""Totals are exact up to this number. Beyond it a count costs more than the page, and the planner's estimate is
given."""

SORT_COLUMNS = {
    "created_at": ("created_at", "timestamptz"),
    "updated_at": ("updated_at", "timestamptz"),
    "display_name": ("sort_name", "text"),
    "size_bytes": ("size_bytes", "bigint"),
}
_ALIASES = {"createdAt": "created_at", "updatedAt": "updated_at", "name": "display_name", "size": "size_bytes"}
_SORT_FIELD = f"({'|'.join((*SORT_COLUMNS, *_ALIASES))})"
SORT_PATTERN = f"^(-?{_SORT_FIELD}|{_SORT_FIELD}:(asc|desc)|asc|desc)?$"
"""The texts that `parse_sort` accepts, for the OpenAPI document."""


@dataclass(frozen=True, slots=True)
class Sort:
    """A list's order; `id` breaks ties in the same direction."""

    field: str
    descending: bool

    @property
    def text(self) -> str:
        """The order in the form that callers write."""
        return f"{'-' if self.descending else ''}{self.field}"


def parse_sort(text: str | None) -> Sort:
    """Parses `created_at`, `-created_at` or `created_at:desc`; newest first when absent, and `asc` and `desc` alone are by
    `created_at`. Raises `SortInvalid`."""
    if not text or text in ("asc", "desc"):
        return Sort("created_at", descending=text != "asc")
    name, colon, direction = text.removeprefix("-").partition(":")
    field = _ALIASES.get(name, name)
    if field not in SORT_COLUMNS or (colon and (direction not in ("asc", "desc") or text.startswith("-"))):
        raise SortInvalid(f"Sort by one of {', '.join(SORT_COLUMNS)}, with - before it for descending order")
    return Sort(field, descending=text.startswith("-") or direction == "desc")


class _Cursor(msgspec.Struct, array_like=True):
    sort: str
    value: str
    id: str
    total: int | None
    page: int


@dataclass(frozen=True, slots=True)
class PagePosition:
    """The place where a page begins: after this sort value and id. `page` counts from 1; `total` is that of the first
    page."""

    value: str
    id: str
    total: int | None
    page: int


def encode_cursor(sort: Sort, place: PagePosition) -> str:
    """Returns an opaque cursor for a page in this order."""
    packed = msgspec.json.encode(_Cursor(sort.text, place.value, place.id, place.total, place.page))
    return base64.urlsafe_b64encode(packed).decode().rstrip("=")


def decode_cursor(text: str, sort: Sort) -> PagePosition:
    """Parses a cursor. Raises `CursorInvalid` for a text that `encode_cursor` did not make for this order."""
    try:
        packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = msgspec.json.decode(packed, type=_Cursor)
        UUID(cursor.id)
        kind = SORT_COLUMNS[sort.field][1]
        if kind == "bigint" and not -(2**63) <= int(cursor.value) < 2**63:
            raise ValueError("size")
        if kind == "timestamptz":
            datetime.fromisoformat(cursor.value)
    except (ValueError, binascii.Error, msgspec.MsgspecError) as error:
        raise CursorInvalid from error
    if cursor.sort != sort.text or "\0" in cursor.value or cursor.page < 1:
        raise CursorInvalid
    return PagePosition(cursor.value, cursor.id, cursor.total, cursor.page)


@dataclass(frozen=True, slots=True)
class Page:
    """One page. `items` is JSON without its brackets, as bytes: it is sent as Postgres wrote it. `last_value` and
    `last_id` are None on the last page."""

    items: bytes
    count: int
    has_more: bool
    last_value: str | None
    last_id: str | None


def following(page: Page, sort: Sort, place: PagePosition | None, number: int, total: int | None = None) -> str | None:
    """Returns the cursor for the page after page `number`, carrying the total; None on the last page."""
    if not page.has_more or page.last_value is None or page.last_id is None:
        return None
    at = place.page if place else number
    return encode_cursor(sort, PagePosition(page.last_value, page.last_id, total, at + 1))


def parse_total(text: str | None) -> str | None:
    """Returns how to count matches, None when the caller does not choose. Raises `FilterInvalid`."""
    if text not in (None, *TOTALS):
        raise FilterInvalid(f"total is one of {', '.join(TOTALS)}")
    return text


async def count(
    mode: str | None,
    page: Page,
    place: PagePosition | None,
    offset: int,
    ask: Callable[[bool], Awaitable[tuple[int, bool]]],
) -> tuple[int | None, bool]:
    """Returns the total of a list, and whether it is exact.

    A list that ends on the first page is counted by the page. With `mode` None, a page after a cursor has the total
    that the cursor carries. `ask(exactly)` counts in the database.
    """
    if mode == "none":
        return None, False
    if place is None and not page.has_more and (page.count or offset == 0):
        return offset + page.count, True
    if place is not None and mode is None:
        return place.total, place.total is not None and place.total <= EXACT_TOTAL
    return await ask(mode == "exact")


def whole_number(name: str, text: str | None, most: int) -> int | None:
    """Parses a parameter from 1 to `most`; None when it is absent. Raises `FilterInvalid`."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise FilterInvalid(f"{name} is a whole number from 1 to {most}")
    return int(text)
