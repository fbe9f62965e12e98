"""The table of the audit trail. It is append-only: a trigger in the first migration refuses UPDATE and DELETE."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class AuditEntry(Model):
    """One act. `subject`: its object (`asset:0190…`, `room:…`); `result`: `ok`, `refused` or `failed`."""

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
