"""The ingest, which encoders publish to."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from pydantic import field_validator

from butai.config.environment import Section, section_config

_APPLICATION = "/live"
"""RTMP servers have applications, by which they tell purposes apart. The ingest has one purpose, and this is the usual name."""


class IngestSettings(Section):
    """The ingest: Butai's own RTMP server, which OBS and other encoders publish to."""

    model_config = section_config("BUTAI_INGEST_")

    url: str = ""
    """The URL by which encoders reach the ingest (`rtmps://ingest.example`), as hosts copy it into OBS. When empty, no keys for
    encoders are made. `butai up` sets it to its own."""

    @field_validator("url")
    @classmethod
    def _url_of_a_server(cls, value: str) -> str:
        if not value:
            return value
        try:
            parts = urlsplit(value)
            good = parts.scheme in ("rtmp", "rtmps") and parts.hostname and parts.username is None and parts.port != 0
        except ValueError:
            good = False
            parts = urlsplit("")
        if not good or parts.query or parts.fragment or not re.fullmatch(r"[!-~]+", value):
            # The value is not repeated: a key may have been pasted with it.
            raise ValueError("this is not the URL of an RTMP server, such as rtmps://ingest.example")
        path = parts.path.rstrip("/") or _APPLICATION
        return f"{parts.scheme}://{parts.netloc}{path}"
