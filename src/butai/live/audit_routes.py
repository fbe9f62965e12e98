"""`/api/live/audit`: a room's part of the audit trail as JSON or CSV. The whole trail is at `/api/audit`, for
operators."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from butai.audit import csv, queries
from butai.audit.export import ROOM_COLUMNS, export
from butai.audit.schemas import AuditFilter, about_room
from butai.errors import NotHost
from butai.live.access import check_host
from butai.live.answers import RoomEntryOut, RoomTrailOut
from butai.live.responses import LiveRoute, respond_live
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import SignedIn
from butai.web.paging import BeforeId
from butai.web.responses import answers

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


@router.get(
    "/audit",
    **answers(
        RoomTrailOut, 400, 403, 404, description="Newest first", media={"text/csv": {"schema": {"type": "string"}}}
    ),
    summary="A room's audit trail",
)
async def audit(
    request: Request,
    who: SignedIn,
    room_id: Annotated[RoomId | None, Query()] = None,
    before: BeforeId = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="100 as JSON; up to 100,000 lines as CSV")] = None,
    answer_format: Annotated[Literal["json", "csv"] | None, Query(alias="format")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """Every start, stop, change and refusal, for the room's owner; for operators also of all rooms together.

    Refusals are counted by the minute (`times`). Of those to callers who are not the room's hosts a page has the 20 newest
    at most, beside its `limit` of other entries.

    As CSV with `format=csv` or `Accept: text/csv`. A cell that a spreadsheet would evaluate begins with an apostrophe.
    """
    database = get_stage(request).database
    if room_id is not None:
        await check_host(database, who, room_id)
    elif not who.is_operator:
        raise NotHost("room_id is required: one of your rooms")
    about = None if room_id is None else about_room(room_id)
    wanted = AuditFilter(action="live.", subject=about, few_strangers=room_id is not None)
    if answer_format == "csv" or (answer_format is None and csv.is_wanted(accept)):
        return await export(database, wanted, before, limit, ROOM_COLUMNS)
    most = limit or 100
    entries, following = await queries.page(database, wanted, before, most)
    shown = [
        RoomEntryOut(**{name: getattr(entry, name) for name in RoomEntryOut.__struct_fields__}) for entry in entries
    ]
    return respond_live(RoomTrailOut(data=shown, next=following, next_before=following))
