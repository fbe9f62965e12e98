"""The audit trail as a CSV file: streamed, bounded, and cut off where it cannot be read to its end."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import msgspec
from fastapi.responses import StreamingResponse

from butai.audit import csv, queries
from butai.audit.schemas import AuditFilter, EntryOut
from butai.database import Database
from butai.errors import BrokenOff, DatabaseUnavailable

MOST_LINES = 100_000
"""Most entries of one file. Older ones come before the last line's id."""

_PAGE = 1000

ALL_COLUMNS = (
    *("id", "at", "actor", "action", "room_id", "subject", "session_id", "platforms"),
    *("result", "error_code", "ip", "user_agent", "request_id", "detail", "times", "last_at"),
)
ROOM_COLUMNS = (
    *("id", "at", "actor", "action", "room_id", "session_id", "platforms"),
    *("result", "error_code", "ip", "user_agent", "times", "last_at"),
)
"""The columns for a room's owner."""

_CELLS: Mapping[str, Callable[[EntryOut], object]] = {
    "at": lambda entry: entry.at.isoformat(),
    "last_at": lambda entry: entry.last_at.isoformat(),
    "platforms": lambda entry: " ".join(entry.platforms),
    "detail": lambda entry: msgspec.json.encode(entry.detail).decode() if entry.detail else None,
}


async def export(
    database: Database, wanted: AuditFilter, before: int | None, limit: int | None, columns: tuple[str, ...]
) -> StreamingResponse:
    """A file of entries below the id `before`, newest first, with these of `ALL_COLUMNS`: up to `limit`, `MOST_LINES` at most
    or without a limit. With `wanted.few_strangers`, refusals to strangers come on top: up to `queries.MOST_STRANGERS` for each
    thousand. Raises `DatabaseUnavailable` before it
    begins; a file that has begun is cut off (`BrokenOff`), so that an incomplete one does not look complete."""
    most = min(limit or MOST_LINES, MOST_LINES)
    first = await queries.page(database, wanted, before, min(most, _PAGE))
    headers = {"content-disposition": 'attachment; filename="audit.csv"', "cache-control": "private, no-store"}
    return StreamingResponse(_lines(database, wanted, first, most, columns), 200, headers, "text/csv; charset=utf-8")


async def _lines(
    database: Database,
    wanted: AuditFilter,
    first: tuple[Sequence[EntryOut], int | None],
    most: int,
    columns: tuple[str, ...],
) -> AsyncIterator[str]:
    """Yields a page at a time: a trail is long after some years."""
    yield csv.lines([columns])
    entries, before = first
    left = most
    while True:
        yield csv.lines([_row(entry, columns) for entry in entries])
        left -= _PAGE
        if left <= 0 or before is None:
            return
        try:
            entries, before = await queries.page(database, wanted, before, min(left, _PAGE))
        except DatabaseUnavailable as error:
            raise BrokenOff from error


def _row(entry: EntryOut, columns: tuple[str, ...]) -> list[object]:
    return [_CELLS[name](entry) if name in _CELLS else getattr(entry, name) for name in columns]
