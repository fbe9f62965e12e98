"""Acts that the audit trail counts by the minute, and the one way in which a user's name leaves the trail."""

from __future__ import annotations

from alembic import op

revision = "0018"
down_revision = "0017"

# The ids are those of `audit`: one order for both tables.
COUNTS = """
CREATE TABLE audit_counts (
    id bigint NOT NULL DEFAULT nextval('audit_id_seq'),
    minute timestamptz NOT NULL DEFAULT date_trunc('minute', now()),
    at timestamptz NOT NULL DEFAULT now(),
    last_at timestamptz NOT NULL DEFAULT now(),
    times bigint NOT NULL DEFAULT 1,
    actor text,
    action text NOT NULL,
    subject text,
    result text NOT NULL,
    error_code text,
    ip text,
    user_agent text,
    request_id text,
    detail jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT pk_audit_counts PRIMARY KEY (id),
    CONSTRAINT uq_audit_counts_minute_actor_action_subject_result_error_code
        UNIQUE NULLS NOT DISTINCT (minute, actor, action, subject, result, error_code)
);
CREATE INDEX ix_audit_counts_subject ON audit_counts (subject, id);
CREATE INDEX ix_audit_counts_actor ON audit_counts (actor, id);
"""

# `butai.forgetting` is set by the function below for as long as it runs. Only the tables' owner gets past: with an owner
# of their own (butai.migrations.privileges) the service's role is refused.
TRIGGERS = """
CREATE OR REPLACE FUNCTION butai_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND butai_forgets(TG_RELID) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE FUNCTION butai_forgets(changed oid) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT coalesce(current_setting('butai.forgetting', true), '') = 'on'
       AND EXISTS (SELECT FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                   WHERE c.oid = changed AND r.rolname = current_user)
$$;

CREATE FUNCTION butai_counts_up() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF butai_forgets(TG_RELID) THEN
        RETURN NEW;
    END IF;
    IF NEW.times = OLD.times + 1 AND NEW.last_at >= OLD.last_at AND OLD.minute = date_trunc('minute', now())
       AND to_jsonb(NEW) - '{times,last_at}'::text[] = to_jsonb(OLD) - '{times,last_at}'::text[] THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is append-only: within its minute a row counts one more', TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_counts_append_only BEFORE DELETE OR TRUNCATE ON audit_counts
    FOR EACH STATEMENT EXECUTE FUNCTION butai_append_only();
CREATE TRIGGER audit_counts_counts_up BEFORE UPDATE ON audit_counts
    FOR EACH ROW EXECUTE FUNCTION butai_counts_up();
"""

# pg_temp last: a table of the caller's session must not take the place of one of ours. It writes an entry of its own, so
# that it is never used unseen.
FORGET = r"""
CREATE FUNCTION butai_without_name(detail jsonb, forgotten text, pseudonym text) RETURNS jsonb
LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN jsonb_typeof(detail) <> 'object' THEN detail ELSE coalesce((
        SELECT jsonb_object_agg(key, CASE
            WHEN value = to_jsonb(forgotten) THEN to_jsonb(pseudonym)
            WHEN value = to_jsonb(substr(forgotten, strpos(forgotten, ':') + 1))
                 AND key IN ('user_id', 'owner_user_id', 'identity')
            THEN to_jsonb(substr(pseudonym, strpos(pseudonym, ':') + 1))
            ELSE value END)
        FROM jsonb_each(detail)), '{}') END
$$;

CREATE FUNCTION audit_forget(forgotten text, pseudonym text) RETURNS bigint LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog, SCHEMA, pg_temp AS $$
DECLARE
    name text := substr(forgotten, strpos(forgotten, ':') + 1);
    -- Before version 0.2 actors had no kind, and the service itself had these names.
    names text[] := CASE WHEN name IN ('worker', 'cli', 'controller', 'livekit') THEN ARRAY[forgotten]
                         ELSE ARRAY[forgotten, name] END;
    trail text;
    changed bigint;
    entries bigint := 0;
BEGIN
    IF forgotten !~ '^(user|host):.' OR pseudonym !~ '^(user|host):erased-[0-9a-z-]{8,64}$' THEN
        RAISE EXCEPTION 'audit_forget takes user:NAME or host:NAME, and user:erased-… or host:erased-…'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM set_config('butai.forgetting', 'on', true);
    FOREACH trail IN ARRAY ARRAY['audit', 'audit_counts'] LOOP
        EXECUTE format('UPDATE %I SET
            ip = CASE WHEN actor = ANY ($1) THEN NULL ELSE ip END,
            user_agent = CASE WHEN actor = ANY ($1) THEN NULL ELSE user_agent END,
            actor = CASE WHEN actor = ANY ($1) THEN $3 ELSE actor END,
            subject = CASE WHEN subject = $2 THEN $3 ELSE subject END,
            detail = butai_without_name(detail, $2, $3)
            WHERE actor = ANY ($1) OR subject = $2 OR detail <> butai_without_name(detail, $2, $3)', trail)
        USING names, forgotten, pseudonym;
        GET DIAGNOSTICS changed = ROW_COUNT;
        entries := entries + changed;
    END LOOP;
    UPDATE live_events SET
        actor = CASE WHEN actor = ANY (names) THEN pseudonym ELSE actor END,
        detail = butai_without_name(detail, forgotten, pseudonym)
    WHERE actor = ANY (names) OR detail <> butai_without_name(detail, forgotten, pseudonym);
    GET DIAGNOSTICS changed = ROW_COUNT;
    entries := entries + changed;
    PERFORM set_config('butai.forgetting', '', true);
    INSERT INTO audit (actor, action, subject, result, detail)
    VALUES ('service:database', 'audit.forget', pseudonym, 'ok', jsonb_build_object('entries', entries));
    RETURN entries;
END
$$;
REVOKE EXECUTE ON FUNCTION audit_forget(text, text) FROM PUBLIC;
"""


def upgrade() -> None:
    bind = op.get_bind()
    schema = bind.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statements in (COUNTS, TRIGGERS, FORGET.replace("SCHEMA", schema)):
        # The driver reads % as the mark of a parameter, here too where there are none.
        bind.exec_driver_sql(statements.replace("%", "%%"))
