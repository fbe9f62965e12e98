"""`/api/live/rooms/{room_id}/encoders`: keys with which OBS and other encoders publish to Butai's own ingest."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Request, Response

from butai.live.answers import EncoderMade, EncoderOut, EncodersOut
from butai.live.encoders import service
from butai.live.encoders.keys import NewKey
from butai.live.encoders.models import EncoderKey
from butai.live.encoders.schemas import EncoderIn
from butai.live.responses import LiveRoute, respond_live
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.problems import documented
from butai.web.responses import answers

router = APIRouter(prefix="/api/live/rooms/{room_id}/encoders", tags=["live"], route_class=LiveRoute)


@router.post(
    "", **answers(EncoderMade, 400, 403, 404, 408, 409, 413, 503, status=201), summary="Make a key for an encoder"
)
async def make_encoder(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: EncoderIn
) -> Response:
    """`server` and `key` are the two fields of OBS. The key is shown in this answer only. One that a host token made ends when
    the room's tokens are revoked. A room has at most eight."""
    stage = get_stage(request)
    row, made = await service.make(stage, who, origin(request, who), room_id, wanted.label)
    return respond_live(_with_key(row, made, stage.ingest.url), 201)


@router.get(
    "", **answers(EncodersOut, 400, 403, 404), summary="A room's keys for encoders, without the keys themselves"
)
async def list_encoders(request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()]) -> Response:
    """With the time and address of the last use."""
    found = await service.listed(get_stage(request), who, room_id)
    return respond_live(EncodersOut(data=[EncoderOut(**_values(row)) for row in found]))


@router.post(
    "/{encoder_id}/renew", **answers(EncoderMade, 400, 403, 404, 408, 409, 503), summary="Replace a key for an encoder"
)
async def renew_encoder(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], encoder_id: UUID
) -> Response:
    """The old key is refused from now on, and an encoder that publishes with it is disconnected: put the new one, which is shown
    in this answer only, into the encoder's settings."""
    stage = get_stage(request)
    row, made = await service.renew(stage, who, origin(request, who), room_id, encoder_id)
    return respond_live(_with_key(row, made, stage.ingest.url))


@router.delete(
    "/{encoder_id}",
    status_code=204,
    response_class=Response,
    responses=documented(400, 403, 404),
    summary="Revoke a key for an encoder",
)
async def revoke_encoder(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], encoder_id: UUID
) -> Response:
    """The key is refused from now on, and an encoder that publishes with it is disconnected."""
    await service.revoke(get_stage(request), who, origin(request, who), room_id, encoder_id)
    return Response(status_code=204)


def _values(row: EncoderKey) -> dict[str, Any]:
    names = ("label", "key_fingerprint", "created_at", "renewed_at", "last_used_at", "last_used_from")
    return {"encoder_id": row.id} | {name: getattr(row, name) for name in names}


def _with_key(row: EncoderKey, made: NewKey, server: str) -> EncoderMade:
    return EncoderMade(**_values(row), server=server, key=made.text, url=f"{server}/{made.text}")
