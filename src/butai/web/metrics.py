"""The metrics of one API process, in Prometheus's text format."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import Any

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

from butai.database import Connection, Database
from butai.errors import DatabaseUnavailable
from butai.jobs.figures import BY_TASK

JOBS_SECONDS = 10.0
"""Seconds between two reads of the jobs' table, however often metrics are fetched."""


_COUNTS = """
    SELECT (SELECT count(*) FROM alerts WHERE resolved_at IS NULL),
           (SELECT count(*) FROM broadcasts WHERE ended_at IS NULL AND waiting_since IS NOT NULL)
"""


async def _from_tables(connection: Connection) -> tuple[list[Any], tuple[int, int]]:
    jobs = await (await connection.execute(BY_TASK)).fetchall()
    counts = await (await connection.execute(_COUNTS)).fetchone()
    return jobs, counts or (0, 0)


class Metrics:
    """Metrics in a registry of their own, so that tests can have several."""

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
        """A plain number: a `Gauge` takes a lock twice for each request."""
        self.answered = 0
        """All requests that have ended, for `butai.operations.health`."""
        gauge = Gauge("butai_http_requests_in_flight", "Requests being answered.", registry=self.registry)
        gauge.set_function(lambda: self.in_flight)
        self._children: dict[tuple[str, str, int], Any] = {}
        webhooks = Counter(
            "butai_livekit_webhooks", "Webhooks of LiveKit that are kept.", ("event",), registry=self.registry
        )
        refused = Counter(
            "butai_livekit_webhooks_refused", "Webhooks that were refused.", ("reason",), registry=self.registry
        )
        # The labels of both are words of ours, of which there are few.
        self.webhook = lru_cache(maxsize=64)(webhooks.labels)
        self.webhook_refused = lru_cache(maxsize=64)(refused.labels)

        self._jobs = Gauge("butai_jobs", "Background jobs.", ("status", "task"), registry=self.registry)
        self._oldest = Gauge(
            "butai_jobs_oldest_due_seconds", "How long the oldest job that is due has waited.", registry=self.registry
        )
        self._alerts = Gauge("butai_alerts_open", "Alerts that are open.", registry=self.registry)
        self._capacity = Gauge(
            "butai_controller_capacity_cores",
            "Cores that a controller has for engines.",
            ("controller",),
            registry=self.registry,
        )
        self._used = Gauge(
            "butai_controller_used_cores", "Cores that its broadcasts take.", ("controller",), registry=self.registry
        )
        self._waiting = Gauge(
            "butai_broadcasts_without_capacity",
            "Broadcasts that wait for a controller with room.",
            registry=self.registry,
        )
        self._jobs_at = float("-inf")

    async def look_at_jobs(
        self, database: Database, read_controllers: Callable[[Connection], Awaitable[list[Any]]]
    ) -> None:
        """Reads the figures of jobs, alerts and controllers from the database, at most every `JOBS_SECONDS`.

        `read_controllers`: name, cores for engines and used cores of each.
        """
        now = time.monotonic()
        if now < self._jobs_at + JOBS_SECONDS:
            return
        self._jobs_at = now
        try:
            jobs, (alerts, waiting) = await database.query(_from_tables)
            controllers = await database.query(read_controllers)
        except DatabaseUnavailable:
            return
        self._jobs.clear()
        for status, task, count, _ in jobs:
            self._jobs.labels(status, task).set(count)
        self._oldest.set(max((seconds for *_, seconds in jobs), default=0))
        self._alerts.set(alerts)
        self._waiting.set(waiting)
        self._capacity.clear()
        self._used.clear()
        for name, capacity, used in controllers:
            self._capacity.labels(name).set(capacity)
            self._used.labels(name).set(used)

    def observe(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one request. Children by label are cached: looking them up costs more than counting."""
        self.answered += 1
        key = (method, route, status)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = self.requests.labels(method, route, str(status))
        child.observe(seconds)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self.registry)
