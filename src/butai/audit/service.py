"""Adds entries to the audit trail, in the transaction of the act, so that the trail has exactly the committed acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit.models import AuditCount, AuditEntry


@dataclass(frozen=True, slots=True)
class Origin:
    """The origin of an act. `actor`: one of `audit.actors`, with its kind."""

    actor: str | None
    ip: str | None = None
    user_agent: str | None = None
    request_id: str | None = None


def record(
    session: AsyncSession,
    origin: Origin,
    action: str,
    subject: str | None,
    *,
    result: str = "ok",
    error_code: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """Adds one entry to the session. `subject`: `KIND:ID`. `result`: `ok`, `refused` or `failed`."""
    session.add(AuditEntry(**_columns(origin, action, subject, result, error_code, detail)))


async def count(
    session: AsyncSession,
    origin: Origin,
    action: str,
    subject: str | None,
    *,
    result: str,
    error_code: str | None = None,
    detail: dict[str, Any] | None = None,
) -> None:
    """As `record`, for what an actor may repeat as often as it likes: one row a minute for each actor, action, subject, result
    and code has the first one's origin and detail, how often, and the last time. It is locked until the transaction
    ends, so this comes last in it."""
    columns = _columns(origin, action, subject, result, error_code, detail)
    again = {"times": AuditCount.times + 1, "last_at": func.greatest(AuditCount.last_at, func.now())}
    of_the_minute = ["minute", "actor", "action", "subject", "result", "error_code"]
    counted = insert(AuditCount).values(columns).on_conflict_do_update(index_elements=of_the_minute, set_=again)
    await session.execute(counted)


def _columns(
    origin: Origin,
    action: str,
    subject: str | None,
    result: str,
    error_code: str | None,
    detail: dict[str, Any] | None,
) -> dict[str, Any]:
    return {
        "actor": origin.actor,
        "action": action,
        "subject": subject,
        "result": result,
        "error_code": error_code,
        "ip": origin.ip,
        "user_agent": (origin.user_agent or "")[:400] or None,
        "request_id": origin.request_id,
        "detail": detail or {},
    }
