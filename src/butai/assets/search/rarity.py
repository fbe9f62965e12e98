"""Estimates how rare words, tags and ranges are, from the statistics that Postgres keeps for its planner.

The planner itself has no other information, and an EXPLAIN takes as long as a page. For an array column Postgres keeps
the most common elements with their share of the rows; any other element is rarer than the rarest of these. For a number
it keeps the most common values, and bounds between which equally many of the others lie. A table that was never
analysed has no statistics, and there is no estimate then.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from cachetools import TTLCache

from butai.assets.search.filters import Filters
from butai.database import Connection, Database

FRESH_SECONDS = 300.0
"""Seconds for which statistics are cached: Postgres analyses a table again when a tenth of it has changed."""

_STATISTICS = """
    SELECT s.attname::text, s.most_common_elems::text::text[], s.most_common_elem_freqs, greatest(c.reltuples, 0)
    FROM pg_stats s JOIN pg_class c ON c.oid = 'assets'::regclass JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE s.schemaname = n.nspname AND s.tablename = 'assets' AND s.attname IN ('terms', 'tags')
      AND s.most_common_elems IS NOT NULL
"""

_RANGES = """
    SELECT s.attname::text, coalesce(s.most_common_vals::text::float8[], '{}'), coalesce(s.most_common_freqs, '{}'),
           coalesce(s.histogram_bounds::text::float8[], '{}'), s.null_frac, greatest(c.reltuples, 0)
    FROM pg_stats s JOIN pg_class c ON c.oid = 'assets'::regclass JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE s.schemaname = n.nspname AND s.tablename = 'assets'
      AND s.attname IN ('triangles', 'duration_seconds', 'size_bytes')
"""


@dataclass(frozen=True, slots=True)
class Rarest:
    """The rarest condition of a search: its column, and most rows that meet it."""

    column: str
    rows: float


@dataclass(frozen=True, slots=True)
class _Words:
    """The statistics of words: rows of each of the most common values, and the most rows of any other value."""

    rows: dict[str, float]
    others: float


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The statistics of a number: `common` values with their rows; the `others`, of which equally many lie between each
    two neighbours of `bounds`."""

    common: list[tuple[float, float]]
    bounds: list[float]
    others: float

    def between(self, low: float, high: float) -> float:
        """About how many rows have a number from `low` to `high`."""
        found = sum(rows for value, rows in self.common if low <= value <= high)
        if len(self.bounds) > 1 and low <= high:
            found += max(0.0, self._below(high) - self._below(low)) * self.others
        return found

    def _below(self, value: float) -> float:
        """The share of the others below `value`, assuming an even spread between two bounds."""
        at = bisect_left(self.bounds, value)
        if at == 0 or at == len(self.bounds):
            return 0.0 if at == 0 else 1.0
        left, right = self.bounds[at - 1], self.bounds[at]
        return (at - 1 + (value - left) / (right - left)) / (len(self.bounds) - 1)


@dataclass(frozen=True, slots=True)
class _Known:
    words: dict[str, _Words]
    numbers: dict[str, _Numbers]


_known: WeakKeyDictionary[Database, TTLCache[None, _Known]] = WeakKeyDictionary()


async def rarest(database: Database, connection: Connection, filters: Filters) -> Rarest | None:
    """The rarest of the words, tags and ranges that must all match; None when there are none, or no statistics of
    them."""
    if not (filters.words or filters.tags or filters.ranges):
        return None
    kept = _known.setdefault(database, TTLCache(1, FRESH_SECONDS))
    known = kept.get(None)
    if known is None:
        known = kept[None] = await _read(connection)
    found = [
        Rarest(name, column.rows.get(value, column.others))
        for name, values in (("terms", filters.words), ("tags", filters.tags))
        if (column := known.words.get(name)) is not None
        for value in values
    ]
    for name in {column for column, _, _ in filters.ranges}:
        if name in known.numbers:
            low = max((value for column, sign, value in filters.ranges if column == name and sign == ">="), default=0)
            most = (value for column, sign, value in filters.ranges if column == name and sign == "<=")
            found.append(Rarest(name, known.numbers[name].between(low, min(most, default=math.inf))))
    return min(found, key=lambda one: one.rows, default=None)


async def _read(connection: Connection) -> _Known:
    words = await (await connection.execute(_STATISTICS)).fetchall()
    numbers = await (await connection.execute(_RANGES)).fetchall()
    return _Known(
        # The shares of the values are followed by the least and the greatest of them.
        {
            name: _Words(
                {value: share * total for value, share in zip(values, shares, strict=False)},
                shares[len(values)] * total,
            )
            for name, values, shares, total in words
            if len(shares) > len(values)
        },
        {
            name: _Numbers(
                [(value, share * total) for value, share in zip(values, shares, strict=True)],
                bounds,
                (1 - nulls - sum(shares)) * total,
            )
            for name, values, shares, bounds, nulls, total in numbers
        },
    )
