"""Rooms number the generations of their tokens: raising the number revokes all that were given before."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Quick: a column with a constant default."""
    op.execute("ALTER TABLE rooms ADD COLUMN token_generation integer DEFAULT 1 NOT NULL")
