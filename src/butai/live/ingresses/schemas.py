"""The type of a request for an ingress."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from butai.live.schemas import Identity, Label


class IngressIn(BaseModel):
    """A new ingress. `identity`: the participant that it joins as; by default the host, so that what it sends goes on
    air. LiveKit admits one participant of each identity: a tab that publishes as the host is disconnected then."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"kind": "rtmp", "name": "OBS"}]})

    kind: Literal["rtmp", "whip"]
    name: Label = ""
    identity: Identity | None = None
