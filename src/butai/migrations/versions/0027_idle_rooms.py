"""Rooms that Butai made stay at LiveKit for hours: since when one is idle, and whether a broadcast's room may be made again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    """Quick: no row is rewritten."""
    op.add_column("rooms", sa.Column("idle_since", sa.DateTime(timezone=True)))
    op.create_index("ix_rooms_idle", "rooms", ["idle_since"], postgresql_where=sa.text("idle_since IS NOT NULL"))
    op.add_column("broadcasts", sa.Column("room_made", sa.Boolean, server_default=sa.text("false"), nullable=False))
