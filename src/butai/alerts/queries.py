"""Queries of alerts."""

from __future__ import annotations

from psycopg.rows import class_row

from butai.alerts.schemas import AlertOut
from butai.database import Connection, Database

_ALERTS = """
    SELECT a.id, a.key, a.code, a.severity, a.title, a.body, a.count, a.opened_at, a.seen_at, a.resolved_at,
           CASE WHEN m.attempts > 0 THEN m.delivered_at IS NOT NULL END AS notified
    FROM alerts a LEFT JOIN alert_messages m ON m.alert_id = a.id AND m.kind = 'raised'
    WHERE (%(open)s::boolean IS NULL OR (a.resolved_at IS NULL) = %(open)s)
      AND (%(before)s::bigint IS NULL OR a.id < %(before)s)
    ORDER BY a.id DESC LIMIT %(limit)s
"""


async def alerts(
    database: Database, limit: int, *, still_open: bool | None = None, before: int | None = None
) -> list[AlertOut]:
    """Up to `limit` alerts below the id `before`, newest first. Raises `DatabaseUnavailable`."""

    async def ask(connection: Connection) -> list[AlertOut]:
        cursor = connection.cursor(row_factory=class_row(AlertOut))
        await cursor.execute(_ALERTS, {"open": still_open, "before": before, "limit": limit})
        return await cursor.fetchall()

    return await database.query(ask)
