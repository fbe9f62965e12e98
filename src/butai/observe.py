"""What is known of every request: an id, a log line, a count. Pure ASGI, because it is paid for on every request.

`butai.api` wraps the application in it. OpenTelemetry is not here: its automatic instrumentation costs a third of
the requests per second.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from typing import Any

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from butai.database import Connection, Database
from butai.errors import BrokenOff, DatabaseUnavailable
from butai.log import request_answered

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")

QUIET = ("/healthz", "/readyz", "/metrics")
"""Asked every few seconds by machines; counted, not logged."""


JOBS_SECONDS = 10.0
"""Between two looks at the jobs' table, however often metrics are asked for."""

_JOBS = """
    SELECT status::text, task_name, count(*),
           coalesce(extract(epoch FROM now() - min(CASE WHEN status = 'todo' AND coalesce(scheduled_at, now()) <= now()
               THEN coalesce(scheduled_at,
                             (SELECT min(at) FROM procrastinate_events e WHERE e.job_id = j.id)) END)), 0)::float8
    FROM procrastinate_jobs j WHERE status IN ('todo', 'doing', 'failed') GROUP BY 1, 2
"""


async def _jobs_and_alerts(connection: Connection) -> tuple[list[Any], int]:
    jobs = await (await connection.execute(_JOBS)).fetchall()
    row = await (await connection.execute("SELECT count(*) FROM alerts WHERE resolved_at IS NULL")).fetchone()
    return jobs, row[0] if row else 0


class Metrics:
    """The process's own registry, so that tests can have several."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = Histogram(
            "butai_http_request_seconds",
            "Time to the end of the answer.",
            ("method", "route", "status"),
            # From a cached list to the upload of a scene over a home connection.
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60, 300),
            registry=self.registry,
        )
        self.in_flight = 0
        """A plain number: a gauge takes a lock twice for each request."""
        self.answered = 0
        """All requests that have ended, for `butai.health`."""
        gauge = Gauge("butai_http_requests_in_flight", "Requests being answered.", registry=self.registry)
        gauge.set_function(lambda: self.in_flight)
        self._children: dict[tuple[str, str, int], Any] = {}
        webhooks = Counter(
            "butai_livekit_webhooks", "Webhooks of LiveKit that are kept.", ("event",), registry=self.registry
        )
        refused = Counter(
            "butai_livekit_webhooks_refused", "Webhooks that were not believed.", ("reason",), registry=self.registry
        )
        # Both are told apart by words of ours, of which there are few.
        self.webhook = lru_cache(maxsize=64)(webhooks.labels)
        self.webhook_refused = lru_cache(maxsize=64)(refused.labels)

        self._jobs = Gauge("butai_jobs", "Background jobs.", ("status", "task"), registry=self.registry)
        self._oldest = Gauge(
            "butai_jobs_oldest_due_seconds", "How long the oldest job that is due has waited.", registry=self.registry
        )
        self._alerts = Gauge("butai_alerts_open", "Alerts that are open.", registry=self.registry)
        self._jobs_at = float("-inf")

    async def look_at_jobs(self, database: Database) -> None:
        """Reads what the database knows of jobs and alerts, at most every `JOBS_SECONDS`."""
        now = time.monotonic()
        if now < self._jobs_at + JOBS_SECONDS:
            return
        self._jobs_at = now
        try:
            # procrastinate need not be loaded for two sums.
            jobs, alerts = await database.read(_jobs_and_alerts)
        except DatabaseUnavailable:
            return
        self._jobs.clear()
        for status, task, count, _ in jobs:
            self._jobs.labels(status, task).set(count)
        self._oldest.set(max((seconds for *_, seconds in jobs), default=0))
        self._alerts.set(alerts)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request. Label lookups are kept: they cost more than the counting."""
        self.answered += 1
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self.requests.labels(method, route, str(status))
        child.observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observed:
    """The middleware. Puts `request_id` into the scope's state and into the answer's `X-Request-Id`."""

    def __init__(self, app: ASGIApp, metrics: Metrics, access_log: bool) -> None:
        self.app = app
        self.metrics = metrics
        self.access_log = access_log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
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
            # Returning without the body's end makes the server close the connection: the client sees a broken
            # transfer, not a short file.
            pass
        except Exception:
            # `problems` has logged it and answered; the server would log the same trace once more.
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
    # As a version 4 UUID, for a quarter of the time.
    return os.urandom(16).hex()
