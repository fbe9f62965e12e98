"""Settings, one frozen class for each concern, read from the environment.

The settings are here because every part gets those that it needs as arguments from `butai.cli`; no part reads the
environment by itself, so a test can build any part with plain values.
A field's docstring is the operator's manual: it gives the unit and the reason for
the default. `docs/settings.md` is written from these (`make docs`).
The modules beside this one hold the classes; all of them are imported from here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, fields
from typing import Any

from pydantic import SecretStr

from butai.config.connections import DatabaseSettings, LiveKitSettings, StoreSettings
from butai.config.environment import SECRETS_FILE, settings_of_file
from butai.config.ingest import IngestSettings
from butai.config.library import AssetSettings, PatrolSettings
from butai.config.live import LiveSettings, RetrySettings
from butai.config.operations import AlertSettings, LogSettings, UpSettings
from butai.config.serving import HttpSettings, IdentitySettings, Rate, RateSettings

__all__ = [
    "SECRETS_FILE",
    "AlertSettings",
    "AssetSettings",
    "DatabaseSettings",
    "HttpSettings",
    "IdentitySettings",
    "IngestSettings",
    "LiveKitSettings",
    "LiveSettings",
    "LogSettings",
    "PatrolSettings",
    "Rate",
    "RateSettings",
    "RetrySettings",
    "Settings",
    "StoreSettings",
    "UpSettings",
    "secret_names",
    "setting_names",
    "settings_of_file",
]


@dataclass(frozen=True)
class Settings:
    """All settings, read once from the environment; tests pass parts of their own."""

    database: DatabaseSettings = field(default_factory=DatabaseSettings)
    store: StoreSettings = field(default_factory=StoreSettings)
    http: HttpSettings = field(default_factory=HttpSettings)
    rates: RateSettings = field(default_factory=RateSettings)
    identity: IdentitySettings = field(default_factory=lambda: IdentitySettings())  # noqa: PLW0108  # pyright: ignore[reportCallIssue]
    assets: AssetSettings = field(default_factory=AssetSettings)
    patrol: PatrolSettings = field(default_factory=PatrolSettings)
    alerts: AlertSettings = field(default_factory=AlertSettings)
    log: LogSettings = field(default_factory=LogSettings)
    livekit: LiveKitSettings = field(default_factory=LiveKitSettings)
    live: LiveSettings = field(default_factory=LiveSettings)
    ingest: IngestSettings = field(default_factory=IngestSettings)
    up: UpSettings = field(default_factory=UpSettings)

    def secrets(self) -> list[str]:
        """Every secret value, which the log must leave out."""
        found: list[str] = []
        for part in fields(self):
            settings = getattr(self, part.name)
            for name in type(settings).model_fields:
                value = getattr(settings, name)
                if isinstance(value, SecretStr):
                    found += re.split(r"[,\s]+", value.get_secret_value())
        return [value for value in found if value]


def setting_names() -> frozenset[str]:
    """The names of all settings, as they are in the environment: in upper case. Each is read in lower case as well."""
    return frozenset(_names())


def secret_names() -> frozenset[str]:
    """The names of all settings that are secrets, as they are in the environment."""
    return frozenset(name for name, kind in _names().items() if kind is SecretStr)


def _names() -> dict[str, Any]:
    """The names of all settings, and their types."""
    names: dict[str, Any] = {}
    settings = Settings()
    for part in fields(settings):
        section = type(getattr(settings, part.name))
        prefix = str(section.model_config.get("env_prefix", ""))
        for name, known in section.model_fields.items():
            names[str(known.validation_alias or f"{prefix}{name.upper()}")] = known.annotation
    return names
