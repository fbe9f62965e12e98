"""`/api/live/audit`: who did what with a room, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from butai.calling import SignedIn, SmallBodies
from butai.errors import NotHost
from butai.live import queries
from butai.live.routes import as_json, check_host
from butai.live.schemas import AuditPageOut, RoomId
from butai.live.wiring import stage
from butai.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=SmallBodies)

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
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    format: Annotated[Literal["json", "csv"], Query()] = "json",
) -> Response:
    """Every start, stop, change and refusal, for the room's owner; for operators of all rooms, too."""
    if room_id is not None:
        await check_host(stage(request), who, room_id)
    elif not who.is_operator:
        raise NotHost("Say which of your rooms: room_id")
    found = await queries.audit_entries(stage(request).database, room_id, before, limit)
    if format == "csv":
        headers = {"content-disposition": 'attachment; filename="audit.csv"', "cache-control": "private, no-store"}
        return Response(_csv(found), 200, headers, "text/csv; charset=utf-8")
    return as_json({"data": found, "next_before": found[-1]["id"] if len(found) == limit else None})


def _csv(entries: list[dict[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(_COLUMNS)
    for entry in entries:
        shown = entry | {"at": entry["at"].isoformat(), "platforms": " ".join(entry["platforms"])}
        writer.writerow([_cell(shown[column]) for column in _COLUMNS])
    return out.getvalue()


def _cell(value: object) -> str:
    """A text that no spreadsheet takes for a formula: user agents are the caller's to choose (OWASP, CSV injection)."""
    text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
