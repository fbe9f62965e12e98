"""Uploads that can be taken up again."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"

TABLES = """
CREATE TABLE resumable_uploads (
    id uuid NOT NULL,
    user_id text NOT NULL,
    asset_id uuid,
    object_key text NOT NULL,
    wanted_key text NOT NULL,
    upload_length bigint NOT NULL,
    upload_offset bigint NOT NULL DEFAULT 0,
    declared_sha256 text,
    metadata text NOT NULL DEFAULT '',
    state text NOT NULL,
    error_code text,
    error_detail text,
    writer bigint NOT NULL DEFAULT 0,
    parts jsonb NOT NULL DEFAULT '[]',
    next_part integer NOT NULL DEFAULT 1,
    tail bytea NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    CONSTRAINT pk_resumable_uploads PRIMARY KEY (id),
    CONSTRAINT ck_resumable_uploads_state CHECK (state IN ('open', 'finishing', 'done', 'refused')),
    CONSTRAINT fk_resumable_uploads_asset_id FOREIGN KEY (asset_id) REFERENCES assets (id) ON DELETE SET NULL,
    CONSTRAINT fk_resumable_uploads_object_key FOREIGN KEY (object_key) REFERENCES asset_objects (object_key)
);
CREATE INDEX ix_resumable_uploads_user ON resumable_uploads (user_id, state);
CREATE INDEX ix_resumable_uploads_expiry ON resumable_uploads (expires_at) WHERE state IN ('open', 'finishing');
"""


def upgrade() -> None:
    op.execute(TABLES)
