"""Reads the audit trail, by a filter, for every view of it: its entries, and those that are counted by the minute."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import LiteralString

from psycopg.rows import class_row

from butai.audit.schemas import AuditFilter, EntryOut
from butai.database import Connection, Database
from butai.errors.codes import Code

STRANGERS_CODES = [str(code) for code in (Code.NOT_HOST, Code.ROOM_TAKEN, Code.AUTH_REQUIRED)]
"""The codes of refusals to callers who are not a room's hosts."""

MOST_STRANGERS = 20
"""Most refusals to strangers among the entries of one page of a room's trail. Any number of users can be refused as
often as they like; the room's own entries must still be found."""

# Each table by itself, in the order of its index; the ids are of one sequence.
_TABLES: tuple[LiteralString, ...] = (
    """SELECT id, at, actor, action, subject, result, error_code, ip, user_agent, request_id, detail,
        1::bigint AS times, at AS last_at FROM audit""",
    """SELECT id, at, actor, action, subject, result, error_code, ip, user_agent, request_id, detail, times, last_at
        FROM audit_counts""",
)

_CONDITIONS: dict[str, LiteralString] = {
    "actor": "actor = %(actor)s",
    "action": "starts_with(action, %(action)s)",
    "subject": "subject = %(subject)s",
    "result": "result = %(result)s",
    "since": "last_at >= %(since)s",
    "until": "at < %(until)s",
    "before": "id < %(before)s",
    "after": "id > %(after)s",
    "strangers": "(result = 'refused' AND coalesce(error_code = ANY(%(codes)s), false)) = %(strangers)s",
}


async def entries(
    database: Database, wanted: AuditFilter, before: int | None, limit: int, after: int | None = None
) -> list[EntryOut]:
    """Up to `limit` entries below the id `before` and above `after`, newest first. Raises `DatabaseUnavailable`."""
    values = {**asdict(wanted), "before": before, "after": after, "limit": limit, "codes": STRANGERS_CODES}
    # Only the given conditions: with "OR everything" the plan could use no index.
    where = [condition for name, condition in _CONDITIONS.items() if values[name] is not None] or ["true"]
    matching = " AND ".join(where)
    each = [f"(SELECT * FROM ({one}) AS e WHERE {matching} ORDER BY id DESC LIMIT %(limit)s)" for one in _TABLES]
    statement = " UNION ALL ".join(each) + " ORDER BY id DESC LIMIT %(limit)s"

    async def ask(connection: Connection) -> list[EntryOut]:
        async with connection.cursor(row_factory=class_row(EntryOut)) as cursor:
            await cursor.execute(statement.encode(), values)
            return await cursor.fetchall()

    return await database.query(ask)


async def page(
    database: Database, wanted: AuditFilter, before: int | None, limit: int
) -> tuple[Sequence[EntryOut], int | None]:
    """A page of entries, and `before` of the next one, None on the last.

    With `wanted.few_strangers`, `limit` counts what is no refusal to a stranger; up to `MOST_STRANGERS` of those, the
    newest, are among them.
    """
    if wanted.few_strangers:
        wanted = replace(wanted, strangers=False)
    rows = await entries(database, wanted, before, limit + 1)
    shown, following = rows[:limit], rows[limit - 1].id if len(rows) > limit else None
    if wanted.few_strangers:
        shown += await entries(database, replace(wanted, strangers=True), before, MOST_STRANGERS, following)
        shown.sort(key=lambda entry: entry.id, reverse=True)
    return shown, following
