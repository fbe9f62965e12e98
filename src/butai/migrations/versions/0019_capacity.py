"""The capacity of controllers, and broadcasts that wait for one or were taken with a smaller preset."""

from __future__ import annotations

from alembic import op

revision = "0019"
down_revision = "0018"

COLUMNS = """
ALTER TABLE controllers ADD COLUMN capacity double precision, ADD COLUMN costs jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN admits text NOT NULL DEFAULT 'all';
ALTER TABLE broadcasts ADD COLUMN chosen_preset text, ADD COLUMN waiting_since timestamptz;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
