"""The types of the answers of going live, each declared once: the document states exactly what is encoded."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, TypeAlias
from uuid import UUID

import msgspec
from msgspec import UNSET, Meta, UnsetType

from butai.live.states import BroadcastStatus, OutputWireState

PlatformName: TypeAlias = Literal["youtube", "twitch", "custom"]
SourceState: TypeAlias = Literal["connecting", "waiting", "live", "lost", "ended", "failed"]
StepName: TypeAlias = Literal["address", "dns", "tcp", "tls", "handshake", "connect", "publish"]
IngressWireState: TypeAlias = Literal["idle", "buffering", "publishing", "error", "ended"]

_OLD = Meta(description="The old name of `next`, until version 0.2", extra_json_schema={"deprecated": True})
_OldMoment: TypeAlias = Annotated[datetime | None, _OLD]
_OldNumber: TypeAlias = Annotated[int | None, _OLD]
_OldUuid: TypeAlias = Annotated[UUID | None, _OLD]


class RevokedOut(msgspec.Struct, frozen=True):
    """A room whose tokens were revoked. `removed`: the number of participants removed at once; null while LiveKit does
    not confirm that, and it is tried again."""

    room_id: str
    removed: int | None


class ClosedOut(msgspec.Struct, frozen=True):
    """A room that was closed or opened. `closed_at`: null for an open one. `removed`: as in the answer to a
    revocation."""

    room_id: str
    closed_at: datetime | None
    removed: int | None


class RoomOut(msgspec.Struct, frozen=True, kw_only=True):
    """A room with its host token and the URL to join it at."""

    room_id: str
    host_identity: str
    host_token: str
    livekit_url: str
    project: str


class RoomListed(msgspec.Struct, frozen=True, kw_only=True):
    """One of the caller's rooms. `origin`: `made` by Butai, or `claimed` with a token of its own."""

    room_id: str
    host_identity: str
    origin: Literal["made", "claimed"]
    project: str
    created_at: datetime
    closed_at: datetime | None


class RoomsOut(msgspec.Struct, frozen=True, kw_only=True):
    """Rooms, newest first. `next`: `before` of the next page; null on the last."""

    data: list[RoomListed]
    next: datetime | None
    next_before: _OldMoment


class TokenOut(msgspec.Struct, frozen=True, kw_only=True):
    """A LiveKit token. `host_identity`: the participant whose picture and sound go on air."""

    room_id: str
    role: Literal["host", "guest", "viewer"]
    identity: str
    token: str
    livekit_url: str
    host_identity: str
    invitation_id: UUID | None = None
    """The id for taking it back, where the token is a viewer's."""


class InvitationOut(msgspec.Struct, frozen=True, kw_only=True):
    """An invitation to watch a room. `name`: the host's word for it."""

    invitation_id: UUID
    name: str
    created_at: datetime
    expires_at: datetime


class InvitationMade(InvitationOut, frozen=True, kw_only=True):
    """A new invitation; `invitation`, its token, is in this answer only."""

    invitation: str


class InvitationsOut(msgspec.Struct, frozen=True, kw_only=True):
    """Invitations that are good now, newest first. `next`: `before` of the next page; null on the last."""

    data: list[InvitationOut]
    next: datetime | None


class DestinationOut(msgspec.Struct, frozen=True, kw_only=True):
    """A saved destination. `key_fingerprint` recognises the stream key and reveals nothing of it."""

    id: UUID
    platform: PlatformName
    label: str
    ingest_url: str
    backup_ingest_url: str | None
    key_fingerprint: str
    created_at: datetime
    updated_at: datetime


class DestinationsOut(msgspec.Struct, frozen=True, kw_only=True):
    """All destinations of the caller, newest first."""

    data: list[DestinationOut]


class StepOut(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a destination's test. If it failed: `code`, `message` (what happened) and `action` (what to do)."""

    name: StepName
    ok: bool
    ms: float
    code: str | None
    message: str | None
    action: str | None


class TestOut(msgspec.Struct, frozen=True, kw_only=True):
    """The steps in order, up to the first that failed."""

    ok: bool
    steps: list[StepOut]


class IngressOut(msgspec.Struct, frozen=True, kw_only=True):
    """An ingress of a room. `since`: when the state was entered."""

    ingress_id: str
    kind: Literal["rtmp", "whip"]
    name: str
    identity: str
    url: str
    key_fingerprint: str
    state: IngressWireState
    since: datetime
    created_at: datetime


class IngressMade(IngressOut, frozen=True, kw_only=True):
    """A new ingress with its stream key, which is shown in this answer only."""

    stream_key: str


class IngressesOut(msgspec.Struct, frozen=True, kw_only=True):
    """All ingresses of a room, oldest first."""

    data: list[IngressOut]


class EncoderOut(msgspec.Struct, frozen=True, kw_only=True):
    """A key with which encoders publish into a room. `renewed_at`: when the present key was made. `last_used_from`: the IP
    address from which an encoder used it last."""

    encoder_id: UUID
    label: str
    key_fingerprint: str
    created_at: datetime
    renewed_at: datetime
    last_used_at: datetime | None
    last_used_from: str | None


class EncoderMade(EncoderOut, frozen=True, kw_only=True):
    """A key that was just made, which is in this answer only. `server` and `key`: the two fields of OBS. `url`: both in one, for
    programs that take one address."""

    server: str
    key: str
    url: str


class EncodersOut(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of a room that are valid, oldest first."""

    data: list[EncoderOut]


class ErrorOut(msgspec.Struct, frozen=True, kw_only=True):
    """Why an output or a broadcast is not live. `message` says what happened, `action` what the host can do, in the
    language of the request. `retryable`: Butai tries again by itself. `cause`: the last error before
    `retries_exhausted`."""

    code: str
    message: str
    action: str
    retryable: bool
    platform: str | None = None
    attempt: int | None = None
    next_attempt_at: datetime | None = None
    cause: ErrorOut | None = None


class MetricsOut(msgspec.Struct, frozen=True, kw_only=True):
    """An output's metrics of the last second. Bytes are totals of the attempt. `source_fps`, `encode_load` (share of a
    core), `rss_mib`, `late_ms` (the most by which a picture was encoded late) and `skipped_frames` (pictures that came too
    late to be encoded) are of the engine, and the same for all of its outputs."""

    bitrate_kbps: float = 0
    fps: float = 0
    dropped_frames: int = 0
    uptime_s: float = 0
    bytes_sent: int | UnsetType = UNSET
    bytes_acked: int | UnsetType = UNSET
    rtt_ms: float | UnsetType = UNSET
    queue_ms: float | UnsetType = UNSET
    source_fps: float | UnsetType = UNSET
    encode_load: float | UnsetType = UNSET
    rss_mib: float | UnsetType = UNSET
    late_ms: float | UnsetType = UNSET
    skipped_frames: int | UnsetType = UNSET


class OutputOut(msgspec.Struct, frozen=True, kw_only=True):
    """A broadcast's way to one platform. `confirmation`: `transport` when the platform acknowledges bytes, `platform`
    when its own API says that it is live."""

    id: UUID
    platform: PlatformName
    label: str
    destination_id: UUID | None
    key_fingerprint: str
    state: OutputWireState
    since: datetime
    confirmation: Literal["none", "transport", "platform"]
    attempt: int
    next_attempt_at: datetime | None
    live_since: datetime | None
    error: ErrorOut | None
    metrics: MetricsOut | None


class EventOut(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the timeline. Ids grow with time; `from` and `to` are states of the output."""

    id: int
    at: datetime
    event: str
    session_id: UUID | None
    output_id: UUID | None
    platform: str | None
    from_: str | None = msgspec.field(name="from")
    to: str | None
    attempt: int | None
    error: ErrorOut | None
    actor: str | None
    detail: Annotated[dict[str, Any], Meta(extra_json_schema={"additionalProperties": True})]


class SourceOut(msgspec.Struct, frozen=True, kw_only=True):
    """The host's media: `connecting`, `waiting` for it, `live`, `lost` for a while, `ended`, or `failed`. `error`: why it is
    not live; beside `live`, what is wrong with the sound."""

    state: SourceState
    since: datetime | None
    error: ErrorOut | None


class WayInOut(msgspec.Struct, frozen=True, kw_only=True):
    """An ingress of the room, without its URL. `since`: when the state was entered."""

    ingress_id: str
    kind: Literal["rtmp", "whip"]
    name: str
    state: IngressWireState
    since: datetime


class StatusOut(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a broadcast. `platforms`: for each platform the output that most needs the host's attention;
    `outputs`: all of them. `status` is `idle` for a room without a broadcast so far. `warning`: `preset_lowered` where a
    busy machine took the broadcast with a smaller preset than the host chose, which is `chosen_preset`."""

    session_id: UUID | None = None
    room_id: str
    status: Literal["idle", "starting", "live", "degraded", "stopping", "ended", "error"]
    preset: str | None = None
    chosen_preset: str | None = None
    warning: ErrorOut | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    end: ErrorOut | None = None
    source: SourceOut | None = None
    platforms: dict[str, OutputOut] = {}
    outputs: list[OutputOut] = []
    ingress: list[WayInOut] = []
    timeline: list[EventOut] = []


class PastOut(msgspec.Struct, frozen=True, kw_only=True):
    """A broadcast of a room, on air or over."""

    session_id: UUID
    room_id: str
    status: BroadcastStatus
    started_at: datetime
    ended_at: datetime | None
    end_code: str | None
    platforms: list[str]


class HistoryOut(msgspec.Struct, frozen=True, kw_only=True):
    """A room's broadcasts, newest first. `next`: `before` of the next page; null on the last."""

    data: list[PastOut]
    next: datetime | None
    next_before: _OldMoment


class TimelineOut(msgspec.Struct, frozen=True, kw_only=True):
    """Events, oldest first. `next`: `after` of the next page; null on the last."""

    data: list[EventOut]
    next: int | None
    next_after: _OldNumber


class OperatorOutput(OutputOut, frozen=True, kw_only=True):
    """An output with `error_detail`, the engine's own error text, redacted."""

    error_detail: str | None


class BroadcastOverview(msgspec.Struct, frozen=True, kw_only=True):
    """A broadcast of any room. `controller`: the process that holds its lease; null once it has ended."""

    session_id: UUID
    room_id: str
    owner: str
    started_by: str | None
    project: str
    egress: str
    preset: str
    status: BroadcastStatus
    source: SourceState
    controller: str | None
    started_at: datetime
    ended_at: datetime | None
    end: ErrorOut | None
    outputs: list[OperatorOutput]


class BroadcastOverviewPage(msgspec.Struct, frozen=True, kw_only=True):
    """Broadcasts of all rooms, newest first. `next`: `before` of the next page; null on the last."""

    data: list[BroadcastOverview]
    next: UUID | None
    next_before: _OldUuid


class RoomEntryOut(msgspec.Struct, frozen=True, kw_only=True):
    """An entry of the audit trail about a room: one act, or `times` refusals within a minute, from `at` to `last_at`.
    `result`: `ok`, `refused` (with `error_code`) or `failed`."""

    id: int
    at: datetime
    actor: str | None
    action: str
    room_id: str | None
    session_id: str | None
    platforms: list[str]
    result: str
    error_code: str | None
    ip: str | None
    user_agent: str | None
    times: int
    last_at: datetime


class RoomTrailOut(msgspec.Struct, frozen=True, kw_only=True):
    """Entries, newest first. `next`: `before` of the next page; null on the last."""

    data: list[RoomEntryOut]
    next: int | None
    next_before: _OldNumber
