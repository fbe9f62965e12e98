"""Middleware that answers requests for allowed `Host` names only. Pure ASGI, because every request pays for it.

A page whose name resolves to this service's address (DNS rebinding) is of the same origin as the service to its visitor's
browser, and could read whatever is open to anonymous callers. The browser sends that page's name as `Host`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from butai.config import HttpSettings
from butai.errors import HostNotAllowed
from butai.identity import is_every_address, is_loopback_name
from butai.web.problems import answer_error

UNDER_ANY_HOST = frozenset({"/healthz", "/readyz", "/api/live/webhook"})
"""Load balancers ask the first two by address and LiveKit posts to whatever it was given; they say nothing that a page
could use, and the last is proved by its signature."""

_HOST = re.compile(rb"([A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")


class AllowedHosts:
    """The middleware. Answers 421 `host_not_allowed` unless the request has exactly one `Host`, whose name is that of
    `public_url`, one of `allowed_hosts`, or a loopback name while the API listens on loopback, be it with all other
    addresses of the machine (`0.0.0.0`, `::`). Ports do not matter."""

    def __init__(self, app: ASGIApp, settings: HttpSettings) -> None:
        self.app = app
        names = set(settings.allowed_hosts)
        if settings.public_url:
            names.add(urlsplit(settings.public_url).hostname or "")
        here = is_loopback_name(settings.host) or is_every_address(settings.host)

        # Bounded in number and in length, since callers choose the keys.
        @lru_cache(maxsize=256)
        def allowed(host: bytes) -> bool:
            found = _HOST.fullmatch(host)
            if not found:
                return False
            name = found[1].decode().lower().strip("[]")
            return name in names or (here and is_loopback_name(name))

        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] == "lifespan" or scope["path"] in UNDER_ANY_HOST or self._may(scope):
            await self.app(scope, receive, send)
            return
        answer = answer_error(HTTPConnection(scope), HostNotAllowed())
        await answer(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        hosts = [value for name, value in scope["headers"] if name == b"host"]
        return len(hosts) == 1 and len(hosts[0]) <= 300 and self._allowed(hosts[0])
