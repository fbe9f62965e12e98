"""Rooms know when their tokens were revoked, and ingresses which generation of host tokens made them."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"

REVOCATION = """
ALTER TABLE rooms ADD COLUMN tokens_revoked_at timestamptz;
ALTER TABLE rooms ADD COLUMN removal_until timestamptz;
CREATE INDEX ix_rooms_removal ON rooms (removal_until) WHERE removal_until IS NOT NULL;
ALTER TABLE ingresses ADD COLUMN token_generation integer;
"""


def upgrade() -> None:
    """Quick: columns without a value, and an index of no rows."""
    op.execute(REVOCATION)
