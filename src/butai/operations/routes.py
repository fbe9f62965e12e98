"""`/api/health`: how the service fares, for operators. Machines that only want a yes or no ask `/readyz`."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

import msgspec
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from butai.operations.health import Health
from butai.web.dependencies import Operator, SmallBodies
from butai.web.problems import documented

router = APIRouter(prefix="/api/health", tags=["health"], route_class=SmallBodies)


class PartOut(BaseModel):
    """One part. `off` is not part of this installation, `unknown` is what nobody could be asked about. `code`: what is wrong.
    `project`: of LiveKit's. `detail`: what else is known, such as how many workers live."""

    name: Literal["database", "store", "livekit", "worker", "controller", "patrol"]
    project: str | None
    state: Literal["ok", "warning", "down", "off", "unknown"]
    code: str | None
    ms: float | None
    detail: dict[str, Any]


class FiguresOut(BaseModel):
    """Null is what could not be counted in time. Requests are this process's; the rate is of the last minute."""

    showsOnAir: int | None
    outputsLive: int | None
    outputsInTrouble: int | None
    relays: int | None
    jobsWaiting: int | None
    jobsRunning: int | None
    jobsFailed: int | None
    alertsOpen: int | None
    findingsOpen: int | None
    uploads: int | None
    assets: dict[str, int] | None
    requestsInFlight: int
    requestsPerSecond: float


class HealthOut(BaseModel):
    """`down`: database or store does not answer; `degraded`: something else is not as it should be."""

    status: Literal["ok", "degraded", "down"]
    at: datetime
    version: str
    parts: list[PartOut]
    figures: FiguresOut


@router.get("", response_model=HealthOut, responses=documented(403), summary="How the service fares")
async def get_health(request: Request, who: Operator) -> Response:
    """For operators: always 200, and within three seconds, whatever hangs."""
    health: Health = request.state.health
    body = await health.look()
    return Response(msgspec.json.encode(body), 200, {"cache-control": "private, no-store"}, "application/json")
