"""Paths of the patrol, for operators: `/api/assets/patrol`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Request, Response

from butai import audit, jobs
from butai.assets.library import get_library
from butai.assets.patrol import queries
from butai.assets.patrol.schemas import FindingKind, PatrolOut, PatrolRequest
from butai.assets.patrol.task_names import PATROL_NOW
from butai.config import Settings
from butai.web.dependencies import Operator, SmallBodies, origin
from butai.web.problems import documented

router = APIRouter(prefix="/api/assets/patrol", tags=["patrol"], route_class=SmallBodies)

_MOST = 2**63 - 1


@router.get("", response_model=PatrolOut, responses=documented(400, 403), summary="Runs and findings of the patrol")
async def get_patrol(
    request: Request,
    who: Operator,
    limit: Annotated[int, Query(ge=1, le=200, description="Most runs, and most findings")] = 50,
    before_run: Annotated[int | None, Query(ge=1, le=_MOST, description="Only runs below this id")] = None,
    before_finding: Annotated[int | None, Query(ge=1, le=_MOST, description="Only findings below this id")] = None,
    kind: Annotated[FindingKind | None, Query(description="Only findings of this kind")] = None,
    closed: Annotated[bool, Query(description="Resolved findings, too")] = False,
) -> Response:
    """What the patrol did and found, newest first. A run in progress shows how far it has come."""
    database = get_library(request).database
    settings: Settings = request.state.settings
    body = await queries.summary(database, settings.alerts.stale_hours) | {
        "runs": await queries.runs(database, limit, before_run),
        "findings": await queries.findings(database, limit, before=before_finding, kind=kind, closed=closed),
    }
    return Response(msgspec.json.encode(body), 200, {"cache-control": "private, no-store"}, "application/json")


@router.post("/run", status_code=202, responses=documented(400, 403, 408, 413), summary="Start a patrol run now")
async def run_patrol(request: Request, who: Operator, wanted: PatrolRequest) -> Response:
    """Checks every file, due or not. The run begins when a worker is free, unless one is in progress."""
    async with get_library(request).database.transaction() as session:
        await jobs.enqueue(session, PATROL_NOW, {"dry_run": wanted.dryRun, "requested_by": who.user_id})
        audit.record(session, origin(request, who), "patrol.run", None, detail={"dry_run": wanted.dryRun})
    return Response(status_code=202)
