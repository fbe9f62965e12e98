"""Paths of alerts, for operators: `/api/alerts`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from butai.alerts import queries
from butai.alerts.schemas import AlertsOut
from butai.alerts.service import request_test_message
from butai.database import Database
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator, origin
from butai.web.old_names import with_old_names
from butai.web.paging import BeforeId, Limit, cut
from butai.web.problems import documented
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/alerts", tags=["alerts"], route_class=SmallBodies)


@router.get("", **answers(AlertsOut, 400, 403), summary="Alerts, open and resolved")
async def list_alerts(
    request: Request,
    who: Operator,
    still_open: Annotated[
        bool | None, Query(alias="open", description="Only open alerts, or only resolved ones")
    ] = None,
    limit: Limit = 50,
    before: BeforeId = None,
) -> Response:
    """Newest first."""
    database: Database = request.state.database
    found = await queries.alerts(database, limit + 1, still_open=still_open, before=before)
    alerts, following = cut(found, limit, lambda alert: alert.id)
    return respond(with_old_names(AlertsOut(list(alerts), following), {"next": "nextBefore"}))


@router.post(
    "/test", status_code=202, response_class=Response, responses=documented(403), summary="Send a test message"
)
async def test_alerts(request: Request, who: Operator) -> Response:
    """Sends a message to each service of `BUTAI_ALERT_URLS`, by a job, as alerts are sent."""
    database: Database = request.state.database
    await request_test_message(database, origin(request, who))
    return Response(status_code=202)
