"""Rows as CSV that a spreadsheet may open. Called by the routes of audit trails."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Beginnings that make a spreadsheet calculate (OWASP, CSV injection): the full-width forms do, too."""


def cell(value: object) -> str:
    """A text that no spreadsheet takes for a formula: user agents and names are the caller's to choose."""
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def lines(rows: Iterable[Sequence[object]]) -> str:
    """Rows with each cell made safe, quoted as RFC 4180 has it."""
    out = io.StringIO()
    csv.writer(out).writerows([[cell(value) for value in row] for row in rows])
    return out.getvalue()


def is_wanted(accept: str | None) -> bool:
    """Whether CSV comes first in an `Accept` header; a browser's `*/*` does not ask for it."""
    return (accept or "").split(",")[0].partition(";")[0].strip().lower() == "text/csv"
