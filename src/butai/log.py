"""Structured logs: event names with fields, one line each, to stderr; secrets are removed here and only here.

Each command of `butai.cli` calls `configure` once. Lines of libraries (uvicorn, procrastinate) take the same way, so
the same rules hold for them.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, WrappedLogger

from butai.config import LogSettings

REDACTED = "[redacted]"

# Fields whose names mean a secret, at any depth.
_SECRET_NAMES = re.compile(
    r"(?i)(secret|passw|token|authorization|cookie|api_?key$|stream_?key|signature|credential|access_key)"
)

# Values that look like secrets: signatures and keys in URLs, bearer tokens, JWTs and JWEs, our API keys, passwords in
# URLs, the key at the end of an RTMP address.
_SECRET_LOOKS = re.compile(
    r"""(?xi)
      (?P<query>\bX-Amz-(?:Signature|Credential|Security-Token)=)[^&\s"'\\]+
    | (?P<bearer>\bBearer\s+)[^\s"'\\,]+
    | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_.-]*
    | (?P<api>\bbutai_[0-9a-f]{16}_)[0-9a-f]+
    | (?P<userinfo>[a-z][a-z0-9+.-]*://[^\s/:@"']*:)[^\s/@"']+(?=@)
    | (?P<rtmp>rtmps?://[^\s/"']+/[^\s/"']+/)[^\s"']+
    """
)


_MARKS = ("x-amz-", "bearer", "eyj", "butai_", "://")
"""Every match of `_SECRET_LOOKS` contains one of these."""


class Redactor:
    """Removes known secrets, and values that look like secrets, from a finished line."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._known: list[str] = []
        self.add(secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Adds further secrets."""
        # A short value would remove ordinary words.
        known = {*self._known, *(secret for secret in secrets if len(secret) >= 6)}
        self._known = sorted(known, key=len, reverse=True)

    def __call__(self, line: str) -> str:
        """The line without its secrets."""
        # One plain search for each secret: a pattern of alternatives tries all of them at every letter.
        for secret in self._known:
            if secret in line:
                line = line.replace(secret, REDACTED)
        # Most lines hold no secret, and searching for a few words is ten times cheaper than the pattern.
        lower = line.lower()
        if any(mark in lower for mark in _MARKS):
            line = _SECRET_LOOKS.sub(_keep_prefix, line)
        return line


def _keep_prefix(match: re.Match[str]) -> str:
    return next((group for group in match.groups() if group), "") + REDACTED


def drop_secret_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: blanks fields whose names mean a secret."""
    for name in event:
        if _sounds_secret(name) and event[name]:
            event[name] = REDACTED
    return event


_without_names: ContextVar[bool] = ContextVar("without_names", default=False)


@contextmanager
def without_names() -> Generator[None]:
    """Lines of this block have neither rooms' names nor identities: for an act that erases a user, whose names they are."""
    token = _without_names.set(True)
    try:
        yield
    finally:
        _without_names.reset(token)


def drop_names(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """A structlog processor: removes the fields that `without_names` is about."""
    if _without_names.get():
        for name in ("room_id", "identity"):
            event.pop(name, None)
    return event


@lru_cache(maxsize=1024)
def _sounds_secret(name: str) -> bool:
    return _SECRET_NAMES.search(name) is not None


def configure(settings: LogSettings, secrets: Iterable[str] = ()) -> None:
    """Sets up structlog and the standard library's logging for this process. `secrets`: values to remove from all
    lines."""
    _redaction.redact = redact = Redactor(secrets)
    level = getattr(logging, settings.level.upper())
    _redaction.of_plain_lines = redact if settings.format == "json" and level <= logging.INFO else None
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        drop_secret_fields,
        drop_names,
    ]
    if settings.format == "json":
        render: Any = lambda _logger, _method, event: _as_json(event)  # noqa: E731
    else:
        console = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        render = console

    def finish(logger: WrappedLogger, method: str, event: EventDict) -> str:
        return redact(render(logger, method, event))

    structlog.configure(
        processors=[*shared, finish],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(_Stderr()),  # pyright: ignore[reportArgumentType]
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(_Stderr())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, finish],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(level, logging.INFO))
    for noisy in ("procrastinate", "alembic", "httpx", "asyncio"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # A body that the store cut short ends the connection on purpose; uvicorn would report it as an error of the
    # application.
    logging.getLogger("uvicorn.error").addFilter(
        lambda record: "without completing response" not in record.getMessage()
    )


_log = structlog.get_logger(__name__)


class _Redaction:
    redact: Redactor | None = None
    of_plain_lines: Redactor | None = None
    """Set when lines are JSON and of level info: then `request_answered` may write its lines directly."""


_redaction = _Redaction()


def add_secrets(secrets: Iterable[str]) -> None:
    """Adds secrets that became known after `configure`."""
    if _redaction.redact is not None:
        _redaction.redact.add(secrets)


def request_answered(request_id: str, **fields: Any) -> None:
    """Writes the line of one request, `request`, as structlog would. The names of `fields` must not be those of
    secrets.

    It bypasses structlog, since every request pays for it: through the processors it costs three times as much.
    """
    redact = _redaction.of_plain_lines
    if redact is None:
        _log.info("request", **fields)
        return
    at = datetime.now(UTC).isoformat()[:-6] + "Z"
    event = {"at": at, "level": "info", "event": "request", **fields, "request_id": request_id}
    sys.stderr.write(redact(msgspec.json.encode(event).decode() + "\n"))


class _Stderr:
    """Writes to the current `sys.stderr`: loggers outlive a redirection of it."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def _as_json(event: EventDict) -> str:
    event = {
        "at": event.pop("timestamp", None),
        "level": event.pop("level", None),
        "event": event.pop("event"),
        **event,
    }
    return msgspec.json.encode(event, enc_hook=str).decode()
