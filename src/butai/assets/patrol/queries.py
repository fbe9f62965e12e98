"""Reads of the patrol: whether a run is due, the runs, the findings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import dict_row

from butai.config import PatrolSettings
from butai.database import Connection, Database

RETRY_MINUTES = 10.0
"""Until the next run, after one that stopped because the store was unreliable."""

_LAST = """
    SELECT state, started_at FROM patrol_runs
    WHERE kind = 'scheduled' AND NOT dry_run OR kind = 'asked' AND NOT dry_run AND state = 'running'
    ORDER BY id DESC LIMIT 1
"""


async def is_due(database: Database, settings: PatrolSettings) -> bool:
    """Whether a run should begin now, or an unfinished one be resumed."""

    async def ask(connection: Connection) -> tuple[str, datetime] | None:
        return await (await connection.execute(_LAST)).fetchone()

    last = await database.query(ask)
    if last is None or last[0] == "running":
        return True
    minutes = settings.minutes if last[0] == "finished" else min(settings.minutes, RETRY_MINUTES)
    return last[1] + timedelta(minutes=minutes) <= datetime.now(UTC) + timedelta(seconds=5)


_RUNS = """
    SELECT id, kind, dry_run AS "dryRun", state, stop_code AS "stopCode", detail, requested_by AS "requestedBy",
           started_at AS "startedAt", heartbeat_at AS "heartbeatAt", ended_at AS "endedAt",
           hides_absence AS "hidesAbsence", due, checked, found, suspected, lost AS missing, recovered, mismatched,
           undecided
    FROM patrol_runs WHERE kind <> 'recheck' AND (%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC
    LIMIT %(limit)s
"""

FINDINGS = """
    SELECT id, kind, object_key AS "objectKey", asset_id AS "assetId", run_id AS "runId", detail,
           found_at AS "foundAt", seen_at AS "seenAt", resolved_at AS "resolvedAt", resolution,
           resolved_by AS "resolvedBy"
    FROM findings WHERE (%(all)s OR resolved_at IS NULL) AND (%(before)s::bigint IS NULL OR id < %(before)s)
      AND (%(kind)s::text IS NULL OR kind = %(kind)s)
    ORDER BY id DESC LIMIT %(limit)s
"""

_SUMMARY = """
    SELECT (SELECT max(ended_at) FROM patrol_runs
            WHERE state = 'finished' AND kind IN ('scheduled', 'asked') AND NOT dry_run),
           (SELECT count(*) FROM findings WHERE resolved_at IS NULL AND kind = 'missing'),
           (SELECT count(*) FROM findings WHERE resolved_at IS NULL AND kind = 'mismatch'),
           (SELECT count(*) FROM findings WHERE resolved_at IS NULL AND kind NOT IN ('missing', 'mismatch'))
"""


async def runs(database: Database, limit: int, before: int | None = None) -> list[dict[str, Any]]:
    """Runs, newest first, as `GET /api/assets/patrol` shows them."""
    return await _many(database, _RUNS, {"limit": limit, "before": before})


async def findings(
    database: Database, limit: int, *, before: int | None = None, kind: str | None = None, closed: bool = False
) -> list[dict[str, Any]]:
    """Findings, newest first; with `closed` the resolved ones too."""
    return await _many(database, FINDINGS, {"limit": limit, "before": before, "kind": kind, "all": closed})


async def summary(database: Database, stale_hours: float) -> dict[str, Any]:
    """When the last run finished, whether that is longer ago than `stale_hours`, and how many findings are open."""

    async def ask(connection: Connection) -> tuple[Any, ...] | None:
        return await (await connection.execute(_SUMMARY)).fetchone()

    row = await database.query(ask)
    assert row is not None
    stale = row[0] is None or row[0] < datetime.now(UTC) - timedelta(hours=stale_hours)
    open_findings = {"missing": row[1], "mismatch": row[2], "unmatched": row[3]}
    return {"lastFinishedAt": row[0], "stale": stale, "openFindings": open_findings}


async def _many(database: Database, statement: str, values: dict[str, Any]) -> list[dict[str, Any]]:
    async def ask(connection: Connection) -> list[dict[str, Any]]:
        cursor = connection.cursor(row_factory=dict_row)
        return await (await cursor.execute(statement, values)).fetchall()  # pyright: ignore[reportArgumentType]

    return await database.query(ask)
