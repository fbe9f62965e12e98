"""Idempotency keys belong to a room and a credential: hosts of two rooms may have one name."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"

ROOMS = """
ALTER TABLE idempotency_keys ADD COLUMN room_id text DEFAULT '' NOT NULL;
ALTER TABLE idempotency_keys DROP CONSTRAINT pk_idempotency_keys;
ALTER TABLE idempotency_keys ADD CONSTRAINT pk_idempotency_keys PRIMARY KEY (room_id, caller, key);
"""


def upgrade() -> None:
    """Quick: the table holds a day's starts."""
    op.execute(ROOMS)
