"""Shapes of `ingress_routes`."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from butai.live.schemas import Identity, Label


class IngressIn(BaseModel):
    """`identity`: who the ingress is in the room; the host when left out, so that what it sends goes on air. LiveKit lets
    one of an identity in: a tab that publishes as the host leaves then."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "rtmp", "name": "OBS"}]})

    kind: Literal["rtmp", "whip"]
    name: Label = ""
    identity: Identity | None = None


class IngressOut(BaseModel):
    """A way into a room. `since`: of the state."""

    ingress_id: str
    kind: Literal["rtmp", "whip"]
    name: str
    identity: str
    url: str
    key_fingerprint: str
    state: Literal["idle", "buffering", "publishing", "error", "ended"]
    since: datetime
    created_at: datetime


class IngressMade(IngressOut):
    """With its key, this once."""

    stream_key: str


class IngressesOut(BaseModel):
    """Oldest first."""

    data: list[IngressOut]
