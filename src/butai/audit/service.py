"""Adds entries to the audit trail, in the transaction of the act, so that the trail has exactly the committed acts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from butai.audit.models import AuditEntry


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
    session.add(
        AuditEntry(
            actor=origin.actor,
            action=action,
            subject=subject,
            result=result,
            error_code=error_code,
            ip=origin.ip,
            user_agent=(origin.user_agent or "")[:400] or None,
            request_id=origin.request_id,
            detail=detail or {},
        )
    )
