"""The shapes of requests and answers of going live."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from butai.live.states import LONGEST_ROOM_ID, ROOM_ID

RoomId = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ROOM_ID, pattern=ROOM_ID)]
Label = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Identity = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
IngestUrl = Annotated[str, StringConstraints(min_length=1, max_length=1000, pattern=r"^rtmps?://[!-~]+$")]
PlatformName = Literal["youtube", "twitch", "custom"]
StreamPlatform = Literal["youtube", "twitch"]
Wire = Literal["starting", "live", "interrupted", "stopping", "ended", "error"]
PresetName = Literal["720p30", "720p60", "1080p30", "1080p60"]


def _strict(*examples: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": list(examples)})


class RoomIn(BaseModel):
    """All fields are optional; without `room_id` the room gets a random name."""

    model_config = _strict({}, {"room_id": "my-room"})

    room_id: RoomId | None = None
    host_token: Annotated[SecretStr, Field(max_length=8000)] | None = None
    """A LiveKit token that may administer a room made elsewhere: the caller becomes its owner."""
    project: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """The LiveKit project that a new room is made in, where there are several. A room never changes its project."""


class RoomOut(BaseModel):
    """A room with its host token and where to join."""

    room_id: str
    host_identity: str
    host_token: str
    livekit_url: str
    project: str


class RoomListed(BaseModel):
    """One of the caller's rooms. `made` here, or `claimed` with a token of its own."""

    room_id: str
    host_identity: str
    origin: Literal["made", "claimed"]
    project: str
    created_at: datetime


class RoomsOut(BaseModel):
    """Newest first. `next_before`: for the page behind."""

    data: list[RoomListed]
    next_before: datetime | None


class TokenIn(BaseModel):
    """Who a token is for."""

    model_config = _strict({"role": "viewer"}, {"role": "guest", "name": "Aoi"})

    role: Literal["host", "guest", "viewer"]
    identity: Identity | None = None
    name: Label = ""


class WatchIn(BaseModel):
    """An invitation to watch a room."""

    model_config = _strict()

    invitation: Annotated[SecretStr, Field(min_length=1, max_length=8000)]
    """A viewer's token, as the room's host gets it from `POST /api/live/rooms/{room_id}/tokens`."""


class TokenOut(BaseModel):
    """A LiveKit token. `host_identity`: the participant whose picture and sound go on air."""

    room_id: str
    role: Literal["host", "guest", "viewer"]
    identity: str
    token: str
    livekit_url: str
    host_identity: str


class DestinationIn(BaseModel):
    """A new destination. Without `ingest_url` the platform's own is used. The stream key is never shown."""

    model_config = _strict({"platform": "youtube", "stream_key": "abcd-efgh-ijkl-mnop-qrst", "label": "My channel"})

    platform: PlatformName
    stream_key: Annotated[SecretStr, Field(min_length=1, max_length=500)]
    label: Label = ""
    ingest_url: IngestUrl | None = None
    backup_ingest_url: IngestUrl | None = None


class DestinationEdit(BaseModel):
    """Changes to a destination; fields that are left out stay. A null `backup_ingest_url` removes it."""

    model_config = _strict({"label": "Second channel"})

    label: Label | None = None
    ingest_url: IngestUrl | None = None
    backup_ingest_url: IngestUrl | None = None
    stream_key: Annotated[SecretStr, Field(min_length=1, max_length=500)] | None = None


class DestinationOut(BaseModel):
    """A saved destination. `key_fingerprint` recognises the stream key and reveals nothing of it."""

    model_config = ConfigDict(from_attributes=True)

    id: UUID
    platform: PlatformName
    label: str
    ingest_url: str
    backup_ingest_url: str | None
    key_fingerprint: str
    created_at: datetime
    updated_at: datetime


class DestinationsOut(BaseModel):
    """All destinations of the caller."""

    data: list[DestinationOut]


class StepOut(BaseModel):
    """One step of a destination's test. If it failed: `code`, `message` (what happened) and `action` (what to do)."""

    name: Literal["address", "dns", "tcp", "tls", "handshake", "connect", "publish"]
    ok: bool
    ms: float
    code: str | None
    message: str | None
    action: str | None


class TestOut(BaseModel):
    """The steps in order, up to the first that failed."""

    ok: bool
    steps: list[StepOut]


class StartIn(BaseModel):
    """`platforms`: `youtube`, `twitch`, `both`, or a list. `destination_ids`: saved destinations, for more than that."""

    model_config = _strict({"room_id": "my-room", "platforms": "both"})

    room_id: RoomId
    platforms: Literal["youtube", "twitch", "both"] | Annotated[list[StreamPlatform], Field(max_length=2)] | None = None
    destination_ids: Annotated[list[UUID], Field(max_length=10)] = []
    preset: PresetName | None = None
    source_grace: Annotated[float, Field(ge=1, le=3600)] | None = None
    on_source_lost: Literal["end", "stay"] | None = None
    video_source: Literal["any", "camera", "screen_share"] = "any"
    video_name: Label = ""

    @property
    def wanted_platforms(self) -> list[str]:
        """The platforms as a list without duplicates."""
        return _platforms(self.platforms)

    @model_validator(mode="after")
    def _somewhere(self) -> StartIn:
        if not self.wanted_platforms and not self.destination_ids:
            raise ValueError("say where: platforms or destination_ids")
        return self


def _platforms(given: str | list[StreamPlatform] | None) -> list[str]:
    if given == "both":
        return ["youtube", "twitch"]
    if isinstance(given, str):
        return [given]
    return list(dict.fromkeys(given or []))


class StopIn(BaseModel):
    """The broadcast to stop: by its id, or the newest of a room."""

    model_config = _strict({"room_id": "my-room"})

    session_id: UUID | None = None
    room_id: RoomId | None = None

    @model_validator(mode="after")
    def _which(self) -> StopIn:
        if self.session_id is None and self.room_id is None:
            raise ValueError("say which: session_id or room_id")
        return self


class AddIn(BaseModel):
    """Outputs to add to a broadcast on air."""

    model_config = _strict({"platforms": ["twitch"]})

    platforms: Annotated[list[StreamPlatform], Field(max_length=2)] = []
    destination_ids: Annotated[list[UUID], Field(max_length=10)] = []

    @field_validator("platforms")
    @classmethod
    def _once(cls, value: list[StreamPlatform]) -> list[StreamPlatform]:
        return list(dict.fromkeys(value))

    @model_validator(mode="after")
    def _somewhere(self) -> AddIn:
        if not self.platforms and not self.destination_ids:
            raise ValueError("say where: platforms or destination_ids")
        return self


class ErrorOut(BaseModel):
    """Why an output or a broadcast is not live. `message` says what happened, `action` what the host can do, in the
    language of the request. `retryable`: Butai tries again by itself. `cause`: the last error before `retries_exhausted`."""

    code: str
    message: str
    action: str
    retryable: bool
    platform: str | None = None
    attempt: int | None = None
    next_attempt_at: datetime | None = None
    cause: ErrorOut | None = None


class MetricsOut(BaseModel):
    """An output's metrics of the last second."""

    model_config = ConfigDict(extra="allow")

    bitrate_kbps: float = 0
    fps: float = 0
    dropped_frames: int = 0
    uptime_s: float = 0


class OutputOut(BaseModel):
    """A broadcast's way to one platform. `confirmation`: `transport` when the platform acknowledges bytes, `platform` when
    its own API says that it is live."""

    id: UUID
    platform: PlatformName
    label: str
    destination_id: UUID | None
    key_fingerprint: str
    state: Wire
    since: datetime
    confirmation: Literal["none", "transport", "platform"]
    attempt: int
    next_attempt_at: datetime | None
    live_since: datetime | None
    error: ErrorOut | None
    metrics: MetricsOut | None


class EventOut(BaseModel):
    """An event of the timeline. Ids grow with time; `from` and `to` are states of the output."""

    id: int
    at: datetime
    event: str
    session_id: UUID | None
    output_id: UUID | None
    platform: str | None
    from_: str | None = Field(alias="from")
    to: str | None
    attempt: int | None
    error: ErrorOut | None
    actor: str | None
    detail: dict[str, Any]


class SourceOut(BaseModel):
    """The host's media: `waiting` for it, `live`, `lost` for a while, `ended`."""

    state: Literal["connecting", "waiting", "live", "lost", "ended", "failed"]
    since: datetime | None
    error: ErrorOut | None


class WayInOut(BaseModel):
    """An ingress of the room, without its URL. `since`: when the state was entered."""

    ingress_id: str
    kind: Literal["rtmp", "whip"]
    name: str
    state: Literal["idle", "buffering", "publishing", "error", "ended"]
    since: datetime


class StatusOut(BaseModel):
    """The state of a broadcast. `platforms`: for each platform the output that most needs the host's attention; `outputs`:
    all of them. `status` is `idle` for a room without a broadcast so far."""

    session_id: UUID | None
    room_id: str
    status: Literal["idle", "starting", "live", "degraded", "stopping", "ended", "error"]
    preset: str | None
    started_at: datetime | None
    ended_at: datetime | None
    end: ErrorOut | None
    source: SourceOut | None
    platforms: dict[str, OutputOut]
    outputs: list[OutputOut]
    ingress: list[WayInOut]
    timeline: list[EventOut]


class PastOut(BaseModel):
    """A broadcast of a room, on air or over."""

    session_id: UUID
    room_id: str
    status: Literal["starting", "live", "degraded", "stopping", "ended", "error"]
    started_at: datetime
    ended_at: datetime | None
    end_code: str | None
    platforms: list[str]


class HistoryOut(BaseModel):
    """Newest first. `next_before`: for the page behind."""

    data: list[PastOut]
    next_before: datetime | None


class TimelineOut(BaseModel):
    """Events, oldest first. `next_after` is null on the last page."""

    data: list[EventOut]
    next_after: int | None


class AuditOut(BaseModel):
    """An entry of the audit trail. `result`: `ok`, `refused` (with `error_code`) or `failed`."""

    id: int
    at: datetime
    actor: str | None
    action: str
    room_id: str | None
    session_id: UUID | None
    platforms: list[str]
    result: str
    error_code: str | None
    ip: str | None
    user_agent: str | None


class AuditPageOut(BaseModel):
    """Newest first. `next_before`: for the page behind."""

    data: list[AuditOut]
    next_before: int | None
