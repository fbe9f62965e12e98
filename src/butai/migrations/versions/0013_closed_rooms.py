"""Rooms can be closed, and given up."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Quick: columns without a value."""
    op.execute("ALTER TABLE rooms ADD COLUMN closed_at timestamptz, ADD COLUMN given_up_at timestamptz")
