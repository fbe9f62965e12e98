"""The tables of the audit trail, which are append-only by triggers.

`audit_forget` and `audit_erase` in the migrations alone change what is in them: they take out a user's name.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Identity, Index, LargeBinary, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class _Act:
    """The columns of both tables. `subject`: the act's object (`asset:0190…`, `room:…`); `result`: `ok`, `refused` or
    `failed`."""

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


class AuditEntry(_Act, Model):
    """One act."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_subject", "subject", "id"), Index("ix_audit_actor", "actor", "id"))

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)


class AuditCount(_Act, Model):
    """Acts of one kind that an actor repeats, counted by the minute; the columns are those of the first one.

    A trigger lets a row count one more within its minute, and refuses everything else. Its ids are those of `audit`.
    """

    __tablename__ = "audit_counts"
    __table_args__ = (
        UniqueConstraint(
            "minute", "actor", "action", "subject", "result", "error_code", postgresql_nulls_not_distinct=True
        ),
        Index("ix_audit_counts_subject", "subject", "id"),
        Index("ix_audit_counts_actor", "actor", "id"),
    )

    id: Mapped[int] = mapped_column(
        BigInteger, primary_key=True, autoincrement=False, server_default=text("nextval('audit_id_seq')")
    )
    minute: Mapped[datetime] = mapped_column(server_default=text("date_trunc('minute', now())"))
    last_at: Mapped[datetime] = mapped_column(server_default=func.now())
    times: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))


class RetiredName(Model):
    """The SHA-256 of a public key or a room's name of an erased user: links lead there, so it is given to no one again."""

    __tablename__ = "retired_names"

    name_sha256: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    retired_at: Mapped[datetime] = mapped_column(server_default=func.now())
