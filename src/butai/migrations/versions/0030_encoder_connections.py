"""The encoders that publish now. Who waits for them is notified when one connects, is replaced, or leaves."""

from __future__ import annotations

from alembic import op

revision = "0030"
down_revision = "0029"

CONNECTIONS = """
CREATE TABLE encoder_connections (
    key_id uuid NOT NULL,
    id uuid NOT NULL,
    ingest text NOT NULL,
    address text NOT NULL,
    since timestamptz DEFAULT now() NOT NULL,
    seen_at timestamptz DEFAULT now() NOT NULL,
    broadcast_id uuid,
    figures jsonb DEFAULT '{}' NOT NULL,
    CONSTRAINT pk_encoder_connections PRIMARY KEY (key_id),
    CONSTRAINT fk_encoder_connections_key_id_encoder_keys FOREIGN KEY (key_id) REFERENCES encoder_keys (id) ON DELETE CASCADE
);
CREATE FUNCTION butai_encoder_connected() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('butai_encoders', coalesce(NEW.key_id, OLD.key_id)::text);
    RETURN NULL;
END $$;
CREATE TRIGGER encoder_connections_notify AFTER INSERT OR DELETE OR UPDATE OF id ON encoder_connections
    FOR EACH ROW EXECUTE FUNCTION butai_encoder_connected();
"""


def upgrade() -> None:
    """Quick: a new table."""
    op.execute(CONNECTIONS)
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    op.execute(f"ALTER FUNCTION butai_encoder_connected() SET search_path = pg_catalog, {schema}, pg_temp")
