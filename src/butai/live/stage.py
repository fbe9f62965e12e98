"""The dependencies that the routes of going live share within one process."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.requests import HTTPConnection

from butai.config import LiveSettings
from butai.database import Database
from butai.live.feed import Feed
from butai.live.projects import Projects
from butai.live.stream_keys import Sealer
from butai.live.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Stage:
    """Database, settings and services of one process; made once when the API starts."""

    database: Database
    settings: LiveSettings
    projects: Projects
    tokens: Tokens
    sealer: Sealer
    feed: Feed
    testing: set[str] = field(default_factory=set)
    """Users of whom a destination is being tested."""


def get_stage(request: HTTPConnection) -> Stage:
    """The stage of the process that serves this request."""
    return request.state.stage
