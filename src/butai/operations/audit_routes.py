"""`/api/audit`: the whole audit trail as JSON or CSV, for operators. A room's part is at `/api/live/audit` for its
owner."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Header, Query, Request, Response

from butai.audit import csv, queries
from butai.audit.export import ALL_COLUMNS, export
from butai.audit.schemas import AuditFilter, TrailOut, about_room
from butai.database import Database
from butai.errors import InvalidRequest
from butai.live.schemas import RoomId
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator
from butai.web.old_names import with_old_names
from butai.web.paging import BeforeId
from butai.web.parameters import Moment
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/audit", tags=["audit"], route_class=SmallBodies)

_Word = Query(min_length=1, max_length=255, pattern=r"^[^\x00]*$")


@router.get(
    "",
    **answers(TrailOut, 400, 403, description="Newest first", media={"text/csv": {"schema": {"type": "string"}}}),
    summary="The audit trail",
)
async def list_audit(
    request: Request,
    who: Operator,
    actor: Annotated[str | None, _Word] = None,
    action: Annotated[
        str | None, Query(min_length=1, max_length=100, pattern=r"^[a-z_.]+$", description="A prefix: `live.`")
    ] = None,
    subject: Annotated[str | None, _Word] = None,
    room_id: Annotated[RoomId | None, Query(description="The same as `subject=room:…`")] = None,
    result: Annotated[Literal["ok", "refused", "failed"] | None, Query()] = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    until: Annotated[Moment | None, Query(alias="to", description="The moment itself is excluded")] = None,
    before: BeforeId = None,
    limit: Annotated[int | None, Query(ge=1, le=1000, description="50 as JSON; up to 100,000 lines as CSV")] = None,
    answer_format: Annotated[Literal["json", "csv"] | None, Query(alias="format")] = None,
    accept: Annotated[str | None, Header(include_in_schema=False)] = None,
) -> Response:
    """For operators: the acts of hosts, owners, operators and the service itself, and refused ones. Newest first.

    What a caller repeats within a minute, such as a refused act, is one entry with its number of `times`.

    As CSV with `format=csv` or `Accept: text/csv`. A cell that a spreadsheet would evaluate begins with an apostrophe.
    """
    if room_id is not None and subject is not None:
        raise InvalidRequest("subject and room_id exclude each other")
    if room_id is not None:
        subject = about_room(room_id)
    wanted = AuditFilter(actor, action, subject, result, since, until)
    database: Database = request.state.database
    if answer_format == "csv" or (answer_format is None and csv.is_wanted(accept)):
        return await export(database, wanted, before, limit, ALL_COLUMNS)
    most = limit or 50
    entries, following = await queries.page(database, wanted, before, most)
    return respond(with_old_names(TrailOut(list(entries), following), {"next": "nextBefore"}))
