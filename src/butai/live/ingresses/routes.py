"""`/api/live/rooms/{room_id}/ingress`: ways into a room for hosts with OBS."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from butai.live.ingresses import service
from butai.live.ingresses.schemas import IngressesOut, IngressIn, IngressMade
from butai.live.models import Ingress
from butai.live.responses import LiveRoute, as_json
from butai.live.schemas import RoomId
from butai.live.stage import get_stage
from butai.web.dependencies import HostOrUser, origin
from butai.web.problems import documented

router = APIRouter(prefix="/api/live/rooms/{room_id}/ingress", tags=["live"], route_class=LiveRoute)

IngressId = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9_-]+$")]


@router.post(
    "",
    status_code=201,
    response_model=IngressMade,
    responses=documented(400, 403, 404, 408, 409, 413, 503),
    summary="A new way in, with its key",
)
async def make_ingress(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], wanted: IngressIn
) -> Response:
    """For OBS: `url` is its server, `stream_key` its key (of WHIP: the bearer token). The key is shown this once."""
    row, key = await service.create(
        get_stage(request), who, origin(request, who), room_id, wanted.kind, wanted.name, wanted.identity
    )
    return as_json(_shown(row) | {"stream_key": key}, 201)


@router.get(
    "", response_model=IngressesOut, responses=documented(400, 403, 404), summary="The ways into a room, without keys"
)
async def list_ingresses(request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()]) -> Response:
    """With their states as LiveKit tells them now, if it answers within a second."""
    found = await service.listed(get_stage(request), who, room_id)
    return as_json({"data": [_shown(row) for row in found]})


@router.delete(
    "/{ingress_id}",
    status_code=204,
    response_class=Response,
    responses=documented(400, 403, 404, 503),
    summary="Close a way in",
)
async def delete_ingress(
    request: Request, who: HostOrUser, room_id: Annotated[RoomId, Path()], ingress_id: IngressId
) -> Response:
    """Whoever streams into it is cut off. Again is fine."""
    await service.delete(get_stage(request), who, origin(request, who), room_id, ingress_id)
    return Response(status_code=204)


def _shown(row: Ingress) -> dict[str, Any]:
    return {
        "ingress_id": row.ingress_id,
        "kind": row.kind,
        "name": row.name,
        "identity": row.identity,
        "url": row.url,
        "key_fingerprint": row.key_fingerprint,
        "state": row.state,
        "since": row.state_at,
        "created_at": row.created_at,
    }
