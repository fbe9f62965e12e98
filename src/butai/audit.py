"""The audit trail: who did what, when, from where, and how it ended.

Called by services, in the transaction of the act, so that nothing happens unrecorded
and nothing is recorded that did not happen. The table is append-only: a trigger in the
first migration refuses UPDATE and DELETE.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, func, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class AuditEntry(Model):
    """One act. `subject` is what it was done to (`asset:0190…`); `result` is `ok` or `refused`."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_subject", "subject", "id"), Index("ix_audit_actor", "actor", "id"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(server_default=func.now())
    actor: Mapped[str | None]
    action: Mapped[str]
    subject: Mapped[str | None]
    result: Mapped[str]
    error_code: Mapped[str | None]
    ip: Mapped[str | None]
    user_agent: Mapped[str | None]
    request_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an act came from. `actor` is a user id, or the name of a process (`worker`)."""

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
    """Adds one entry to the session; it is written with the session's transaction."""
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
