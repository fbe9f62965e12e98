"""Parses LiveKit's webhooks into the few facts that are used. Pure.

A body also holds a TURN password, an ingress's stream key, pieces of the keys in egress URLs, and raw error texts of
platforms. None of these is passed on: `WebhookEvent.detail` is fit for the host's timeline, and an ingress's error is
redacted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from butai.errors import InvalidRequest
from butai.live.tokens import is_engines
from butai.log import REDACTED, Redactor

TIMELINE = {
    "room_started": "room.started",
    "room_finished": "room.finished",
    "participant_joined": "participant.joined",
    "participant_left": "participant.left",
    "participant_connection_aborted": "participant.aborted",
    "track_published": "track.published",
    "track_unpublished": "track.unpublished",
    "egress_started": "egress.started",
    "egress_updated": "egress.updated",
    "egress_ended": "egress.ended",
    "ingress_started": "ingress.started",
    "ingress_ended": "ingress.ended",
}
"""LiveKit's event names and those of our timeline. Other events are stored and wake controllers, and are not shown."""

_INGRESS_STATES = {
    "ENDPOINT_INACTIVE": "idle",
    "ENDPOINT_BUFFERING": "buffering",
    "ENDPOINT_PUBLISHING": "publishing",
    "ENDPOINT_ERROR": "error",
    "ENDPOINT_COMPLETE": "ended",
}

_LONGEST = 256
"""Characters of a name or an identity. Butai's rooms have at most 128; a notification of Postgres holds 8000 bytes."""

_redact = Redactor()


class _Room(msgspec.Struct, frozen=True):
    name: str = ""


class _Participant(msgspec.Struct, frozen=True):
    identity: str = ""
    kind: str | int = "STANDARD"
    disconnectReason: str | int | None = None


class _Track(msgspec.Struct, frozen=True):
    sid: str = ""
    name: str = ""
    # Protobuf's JSON omits a field that has its default.
    type: str | int = "AUDIO"
    source: str | int = "UNKNOWN"


class _Egress(msgspec.Struct, frozen=True):
    egressId: str = ""
    roomName: str = ""
    status: str | int = "EGRESS_STARTING"
    errorCode: int = 0


class _IngressState(msgspec.Struct, frozen=True):
    status: str | int = "ENDPOINT_INACTIVE"
    error: str = ""
    updatedAt: str | int = 0


class _Ingress(msgspec.Struct, frozen=True):
    ingressId: str = ""
    roomName: str = ""
    streamKey: str = ""
    url: str = ""
    state: _IngressState = _IngressState()


class _Event(msgspec.Struct, frozen=True):
    event: str
    id: str
    # A 64-bit number, which protobuf's JSON writes as a string.
    createdAt: str
    room: _Room | None = None
    participant: _Participant | None = None
    track: _Track | None = None
    egressInfo: _Egress | None = None
    ingressInfo: _Ingress | None = None


_decode = msgspec.json.Decoder(_Event).decode


@dataclass(frozen=True, slots=True)
class IngressReport:
    """An ingress's state (`live.ingresses.states`). `at`: LiveKit's time, in seconds since 1970. `error`: redacted."""

    ingress_id: str
    state: str
    at: float
    error: str | None


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """One webhook. `timeline_event`: its name in the timeline; None for one that is not shown there. `created_at`:
    seconds since 1970."""

    id: str
    event: str
    created_at: float
    room_id: str | None
    subject: str | None
    timeline_event: str | None
    detail: dict[str, Any]
    egress_id: str | None = None
    ingress: IngressReport | None = None


def read(body: bytes) -> WebhookEvent:
    """Parses a body. Raises `InvalidRequest` for one that LiveKit does not send."""
    try:
        said = _decode(body)
        created_at = _seconds(said.createdAt)
    except (msgspec.MsgspecError, UnicodeDecodeError, ValueError, OverflowError, RecursionError):
        raise InvalidRequest("This is not a webhook of LiveKit") from None
    if not said.id or not said.event:
        raise InvalidRequest("A webhook has an id and an event")
    room, egress, ingress = said.room, said.egressInfo, said.ingressInfo
    name = (room and room.name) or (egress and egress.roomName) or (ingress and ingress.roomName) or ""
    return WebhookEvent(
        id=_text(said.id),
        event=_text(said.event),
        created_at=created_at,
        room_id=_text(name) or None,
        subject=_subject(said),
        timeline_event=TIMELINE.get(said.event),
        detail=_detail(said, created_at),
        egress_id=_text(egress.egressId) or None if egress else None,
        ingress=_ingress_report(said.event, ingress, created_at) if ingress and ingress.ingressId else None,
    )


def _subject(said: _Event) -> str | None:
    if said.egressInfo is not None:
        found = said.egressInfo.egressId
    elif said.ingressInfo is not None:
        found = said.ingressInfo.ingressId
    elif said.track is not None:
        found = said.track.sid
    else:
        found = said.participant.identity if said.participant is not None else ""
    return _text(found) or None


def _detail(said: _Event, created_at: float) -> dict[str, Any]:
    """Facts without secrets: names, identities, LiveKit's ids and enumerations."""
    detail: dict[str, Any] = {"created_at": datetime.fromtimestamp(created_at, UTC).isoformat()}
    if (who := said.participant) is not None:
        detail["identity"] = _text(who.identity)
        if who.kind not in ("STANDARD", 0):
            detail["kind"] = _word(who.kind)
        if who.kind == "EGRESS" or is_engines(who.identity):
            # One of our own hidden participants: a front end may leave it out.
            detail["engine"] = True
        if who.disconnectReason is not None:
            detail["reason"] = _word(who.disconnectReason)
    if (track := said.track) is not None:
        detail |= {
            "track": _text(track.sid),
            "name": _text(track.name),
            "kind": _word(track.type),
            "source": _word(track.source),
        }
    if (egress := said.egressInfo) is not None:
        detail |= {"egress_id": _text(egress.egressId), "status": _word(egress.status).removeprefix("egress_")}
        if egress.errorCode:
            detail["error_code"] = egress.errorCode
    if (ingress := said.ingressInfo) is not None:
        detail |= {"ingress_id": _text(ingress.ingressId), "status": _ingress_state(said.event, ingress)}
    return detail


def _ingress_state(event: str, ingress: _Ingress) -> str:
    state = _INGRESS_STATES.get(str(ingress.state.status), "idle")
    # `ingress_ended` comes with an inactive state, which otherwise means that nothing was connected yet.
    return "ended" if event == "ingress_ended" and state != "error" else state


def _ingress_report(event: str, ingress: _Ingress, created_at: float) -> IngressReport:
    at = _seconds(ingress.state.updatedAt, 1e9) if ingress.state.updatedAt else created_at
    error = ingress.state.error
    for secret in (ingress.streamKey, ingress.url):
        if len(secret) >= 4:
            error = error.replace(secret, REDACTED)
    return IngressReport(
        _text(ingress.ingressId), _ingress_state(event, ingress), at or created_at, _text(_redact(error)) or None
    )


_LATEST = 253402300799.0
"""The end of the year 9999, in seconds since 1970: the latest moment that `datetime` holds."""


def _seconds(value: str | int, unit: float = 1.0) -> float:
    """Seconds from a count of `1 / unit` seconds. Raises `ValueError` for a time outside of 1970 to 9999."""
    seconds = int(value) / unit
    if not 0 <= seconds <= _LATEST:
        raise ValueError("no time")
    return seconds


def _text(value: str) -> str:
    """`value` cut to `_LONGEST`, without NUL, which Postgres cannot store."""
    return value[:_LONGEST].replace("\x00", "\ufffd")


def _word(value: str | int) -> str:
    """An enumeration's name in lower case; LiveKit sends a number where it has no name."""
    return _text(str(value)).lower()
