"""What a HEAD of one object was answered. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HeadKind(StrEnum):
    """What a HEAD was answered."""

    PRESENT = "present"
    ABSENT = "absent"
    DENIED = "denied"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """One answer. `size` in bytes and `etag` (no quotes) with `PRESENT`; `code` of our errors with `UNCLEAR`."""

    kind: HeadKind
    size: int = 0
    etag: str = ""
    code: str = ""
