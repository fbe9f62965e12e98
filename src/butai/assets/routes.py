"""The library's own paths, `/api/assets/…`: one asset, its owner's actions, and the feed of changes."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from butai.assets import purge, queries, service
from butai.assets.library import get_library
from butai.assets.schemas import AssetEdit, AssetOut, ChangesOut, WaveformOut
from butai.assets.service import Edit
from butai.assets.uploads import signed
from butai.errors import AssetNotFound, TakenDown, Unauthenticated
from butai.identity import Caller
from butai.web.bodies import SmallBodies
from butai.web.dependencies import TAKES_SIGN_IN, AnyCaller, SignedIn, origin
from butai.web.old_names import with_old_names
from butai.web.paging import HIGHEST_ID, AfterId
from butai.web.problems import documented
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/assets", tags=["assets"], route_class=SmallBodies)

_REVALIDATED = {"cache-control": "private, no-cache", "vary": "Cookie, Authorization"}


@router.get(
    "/changes",
    **answers(ChangesOut, 400),
    operation_id="list_changes",
    summary="Changes since a place in the feed",
)
async def changes(
    request: Request,
    who: SignedIn,
    after: AfterId = 0,
    since: Annotated[int, Query(ge=0, le=HIGHEST_ID, deprecated=True, description="The old name of `after`")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 500,
) -> Response:
    """Each changed asset that the caller may see, once, with its newest state, and the ids of assets that are gone. Oldest
    first; without `after` everything."""
    database = get_library(request).database
    found = await queries.changes(database, max(after, since), who.user_id, limit, operator=who.is_operator)
    return respond(with_old_names(found, {"next": "nextSince"}), headers=_REVALIDATED)


@router.get(
    "/{asset_id:uuid}",
    **answers(AssetOut, 404),
    openapi_extra=TAKES_SIGN_IN,
    summary="One asset",
)
async def get_asset(request: Request, who: AnyCaller, asset_id: UUID) -> Response:
    """All fields of an asset. Other users get it when it is public and ready; owners also see what failed, and why."""
    return await _answer(request, who, asset_id)


async def _answer(request: Request, who: Caller, asset_id: UUID) -> Response:
    row = await queries.get_asset(get_library(request).database, asset_id, who.user_id, operator=who.is_operator)
    if row is None:
        raise Unauthenticated if who.is_anonymous else AssetNotFound
    return respond(with_old_names(row), headers=_REVALIDATED)


@router.get(
    "/{asset_id:uuid}/waveform",
    **answers(WaveformOut, 403, 404),
    openapi_extra=TAKES_SIGN_IN,
    summary="The waveform of a piece of music",
)
async def get_waveform(request: Request, who: AnyCaller, asset_id: UUID) -> Response:
    """For all who may see the asset; 404 also until the waveform is made."""
    database = get_library(request).database
    found = None
    asset = await queries.get_asset(database, asset_id, who.user_id, operator=who.is_operator)
    if asset is not None and asset.taken_down_at is not None and not who.is_operator:
        raise TakenDown
    if asset is not None:
        found = await queries.waveform(database, asset_id)
    if found is None:
        raise Unauthenticated if who.is_anonymous else AssetNotFound
    return respond(with_old_names(found), headers=_REVALIDATED)


@router.patch(
    "/{asset_id:uuid}",
    **answers(AssetOut, 400, 403, 404, 408, 413),
    summary="Rename, describe, publish or hide an asset",
)
async def edit_asset(request: Request, who: SignedIn, asset_id: UUID, edit: AssetEdit) -> Response:
    """For the owner or an operator. Public to private takes effect at once."""
    name = edit.display_name if edit.display_name is not None else edit.displayName
    wanted = Edit(name, edit.visibility, edit.description, edit.tags)
    await service.edit(get_library(request).database, who, origin(request, who), asset_id, wanted)
    return await _answer(request, who, asset_id)


@router.delete(
    "/{asset_id:uuid}", status_code=204, responses=documented(403, 404), summary="Put an asset into the trash"
)
async def trash_asset(request: Request, who: SignedIn, asset_id: UUID) -> Response:
    """Removes the asset from all lists and reads at once; it is purged after the trash period. Idempotent."""
    await service.trash(get_library(request).database, who, origin(request, who), asset_id)
    return Response(status_code=204)


@router.post(
    "/{asset_id:uuid}/restore",
    **answers(AssetOut, 403, 404),
    summary="Take an asset out of the trash",
)
async def restore_asset(request: Request, who: SignedIn, asset_id: UUID) -> Response:
    """The asset is as it was before. Idempotent."""
    await service.restore(get_library(request).database, who, origin(request, who), asset_id)
    return await _answer(request, who, asset_id)


@router.post(
    "/{asset_id:uuid}/purge",
    status_code=204,
    responses=documented(403, 404, 409),
    summary="Remove an asset for good",
)
async def purge_asset(request: Request, who: SignedIn, asset_id: UUID) -> Response:
    """For an asset in the trash; it cannot be restored afterwards. Without this it is purged after the trash period."""
    await purge.purge_now(get_library(request).database, who, origin(request, who), asset_id)
    return Response(status_code=204)


@router.post(
    "/{asset_id:uuid}/complete",
    **answers(AssetOut, 403, 404, 409, 413, 415, 422, 504),
    summary="Report that a signed upload is complete",
)
async def complete_upload(request: Request, who: SignedIn, asset_id: UUID) -> Response:
    """Checks the object in the store and makes the asset ready. Idempotent."""
    assert who.user_id is not None
    await signed.complete(
        get_library(request).uploads, who.user_id, origin(request, who), asset_id, operator=who.is_operator
    )
    return await _answer(request, who, asset_id)
