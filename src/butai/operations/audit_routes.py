"""`/api/audit`: who did what, all of it, as JSON or CSV, for operators.

A room's part of it is at `/api/live/audit` for its owner.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from butai.audit import csv, queries
from butai.audit.queries import AuditFilter
from butai.database import Database
from butai.errors import BrokenOff, DatabaseUnavailable, InvalidRequest
from butai.live.schemas import RoomId
from butai.web.dependencies import Operator, SmallBodies
from butai.web.parameters import Moment
from butai.web.problems import documented

router = APIRouter(prefix="/api/audit", tags=["audit"], route_class=SmallBodies)

_MOST = 2**63 - 1
_PAGE = 1000
MOST_LINES = 100_000
"""Lines of one CSV; what is older is behind `before` with the last line's id."""

_COLUMNS = (
    *("id", "at", "actor", "action", "room_id", "subject", "session_id", "platforms"),
    *("result", "error_code", "ip", "user_agent", "request_id", "detail"),
)
_Word = Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")


class EntryOut(BaseModel):
    """One act. `subject`: what it was done to (`room:…`, `asset:…`, `job:…`). `result`: `ok`, `refused` or `failed`."""

    id: int
    at: datetime
    actor: str | None
    action: str
    subject: str | None
    result: str
    errorCode: str | None
    ip: str | None
    userAgent: str | None
    requestId: str | None
    detail: dict[str, Any]


class TrailOut(BaseModel):
    """Newest first. The next page is before `nextBefore`."""

    entries: list[EntryOut]
    nextBefore: int | None


@router.get(
    "",
    response_model=TrailOut,
    responses=documented(400, 403)
    | {
        200: {"model": TrailOut, "description": "Newest first", "content": {"text/csv": {"schema": {"type": "string"}}}}
    },
    summary="Who did what, everywhere",
)
async def list_audit(
    request: Request,
    who: Operator,
    actor: Annotated[str | None, _Word] = None,
    action: Annotated[
        str | None, Query(min_length=1, max_length=100, pattern=r"^[a-z_.]+$", description="How it begins: `live.`")
    ] = None,
    subject: Annotated[str | None, _Word] = None,
    room_id: Annotated[RoomId | None, Query(description="The same as `subject=room:…`")] = None,
    result: Annotated[Literal["ok", "refused", "failed"] | None, Query()] = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    until: Annotated[Moment | None, Query(alias="to", description="That moment is not in it")] = None,
    before: Annotated[int | None, Query(ge=1, le=_MOST, description="Only those below this id")] = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="50 as JSON; up to 100,000 lines as CSV")] = None,
    format: Annotated[Literal["json", "csv"] | None, Query()] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """For operators: what hosts, owners, operators, and the service itself did, and what was refused, newest first.

    As CSV with `format=csv` or `Accept: text/csv`. Cells that a spreadsheet would calculate begin with an apostrophe.
    """
    if room_id is not None and subject is not None:
        raise InvalidRequest("Say one of the two: subject or room_id")
    if room_id is not None:
        subject = f"room:{room_id}"
    asked = AuditFilter(actor, action, subject, result, since, until)
    database: Database = request.state.database
    if format == "csv" or (format is None and csv.is_wanted(accept)):
        most = limit or MOST_LINES
        first = await queries.entries(database, asked, before, min(most, _PAGE))
        headers = {"content-disposition": 'attachment; filename="audit.csv"', "cache-control": "private, no-store"}
        return StreamingResponse(_csv(database, asked, first, most), 200, headers, "text/csv; charset=utf-8")
    found = await queries.entries(database, asked, before, (limit or 50) + 1)
    shown = found[: limit or 50]
    body = {"entries": shown, "nextBefore": shown[-1]["id"] if len(found) > len(shown) else None}
    return Response(msgspec.json.encode(body), 200, {"cache-control": "private, no-store"}, "application/json")


async def _csv(database: Database, asked: AuditFilter, page: list[dict[str, Any]], most: int) -> AsyncIterator[str]:
    """A page of lines at a time: a trail is long after some years."""
    yield csv.lines([_COLUMNS])
    left = most
    while page:
        yield csv.lines(map(_row, page))
        left -= len(page)
        if left <= 0 or len(page) < _PAGE:
            return
        try:
            page = await queries.entries(database, asked, page[-1]["id"], min(left, _PAGE))
        except DatabaseUnavailable as error:
            # A file that is short must not look whole.
            raise BrokenOff from error


def _row(entry: dict[str, Any]) -> list[object]:
    detail: dict[str, Any] = entry["detail"]
    subject: str = entry["subject"] or ""
    return [
        entry["id"],
        entry["at"].isoformat(),
        entry["actor"],
        entry["action"],
        subject.removeprefix("room:") if subject.startswith("room:") else None,
        subject,
        detail.get("session_id"),
        " ".join(map(str, detail.get("platforms") or [])),
        entry["result"],
        entry["errorCode"],
        entry["ip"],
        entry["userAgent"],
        entry["requestId"],
        msgspec.json.encode(detail).decode() if detail else None,
    ]
