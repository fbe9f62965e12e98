"""A broadcast may hold its outputs until the host's first picture, or with `sound_only` the first sound.

Broadcasts that are on air keep what they began with.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0026"
down_revision = "0025"

COLUMNS = ("hold_until_media", "sound_only", "source_ready")


def upgrade() -> None:
    """Quick: no row is rewritten."""
    for name in COLUMNS:
        op.add_column("broadcasts", sa.Column(name, sa.Boolean, server_default=sa.text("false"), nullable=False))
