"""`/api/live/rooms/{room_id}/ingress`: ingresses for hosts who stream from OBS."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from butai.live.answers import IngressesOut, IngressMade, IngressOut
from butai.live.ingresses import service
from butai.live.ingresses.schemas import IngressIn
from butai.live.models import Ingress
from butai.live.responses import LiveRoute, respond_live
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.problems import documented
from butai.web.responses import answers

router = APIRouter(prefix="/api/live/rooms/{room_id}/ingress", tags=["live"], route_class=LiveRoute)

IngressId = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")]


@router.post(
    "",
    **answers(IngressMade, 400, 403, 404, 408, 409, 413, 503, status=201),
    summary="Make an ingress",
)
async def make_ingress(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: IngressIn
) -> Response:
    """In OBS, `url` is the server and `stream_key` the key (for WHIP the bearer token). The key is shown in this answer only."""
    row, key = await service.create(
        get_stage(request),
        who,
        origin(request, who),
        room_id,
        kind=wanted.kind,
        name=wanted.name,
        identity=wanted.identity,
    )
    return respond_live(IngressMade(**_values(row), stream_key=key), 201)


@router.get("", **answers(IngressesOut, 400, 403, 404), summary="A room's ingresses, without keys")
async def list_ingresses(request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()]) -> Response:
    """With the states that LiveKit reports now, if it answers within a second."""
    found = await service.listed(get_stage(request), who, room_id)
    return respond_live(IngressesOut(data=[IngressOut(**_values(row)) for row in found]))


@router.delete(
    "/{ingress_id}",
    status_code=204,
    response_class=Response,
    responses=documented(400, 403, 404, 503),
    summary="Delete an ingress",
)
async def delete_ingress(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], ingress_id: IngressId
) -> Response:
    """An encoder that streams into it is disconnected. Idempotent."""
    await service.delete(get_stage(request), who, origin(request, who), room_id, ingress_id)
    return Response(status_code=204)


def _values(row: Ingress) -> dict[str, Any]:
    names = ("ingress_id", "kind", "name", "identity", "url", "key_fingerprint", "state", "created_at")
    return {name: getattr(row, name) for name in names} | {"since": row.state_at}
