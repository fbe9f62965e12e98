"""Bytes that a quota counts of objects that are being removed."""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"

COLUMNS = "ALTER TABLE asset_objects ADD COLUMN held_bytes bigint"


def upgrade() -> None:
    op.execute(COLUMNS)
