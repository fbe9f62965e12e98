"""Rows of ingresses are written before LiveKit is asked: an id of their own, and states for what has no ingress yet."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"

INGRESSES = """
ALTER TABLE ingresses ADD COLUMN id uuid DEFAULT gen_random_uuid() NOT NULL;
ALTER TABLE ingresses DROP CONSTRAINT pk_ingresses;
ALTER TABLE ingresses ADD CONSTRAINT pk_ingresses PRIMARY KEY (id);
ALTER TABLE ingresses ALTER COLUMN ingress_id DROP NOT NULL;
CREATE UNIQUE INDEX uq_ingresses_ingress_id ON ingresses (ingress_id);
ALTER TABLE ingresses ALTER COLUMN url SET DEFAULT '';
ALTER TABLE ingresses ALTER COLUMN sealed_key SET DEFAULT '';
ALTER TABLE ingresses ALTER COLUMN key_fingerprint SET DEFAULT '';
-- A row's own time was our clock's until LiveKit reported something.
ALTER TABLE ingresses ADD COLUMN reported_at timestamptz;
UPDATE ingresses SET reported_at = state_at WHERE state_at <> created_at;
ALTER TABLE ingresses DROP CONSTRAINT ck_ingresses_state;
UPDATE ingresses SET state = 'deleted' WHERE deleted_at IS NOT NULL;
ALTER TABLE ingresses ADD CONSTRAINT ck_ingresses_state CHECK (state IN (
    'making', 'idle', 'buffering', 'publishing', 'error', 'ended', 'abandoned', 'failed', 'deleted'
));
ALTER TABLE ingresses ADD CONSTRAINT ck_ingresses_ingress_id CHECK (
    ingress_id IS NOT NULL OR state IN ('making', 'abandoned', 'failed')
);
CREATE INDEX ix_ingresses_unfilled ON ingresses (created_at) WHERE state IN ('making', 'abandoned');
"""


def upgrade() -> None:
    """Quick: a room has few ingresses."""
    op.execute(INGRESSES)
