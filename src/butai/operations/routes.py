"""`/api/health`: the health of the service, for operators. `/readyz` gives machines a plain yes or no."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from butai.operations.health import Health
from butai.operations.schemas import HealthOut
from butai.web.bodies import SmallBodies
from butai.web.dependencies import Operator
from butai.web.old_names import with_old_names
from butai.web.responses import answers, respond

router = APIRouter(prefix="/api/health", tags=["health"], route_class=SmallBodies)


@router.get("", **answers(HealthOut, 403), summary="The health of the service")
async def get_health(request: Request, who: Operator) -> Response:
    """For operators: always 200, and within three seconds, even if a component hangs."""
    health: Health = request.state.health
    return respond(with_old_names(await health.look(), {"broadcasts_on_air": "showsOnAir"}))
