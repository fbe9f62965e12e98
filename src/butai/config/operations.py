"""Alerts, the log, and `butai up`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import SecretStr

from butai.config.environment import Section, section_config


class AlertSettings(Section):
    """Who is notified of alerts."""

    model_config = section_config("BUTAI_ALERT_")

    urls: SecretStr = SecretStr("")
    """Apprise URLs (`discord://…`, `slack://…`, `mailto://…`, `json://host/path`), separated by spaces or commas. When
    empty, alerts are kept and shown, and no notification is sent."""

    upload_failures: int = 5
    """Number of uploads failing for one reason of the service within fifteen minutes that raises an alert."""

    stale_hours: float = 2.0
    """Hours without a finished patrol run that raise an alert."""


class LogSettings(Section):
    """What is written to stderr."""

    model_config = section_config("BUTAI_LOG_")

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe event that is written."""

    format: Literal["json", "text"] = "json"
    """`json`: one object a line, for machines. `text`: for a person at a terminal."""


class UpSettings(Section):
    """`butai up`: everything on one machine."""

    model_config = section_config()

    data_dir: Path = Path(".butai")
    """Where the embedded Postgres and store keep their files, and `butai sign-in` its codes."""
