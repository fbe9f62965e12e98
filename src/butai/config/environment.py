"""How settings are read: from the environment, and from the file of secrets that it names."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

SECRETS_FILE = "BUTAI_SECRETS_FILE"
"""The variable that names a file of further settings: one JSON object of names, as they are in the environment, and texts. The
environment of a process is readable by every process of the same user, for as long as it runs; such a file is opened
once."""

_OWN_DESCRIPTOR = re.compile(r"/proc/self/fd/(\d+)")
_read_files: dict[str, Mapping[str, str]] = {}


def settings_of_file() -> Mapping[str, str]:
    """The settings in the file that `BUTAI_SECRETS_FILE` names, read once; a descriptor that was inherited for it is closed then.
    Raises `SettingsError`."""
    path = os.environ.get(SECRETS_FILE, "")
    if not path:
        return {}
    if path not in _read_files:
        try:
            found = json.loads(Path(path).read_text())
        except (OSError, ValueError) as error:
            raise SettingsError(f"{SECRETS_FILE}: the file cannot be read: {type(error).__name__}") from None
        if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
            raise SettingsError(f"{SECRETS_FILE}: the file is not a JSON object of texts")
        if own := _OWN_DESCRIPTOR.fullmatch(path):
            os.close(int(own[1]))
        _read_files[path] = found
    return _read_files[path]


class _EnvironmentAndFile(EnvSettingsSource):
    """The environment, and the file that it names; what stands in both is taken from the file."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        known = settings_of_file()
        names = {name.lower(): value for name, value in known.items()}
        return {**super()._load_env_vars(), **{name: value for name, value in names.items() if value}}


class Section(BaseSettings):
    """One concern's settings, from the environment and the file of secrets."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - given by name
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Returns the sources, the strongest first: what a caller passes, then the environment with its file."""
        return init_settings, _EnvironmentAndFile(settings_cls)


def section_config(prefix: str = "BUTAI_") -> SettingsConfigDict:
    """How a section is read: from variables with this prefix, of which empty ones count as not set; a field's docstring is
    its description."""
    return SettingsConfigDict(
        env_prefix=prefix,
        frozen=True,
        extra="ignore",
        env_ignore_empty=True,
        use_attribute_docstrings=True,
        populate_by_name=True,
    )
