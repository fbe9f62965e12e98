"""The ingest, which encoders publish to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from butai.config.environment import Section, section_config

_APPLICATION = "/live"
"""RTMP servers have applications, by which they tell purposes apart. The ingest has one purpose, and this is the usual name."""


class IngestSettings(Section):
    """The ingest: Butai's own RTMP server, which OBS and other encoders publish to."""

    model_config = section_config("BUTAI_INGEST_")

    host: str = "127.0.0.1"
    """The address to listen on. The default is loopback, so that opening the ingest to a network is a decision."""

    port: Annotated[int, Field(ge=0, le=65535)] = 1935
    """The port to listen on; 0: any free one. `butai up` takes another one where 1935 is taken, and keeps it, since encoders
    store it."""

    url: str = ""
    """The URL by which encoders reach the ingest (`rtmps://ingest.example`), as hosts copy it into OBS. When empty, no keys for
    encoders are made. `butai up` sets it to its own."""

    certificate: Path | None = None
    """The file of a certificate with its chain, in PEM, for RTMPS; the port then takes nothing else. Read when the ingest starts:
    start another one beside it for a new certificate."""

    certificate_key: Path | None = None
    """The file of the certificate's private key; empty where it is in the same file."""

    @model_validator(mode="after")
    def _certificate_of_a_key(self) -> IngestSettings:
        if self.certificate_key is not None and self.certificate is None:
            raise ValueError(
                "BUTAI_INGEST_CERTIFICATE_KEY is the key of a certificate: name that in BUTAI_INGEST_CERTIFICATE"
            )
        return self

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
