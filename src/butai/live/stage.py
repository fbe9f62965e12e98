"""The dependencies that the routes of going live share within one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from butai.config import IngestSettings, LiveSettings
from butai.database import Database
from butai.live.feed import Feed
from butai.live.projects import Projects
from butai.live.stream_keys import Sealer
from butai.live.tokens import Tokens


@dataclass
class Turns:
    """The tests of one user's destinations, which take turns."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    """The one under way and those that wait for it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Database, settings and services of one process; made once when the API starts."""

    database: Database
    settings: LiveSettings
    ingest: IngestSettings
    projects: Projects
    tokens: Tokens
    sealer: Sealer
    feed: Feed
    testing: dict[str, Turns] = field(default_factory=dict)
    """Users whose destinations are being tested."""


def get_stage(request: HTTPConnection) -> Stage:
    """The stage of the process that serves this request."""
    return request.state.stage
