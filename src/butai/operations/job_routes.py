"""Background jobs over HTTP, for operators: `/api/jobs`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response

from butai.database import Database
from butai.jobs import queries, service
from butai.jobs.schemas import JobsOut, JobStatus
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator, origin
from butai.web.old_names import with_old_names
from butai.web.paging import HIGHEST_ID, BeforeId, Limit, cut
from butai.web.problems import documented
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/jobs", tags=["jobs"], route_class=SmallBodies)

JobId = Annotated[int, Path(ge=1, le=HIGHEST_ID)]


@router.get("", **answers(JobsOut, 400, 403), summary="Background jobs")
async def list_jobs(
    request: Request,
    who: Operator,
    status: Annotated[
        JobStatus | None, Query(description="Only jobs in this state; `failed` means failed for good")
    ] = None,
    task: Annotated[str | None, Query(max_length=128, pattern=r"^[^\x00]*$")] = None,
    limit: Limit = 50,
    before: BeforeId = None,
) -> Response:
    """Newest first. Jobs that succeeded are not kept."""
    database: Database = request.state.database
    found = await queries.listed(database, limit + 1, status=status, task=task, before=before)
    jobs, following = cut(found, limit, lambda job: job.id)
    return respond(with_old_names(JobsOut(list(jobs), following), {"next": "nextBefore"}))


@router.post("/{job_id}/retry", status_code=204, responses=documented(400, 403, 404, 409), summary="Try a job again")
async def retry_job(request: Request, who: Operator, job_id: JobId) -> Response:
    """Puts a job that failed for good back into the queue."""
    database: Database = request.state.database
    await service.retry(database, origin(request, who), job_id)
    return Response(status_code=204)


@router.post("/{job_id}/cancel", status_code=204, responses=documented(400, 403, 404, 409), summary="Cancel a job")
async def cancel_job(request: Request, who: Operator, job_id: JobId) -> Response:
    """Removes a waiting job from the queue."""
    database: Database = request.state.database
    await service.cancel(database, origin(request, who), job_id)
    return Response(status_code=204)
