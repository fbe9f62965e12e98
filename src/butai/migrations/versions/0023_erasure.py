"""Users can be erased: their names leave the trail, and the names of their files and rooms are never given out again."""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"

NAMES = """
ALTER TABLE suspended_users ADD COLUMN erased_as text;
CREATE TABLE retired_names (
    name_sha256 bytea NOT NULL,
    retired_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_retired_names PRIMARY KEY (name_sha256)
);
CREATE TRIGGER retired_names_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON retired_names
    FOR EACH STATEMENT EXECUTE FUNCTION butai_append_only();
"""

# Goes further than `audit_forget` (0018), and so only for a user who is being erased: the details of what the user did,
# and of what was done to what was theirs, go as well, and their rooms get numbers for names. pg_temp last, as there.
ERASE = r"""
CREATE FUNCTION audit_erase(who text, pseudonym text) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, SCHEMA, pg_temp AS $$
DECLARE
    gone text := substr(pseudonym, strpos(pseudonym, ':') + 1);
    -- As in audit_forget: actors of before version 0.2 have no kind.
    names text[] := ARRAY['user:' || who] || CASE WHEN who IN ('worker', 'cli', 'controller', 'livekit')
                                                  THEN '{}'::text[] ELSE ARRAY[who] END;
    files text[] := ARRAY(SELECT id::text FROM assets WHERE owner_user_id = who
                          UNION SELECT id::text FROM asset_tombstones WHERE owner_user_id = who);
    objects text[] := ARRAY(SELECT object_key FROM asset_objects WHERE asset_id = ANY (files::uuid[]));
    things text[] := ARRAY(SELECT 'asset:' || file FROM unnest(files) file
                           UNION SELECT 'api_key:' || id FROM api_keys WHERE user_id = who
                           UNION SELECT 'destination:' || id FROM destinations WHERE owner_user_id = who)
                     || ('user:' || who);
    theirs text[] := ARRAY(SELECT 'room:' || room_id FROM rooms WHERE owner_user_id = who ORDER BY created_at, room_id);
    trail text;
BEGIN
    IF NOT EXISTS (SELECT FROM suspended_users s WHERE s.user_id = who AND s.erased_as = pseudonym) THEN
        RAISE EXCEPTION 'audit_erase takes a user who is being erased, and the pseudonym in suspended_users'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM set_config('butai.forgetting', 'on', true);
    -- A count of the same minute that is written later becomes a row of its own, and two hosts of a room get one name:
    -- with the exact time for the minute, such rows still differ.
    UPDATE audit_counts SET minute = at WHERE actor = ANY (names) OR subject = ANY (things || theirs)
        OR actor IN ('host:' || who, 'host_token:' || who);
    FOREACH trail IN ARRAY ARRAY['audit', 'audit_counts'] LOOP
        EXECUTE format($update$
            UPDATE %I t SET
                ip = CASE WHEN h.is_host OR actor = ANY ($1) THEN NULL ELSE ip END,
                user_agent = CASE WHEN h.is_host OR actor = ANY ($1) THEN NULL ELSE user_agent END,
                request_id = CASE WHEN h.is_host OR actor = ANY ($1) THEN NULL ELSE request_id END,
                actor = CASE WHEN h.is_host THEN 'host:' || $5 ELSE actor END,
                subject = CASE WHEN subject = ANY ($3) THEN 'room:' || $5 || '-' || array_position($3, subject)
                               ELSE subject END,
                detail = '{}'
            FROM (SELECT id, coalesce(actor ~ '^host(_token)?:' AND (subject = ANY ($3)
                             OR substr(actor, strpos(actor, ':') + 1) = $7), false) AS is_host FROM %I) h
            WHERE h.id = t.id AND (h.is_host OR actor = ANY ($1) OR subject = ANY ($2 || $3)
                OR detail ->> 'asset' = ANY ($4) OR detail ->> 'object_key' = ANY ($6))
        $update$, trail, trail) USING names, things, theirs, files, gone, objects, who;
    END LOOP;
    UPDATE live_events SET
        room_id = CASE WHEN 'room:' || room_id = ANY (theirs)
                       THEN gone || '-' || array_position(theirs, 'room:' || room_id) ELSE room_id END,
        actor = CASE WHEN actor ~ '^host(_token)?:' THEN 'host:' || gone ELSE actor END,
        detail = CASE WHEN 'room:' || room_id = ANY (theirs) THEN '{}' ELSE detail END
    WHERE 'room:' || room_id = ANY (theirs) OR actor IN ('host:' || who, 'host_token:' || who);
    PERFORM audit_forget('user:' || who, pseudonym);
    RETURN (SELECT count(*) FROM (SELECT actor, subject FROM audit UNION ALL SELECT actor, subject FROM audit_counts) e
            WHERE e.actor IN (pseudonym, 'host:' || gone) OR strpos(e.subject, gone) > 0);
END
$$;
REVOKE EXECUTE ON FUNCTION audit_erase(text, text) FROM PUBLIC;
"""


def upgrade() -> None:
    """Quick: a column without a value, a table of no rows, and a function."""
    bind = op.get_bind()
    schema = bind.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statements in (NAMES, ERASE.replace("SCHEMA", schema)):
        # The driver reads % as the mark of a parameter, here too where there are none.
        bind.exec_driver_sql(statements.replace("%", "%%"))
