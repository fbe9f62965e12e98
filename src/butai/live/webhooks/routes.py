"""`POST /api/live/webhook`: LiveKit's events, authenticated by their signature and not by a sign-in.

A `DirectRoute`: a busy LiveKit sends thousands a second, and waits for each answer before it sends the room's next event.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from butai.live.webhooks.intake import Intake
from butai.web.bodies import read_body
from butai.web.hot_route import DirectRoute
from butai.web.problems import documented

router = APIRouter(prefix="/api/live", tags=["live"], route_class=DirectRoute)

LARGEST = 256 * 1024
"""Bytes of a body. Bodies have 0.5 to 3 KiB; a room's metadata may add 64 KiB, and an egress lists its outputs twice."""

_DOCUMENTED: dict[str, Any] = {
    "security": [{"livekit": []}],
    "requestBody": {
        "required": True,
        "content": {
            "application/webhook+json": {
                "schema": {
                    "type": "object",
                    "description": "LiveKit's WebhookEvent",
                    "properties": {
                        "event": {"type": "string", "minLength": 1},
                        "id": {"type": "string", "minLength": 1},
                        "createdAt": {
                            "type": "string",
                            "pattern": "^[0-9]{1,11}$",
                            "description": "Seconds since 1970",
                        },
                    },
                    "required": ["event", "id", "createdAt"],
                }
            }
        },
    },
}

_TAKEN = Response()


@router.post(
    "/webhook",
    response_class=Response,
    responses=documented(400, 408, 413, 415) | {200: {"description": "Stored. A duplicate is recognised by its id"}},
    openapi_extra=_DOCUMENTED,
    summary="Receive an event of LiveKit",
)
async def webhook(request: Request) -> Response:
    """For the `webhook` setting of LiveKit, or of a LiveKit Cloud project. Answers 200 once the event is committed."""
    intake: Intake = request.state.webhooks
    authorization = next((value for name, value in request.scope["headers"] if name == b"authorization"), None)
    sender = intake.sender(authorization)
    await intake.take(sender, await read_body(request, LARGEST))
    return _TAKEN
