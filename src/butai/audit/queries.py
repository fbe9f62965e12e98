"""Reads the audit trail, by a filter, for every view of it."""

from __future__ import annotations

from dataclasses import asdict
from typing import LiteralString

from psycopg.rows import class_row

from butai.audit.schemas import AuditFilter, EntryOut
from butai.database import Connection, Database

_ENTRIES: LiteralString = """
SELECT id, at, actor, action, subject, result, error_code, ip, user_agent, request_id, detail FROM audit
"""

_CONDITIONS: dict[str, LiteralString] = {
    "actor": "actor = %(actor)s",
    "action": "starts_with(action, %(action)s)",
    "subject": "subject = %(subject)s",
    "result": "result = %(result)s",
    "since": "at >= %(since)s",
    "until": "at < %(until)s",
    "before": "id < %(before)s",
}


async def entries(database: Database, wanted: AuditFilter, before: int | None, limit: int) -> list[EntryOut]:
    """Up to `limit` entries below the id `before`, newest first. Raises `DatabaseUnavailable`."""
    values = {**asdict(wanted), "before": before, "limit": limit}
    # Only the given conditions: with "OR everything" the plan could use no index.
    where: list[LiteralString] = [one for name, one in _CONDITIONS.items() if values[name] is not None]
    statement: LiteralString = _ENTRIES + (("WHERE " + " AND ".join(where)) if where else "")

    async def ask(connection: Connection) -> list[EntryOut]:
        async with connection.cursor(row_factory=class_row(EntryOut)) as cursor:
            await cursor.execute(statement + " ORDER BY id DESC LIMIT %(limit)s", values)
            return await cursor.fetchall()

    return await database.query(ask)
