"""`/api/operations/users` and `/api/operations/assets`: who and what is kept from the public, for operators."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from butai.database import Database
from butai.identity.caller import chosen_user_id
from butai.live.stage import Stage
from butai.operations import suspension, take_downs
from butai.operations.schemas import SuspendedUserOut, SuspendedUsersOut, TakenDownAsset, TakenDownAssets
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator, origin
from butai.web.paging import Limit
from butai.web.problems import documented
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/operations", tags=["operations"], route_class=SmallBodies)

UserId = Annotated[str, Path(min_length=1, max_length=255), AfterValidator(chosen_user_id)]


class ReasonIn(BaseModel):
    """Why an operator acts: of a suspension for operators, of a file that is taken down for its owner, too."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"reason": "A copyright complaint"}]})

    reason: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*\S[^\x00]*$")]


@router.get("/users/suspended", **answers(SuspendedUsersOut), summary="Suspended users")
async def list_suspended(request: Request, who: Operator) -> Response:
    """All of them, the newest first."""
    database: Database = request.state.database
    found = await suspension.suspended(database)
    return respond(
        SuspendedUsersOut(
            [SuspendedUserOut(one.user_id, one.reason, one.suspended_at, one.suspended_by) for one in found]
        )
    )


@router.post(
    "/users/{user_id:path}/suspend",
    **answers(SuspendedUserOut, 400, 408, 413),
    summary="Suspend a user",
)
async def suspend_user(request: Request, who: Operator, user_id: UserId, wanted: ReasonIn) -> Response:
    """Every credential of the user is refused with 403 `user_suspended`, the broadcasts of their rooms end, all tokens of
    the rooms are revoked, and their public files are private. A second time it changes the reason."""
    database: Database = request.state.database
    stage: Stage = request.state.stage
    by = origin(request, who)
    row = await suspension.suspend(database, by, user_id, wanted.reason)
    await suspension.apply(database, stage.projects, stage.settings, user_id, by)
    return respond(SuspendedUserOut(row.user_id, row.reason, row.suspended_at, row.suspended_by))


@router.post(
    "/users/{user_id:path}/restore",
    status_code=204,
    responses=documented(400, 404, 409),
    summary="End a user's suspension",
)
async def restore_user(request: Request, who: Operator, user_id: UserId) -> Response:
    """The user may sign in, and what was public is public again. Broadcasts do not go on; tokens, invitations and ingresses
    have to be made again."""
    database: Database = request.state.database
    stage: Stage = request.state.stage
    by = origin(request, who)
    await suspension.restore(database, by, user_id)
    await suspension.apply(database, stage.projects, stage.settings, user_id, by)
    return Response(status_code=204)


@router.get("/assets/taken_down", **answers(TakenDownAssets, 400), summary="Files that are taken down")
async def list_taken_down(request: Request, who: Operator, limit: Limit = 50) -> Response:
    """The newest first."""
    database: Database = request.state.database
    found = await take_downs.listed(database, limit)
    return respond(
        TakenDownAssets(
            [
                TakenDownAsset(one.id, one.s3_key, one.owner_user_id, one.taken_down_reason or "", one.taken_down_at)
                for one in found
                if one.taken_down_at is not None
            ]
        )
    )


@router.post(
    "/assets/{asset_id:uuid}/take_down",
    status_code=204,
    responses=documented(400, 404, 408, 413),
    summary="Take a file down",
)
async def take_down(request: Request, who: Operator, asset_id: UUID, wanted: ReasonIn) -> Response:
    """Only operators read it; its owner sees the reason, and cannot publish it or the same bytes. Its thumbnail and
    `_meta.json` follow it. A second time it changes the reason."""
    database: Database = request.state.database
    await take_downs.take_down(database, origin(request, who), asset_id, wanted.reason)
    return Response(status_code=204)


@router.post(
    "/assets/{asset_id:uuid}/put_back",
    status_code=204,
    responses=documented(404),
    summary="Put a file back that was taken down",
)
async def put_back(request: Request, who: Operator, asset_id: UUID) -> Response:
    """What was public is public again, unless its owner is suspended. Idempotent."""
    database: Database = request.state.database
    await take_downs.put_back(database, origin(request, who), asset_id)
    return Response(status_code=204)
