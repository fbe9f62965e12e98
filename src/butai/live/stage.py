"""What the routes of going live need of their process, put together once by `butai.api`."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from butai.config import LiveSettings
from butai.database import Database
from butai.live.feed import Feed
from butai.live.projects import Projects
from butai.live.stream_keys import Sealer
from butai.live.tokens import Tokens


@dataclass(frozen=True, slots=True)
class Stage:
    """The parts in one process."""

    database: Database
    settings: LiveSettings
    projects: Projects
    tokens: Tokens
    sealer: Sealer
    feed: Feed


def stage(request: HTTPConnection) -> Stage:
    """The process's stage."""
    return request.state.stage
