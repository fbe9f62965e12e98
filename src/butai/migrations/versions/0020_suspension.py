"""Operators suspend users and take files down."""

from __future__ import annotations

from alembic import op

revision = "0020"
down_revision = "0019"

TABLES = """
CREATE TABLE suspended_users (
    user_id text NOT NULL,
    reason text NOT NULL,
    suspended_by text,
    suspended_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_suspended_users PRIMARY KEY (user_id)
);
ALTER TABLE assets
    ADD COLUMN public_again boolean NOT NULL DEFAULT false,
    ADD COLUMN taken_down_at timestamptz,
    ADD COLUMN taken_down_reason text,
    ADD CONSTRAINT ck_assets_private_while_down CHECK (taken_down_at IS NULL OR visibility = 'private');
CREATE INDEX ix_assets_taken_down ON assets (owner_user_id, sha256) WHERE taken_down_at IS NOT NULL;
CREATE INDEX ix_assets_public_again ON assets (owner_user_id) WHERE public_again;
"""

FUNCTIONS = """
-- Waits for a suspension of this user that is being written, and makes the next one wait for the end of this transaction.
-- Each statement of a volatile function sees what is committed by then.
CREATE FUNCTION butai_is_suspended(who text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended(who, 7236));
    RETURN EXISTS (SELECT 1 FROM suspended_users WHERE user_id = who);
END
$$;

-- Whatever writes the row, a suspended user's file is public only after the suspension.
CREATE FUNCTION butai_hide_of_suspended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF butai_is_suspended(NEW.owner_user_id) THEN
        NEW.visibility := 'private';
        NEW.public_again := true;
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER assets_hide_of_suspended BEFORE INSERT OR UPDATE OF visibility ON assets
    FOR EACH ROW WHEN (NEW.visibility = 'public' AND NEW.owner_user_id IS NOT NULL)
    EXECUTE FUNCTION butai_hide_of_suspended();
"""


def upgrade() -> None:
    """Quick: columns with constant values, and indexes of no rows. The constraint reads the table once."""
    op.execute(TABLES)
    op.execute(FUNCTIONS)
