"""The LiveKit projects of this installation and their API keys, which may be rotated without a restart.

The project `default` comes from LiveKit's own environment variables. Further projects, and newer keys for `default`,
come from the file `BUTAI_LIVEKIT_PROJECTS_FILE`, which is read again whenever it changes. A room stays in one project.

The file holds one JSON object, from a project's name to `{"url": "wss://…", "public_url": "wss://…", "keys":
[{"api_key": …, "api_secret": …}]}`. The first key signs and all are accepted, so a key is rotated in three steps: add
the new one behind the old one, at LiveKit and here; move it to the front; remove the old one. A key with its secret may
stand in one project only: a token that it signed would not say which project it is for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import structlog

from butai import log as log_module
from butai.config import LiveKitSettings, LiveSettings
from butai.errors import LiveKitNotConfigured

log = structlog.get_logger(__name__)

DEFAULT = "default"
"""The project of LiveKit's own environment variables, and of rooms that name none."""

LONGEST_NAME = 100
"""Characters of a project's name, which is part of requests and rows."""

_CHECK_EVERY = 1.0
"""Seconds between two checks of the file: one `stat`, and a read only when that has changed."""


@dataclass(frozen=True, slots=True)
class LiveKitKey:
    """One API key and its secret."""

    api_key: str
    api_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Project:
    """One LiveKit project. `url`: for this machine; `public_url`: for browsers. `keys`: at least one; the first
    signs."""

    name: str
    url: str
    public_url: str
    keys: tuple[LiveKitKey, ...]

    @property
    def key(self) -> LiveKitKey:
        """The key that signs."""
        return self.keys[0]

    @property
    def http_url(self) -> str:
        """The URL of its HTTP API, which LiveKit serves at the address of its WebSocket."""
        return self.url.replace("ws", "http", 1) if self.url.startswith("ws") else self.url


class ProjectsInvalid(Exception):
    """The file cannot be read or is malformed. The text names the place and holds no secret."""


class Projects:
    """All projects by name, following the file as it changes."""

    def __init__(
        self, livekit: LiveKitSettings, live: LiveSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Reads the file. Raises `ProjectsInvalid` if it cannot be read; a file that becomes invalid later changes
        nothing."""
        self._file, self._clock = live.livekit_projects_file, clock
        self._from_environment = _environment(livekit, live)
        self._stamp: _Stamp = None
        self._checked_at = clock()
        self._all = dict(self._from_environment)
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._all = _together(self._file, self._from_environment)
            log_module.add_secrets(self.secrets())

    @property
    def configured(self) -> bool:
        """Whether there is at least one project."""
        return bool(self._now())

    @property
    def names(self) -> list[str]:
        """The names of all projects, sorted."""
        return sorted(self._now())

    @property
    def public_urls(self) -> list[str]:
        """The addresses of all projects, for browsers."""
        return [one.public_url for one in self._now().values()]

    def get(self, name: str = DEFAULT) -> Project:
        """The project of this name. Raises `LiveKitNotConfigured` if there is none (any more)."""
        found = self._now().get(name)
        if found is None:
            raise LiveKitNotConfigured
        return found

    def of_key(self, api_key: str) -> list[tuple[Project, LiveKitKey]]:
        """The projects that have an API key of this name, with that key; two projects may share a name."""
        return [(one, key) for one in self._now().values() for key in one.keys if key.api_key == api_key]

    def secrets(self) -> Iterable[str]:
        """All API secrets, for the log to redact."""
        return [key.api_secret for one in self._all.values() for key in one.keys]

    def _now(self) -> dict[str, Project]:
        now = self._clock()
        if self._file is not None and now - self._checked_at >= _CHECK_EVERY:
            self._checked_at = now
            self._reload(self._file)
        return self._all

    def _reload(self, file: Path) -> None:
        stamp = _stamp(file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._all = _together(file, self._from_environment)
        except ProjectsInvalid as error:
            # Keep the projects known so far: a half-written file must not end a broadcast.
            log.error("livekit.projects_not_read", reason=str(error))
            return
        log_module.add_secrets(self.secrets())
        log.info("livekit.projects_read", projects=sorted(self._all))


class _KeyInFile(msgspec.Struct, forbid_unknown_fields=True):
    api_key: str
    api_secret: str


class _ProjectInFile(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    keys: list[_KeyInFile]
    public_url: str = ""


def _environment(livekit: LiveKitSettings, live: LiveSettings) -> dict[str, Project]:
    secret = livekit.api_secret.get_secret_value()
    if not (livekit.url and livekit.api_key and secret):
        return {}
    public = live.livekit_public_url or livekit.url
    return {DEFAULT: Project(DEFAULT, livekit.url, public, (LiveKitKey(livekit.api_key, secret),))}


_Stamp = tuple[int, int, int, int] | None
"""The values by which a changed file is recognised; None for a file that cannot be read."""


def _stamp(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    # `st_ctime` changes with the permissions, too: a file that could not be read may be readable now.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _together(file: Path, environment: dict[str, Project]) -> dict[str, Project]:
    """The projects of both; the file takes precedence."""
    found = environment | _read(file)
    whose: dict[LiveKitKey, str] = {}
    for name, one in found.items():
        for key in one.keys:
            if whose.setdefault(key, name) != name:
                raise ProjectsInvalid(f"{file}: {name}: key {key.api_key} belongs to {whose[key]}, too")
    return found


def _read(file: Path) -> dict[str, Project]:
    try:
        found = msgspec.json.decode(file.read_bytes(), type=dict[str, _ProjectInFile])
    except OSError as error:
        raise ProjectsInvalid(f"{file}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        # msgspec names the place and the type, never the value.
        raise ProjectsInvalid(f"{file}: {error}") from None
    except (UnicodeDecodeError, RecursionError):
        raise ProjectsInvalid(f"{file}: this is not JSON") from None
    projects: dict[str, Project] = {}
    for name, one in found.items():
        if not 0 < len(name) <= LONGEST_NAME:
            raise ProjectsInvalid(f"{file}: a project's name has 1 to {LONGEST_NAME} letters")
        if not all(map(_is_address, (one.url, one.public_url or one.url))):
            raise ProjectsInvalid(
                f"{file}: {name}: url and public_url must begin with wss:// or ws://, and name a host"
            )
        keys = tuple(LiveKitKey(key.api_key, key.api_secret) for key in one.keys)
        if not (keys and all(key.api_key and key.api_secret for key in keys)):
            raise ProjectsInvalid(f"{file}: {name}: there must be a key, and each must have its secret")
        projects[name] = Project(name, one.url, one.public_url or one.url, keys)
    return projects


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("ws", "wss", "http", "https") and bool(parts.hostname)
    except ValueError:
        return False
