"""The tables of alerts and of their messages."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, Text, func, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class Alert(Model):
    """A fault, open until `resolved_at`. At most one alert is open for a `key`; `count` is how often it was raised
    while open."""

    __tablename__ = "alerts"
    __table_args__ = (
        CheckConstraint("severity IN ('info', 'warning', 'failure')", name="severity"),
        Index("uq_alerts_open", "key", unique=True, postgresql_where=text("resolved_at IS NULL")),
        Index("ix_alerts_opened", "opened_at"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    key: Mapped[str]
    code: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    count: Mapped[int] = mapped_column(server_default=text("1"))
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]


class AlertMessage(Model):
    """One message, to all of `BUTAI_ALERT_URLS`. `delivered_to` holds fingerprints of the URLs that have accepted
    it."""

    __tablename__ = "alert_messages"
    __table_args__ = (
        CheckConstraint("kind IN ('raised', 'recovered', 'digest', 'test')", name="kind"),
        Index("ix_alert_messages_alert", "alert_id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    alert_id: Mapped[int | None] = mapped_column(ForeignKey("alerts.id", ondelete="CASCADE"))
    kind: Mapped[str]
    severity: Mapped[str]
    title: Mapped[str]
    body: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    delivered_to: Mapped[list[str]] = mapped_column(ARRAY(Text), server_default=text("'{}'"))
    delivered_at: Mapped[datetime | None]
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    error: Mapped[str | None]
