"""Middleware that gives each request an id, a log line and a count. Pure ASGI, because every request pays for it.

OpenTelemetry is not here: its automatic instrumentation costs a third of the requests per second.
"""

from __future__ import annotations

import os
import re
import time

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butai.errors import BrokenOff
from butai.log import request_answered
from butai.web.metrics import Metrics

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

QUIET = ("/healthz", "/readyz", "/metrics")
"""Paths that machines fetch every few seconds; counted, not logged."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class RequestLog:
    """Sets `request_id` in the scope's state and in the answer's `X-Request-Id`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, *, access_log: bool) -> None:
        self.app = app
        self.metrics = metrics
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        structlog.contextvars.bind_contextvars(request_id=request_id)
        status, sent = 0, 0
        self.metrics.in_flight += 1

        async def watched(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except BrokenOff:
            # Returning without the body's end makes the server close the connection: the client sees a broken transfer,
            # not a short file.
            pass
        except Exception:
            # `problems` has logged and answered it; the server would log the same traceback again.
            if not status:
                raise
        finally:
            seconds = time.perf_counter() - began
            self.metrics.in_flight -= 1
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "unmatched")
            self.metrics.observe(method, route, status, seconds)
            if self.access_log and scope["path"] not in QUIET:
                request_answered(
                    request_id,
                    method=method,
                    path=scope["path"],
                    status=status,
                    ms=round(seconds * 1000, 1),
                    bytes=sent,
                    client=scope["client"][0] if scope.get("client") else None,
                )
            structlog.contextvars.clear_contextvars()


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return value.decode()
    # A UUID of version 4, in a quarter of the time.
    return os.urandom(16).hex()
