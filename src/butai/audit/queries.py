"""What is read of the audit trail: all of it, narrowed. Called by `audit_routes`; `audit` is where it is written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, LiteralString

from psycopg.rows import dict_row

from butai.database import Connection, Database

_ENTRIES: LiteralString = """
SELECT id, at, actor, action, subject, result, error_code AS "errorCode", ip, user_agent AS "userAgent",
       request_id AS "requestId", detail
FROM audit
"""

_CONDITIONS: dict[str, LiteralString] = {
    "actor": "actor = %(actor)s",
    # `live.` are all of going live; `live.stop` is one.
    "action": "starts_with(action, %(action)s)",
    "subject": "subject = %(subject)s",
    "result": "result = %(result)s",
    "since": "at >= %(since)s",
    "until": "at < %(until)s",
    "before": "id < %(before)s",
}


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries. `action`: how it begins. `until` itself is not in it."""

    actor: str | None = None
    action: str | None = None
    subject: str | None = None
    result: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def entries(database: Database, asked: AuditFilter, before: int | None, limit: int) -> list[dict[str, Any]]:
    """Entries, newest first, older than the one with the id `before`."""
    values = {**asdict(asked), "before": before, "limit": limit}
    # Put together by what is asked: a plan for "or everything" could use no index.
    where: list[LiteralString] = [one for name, one in _CONDITIONS.items() if values[name] is not None]
    statement: LiteralString = _ENTRIES + (("WHERE " + " AND ".join(where)) if where else "")

    async def ask(connection: Connection) -> list[dict[str, Any]]:
        async with connection.cursor(row_factory=dict_row) as cursor:
            await cursor.execute(statement + " ORDER BY id DESC LIMIT %(limit)s", values)
            return await cursor.fetchall()

    return await database.query(ask)
