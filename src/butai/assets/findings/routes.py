"""`POST /api/assets/findings/{id}/{action}`: an operator acts on a finding."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request, Response
from pydantic import BaseModel

from butai.assets.findings.service import FindingAction, act
from butai.assets.library import get_library
from butai.web.dependencies import Operator, SmallBodies, origin
from butai.web.problems import documented

router = APIRouter(prefix="/api/assets/findings", tags=["patrol"], route_class=SmallBodies)

_MOST = 2**63 - 1


class FindingActed(BaseModel):
    """How a finding was resolved: `adopted`, `trashed`, `ignored`."""

    resolution: str


@router.post(
    "/{finding_id}/{action}",
    response_model=FindingActed,
    responses=documented(400, 403, 404, 409, 504),
    summary="Adopt, trash or ignore a finding",
)
async def act_on_finding(
    request: Request, who: Operator, finding_id: Annotated[int, Path(ge=1, le=_MOST)], action: FindingAction
) -> Response:
    """`adopt` takes an object into the library. `trash` moves an object away, to be deleted after the trash period, or puts
    an asset without its object into the trash. `ignore` resolves the finding for good. Row and object are checked again
    first."""
    library = get_library(request)
    resolution = await act(library.database, library.store, library.settings, finding_id, action, origin(request, who))
    return Response(msgspec.json.encode({"resolution": resolution}), 200, media_type="application/json")
