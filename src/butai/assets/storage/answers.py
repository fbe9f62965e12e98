"""Answers to HEAD requests. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class HeadKind(StrEnum):
    """The kinds of answer. `DENIED` may hide an absent key (AWS, without the right to list); `UNCLEAR` is every failure.
    `ARCHIVED`: the store has the bytes and does not hand them out before they are restored; only `Heads.closely` sees it."""

    PRESENT = "present"
    ARCHIVED = "archived"
    ABSENT = "absent"
    DENIED = "denied"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class HeadAnswer:
    """One answer. With `PRESENT`: `size` in bytes and `etag` without quotes. With `UNCLEAR`: `code`, one of our error codes."""

    kind: HeadKind
    size: int = 0
    etag: str = ""
    code: str = ""
