"""The health of the service at one moment: its components, and a few figures.

Each component is checked separately within two seconds: one that hangs is reported and delays no other. The states of
processes (workers, controllers, the patrol) are in Postgres; without it they are `unknown`. Concurrent requests share
one check."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString

from cachetools import TTLCache
from livekit import api
from psycopg.rows import dict_row

from butai import __version__
from butai.assets.library import Library
from butai.config import Settings
from butai.database import Connection, Database
from butai.errors import Code, DatabaseUnavailable
from butai.jobs.figures import JOBS, WORKERS
from butai.jobs.queue import QUEUES
from butai.live.livekit_client import LIVEKIT_ERRORS, livekit_client
from butai.live.reconcile.controllers import RUNNING
from butai.live.stage import Stage
from butai.operations.schemas import FiguresOut, HealthOut, PartDetailOut, PartName, PartOut, PartState
from butai.operations.shared_answer import SharedAnswer
from butai.web.metrics import Metrics

PART_SECONDS = 2.0
"""Most time for each component."""
_KEPT = 1.0
"""Seconds for which a check is reused."""
_ASSETS_KEPT = 30.0
"""Seconds for which the count of all assets, which reads an index of them all, is reused."""
_RATE_OVER = 60.0

SILENT_WORKER = 9
"""Seconds: three heartbeats (`butai.worker`)."""

_PROCESSES: LiteralString = f"""
SELECT {WORKERS},
       (SELECT count(*) FROM controllers AS c WHERE {RUNNING}) AS controllers,
       (SELECT extract(epoch FROM now() - max(seen_at))::float8 FROM controllers) AS controller_seconds,
       EXISTS (SELECT 1 FROM broadcasts WHERE ended_at IS NULL AND waiting_since IS NOT NULL) AS without_capacity,
       (SELECT max(ended_at) FROM patrol_runs
        WHERE state = 'finished' AND kind IN ('scheduled', 'asked') AND NOT dry_run) AS last_run,
       EXISTS (SELECT 1 FROM assets
               WHERE status = 'ready' AND created_at < now() - %(stale)s * interval '1 hour') AS worth_a_run
"""
_PROJECTS: LiteralString = "SELECT name, polled_at, error_code, worker_failures FROM livekit_projects"

_FIGURES: LiteralString = f"""
SELECT (SELECT count(*) FROM broadcasts WHERE ended_at IS NULL) AS broadcasts_on_air,
       (SELECT count(*) FROM broadcasts b JOIN outputs o ON o.broadcast_id = b.id
        WHERE b.ended_at IS NULL AND o.state = 'live') AS outputs_live,
       (SELECT count(*) FROM broadcasts b JOIN outputs o ON o.broadcast_id = b.id
        WHERE b.ended_at IS NULL AND o.state IN ('reconnecting', 'failed')) AS outputs_in_trouble,
       (SELECT count(*) FROM broadcasts
        WHERE ended_at IS NULL AND egress = 'relay' AND engine_seen_at > now() - interval '15 seconds') AS relays,
       {JOBS},
       (SELECT count(*) FROM alerts WHERE resolved_at IS NULL) AS alerts_open,
       (SELECT count(*) FROM findings WHERE resolved_at IS NULL) AS findings_open,
       (SELECT count(*) FROM asset_objects WHERE state = 'writing' AND lease_until > now())
       + (SELECT count(*) FROM resumable_uploads
          WHERE state = 'open' AND expires_at > now() AND updated_at > now() - interval '1 minute') AS uploads
"""
_ASSETS: LiteralString = """
SELECT CASE WHEN deleted_at IS NOT NULL THEN 'trashed' ELSE status END, count(*)
FROM assets WHERE sidecar IS NULL GROUP BY 1
"""


class Health:
    """The health as one process sees it."""

    def __init__(self, settings: Settings, library: Library, stage: Stage, metrics: Metrics) -> None:
        self._settings, self._library, self._stage, self._metrics = settings, library, stage, metrics
        self._database: Database = stage.database
        self._samples: deque[tuple[float, int]] = deque([(time.monotonic(), metrics.answered)])
        self._assets: TTLCache[None, dict[str, int]] = TTLCache(1, _ASSETS_KEPT)
        self._look = SharedAnswer(self._all, _KEPT)
        self._left: set[asyncio.Task[Any]] = set()
        """Requests that did not answer in time, until they end."""

    async def look(self) -> HealthOut:
        """The whole health, within little more than `PART_SECONDS`."""
        return await self._look.get()

    async def close(self) -> None:
        """Cancels the requests that still wait for an answer."""
        await self._look.close()
        for task in self._left:
            task.cancel()
        await asyncio.gather(*self._left, return_exceptions=True)

    async def _all(self) -> HealthOut:
        projects = self._stage.projects.names
        database, store, processes, egress, figures, assets, *livekits = await asyncio.gather(
            self._bounded(self._database.ready),
            self._bounded(self._library.store.ready),
            self._bounded(self._processes),
            self._bounded(self._egress),
            self._bounded(self._figures),
            self._bounded(self._count_assets),
            *(self._bounded(lambda name=name: self._livekit(name)) for name in projects),
        )
        parts = [_answers("database", *database), _answers("store", *store)]
        known: dict[str, Any] = egress[0] or {}
        parts += [_livekit_part(name, *found, known.get(name)) for name, found in zip(projects, livekits, strict=True)]
        if not projects:
            parts.append(PartOut("livekit", "off", Code.LIVEKIT_NOT_CONFIGURED))
        parts += _processes_parts(processes[0], self._settings.alerts.stale_hours, goes_live=bool(projects))
        counted: dict[str, Any] = dict.fromkeys(FiguresOut.__struct_fields__) | (figures[0] or {})
        own: dict[str, Any] = {
            "assets": assets[0],
            "requests_in_flight": self._metrics.in_flight,
            "requests_per_second": self._rate(),
        }
        return HealthOut(
            status=_status(parts),
            at=datetime.now(UTC),
            version=__version__,
            parts=parts,
            figures=FiguresOut(**(counted | own)),
        )

    async def _bounded(self, ask: Callable[[], Awaitable[Any]]) -> tuple[Any, float, str | None]:
        """The answer, or None; its milliseconds; the reason why there is none. Never longer than `PART_SECONDS`."""
        began = time.perf_counter()

        async def asked() -> Any:
            return await ask()

        task = asyncio.create_task(asked())
        # Not `wait_for`: it waits until a cancelled task has ended, which may hang as well.
        done, _ = await asyncio.wait({task}, timeout=PART_SECONDS)
        taken = round((time.perf_counter() - began) * 1000, 1)
        if not done:
            task.cancel()
            self._left.add(task)
            task.add_done_callback(self._ended)
            return None, taken, Code.NO_ANSWER
        try:
            return task.result(), taken, None
        except DatabaseUnavailable as error:
            return None, taken, error.code
        except Exception as error:  # noqa: BLE001 - one part does not hide the others
            # Any failure of one component leaves the others. The error's text may hold an address.
            return None, taken, type(error).__name__

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._left.discard(task)
        if not task.cancelled():
            task.exception()

    async def _livekit(self, project: str) -> str | None:
        """None when LiveKit answers, else the reason."""
        try:
            async with livekit_client(self._stage.projects, project, PART_SECONDS) as livekit:
                await livekit.room.list_rooms(api.ListRoomsRequest(names=["butai-health"]))
        except api.TwirpError as error:
            return Code.LIVEKIT_UNAUTHORIZED if error.status in (401, 403) else Code.LIVEKIT_UNREACHABLE
        except LIVEKIT_ERRORS:
            return Code.LIVEKIT_UNREACHABLE
        return None

    async def _processes(self) -> dict[str, Any]:
        stale = self._settings.alerts.stale_hours
        asked = {"worker": SILENT_WORKER, "queues": len(QUEUES), "stale": stale}
        return await self._row(_PROCESSES, asked)

    async def _egress(self) -> dict[str, dict[str, Any]]:
        async def ask(connection: Connection) -> dict[str, dict[str, Any]]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(_PROJECTS)
                return {row.pop("name"): row for row in await cursor.fetchall()}

        return await self._database.query(ask)

    async def _figures(self) -> dict[str, Any]:
        return await self._row(_FIGURES, {})

    async def _count_assets(self) -> dict[str, int]:
        found = self._assets.get(None)
        if found is None:

            async def ask(connection: Connection) -> dict[str, int]:
                return dict(await (await connection.execute(_ASSETS)).fetchall())

            found = self._assets[None] = await self._database.query(ask)
        return found

    async def _row(self, statement: LiteralString, values: dict[str, Any]) -> dict[str, Any]:
        async def ask(connection: Connection) -> dict[str, Any]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(statement, values)
                row = await cursor.fetchone()
                assert row is not None
                return row

        return await self._database.query(ask)

    def _rate(self) -> float:
        """Requests per second of this process, over the last minute."""
        now = time.monotonic()
        self._samples.append((now, self._metrics.answered))
        while len(self._samples) > 2 and self._samples[1][0] < now - _RATE_OVER:
            self._samples.popleft()
        since, count = self._samples[0]
        return round((self._metrics.answered - count) / max(now - since, 0.001), 2)


_UNAVAILABLE: dict[PartName, Code] = {"database": Code.DATABASE_UNAVAILABLE, "store": Code.STORE_UNAVAILABLE}
_SILENT: dict[PartName, Code] = {"worker": Code.NO_WORKER, "controller": Code.NO_CONTROLLER}


def _answers(name: PartName, ready: bool | None, ms: float, why: str | None) -> PartOut:  # noqa: FBT001 - the answer of the part
    return PartOut(name, "ok" if ready else "down", None if ready else why or _UNAVAILABLE[name], ms)


def _livekit_part(
    project: str, trouble: str | None, ms: float, why: str | None, egress: dict[str, Any] | None
) -> PartOut:
    """The component of one LiveKit project. Its egress workers are known where broadcasts were carried by them."""
    code = why or trouble
    detail = PartDetailOut()
    if egress is not None:
        detail = PartDetailOut(egress_workers=egress["worker_failures"] == 0, polled_at=egress["polled_at"])
        if code is None and egress["worker_failures"]:
            return PartOut("livekit", "warning", Code.EGRESS_UNAVAILABLE, ms, detail, project)
    return PartOut("livekit", "down" if code else "ok", code, ms, detail, project)


def _processes_parts(row: dict[str, Any] | None, stale_hours: float, *, goes_live: bool) -> list[PartOut]:
    """The components whose processes report in Postgres."""
    if row is None:
        unseen: tuple[PartName, ...] = ("worker", "controller", "patrol")
        return [PartOut(name, "unknown", Code.DATABASE_UNAVAILABLE) for name in unseen]
    found: list[PartOut] = []
    for name, silence in _SILENT.items():
        alive, seconds = row[f"{name}s"], row[f"{name}_seconds"]
        detail = PartDetailOut(alive=alive, seconds=None if seconds is None else round(seconds, 1))
        if alive and name == "controller" and row["without_capacity"]:
            found.append(PartOut(name, "warning", Code.NO_CAPACITY, detail=detail))
        elif alive:
            found.append(PartOut(name, "ok", detail=detail))
        else:
            off = name == "controller" and not goes_live
            found.append(PartOut(name, "off" if off else "down", silence, detail=detail))
    last: datetime | None = row["last_run"]
    age = None if last is None else (datetime.now(UTC) - last).total_seconds()
    stale = row["worth_a_run"] and (age is None or age > stale_hours * 3600)
    detail = PartDetailOut(last_finished_at=last)
    state: PartState = "warning" if stale else "ok"
    found.append(PartOut("patrol", state, Code.PATROL_STALE if stale else None, detail=detail))
    return found


def _status(parts: list[PartOut]) -> Literal["ok", "degraded", "down"]:
    """`down`: no request can be served. `degraded`: a component has a fault."""
    if any(part.state == "down" and part.name in ("database", "store") for part in parts):
        return "down"
    return "ok" if all(part.state in ("ok", "off") for part in parts) else "degraded"
