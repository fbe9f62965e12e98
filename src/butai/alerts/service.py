"""How an alert comes to be: in the transaction of what it tells of. Called by the patrol, by going live and by `tasks`.

An alert is open from its first raising to its recovery. Only these two make a message: what is raised again meanwhile is
counted.
"""

from __future__ import annotations

from sqlalchemy import func, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai import jobs
from butai.alerts.models import Alert, AlertMessage

DELIVER = "alerts.deliver"
"""The task that sends a message; its body is in `tasks`. Arguments: `message_id`."""


async def raise_alert(session: AsyncSession, *, key: str, code: str, severity: str, title: str, body: str) -> bool:
    """Opens the alert `key`, or counts it once more. Returns whether it is new, and so made a message.

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
    """Closes the open alert `key` and tells of it, unless `quiet`: what is over need not have recovered. Returns whether
    there was one."""
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


async def digest(session: AsyncSession, title: str, body: str, severity: str = "info") -> None:
    """One message that is no alert: nothing stays open after it."""
    await _send(session, None, "digest", severity, title, body)


async def test_message(session: AsyncSession) -> None:
    """One message that says nothing but that messages arrive."""
    await _send(session, None, "test", "info", "Butai: a test message", "Alerts of this Butai arrive here.")


async def _send(session: AsyncSession, alert_id: int | None, kind: str, severity: str, title: str, body: str) -> None:
    message = AlertMessage(alert_id=alert_id, kind=kind, severity=severity, title=title, body=body)
    session.add(message)
    await session.flush()
    await jobs.enqueue(session, DELIVER, {"message_id": message.id})
