"""Paths of alerts, for operators: `/api/alerts`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel

from butai.alerts import queries
from butai.alerts.service import request_test_message
from butai.database import Database
from butai.web.dependencies import Operator, SmallBodies, origin
from butai.web.problems import documented

router = APIRouter(prefix="/api/alerts", tags=["alerts"], route_class=SmallBodies)

_MOST = 2**63 - 1


class AlertOut(BaseModel):
    """One alert. It is open until `resolvedAt`; `count` is how often it was raised while open. `notified`: whether its
    first message has reached all services; null before the first try, and when no service is configured."""

    id: int
    key: str
    code: str
    severity: Literal["info", "warning", "failure"]
    title: str
    body: str
    count: int
    openedAt: datetime
    seenAt: datetime
    resolvedAt: datetime | None
    notified: bool | None


class AlertsOut(BaseModel):
    """Alerts, newest first. The next page is before `nextBefore`."""

    alerts: list[AlertOut]
    nextBefore: int | None


@router.get("", response_model=AlertsOut, responses=documented(400, 403), summary="Alerts, open and resolved")
async def list_alerts(
    request: Request,
    who: Operator,
    still_open: Annotated[
        bool | None, Query(alias="open", description="Only open alerts, or only resolved ones")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=_MOST, description="Only those below this id")] = None,
) -> Response:
    """Newest first."""
    database: Database = request.state.database
    found = await queries.alerts(database, limit + 1, still_open=still_open, before=before)
    body: dict[str, Any] = {
        "alerts": found[:limit],
        "nextBefore": found[limit - 1]["id"] if len(found) > limit else None,
    }
    return Response(msgspec.json.encode(body), 200, {"cache-control": "private, no-store"}, "application/json")


@router.post("/test", status_code=202, responses=documented(403), summary="Send a test message")
async def test_alerts(request: Request, who: Operator) -> Response:
    """Sends a message to each service of `BUTAI_ALERT_URLS`, by a job, as alerts are sent."""
    database: Database = request.state.database
    await request_test_message(database, origin(request, who))
    return Response(status_code=202)
