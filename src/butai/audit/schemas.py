"""The types of the audit trail: its filter, and its answers."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

import msgspec


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """A choice of entries. `action`: a prefix (`live.`). `since` is included, `until` is not."""

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    result: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    strangers: bool | None = None
    """Only refusals to callers who are not the room's hosts, or all but those."""
    few_strangers: bool = False
    """For a page of a room's trail: a bounded number of those."""


class EntryOut(msgspec.Struct, frozen=True):
    """One act, or `times` acts of one kind within a minute: of the first one `at`, address, request and detail, of the last
    one `last_at`.

    `subject`: its object (`room:…`, `asset:…`, `job:…`). `result`: `ok`, `refused` or `failed`.
    """

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str | None
    result: str
    error_code: str | None
    ip: str | None
    user_agent: str | None
    request_id: str | None
    times: int
    last_at: datetime
    detail: Annotated[dict[str, Any], msgspec.Meta(extra_json_schema={"additionalProperties": True})]

    @property
    def room_id(self) -> str | None:
        """The room, if the subject is one."""
        return self.subject.removeprefix("room:") if self.subject and self.subject.startswith("room:") else None

    @property
    def session_id(self) -> str | None:
        """The broadcast of the act."""
        return self.detail.get("session_id")

    @property
    def platforms(self) -> list[str]:
        """The platforms of the broadcast, destination or output."""
        return [str(one) for one in self.detail.get("platforms") or []]


class TrailOut(msgspec.Struct, frozen=True):
    """Entries, newest first. `next`: `before` of the next page; null on the last."""

    entries: list[EntryOut]
    next: int | None


def about_room(room_id: str) -> str:
    """The subject of acts on a room."""
    return f"room:{room_id}"
