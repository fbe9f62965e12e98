"""Paths of the patrol, for operators: `/api/assets/patrol`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from butai.assets.library import get_library
from butai.assets.patrol import queries, service
from butai.assets.patrol.finding_states import FindingKind
from butai.assets.patrol.schemas import FindingKindName, PatrolOut, PatrolRequest, PatrolRunsOut
from butai.config import Settings
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator, origin
from butai.web.old_names import with_old_names
from butai.web.paging import HIGHEST_ID, BeforeId, Limit, cut
from butai.web.problems import documented
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/assets/patrol", tags=["patrol"], route_class=SmallBodies)

_OldPosition = Annotated[int | None, Query(ge=1, le=HIGHEST_ID, deprecated=True)]


@router.get("", **answers(PatrolOut, 400, 403), summary="The patrol at a glance")
async def get_patrol(
    request: Request,
    who: Operator,
    limit: Annotated[int, Query(ge=1, le=200, description="Most runs, and most findings")] = 50,
    before_run: _OldPosition = None,
    before_finding: _OldPosition = None,
    kind: Annotated[FindingKindName | None, Query(deprecated=True)] = None,
    closed: Annotated[bool, Query(deprecated=True)] = False,
) -> Response:
    """Runs and findings of the patrol, newest first. A run in progress shows its counts so far."""
    database = get_library(request).database
    settings: Settings = request.state.settings
    summary = await queries.summary(database, settings.alerts.stale_hours)
    runs = await queries.runs(database, limit, before_run)
    of_kind = FindingKind(kind) if kind else None
    findings = await queries.findings(database, limit, before=before_finding, kind=of_kind, resolved=closed)
    return respond(
        with_old_names(
            PatrolOut(summary.last_finished_at, summary.stale, summary.open_findings, runs, findings),
        )
    )


@router.get("/runs", **answers(PatrolRunsOut, 400, 403), summary="Runs of the patrol")
async def list_patrol_runs(request: Request, who: Operator, limit: Limit = 50, before: BeforeId = None) -> Response:
    """Runs, newest first, including comparisons with a listing."""
    found = await queries.runs(get_library(request).database, limit + 1, before)
    runs, following = cut(found, limit, lambda run: run.id)
    return respond(PatrolRunsOut(list(runs), following))


@router.post(
    "/run",
    status_code=202,
    response_class=Response,
    responses=documented(400, 403, 408, 413),
    summary="Start a patrol run now",
)
async def run_patrol(request: Request, who: Operator, wanted: PatrolRequest) -> Response:
    """Checks every file, due or not. The run begins when a worker is free, unless one is in progress."""
    dry_run = wanted.dry_run or wanted.dryRun
    await service.request_run(get_library(request).database, origin(request, who), dry_run=dry_run)
    return Response(status_code=202)
