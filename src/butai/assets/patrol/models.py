"""The tables of patrol runs, of objects' last and next checks, and of findings."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, CheckConstraint, ForeignKey, Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from butai.database import Model


class PatrolRun(Model):
    """One run. `due` is the number of assets to check; `found`, `suspected`, `lost` (with those that were missing
    before), `recovered`, `mismatched` and `undecided` (5xx, time-outs, throttling) add up to `checked`. `stop_code`
    says why it stopped early, `checkpoint` is the last asset of its last batch."""

    __tablename__ = "patrol_runs"
    __table_args__ = (
        CheckConstraint("kind IN ('scheduled', 'asked', 'recheck', 'reconcile')", name="kind"),
        CheckConstraint("state IN ('running', 'finished', 'stopped')", name="state"),
        Index("ix_patrol_runs_kind", "kind", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    dry_run: Mapped[bool]
    state: Mapped[str]
    stop_code: Mapped[str | None]
    detail: Mapped[str | None]
    requested_by: Mapped[str | None]
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=func.now())
    ended_at: Mapped[datetime | None]
    hides_absence: Mapped[bool | None]
    checkpoint: Mapped[UUID | None]
    due: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    checked: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    found: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    suspected: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    lost: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    recovered: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    mismatched: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    undecided: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class AssetCheck(Model):
    """The last check of an asset's object, and when the next is due. A table of its own, because a row of `assets` is
    wide, and each of its many indexes would be written for every check."""

    __tablename__ = "asset_checks"
    __table_args__ = {"postgresql_with": {"fillfactor": 70}}  # noqa: RUF012 - SQLAlchemy declares it so

    asset_id: Mapped[UUID] = mapped_column(ForeignKey("assets.id", ondelete="CASCADE"), primary_key=True)
    object_key: Mapped[str]
    checked_at: Mapped[datetime | None]
    due_at: Mapped[datetime | None]
    used_at: Mapped[datetime | None]
    suspected_at: Mapped[datetime | None]


class Finding(Model):
    """One disagreement of index and store, open until `resolved_at`. At most one is open for a kind and an object."""

    __tablename__ = "findings"
    __table_args__ = (
        CheckConstraint("kind IN ('missing', 'mismatch', 'object_without_row', 'row_without_object')", name="kind"),
        Index("uq_findings_open", "kind", "object_key", unique=True, postgresql_where=text("resolved_at IS NULL")),
        Index("ix_findings_asset", "asset_id", postgresql_where=text("asset_id IS NOT NULL")),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]
    object_key: Mapped[str]
    asset_id: Mapped[UUID | None]
    run_id: Mapped[int | None] = mapped_column(BigInteger)
    detail: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    found_at: Mapped[datetime] = mapped_column(server_default=func.now())
    seen_at: Mapped[datetime] = mapped_column(server_default=func.now())
    resolved_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
    resolved_by: Mapped[str | None]
