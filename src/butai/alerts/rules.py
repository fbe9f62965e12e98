"""Rules that raise and resolve alerts by the content of the tables, checked every 15 seconds.

They read, by the tables' names, what the rest of the service writes anyway. So neither the library nor going live
depends on them, every alert has a committed cause, and after a crash at any moment an alert comes late rather than
never."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from butai.alerts.service import raise_alert, resolve_alert
from butai.config import AlertSettings
from butai.errors import Code
from butai.jobs.figures import FAILED

_STALE = text(
    """
    SELECT EXISTS (SELECT 1 FROM assets WHERE status = 'ready' AND created_at < now() - :hours * interval '1 hour')
           AND NOT EXISTS (SELECT 1 FROM patrol_runs
                           WHERE state = 'finished' AND kind IN ('scheduled', 'asked') AND NOT dry_run
                             AND ended_at > now() - :hours * interval '1 hour')
    """
)

# Failures for a reason of the service's, not of the file or its sender. Ids of events grow with time, so the newest
# events are read from the end of the primary key.
_UPLOADS = text(
    f"""
    SELECT error_code, count(*) FILTER (WHERE at > now() - interval '15 minutes') AS lately, count(*) AS within_the_hour
    FROM (SELECT * FROM asset_events ORDER BY id DESC LIMIT 20000) AS newest
    WHERE event = 'upload_failed' AND at > now() - interval '1 hour'
      AND (error_code ~ '^(store|database)_' OR error_code IN
           ('{Code.UNAVAILABLE}', '{Code.INTERNAL}', '{Code.UPLOAD_INTERRUPTED}'))
    GROUP BY error_code
    """
)

# From broadcasts, of which few are not over, instead of outputs, which are many and kept for ever.
_OUTPUTS = text(
    f"""
    SELECT o.id, o.platform, o.error_code, o.error_cause, b.room_id
    FROM broadcasts b JOIN outputs o ON o.broadcast_id = b.id
    WHERE (b.ended_at IS NULL OR b.ended_at > now() - interval '10 minutes')
      AND o.state = 'failed' AND o.error_code IN ('{Code.RETRIES_EXHAUSTED}', '{Code.EGRESS_UNAVAILABLE}')
    """
)
_LIVE_AGAIN = text("SELECT EXISTS (SELECT 1 FROM outputs WHERE id = CAST(:id AS uuid) AND state = 'live')")

_PROJECTS = text(
    f"""
    SELECT name, coalesce(error_code, '{Code.NO_WORKERS}') AS error_code FROM livekit_projects
    WHERE failing_since < now() - interval '10 seconds' OR worker_failures > 1
    """
)

_FAILED_JOBS = text(FAILED)
_OPEN = text("SELECT key FROM alerts WHERE resolved_at IS NULL AND starts_with(key, :prefix)")


@dataclass(frozen=True, slots=True)
class Condition:
    """An alert that should be open now."""

    key: str
    code: str
    severity: str
    title: str
    body: str


async def apply_rules(session: AsyncSession, settings: AlertSettings) -> None:
    """Raises an alert for each condition that holds, and resolves open ones whose condition no longer holds."""
    await _single(session, Code.PATROL_STALE, await _patrol(session, settings))
    await _single(session, Code.JOBS_FAILED, await _jobs(session))
    await _family(session, Code.UPLOAD_FAILURES, *await _uploads(session, settings))
    await _live(session, await _outputs(session))
    await _family(session, "egress", await _projects(session))


async def _single(session: AsyncSession, key: str, condition: Condition | None) -> None:
    if condition is None:
        await resolve_alert(session, key)
    else:
        await _raise(session, condition)


async def _family(
    session: AsyncSession, prefix: str, conditions: list[Condition], staying: frozenset[str] = frozenset()
) -> None:
    """Raises all conditions, and resolves the open alerts of this prefix that are neither among them nor in
    `staying`."""
    for condition in conditions:
        await _raise(session, condition)
    still = {condition.key for condition in conditions} | staying
    for key in (await session.scalars(_OPEN, {"prefix": f"{prefix}:"})).all():
        if key not in still:
            await resolve_alert(session, key)


async def _live(session: AsyncSession, conditions: list[Condition]) -> None:
    """Like `_family`, but only an output that is live again counts as recovered: the end of its broadcast resolves
    quietly."""
    for condition in conditions:
        await _raise(session, condition)
    still = {condition.key for condition in conditions}
    for key in (await session.scalars(_OPEN, {"prefix": "live:"})).all():
        if key not in still:
            again = await session.scalar(_LIVE_AGAIN, {"id": key.partition(":")[2]})
            await resolve_alert(session, key, quiet=not again)


async def _raise(session: AsyncSession, of: Condition) -> None:
    await raise_alert(session, key=of.key, code=of.code, severity=of.severity, title=of.title, body=of.body)


async def _patrol(session: AsyncSession, settings: AlertSettings) -> Condition | None:
    if not await session.scalar(_STALE, {"hours": settings.stale_hours}):
        return None
    return Condition(
        Code.PATROL_STALE,
        Code.PATROL_STALE,
        "warning",
        f"No patrol has finished for {settings.stale_hours:g} hours",
        "Losses of the store since then are unknown. `butai patrol status` shows the last runs.",
    )


async def _uploads(session: AsyncSession, settings: AlertSettings) -> tuple[list[Condition], frozenset[str]]:
    rows = (await session.execute(_UPLOADS)).all()
    conditions = [
        Condition(
            f"upload_failures:{row.error_code}",
            Code.UPLOAD_FAILURES,
            "warning",
            f"{row.lately} uploads failed within 15 minutes: {row.error_code}",
            "`butai doctor` checks the store and the database.",
        )
        for row in rows
        if row.lately >= settings.upload_failures
    ]
    # Resolved after an hour without a failure: a store that fails now and then has not recovered at each success.
    return conditions, frozenset(f"upload_failures:{row.error_code}" for row in rows)


async def _jobs(session: AsyncSession) -> Condition | None:
    rows: list[Any] = list((await session.execute(_FAILED_JOBS)).all())
    total = sum(row[1] for row in rows)
    if not total:
        return None
    counts = "\n".join(f"{row[0]}: {row[1]}" for row in rows)
    title = f"{total} background job{'s have' if total > 1 else ' has'} failed for good"
    return Condition(Code.JOBS_FAILED, Code.JOBS_FAILED, "warning", title, f"{counts}\n`butai jobs list` shows why.")


async def _outputs(session: AsyncSession) -> list[Condition]:
    return [
        Condition(
            f"live:{row.id}",
            row.error_code,
            "failure",
            f"{row.room_id}: {row.platform} is off the air",
            f"{row.error_code}{f', after {row.error_cause}' if row.error_cause else ''}. "
            "Its host can try again; the other platforms continue.",
        )
        for row in (await session.execute(_OUTPUTS)).all()
    ]


async def _projects(session: AsyncSession) -> list[Condition]:
    return [
        Condition(
            f"egress:{row.name}",
            Code.EGRESS_UNAVAILABLE,
            "failure",
            f"LiveKit's project {row.name} carries no new broadcasts",
            f"{row.error_code}. Broadcasts on air are not affected. `butai doctor` checks LiveKit.",
        )
        for row in (await session.execute(_PROJECTS)).all()
    ]
