"""Checks values from files before they are stored: a file may claim values of any type and size. Pure.

Results can be written to Postgres as JSON: no NUL, no lone surrogate, no infinity, no number beyond a bigint.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

TEXT_LIMIT = 500
"""Most characters that are kept of a title, a name, an address."""

NAME_LIMIT = 64
"""Most characters of a name that lists can be filtered by. Longer ones are left out: a cut name would be another
name."""

COUNT_LIMIT = 2**40
"""Largest accepted count. The sum of as many as one file can name still fits a bigint."""

SECONDS_LIMIT = 10_000_000.0
"""Longest accepted duration: a third of a year."""


def text(value: object, limit: int = TEXT_LIMIT) -> str | None:
    """A text, at most `limit` characters of it; None for other types, and for an empty text."""
    if not isinstance(value, str):
        return None
    kept = value[:limit].replace("\0", "").encode(errors="replace").decode().strip()
    return kept or None


def texts(value: object, most: int = 20) -> list[str]:
    """The texts among a list's items, at most `most`."""
    if not isinstance(value, list):
        return []
    found = (text(item) for item in value[: most * 5])
    return [item for item in found if item is not None][:most]


def link(value: object) -> str | None:
    """An http or https URL; None for other values, since pages show it as a link."""
    found = text(value)
    whole = found is not None and found == value and not any(letter.isspace() for letter in found)
    return found if found and whole and found.lower().startswith(("https://", "http://")) else None


def names(found: Iterable[object], most: int = 200) -> list[str]:
    """Sorted short names, each once, at most `most`."""
    kept: set[str] = set()
    for item in found:
        name = text(item)
        if name is not None and name == item and len(name) <= NAME_LIMIT:
            kept.add(name)
            if len(kept) >= most:
                break
    return sorted(kept)


def count(value: object) -> int | None:
    """A number of things, 0 to `COUNT_LIMIT`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= COUNT_LIMIT:
        return None
    return value


def seconds(value: object) -> float | None:
    """A duration, to the millisecond; None for one that is negative, infinite or beyond `SECONDS_LIMIT`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= SECONDS_LIMIT:
        return None
    return round(float(value), 3) if math.isfinite(value) else None


def section(value: object, *path: str) -> dict[str, Any]:
    """`value[path[0]][path[1]]…` when each step is an object, else an empty one."""
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def items(value: object, name: str) -> list[Any]:
    """`value[name]` when it is a list, else an empty one."""
    found = value.get(name) if isinstance(value, dict) else None
    return found if isinstance(found, list) else []
