"""LiveKit Egress, its webhooks, ingress, and several LiveKit projects."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
ALTER TABLE rooms ADD COLUMN livekit_project text DEFAULT 'default' NOT NULL;
ALTER TABLE broadcasts ADD COLUMN livekit_project text DEFAULT 'default' NOT NULL;
CREATE TABLE livekit_projects (
    name text NOT NULL,
    lease_holder text,
    lease_until timestamptz,
    polled_at timestamptz,
    failing_since timestamptz,
    error_code text,
    worker_failures integer DEFAULT 0 NOT NULL,
    worker_next_at timestamptz,
    CONSTRAINT pk_livekit_projects PRIMARY KEY (name)
);
CREATE TABLE livekit_egresses (
    id uuid NOT NULL,
    project text NOT NULL,
    room_id text NOT NULL,
    broadcast_id uuid NOT NULL,
    output_id uuid NOT NULL,
    attempt integer NOT NULL,
    backup boolean DEFAULT false NOT NULL,
    asked_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    egress_id text,
    seen jsonb DEFAULT '{}' NOT NULL,
    seen_at timestamptz,
    stop_asked_at timestamptz,
    over_at timestamptz,
    CONSTRAINT pk_livekit_egresses PRIMARY KEY (id),
    CONSTRAINT fk_livekit_egresses_broadcast_id FOREIGN KEY(broadcast_id) REFERENCES broadcasts (id),
    CONSTRAINT fk_livekit_egresses_output_id FOREIGN KEY(output_id) REFERENCES outputs (id)
);
CREATE UNIQUE INDEX uq_livekit_egresses_attempt ON livekit_egresses (output_id, attempt);
CREATE INDEX ix_livekit_egresses_broadcast ON livekit_egresses (broadcast_id);
CREATE INDEX ix_livekit_egresses_egress ON livekit_egresses (egress_id);
CREATE INDEX ix_livekit_egresses_open ON livekit_egresses (project) WHERE over_at IS NULL;
CREATE TABLE livekit_webhooks (
    id text NOT NULL,
    project text NOT NULL,
    event text NOT NULL,
    room_id text,
    subject text,
    created_at timestamptz NOT NULL,
    received_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    sealed_body bytea NOT NULL,
    CONSTRAINT pk_livekit_webhooks PRIMARY KEY (id)
);
CREATE INDEX ix_livekit_webhooks_received ON livekit_webhooks (received_at);
CREATE TABLE ingresses (
    ingress_id text NOT NULL,
    room_id text NOT NULL,
    project text NOT NULL,
    kind text NOT NULL,
    name text DEFAULT '' NOT NULL,
    identity text NOT NULL,
    url text NOT NULL,
    sealed_key bytea NOT NULL,
    key_fingerprint text NOT NULL,
    state text DEFAULT 'idle' NOT NULL,
    state_at timestamptz DEFAULT now() NOT NULL,
    error text,
    created_at timestamptz DEFAULT now() NOT NULL,
    deleted_at timestamptz,
    CONSTRAINT pk_ingresses PRIMARY KEY (ingress_id),
    CONSTRAINT ck_ingresses_kind CHECK (kind IN ('rtmp', 'whip')),
    CONSTRAINT ck_ingresses_state CHECK (state IN ('idle', 'buffering', 'publishing', 'error', 'ended')),
    CONSTRAINT fk_ingresses_room_id FOREIGN KEY(room_id) REFERENCES rooms (room_id)
);
CREATE INDEX ix_ingresses_room ON ingresses (room_id, created_at);
"""

FUNCTIONS = """
-- Wakes the controller that holds the broadcast: LiveKit has said something of one of its egresses.
CREATE FUNCTION butai_tell_egress() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('butai_egress', NEW.broadcast_id::text);
    RETURN NULL;
END
$$;
CREATE TRIGGER livekit_egresses_tell AFTER INSERT OR UPDATE ON livekit_egresses
    FOR EACH ROW EXECUTE FUNCTION butai_tell_egress();
"""


def upgrade() -> None:
    op.execute(TABLES)
    op.execute(FUNCTIONS)
