"""`/api/live/audit`: who did what with a room, as JSON or CSV. All of the trail is at `/api/audit`, for operators."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Header, Query, Request, Response
from fastapi.responses import StreamingResponse

from butai.audit import csv
from butai.errors import NotHost
from butai.live.access import check_host
from butai.live.broadcasts import queries
from butai.live.responses import LiveRoute, as_json
from butai.live.schemas import AuditPageOut, RoomId
from butai.live.stage import Stage, get_stage
from butai.web.dependencies import SignedIn
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)

_PAGE = 1000
_COLUMNS = ("at", "actor", "action", "room_id", "session_id", "platforms", "result", "error_code", "ip", "user_agent")


@router.get(
    "/audit",
    response_model=AuditPageOut,
    responses=documented(400, 403, 404)
    | {
        200: {
            "model": AuditPageOut,
            "description": "Newest first",
            "content": {"text/csv": {"schema": {"type": "string"}}},
        }
    },
    summary="Who did what",
)
async def audit(
    request: Request,
    who: SignedIn,
    room_id: Annotated[RoomId | None, Query()] = None,
    before: Annotated[int | None, Query(ge=1, lt=2**63, description="`next_before` of the page before")] = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="100 as JSON; all as CSV")] = None,
    format: Annotated[Literal["json", "csv"] | None, Query()] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Every start, stop, change and refusal, for the room's owner; for operators of all rooms, too.

    As CSV with `format=csv` or `Accept: text/csv`; without a `limit` that is everything.
    """
    if room_id is not None:
        await check_host(get_stage(request).database, who, room_id)
    elif not who.is_operator:
        raise NotHost("Say which of your rooms: room_id")
    wants_csv = format == "csv" or (format is None and csv.is_wanted(accept))
    first = await queries.audit_entries(
        get_stage(request).database, room_id, before, limit or (_PAGE if wants_csv else 100)
    )
    if wants_csv:
        headers = {"content-disposition": 'attachment; filename="audit.csv"', "cache-control": "private, no-store"}
        lines = _csv(get_stage(request), room_id, first, goes_on=limit is None)
        return StreamingResponse(lines, 200, headers, "text/csv; charset=utf-8")
    return as_json({"data": first, "next_before": first[-1]["id"] if len(first) == (limit or 100) else None})


async def _csv(stage: Stage, room_id: str | None, page: list[dict[str, Any]], *, goes_on: bool) -> AsyncIterator[str]:
    """A page of lines at a time: a trail is long after some years."""
    yield csv.lines([_COLUMNS])
    while page:
        yield csv.lines([_row(entry) for entry in page])
        if not goes_on or len(page) < _PAGE:
            return
        page = await queries.audit_entries(stage.database, room_id, page[-1]["id"], _PAGE)


def _row(entry: dict[str, Any]) -> list[object]:
    shown = entry | {"at": entry["at"].isoformat(), "platforms": " ".join(entry["platforms"])}
    return [shown[column] for column in _COLUMNS]
