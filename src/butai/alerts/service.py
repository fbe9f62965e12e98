"""Raises and resolves alerts, in the transaction of their causes.

An alert is open from the first time it is raised until it is resolved. Raising and resolving send one message each; an
alert that is raised again while open is only counted.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import audit, jobs
from butai.alerts.models import Alert, AlertMessage
from butai.audit import Origin
from butai.database import Database

DELIVER = "alerts.deliver"
"""The task that sends a message (`tasks.deliver_message`). Arguments: `message_id`."""


async def raise_alert(session: AsyncSession, *, key: str, code: str, severity: str, title: str, body: str) -> bool:
    """Opens the alert `key` and sends its message, or counts it once more. Returns whether it is new.

    `severity`: `info`, `warning` or `failure`. No text may hold a secret.
    """
    statement = insert(Alert).values(key=key, code=code, severity=severity, title=title, body=body)
    statement = statement.on_conflict_do_update(
        index_elements=["key"],
        index_where=text("resolved_at IS NULL"),
        set_={
            "count": Alert.count + 1,
            "seen_at": func.now(),
            "title": statement.excluded.title,
            "body": statement.excluded.body,
        },
    ).returning(Alert.id, text("(xmax = 0)"))
    alert_id, new = (await session.execute(statement)).one()
    if new:
        await _send(session, alert_id, "raised", severity, title, body)
    return new


async def resolve_alert(session: AsyncSession, key: str, body: str = "", *, quiet: bool = False) -> bool:
    """Resolves the open alert `key` and sends a message, unless `quiet`: a condition that has ended has not always
    recovered. Returns whether an alert was open."""
    closed = (
        await session.execute(
            update(Alert)
            .where(Alert.key == key, Alert.resolved_at.is_(None))
            .values(resolved_at=func.now())
            .returning(Alert.id, Alert.title)
        )
    ).one_or_none()
    if closed is None:
        return False
    if quiet:
        return True
    await _send(session, closed.id, "recovered", "info", f"Recovered: {closed.title}", body)
    return True


async def send_message(session: AsyncSession, title: str, body: str, severity: str = "info") -> None:
    """Sends one message without an alert: nothing stays open after it."""
    await _send(session, None, "digest", severity, title, body)


async def send_test_message(session: AsyncSession) -> None:
    """Sends one message by which an operator sees that messages arrive."""
    await _send(session, None, "test", "info", "Butai: a test message", "Alerts of this Butai arrive here.")


async def request_test_message(database: Database, origin: Origin) -> None:
    """Sends a test message because an operator requested it, with its audit entry."""
    async with database.transaction() as session:
        await send_test_message(session)
        audit.record(session, origin, "alerts.test", None)


async def _send(session: AsyncSession, alert_id: int | None, kind: str, severity: str, title: str, body: str) -> None:
    message = AlertMessage(alert_id=alert_id, kind=kind, severity=severity, title=title, body=body)
    session.add(message)
    await session.flush()
    await jobs.enqueue(session, DELIVER, {"message_id": message.id})


async def forget_files(session: AsyncSession, keys: Sequence[str]) -> None:
    """Replaces the lines of alerts and messages that are one of these keys (`patrol.notifications.list_keys`).
    What they say of other files stays."""
    for table in ("alerts", "alert_messages"):
        await session.execute(text(_WITHOUT_KEYS.format(table=table)), {"keys": list(keys)})


async def forget_rooms(session: AsyncSession, room_ids: Sequence[str]) -> None:
    """Deletes alerts of platforms that these rooms were sent to, with their messages (`alerts.rules`)."""
    for statement in _OF_ROOMS:
        await session.execute(text(statement), {"rooms": list(room_ids)})


_WITHOUT_KEYS = """
    UPDATE {table} SET body = (
        SELECT string_agg(CASE WHEN line = ANY(:keys) THEN '(erased)' ELSE line END, E'\\n' ORDER BY number)
        FROM string_to_table(body, E'\\n') WITH ORDINALITY AS lines (line, number)
    ) WHERE string_to_array(body, E'\\n') && CAST(:keys AS text[])
"""

# The title alone names the room, at its beginning, and other words may follow a room's name in other texts.
_OF_ROOMS = (
    (
        r"DELETE FROM alert_messages WHERE substring(title FROM CASE kind WHEN 'recovered' THEN '^Recovered\: ' ELSE '^' END"
        r" || '(.*)\: [a-z]+ is off the air$') = ANY(:rooms)"
    ),
    r"DELETE FROM alerts WHERE substring(title FROM '^(.*)\: [a-z]+ is off the air$') = ANY(:rooms)",
)
