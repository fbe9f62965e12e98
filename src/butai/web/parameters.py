"""Types of request parameters that several folders share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AwareDatetime, BeforeValidator


def _written_out(value: object) -> object:
    if isinstance(value, str) and "T" not in value.upper():
        # pydantic would take `0.5` for a moment in 1970.
        raise ValueError("a moment as RFC 3339 has it")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_written_out)]
"""A point in time, written as RFC 3339 with its offset."""
