"""The types of requests of going live. Those of answers are in `butai.live.answers`."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    field_validator,
    model_validator,
)

from butai.live.answers import PlatformName
from butai.live.states import LONGEST_ROOM_ID, ROOM_ID
from butai.relay.rtmp.hidden import as_typed

RoomId = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_ROOM_ID, pattern=ROOM_ID)]
Label = Annotated[str, StringConstraints(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Identity = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")]
IngestUrl = Annotated[
    str,
    StringConstraints(min_length=1, max_length=3000, pattern=r"^[Rr][Tt][Mm][Pp][Ss]?://[!-~]+$"),
    # Runs before the constraints. Written before them, the pattern would be missing in the document.
    BeforeValidator(lambda given: as_typed(given) if isinstance(given, str) else given),
]
LONGEST_PASTED_KEY = 5000
"""A whole URL may be pasted as a key, which has at most 2,000 letters itself."""
StreamPlatform = Literal["youtube", "twitch"]
PresetName = Literal["480p30", "720p30", "720p60", "1080p30", "1080p60"]


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


class TokenIn(BaseModel):
    """The participant of a new token."""

    model_config = _strict({"role": "viewer"}, {"role": "guest", "name": "Aoi"})

    role: Literal["host", "guest", "viewer"]
    identity: Identity | None = None
    name: Label = ""


class InvitationIn(BaseModel):
    """A new invitation. `name`: the host's word for it, and the name of a viewer who joins with it directly."""

    model_config = _strict({}, {"name": "Press"})

    name: Label = ""


class WatchIn(BaseModel):
    """An invitation to watch a room."""

    model_config = _strict()

    invitation: Annotated[SecretStr, Field(min_length=1, max_length=8000)]
    """A viewer's token, as the room's host gets it from `POST /api/live/rooms/{room_id}/invitations` or `…/tokens`."""


class DestinationIn(BaseModel):
    """A new destination. Without `ingest_url` the platform's own is used. The stream key is never shown, nor what is secret in
    an ingest URL: `***` stands for that. The key may be empty for a server whose URL names the stream."""

    model_config = _strict({"platform": "youtube", "stream_key": "abcd-efgh-ijkl-mnop-qrst", "label": "My channel"})

    platform: PlatformName
    stream_key: Annotated[SecretStr, Field(max_length=LONGEST_PASTED_KEY)] = SecretStr("")
    label: Label = ""
    ingest_url: IngestUrl | None = None
    backup_ingest_url: IngestUrl | None = None


class DestinationEdit(BaseModel):
    """Changes to a destination; fields that are left out stay, and so does an ingest URL that is sent back as it was shown. A
    null `backup_ingest_url` removes it."""

    model_config = _strict({"label": "Second channel"})

    label: Label | None = None
    ingest_url: IngestUrl | None = None
    backup_ingest_url: IngestUrl | None = None
    stream_key: Annotated[SecretStr, Field(max_length=LONGEST_PASTED_KEY)] | None = None


class StartIn(BaseModel):
    """A broadcast to start. `platforms`: `youtube`, `twitch`, `both`, or a list. `destination_ids`: saved destinations,
    for other choices. `video_source` chooses picture and sound: `camera` (with the microphone and sounds without a
    source), `screen_share` (with its own sound and the microphone), or `any`."""

    model_config = _strict({"room_id": "my-room", "platforms": "both"})

    room_id: RoomId
    platforms: Literal["youtube", "twitch", "both"] | Annotated[list[StreamPlatform], Field(max_length=2)] | None = None
    destination_ids: Annotated[list[UUID], Field(max_length=10)] = []
    preset: PresetName | None = None
    source_grace: Annotated[float, Field(ge=1, le=3600)] | None = None
    on_source_lost: Literal["end", "stay"] | None = None
    video_source: Literal["any", "camera", "screen_share"] = "any"
    video_name: Label = ""
    hold_until_media: bool | None = None
    """Whether the outputs wait for the host's first picture, so that no black picture goes live. By default as
    `BUTAI_HOLD_UNTIL_MEDIA` says."""
    sound_only: bool = False
    """Whether sound without a picture may go live: the outputs wait for either."""

    @property
    def wanted_platforms(self) -> list[str]:
        """The platforms as a list without duplicates."""
        return _platforms(self.platforms)

    @model_validator(mode="after")
    def _somewhere(self) -> StartIn:
        if not self.wanted_platforms and not self.destination_ids:
            raise ValueError("platforms or destination_ids is required")
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
            raise ValueError("session_id or room_id is required")
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
            raise ValueError("platforms or destination_ids is required")
        return self
