"""The LiveKit projects of this installation, and their keys, which may be exchanged while it runs.

One project is named in LiveKit's own environment variables and is called `default`; further ones, or newer keys, stand in
a file (`BUTAI_LIVEKIT_PROJECTS_FILE`), which is read anew whenever it changes. A room belongs to one project for good. Used
by everything that makes, checks or spends a LiveKit token: `tokens`, `rooms`, `webhooks`, `ingresses`, `egress`.

The file is one JSON object: a project's name to `{"url": "wss://…", "public_url": "wss://…", "keys": [{"api_key": …,
"api_secret": …}]}`. The first key signs; all of them are taken in what comes in, so a key is exchanged in three steps: add
the new one behind the old at LiveKit and here, put it first, take the old one away. No key with its secret is in two
projects: what it signed would not say which of them it is of.
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
"""Letters of a project's name: it stands in requests and in rows."""

_LOOK_EVERY = 1.0
"""Seconds between two looks at the file: a stat of it, and no more while it is as it was."""


@dataclass(frozen=True, slots=True)
class LiveKitKey:
    """One API key and its secret."""

    api_key: str
    api_secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Project:
    """One LiveKit. `url`: as this machine reaches it; `public_url`: as browsers do. `keys`: the first signs."""

    name: str
    url: str
    public_url: str
    keys: tuple[LiveKitKey, ...]

    @property
    def key(self) -> LiveKitKey:
        """The one that signs."""
        return self.keys[0]

    @property
    def http_url(self) -> str:
        """For its API: LiveKit has it at the address of its WebSocket."""
        return self.url.replace("ws", "http", 1) if self.url.startswith("ws") else self.url


class ProjectsInvalid(Exception):
    """The file is not what it should be. The text holds no secret."""


class Projects:
    """All of them, as they are now."""

    def __init__(
        self, livekit: LiveKitSettings, live: LiveSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises `ProjectsInvalid` when a file is named that cannot be read: later, a file that breaks changes nothing."""
        self._file, self._clock = live.livekit_projects_file, clock
        self._from_environment = _environment(livekit, live)
        self._stamp: _Stamp = None
        self._looked_at = clock()
        self._all = dict(self._from_environment)
        if self._file is not None:
            self._stamp = _stamp(self._file)
            self._all = _together(self._file, self._from_environment)
            log_module.add_secrets(self.secrets())

    @property
    def configured(self) -> bool:
        """Whether there is any LiveKit."""
        return bool(self._now())

    @property
    def names(self) -> list[str]:
        """Of all projects."""
        return sorted(self._now())

    @property
    def public_urls(self) -> list[str]:
        """Where browsers find them."""
        return [one.public_url for one in self._now().values()]

    def get(self, name: str = DEFAULT) -> Project:
        """Raises `LiveKitNotConfigured` for one that is not there (any more)."""
        found = self._now().get(name)
        if found is None:
            raise LiveKitNotConfigured
        return found

    def of_key(self, api_key: str) -> list[tuple[Project, LiveKitKey]]:
        """Whose key this may be. Two projects may have keys of one name."""
        return [(one, key) for one in self._now().values() for key in one.keys if key.api_key == api_key]

    def secrets(self) -> Iterable[str]:
        """All secrets, for the log to leave out."""
        return [key.api_secret for one in self._all.values() for key in one.keys]

    def _now(self) -> dict[str, Project]:
        now = self._clock()
        if self._file is not None and now - self._looked_at >= _LOOK_EVERY:
            self._looked_at = now
            self._look(self._file)
        return self._all

    def _look(self, file: Path) -> None:
        stamp = _stamp(file)
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self._all = _together(file, self._from_environment)
        except ProjectsInvalid as error:
            # What was known goes on to be used: a file that is half written is no reason to end anybody's show.
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
"""What a file is known by; None for one that cannot be looked at."""


def _stamp(file: Path) -> _Stamp:
    try:
        status = file.stat()
    except OSError:
        return None
    # The time of its rights, too: a file that could not be read may be readable now.
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def _together(file: Path, environment: dict[str, Project]) -> dict[str, Project]:
    """The projects of both; the file's word is the newer one."""
    found = environment | _read(file)
    whose: dict[LiveKitKey, str] = {}
    for name, one in found.items():
        for key in one.keys:
            if whose.setdefault(key, name) != name:
                raise ProjectsInvalid(f"{file}: {name}: key {key.api_key} is the one of {whose[key]}, too")
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
        raise ProjectsInvalid(f"{file}: this is no JSON") from None
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
