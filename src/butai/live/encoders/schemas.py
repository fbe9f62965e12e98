"""The type of a request for a key of encoders."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from butai.live.schemas import Label


class EncoderIn(BaseModel):
    """A new key. `label`: the host's word for the program or machine."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"label": "OBS at home"}]})

    label: Label = ""
