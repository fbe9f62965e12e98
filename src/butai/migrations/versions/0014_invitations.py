"""Invitations have rows, so that each can be listed and taken back."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"

INVITATIONS = """
CREATE TABLE room_invitations (
    id uuid NOT NULL,
    room_id text NOT NULL,
    name text DEFAULT '' NOT NULL,
    token_generation integer NOT NULL,
    created_by text,
    created_at timestamptz DEFAULT now() NOT NULL,
    expires_at timestamptz NOT NULL,
    taken_back_at timestamptz,
    CONSTRAINT pk_room_invitations PRIMARY KEY (id),
    CONSTRAINT fk_room_invitations_room_id_rooms FOREIGN KEY (room_id) REFERENCES rooms (room_id)
);
CREATE INDEX ix_room_invitations_room ON room_invitations (room_id, created_at);
CREATE INDEX ix_room_invitations_expired ON room_invitations (expires_at);
"""


def upgrade() -> None:
    """Quick: a new table."""
    op.execute(INVITATIONS)
