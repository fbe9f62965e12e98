"""Background jobs over HTTP, for operators: `/api/jobs`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from butai.database import Database
from butai.jobs import queries, service
from butai.web.dependencies import Operator, SmallBodies, origin
from butai.web.problems import documented

router = APIRouter(prefix="/api/jobs", tags=["jobs"], route_class=SmallBodies)

_MOST = 2**63 - 1
Status = Literal["todo", "doing", "failed", "cancelled", "aborted", "succeeded"]
JobId = Annotated[int, Path(ge=1, le=_MOST)]


class JobOut(BaseModel):
    """One job. `errorCode` and `errorDetail` are of its last attempt that failed."""

    id: int
    task: str
    status: Status
    attempts: int
    scheduledAt: datetime | None
    changedAt: datetime | None
    args: dict[str, Any]
    errorCode: str | None
    errorDetail: str | None


class JobsOut(BaseModel):
    """Jobs, newest first. The next page is before `nextBefore`."""

    jobs: list[JobOut]
    nextBefore: int | None


@router.get("", response_model=JobsOut, responses=documented(400, 403), summary="Background jobs")
async def list_jobs(
    request: Request,
    who: Operator,
    status: Annotated[Status | None, Query(description="Only these; `failed` are those that failed for good")] = None,
    task: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=1, le=_MOST, description="Only those below this id")] = None,
) -> Response:
    """Newest first. What succeeded is not kept."""
    database: Database = request.state.database
    found = await queries.listed(database, limit + 1, status=status, task=task, before=before)
    body = {"jobs": found[:limit], "nextBefore": found[limit - 1]["id"] if len(found) > limit else None}
    return Response(msgspec.json.encode(body), 200, {"cache-control": "private, no-store"}, "application/json")


@router.post("/{job_id}/retry", status_code=204, responses=documented(400, 403, 404, 409), summary="Try a job again")
async def retry_job(request: Request, who: Operator, job_id: JobId) -> Response:
    """One that failed for good goes back into the queue."""
    database: Database = request.state.database
    async with database.transaction() as session:
        await service.retry(session, origin(request, who), job_id)
    return Response(status_code=204)


@router.post("/{job_id}/cancel", status_code=204, responses=documented(400, 403, 404, 409), summary="Cancel a job")
async def cancel_job(request: Request, who: Operator, job_id: JobId) -> Response:
    """One that waits leaves the queue."""
    database: Database = request.state.database
    async with database.transaction() as session:
        await service.cancel(session, origin(request, who), job_id)
    return Response(status_code=204)
