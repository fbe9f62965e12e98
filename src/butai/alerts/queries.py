"""Queries of alerts."""

from __future__ import annotations

from typing import Any

from psycopg.rows import dict_row

from butai.database import Connection, Database

_ALERTS = """
    SELECT a.id, a.key, a.code, a.severity, a.title, a.body, a.count, a.opened_at AS "openedAt", a.seen_at AS "seenAt",
           a.resolved_at AS "resolvedAt", CASE WHEN m.attempts > 0 THEN m.delivered_at IS NOT NULL END AS notified
    FROM alerts a LEFT JOIN alert_messages m ON m.alert_id = a.id AND m.kind = 'raised'
    WHERE (%(open)s::boolean IS NULL OR (a.resolved_at IS NULL) = %(open)s)
      AND (%(before)s::bigint IS NULL OR a.id < %(before)s)
    ORDER BY a.id DESC LIMIT %(limit)s
"""


async def alerts(
    database: Database, limit: int, *, still_open: bool | None = None, before: int | None = None
) -> list[dict[str, Any]]:
    """Alerts, newest first, as `GET /api/alerts` shows them."""

    async def ask(connection: Connection) -> list[dict[str, Any]]:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(_ALERTS, {"open": still_open, "before": before, "limit": limit})
        return await cursor.fetchall()

    return await database.query(ask)
