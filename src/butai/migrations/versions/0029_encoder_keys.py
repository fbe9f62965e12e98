"""Keys with which encoders publish into a room. Of a key only its hash is stored."""

from __future__ import annotations

from alembic import op

revision = "0029"
down_revision = "0028"

KEYS = """
CREATE TABLE encoder_keys (
    id uuid NOT NULL,
    room_id text NOT NULL,
    label text DEFAULT '' NOT NULL,
    key_hash bytea NOT NULL,
    key_fingerprint text NOT NULL,
    renewed_at timestamptz DEFAULT now() NOT NULL,
    token_generation integer,
    created_by text,
    created_at timestamptz DEFAULT now() NOT NULL,
    last_used_at timestamptz,
    last_used_from text,
    revoked_at timestamptz,
    CONSTRAINT pk_encoder_keys PRIMARY KEY (id),
    CONSTRAINT fk_encoder_keys_room_id_rooms FOREIGN KEY (room_id) REFERENCES rooms (room_id)
);
CREATE INDEX ix_encoder_keys_room ON encoder_keys (room_id, created_at);
CREATE INDEX ix_encoder_keys_fingerprint ON encoder_keys (key_fingerprint);
"""


def upgrade() -> None:
    """Quick: a new table."""
    op.execute(KEYS)
