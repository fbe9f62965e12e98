"""While an output waits for the first picture, its server is checked: why it cannot be reached has a column of its own."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Quick: no row is rewritten."""
    op.add_column("outputs", sa.Column("check_code", sa.Text))
