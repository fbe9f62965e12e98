"""Paths of findings, for operators: `/api/assets/findings`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from butai.assets.findings.service import act
from butai.assets.library import get_library
from butai.assets.patrol import queries
from butai.assets.patrol.finding_states import FindingAction, FindingKind, FindingState
from butai.assets.patrol.schemas import FindingActionName, FindingKindName, FindingsOut
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator, origin
from butai.web.paging import HIGHEST_ID, BeforeId, Limit, cut
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/assets/findings", tags=["patrol"], route_class=SmallBodies)


class FindingActed(msgspec.Struct, frozen=True):
    """How a finding was resolved: `adopted`, `trashed`, `ignored`."""

    resolution: FindingState


@router.get("", **answers(FindingsOut, 400, 403), summary="Disagreements of index and store")
async def list_findings(
    request: Request,
    who: Operator,
    kind: Annotated[FindingKindName | None, Query(description="Only findings of this kind")] = None,
    resolved: Annotated[bool, Query(description="Resolved findings, too")] = False,
    limit: Limit = 50,
    before: BeforeId = None,
) -> Response:
    """Newest first, each with the actions that apply to it."""
    database = get_library(request).database
    of_kind = FindingKind(kind) if kind else None
    found = await queries.findings(database, limit + 1, before=before, kind=of_kind, resolved=resolved)
    findings, following = cut(found, limit, lambda finding: finding.id)
    return respond(FindingsOut(list(findings), following))


@router.post(
    "/{finding_id}/{action}",
    **answers(FindingActed, 400, 403, 404, 409, 504),
    summary="Adopt, trash or ignore a finding",
)
async def act_on_finding(
    request: Request, who: Operator, finding_id: Annotated[int, Path(ge=1, le=HIGHEST_ID)], action: FindingActionName
) -> Response:
    """`adopt` takes an object into the library. `trash` moves an object into the trash, to be deleted after the trash
    period, or puts an asset without its object into the trash. `ignore` resolves the finding for good. Row and object
    are checked again first."""
    library = get_library(request)
    by = origin(request, who)
    chosen = FindingAction(action)
    resolution = await act(library.database, library.store, library.settings, finding_id, chosen, by)
    return respond(FindingActed(resolution))
