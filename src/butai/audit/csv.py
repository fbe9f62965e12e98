"""CSV that is safe to open in a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters that make a spreadsheet evaluate a cell (OWASP, CSV injection), with their full-width forms."""


def cell(value: object) -> str:
    """`value` as text, after an apostrophe if a spreadsheet would evaluate it. Clients choose names and user agents."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows with safe cells, quoted by RFC 4180."""
    out = io.StringIO()
    csv.writer(out).writerows([[cell(value) for value in row] for row in rows])
    return out.getvalue()


def is_wanted(accept: str | None) -> bool:
    """Whether an `Accept` header names CSV first; a browser's `*/*` does not count."""
    return (accept or "").split(",")[0].partition(";")[0].strip().lower() == "text/csv"
