"""`/api/live/destinations`: the caller's saved platforms. Stream keys are accepted and never returned."""

from __future__ import annotations

from typing import cast
from uuid import UUID

from fastapi import APIRouter, Request, Response
from pydantic import SecretStr

from butai.live.answers import DestinationOut, DestinationsOut, StepName, StepOut, TestOut
from butai.live.destinations import service
from butai.live.destinations.pasted import DestinationValues
from butai.live.models import Destination
from butai.live.responses import LiveRoute, request_language, respond_live
from butai.live.schemas import DestinationEdit, DestinationIn
from butai.live.stage import get_stage
from butai.live.texts import words
from butai.web.dependencies import SignedIn, origin
from butai.web.problems import documented
from butai.web.responses import answers

router = APIRouter(prefix="/api/live", tags=["live"], route_class=LiveRoute)


def _shown(destination: Destination) -> DestinationOut:
    return DestinationOut(**{name: getattr(destination, name) for name in DestinationOut.__struct_fields__})


def _plain(secret: SecretStr | None) -> str | None:
    return secret.get_secret_value() if secret is not None else None


@router.post(
    "/destinations",
    **answers(DestinationOut, 400, 408, 409, 413, 422, status=201),
    summary="Save a destination",
)
async def create(request: Request, who: SignedIn, wanted: DestinationIn) -> Response:
    """The stream key is sealed; only its fingerprint is shown from now on."""
    made = await service.create(
        get_stage(request),
        who,
        origin(request, who),
        wanted.platform,
        DestinationValues(
            wanted.label, wanted.ingest_url, wanted.backup_ingest_url, stream_key=wanted.stream_key.get_secret_value()
        ),
    )
    return respond_live(_shown(made), 201)


@router.get("/destinations", **answers(DestinationsOut), summary="The caller's destinations")
async def list_destinations(request: Request, who: SignedIn) -> Response:
    """Newest first."""
    return respond_live(DestinationsOut(data=[_shown(one) for one in await service.listed(get_stage(request), who)]))


@router.get(
    "/destinations/{destination_id}",
    **answers(DestinationOut, 400, 404),
    summary="One destination",
)
async def get(request: Request, who: SignedIn, destination_id: UUID) -> Response:
    """One of the caller's destinations; one of another user is 404."""
    return respond_live(_shown(await service.get(get_stage(request), who, destination_id)))


@router.patch(
    "/destinations/{destination_id}",
    **answers(DestinationOut, 400, 404, 408, 413, 422),
    summary="Change a destination",
)
async def change(request: Request, who: SignedIn, destination_id: UUID, edit: DestinationEdit) -> Response:
    """What is on air goes on as it is; each attempt that begins later, by itself or by a retry, takes the new URL and key.
    An ingest URL on another host needs the stream key again."""
    cleared = "backup_ingest_url" in edit.model_fields_set and edit.backup_ingest_url is None
    wanted = DestinationValues(edit.label, edit.ingest_url, edit.backup_ingest_url, cleared, _plain(edit.stream_key))
    return respond_live(
        _shown(await service.change(get_stage(request), who, origin(request, who), destination_id, wanted))
    )


@router.delete(
    "/destinations/{destination_id}", status_code=204, responses=documented(400, 404), summary="Delete a destination"
)
async def delete(request: Request, who: SignedIn, destination_id: UUID) -> Response:
    """Its stream key is erased. A running output continues, and its later attempts have the URL and key that it had."""
    await service.delete(get_stage(request), who, origin(request, who), destination_id)
    return Response(status_code=204)


@router.post(
    "/destinations/{destination_id}/test",
    **answers(TestOut, 400, 404, 409),
    summary="Try a destination without going live",
)
async def test(request: Request, who: SignedIn, destination_id: UUID) -> Response:
    """Tries DNS, TCP, TLS and RTMP; for Twitch also a publish that is not shown (`?bandwidthtest=true`). A
    user's tests take turns; 409 when four are under way or wait."""
    destination = await service.get(get_stage(request), who, destination_id)
    steps = await service.test(get_stage(request), who, origin(request, who), destination_id)
    language = request_language(request)
    shown: list[StepOut] = []
    for step in steps:
        message, action = (None, None) if step.ok else words(step.code, destination.platform, language)
        name, code = cast("StepName", step.name), step.code or None
        shown.append(StepOut(name=name, ok=step.ok, ms=step.ms, code=code, message=message, action=action))
    return respond_live(TestOut(ok=all(step.ok for step in steps), steps=shown))
