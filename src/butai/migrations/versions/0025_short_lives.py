"""Whether an output's key worked in its broadcast, and how many of its attempts in a row were live for a short time only."""

from __future__ import annotations

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Quick: the columns have constant defaults; the table is read once. Outputs on air count as accepted from when
    they were first live."""
    op.execute(
        "ALTER TABLE outputs ADD COLUMN short_lives integer NOT NULL DEFAULT 0, ADD COLUMN key_live_at timestamptz"
    )
    op.execute("UPDATE outputs SET key_live_at = first_live_at WHERE first_live_at IS NOT NULL AND state <> 'ended'")
