"""How rare words and tags are, by what Postgres keeps of its columns for its planner. Called by `pages`.

The planner itself knows no more of them, and asking it takes as long as a page. Of columns that hold several values each
Postgres keeps the most common ones with their share of the rows; all others are rarer than the rarest of these. A table
that was never analysed says nothing, and then nothing is said here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from butai.assets.search.filters import Filters
from butai.database import Connection, Database

FRESH_SECONDS = 300.0
"""How long what was read is believed: Postgres itself looks at a table again when a tenth of it has changed."""

_STATISTICS = """
    SELECT s.attname::text, s.most_common_elems::text::text[], s.most_common_elem_freqs, greatest(c.reltuples, 0)
    FROM pg_stats s JOIN pg_class c ON c.oid = 'assets'::regclass JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE s.schemaname = n.nspname AND s.tablename = 'assets' AND s.attname IN ('terms', 'tags')
      AND s.most_common_elems IS NOT NULL
"""


@dataclass(frozen=True, slots=True)
class _Column:
    """`rows` of the most common values, and how many any other one has at most."""

    rows: dict[str, float]
    others: float


_known: WeakKeyDictionary[Database, tuple[float, dict[str, _Column]]] = WeakKeyDictionary()


async def most_rows(database: Database, connection: Connection, filters: Filters) -> float | None:
    """How many rows have the rarest of the words and tags that must all be there; None when there are none, or nothing
    is known of them."""
    if not (filters.words or filters.tags):
        return None
    columns = await _columns(database, connection)
    found = [
        column.rows.get(value, column.others)
        for name, values in (("terms", filters.words), ("tags", filters.tags))
        if (column := columns.get(name)) is not None
        for value in values
    ]
    return min(found, default=None)


async def _columns(database: Database, connection: Connection) -> dict[str, _Column]:
    known = _known.get(database)
    now = time.monotonic()
    if known is None or known[0] < now:
        rows = await (await connection.execute(_STATISTICS)).fetchall()
        # Behind the shares of the values stand the least and the greatest of them.
        known = (
            now + FRESH_SECONDS,
            {
                name: _Column(
                    {value: share * total for value, share in zip(values, shares, strict=False)},
                    shares[len(values)] * total,
                )
                for name, values, shares, total in rows
                if len(shares) > len(values)
            },
        )
        _known[database] = known
    return known[1]
