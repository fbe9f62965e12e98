"""Queries of the patrol: whether a run is due, the runs, the findings."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import class_row, dict_row

from butai.assets.patrol.finding_states import FindingKind, FindingState, actions_for
from butai.assets.patrol.schemas import FindingOut, OpenFindings, PatrolRunOut, PatrolSummary
from butai.assets.patrol.states import RunState
from butai.config import PatrolSettings
from butai.database import Connection, Database

RETRY_MINUTES = 10.0
"""Minutes until the next run, after one that stopped because the store was unreliable."""

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
    if last is None or last[0] == RunState.RUNNING:
        return True
    minutes = settings.minutes if last[0] == RunState.FINISHED else min(settings.minutes, RETRY_MINUTES)
    return last[1] + timedelta(minutes=minutes) <= datetime.now(UTC) + timedelta(seconds=5)


_RUNS = """
    SELECT id, kind, dry_run, state, stop_code, detail, requested_by, started_at, heartbeat_at, ended_at, hides_absence, due,
           checked, found, suspected, lost AS missing, recovered, mismatched, undecided
    FROM patrol_runs WHERE kind <> 'recheck' AND (%(before)s::bigint IS NULL OR id < %(before)s) ORDER BY id DESC
    LIMIT %(limit)s
"""

_FINDINGS = """
    SELECT id, kind, object_key, asset_id, run_id, detail, found_at, seen_at, resolved_at, resolution, resolved_by,
           CASE WHEN kind = 'object_without_row' THEN EXISTS (SELECT 1 FROM assets a WHERE a.object_key = f.object_key)
                ELSE EXISTS (SELECT 1 FROM assets a
                             WHERE a.id = f.asset_id AND a.object_key = f.object_key AND a.deleted_at IS NULL)
           END AS indexed
    FROM findings f
"""

_LISTED = f"""
    {_FINDINGS} WHERE (%(all)s OR resolved_at IS NULL) AND (%(before)s::bigint IS NULL OR id < %(before)s)
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


async def runs(database: Database, limit: int, before: int | None = None) -> list[PatrolRunOut]:
    """Up to `limit` runs below the id `before`, newest first."""

    async def ask(connection: Connection) -> list[PatrolRunOut]:
        cursor = connection.cursor(row_factory=class_row(PatrolRunOut))
        return await (await cursor.execute(_RUNS, {"limit": limit, "before": before})).fetchall()

    return await database.query(ask)


async def findings(
    database: Database,
    limit: int,
    *,
    before: int | None = None,
    kind: FindingKind | None = None,
    resolved: bool = False,
) -> list[FindingOut]:
    """Up to `limit` findings below the id `before`, newest first; with `resolved` the resolved ones too."""
    return await _findings(database, _LISTED, {"limit": limit, "before": before, "kind": kind, "all": resolved})


async def finding(database: Database, finding_id: int) -> FindingOut | None:
    """One finding; None when there is none with this id."""
    found = await _findings(database, f"{_FINDINGS} WHERE id = %(id)s", {"id": finding_id})
    return found[0] if found else None


async def _findings(database: Database, statement: str, values: dict[str, Any]) -> list[FindingOut]:
    async def ask(connection: Connection) -> list[dict[str, Any]]:
        cursor = connection.cursor(row_factory=dict_row)
        return await (await cursor.execute(statement, values)).fetchall()  # pyright: ignore[reportArgumentType]

    return [_finding(**row) for row in await database.query(ask)]


def _finding(*, kind: str, resolution: str | None, indexed: bool, **row: Any) -> FindingOut:
    state = FindingState.OPEN if row["resolved_at"] is None else FindingState(resolution or "")
    adoptable = bool(row["detail"].get("adoptable"))
    return FindingOut(
        kind=FindingKind(kind),
        resolution=None if state is FindingState.OPEN else state,
        actions=actions_for(FindingKind(kind), state, adoptable=adoptable, indexed=indexed),
        **row,
    )


async def summary(database: Database, stale_hours: float) -> PatrolSummary:
    """The time of the last finished run, whether that is longer ago than `stale_hours`, and the number of open
    findings."""

    async def ask(connection: Connection) -> tuple[Any, ...] | None:
        return await (await connection.execute(_SUMMARY)).fetchone()

    row = await database.query(ask)
    assert row is not None
    stale = row[0] is None or row[0] < datetime.now(UTC) - timedelta(hours=stale_hours)
    return PatrolSummary(row[0], stale, OpenFindings(*row[1:]))
