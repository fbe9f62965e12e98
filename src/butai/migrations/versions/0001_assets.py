"""The library, API keys, the audit trail, and procrastinate's tables."""

from __future__ import annotations

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0001"
down_revision = None

LISTED = "status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL"

FUNCTIONS = r"""
CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- A public key's address, spelled like encodeURIComponent and like butai.assets.keys.read_url.
CREATE FUNCTION butai_read_url(key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT '/api/s3/read-object?key=' || coalesce(string_agg(
        CASE WHEN c ~ '^[A-Za-z0-9_.~-]$' THEN c
             ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END,
        '' ORDER BY place), '')
    FROM regexp_split_to_table(key, '') WITH ORDINALITY AS characters (c, place)
$$;

CREATE FUNCTION butai_timestamp(at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

-- One item of GET /api/s3/resources. What a _meta.json says comes first, so that it can never speak over a field of ours.
CREATE FUNCTION butai_asset_item(
    id uuid, type text, s3_key text, display_name text, mime_type text, size_bytes bigint, visibility text,
    created_at timestamptz, updated_at timestamptz, tags text[], thumbnail_key text, description text, meta jsonb,
    duration_seconds double precision
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ((meta - '{thumbnail}'::text[]) || jsonb_build_object(
        'id', id,
        'name', display_name,
        'url', butai_read_url(s3_key),
        's3Key', s3_key,
        'size', coalesce(size_bytes, 0),
        'type', CASE type WHEN 'vrm' THEN 'model/vrm'
                          WHEN 'animation' THEN lower(substring(s3_key FROM '\.([^./]+)$'))
                          ELSE mime_type END,
        'category', type,
        'mimeType', mime_type,
        'visibility', visibility,
        'createdAt', butai_timestamp(created_at),
        'updatedAt', butai_timestamp(updated_at),
        'tags', to_jsonb(tags),
        'hasThumbnail', thumbnail_key IS NOT NULL,
        'description', description
    )
    || CASE WHEN thumbnail_key IS NOT NULL THEN jsonb_build_object('thumbnail', butai_read_url(thumbnail_key))
            WHEN type = 'animation' THEN '{"thumbnail": null}' ELSE '{}' END
    || CASE WHEN type IN ('animation', 'bgm') THEN jsonb_build_object('duration', coalesce(duration_seconds, 0))
            ELSE '{}' END)::text
$$;

-- Readers of the change feed must never see a later number before an earlier one: see butai.assets.transitions.
CREATE SEQUENCE asset_changes;
"""

TABLES = """
CREATE TABLE assets (
    id uuid NOT NULL,
    type text NOT NULL,
    sidecar text,
    s3_key text NOT NULL,
    wanted_key text NOT NULL,
    stem text NOT NULL,
    display_name text NOT NULL,
    sort_name text COLLATE "C" GENERATED ALWAYS AS (lower(display_name) COLLATE "C") STORED,
    mime_type text NOT NULL,
    size_bytes bigint,
    status text NOT NULL,
    owner_user_id text,
    visibility text NOT NULL,
    ever_public boolean NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    error_code text,
    error_detail text,
    attempts integer NOT NULL DEFAULT 0,
    object_key text,
    sha256 text,
    etag text,
    last_checked_at timestamptz,
    missing_since timestamptz,
    deleted_at timestamptz,
    description text NOT NULL DEFAULT '',
    tags text[] NOT NULL DEFAULT '{}',
    meta jsonb NOT NULL DEFAULT '{}',
    duration_seconds double precision,
    thumbnail_key text,
    change_seq bigint NOT NULL,
    item text NOT NULL GENERATED ALWAYS AS (
        butai_asset_item(id, type, s3_key, display_name, mime_type, size_bytes, visibility, created_at, updated_at,
                         tags, thumbnail_key, description, meta, duration_seconds)) STORED,
    CONSTRAINT pk_assets PRIMARY KEY (id),
    CONSTRAINT uq_assets_s3_key UNIQUE (s3_key),
    CONSTRAINT ck_assets_type CHECK (type IN ('vrm', 'animation', 'bgm', 'hdr', 'scene')),
    CONSTRAINT ck_assets_status CHECK (status IN ('uploading', 'ready', 'failed', 'missing')),
    CONSTRAINT ck_assets_sidecar CHECK (sidecar IN ('thumb', 'meta')),
    CONSTRAINT ck_assets_visibility CHECK (visibility IN ('public', 'private')),
    CONSTRAINT ck_assets_ready_has_bytes
        CHECK (status <> 'ready' OR (object_key IS NOT NULL AND size_bytes IS NOT NULL))
);
CREATE UNIQUE INDEX uq_assets_owner_wanted ON assets (owner_user_id, wanted_key);
CREATE INDEX ix_assets_stem ON assets (stem, owner_user_id);
CREATE INDEX ix_assets_change ON assets (change_seq);
CREATE INDEX ix_assets_trash ON assets (deleted_at) WHERE deleted_at IS NOT NULL;

CREATE TABLE asset_objects (
    object_key text NOT NULL,
    asset_id uuid,
    origin text NOT NULL,
    state text NOT NULL,
    attempt integer NOT NULL,
    upload_id text,
    lease_until timestamptz,
    next_look_at timestamptz,
    declared_size bigint,
    declared_sha256 text,
    created_at timestamptz NOT NULL DEFAULT now(),
    settled_at timestamptz,
    CONSTRAINT pk_asset_objects PRIMARY KEY (object_key),
    CONSTRAINT fk_asset_objects_asset_id FOREIGN KEY (asset_id) REFERENCES assets (id) ON DELETE SET NULL,
    CONSTRAINT ck_asset_objects_state CHECK (state IN ('writing', 'current', 'condemned', 'removed')),
    CONSTRAINT ck_asset_objects_origin CHECK (origin IN ('upload', 'signed', 'import'))
);
CREATE INDEX ix_asset_objects_writing ON asset_objects (lease_until, next_look_at) WHERE state = 'writing';
CREATE INDEX ix_asset_objects_condemned ON asset_objects (settled_at) WHERE state = 'condemned';
CREATE INDEX ix_asset_objects_asset ON asset_objects (asset_id);

CREATE TABLE asset_events (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    asset_id uuid NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    event text NOT NULL,
    from_status text,
    to_status text NOT NULL,
    actor text,
    attempt integer NOT NULL,
    error_code text,
    detail jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT pk_asset_events PRIMARY KEY (id)
);
CREATE INDEX ix_asset_events_asset ON asset_events (asset_id, id);

CREATE TABLE asset_tombstones (
    id uuid NOT NULL,
    type text NOT NULL,
    owner_user_id text,
    ever_public boolean NOT NULL,
    change_seq bigint NOT NULL,
    deleted_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_asset_tombstones PRIMARY KEY (id)
);
CREATE INDEX ix_asset_tombstones_change ON asset_tombstones (change_seq);

CREATE TABLE api_keys (
    id text NOT NULL,
    secret_hash bytea NOT NULL,
    user_id text NOT NULL,
    scopes text[] NOT NULL,
    name text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz,
    CONSTRAINT pk_api_keys PRIMARY KEY (id)
);

CREATE TABLE audit (
    id bigint GENERATED BY DEFAULT AS IDENTITY,
    at timestamptz NOT NULL DEFAULT now(),
    actor text,
    action text NOT NULL,
    subject text,
    result text NOT NULL,
    error_code text,
    ip text,
    user_agent text,
    request_id text,
    detail jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT pk_audit PRIMARY KEY (id)
);
CREATE INDEX ix_audit_subject ON audit (subject, id);
CREATE INDEX ix_audit_actor ON audit (actor, id);

CREATE FUNCTION butai_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
    FOR EACH STATEMENT EXECUTE FUNCTION butai_append_only();
"""


def upgrade() -> None:
    op.execute(FUNCTIONS)
    op.execute(TABLES)
    for sort in ("created_at", "updated_at", "sort_name", "size_bytes"):
        op.execute(
            f"CREATE INDEX ix_assets_public_{sort} ON assets (type, {sort}, id) "
            f"WHERE {LISTED} AND visibility = 'public'"
        )
        op.execute(
            f"CREATE INDEX ix_assets_private_{sort} ON assets (owner_user_id, type, {sort}, id) "
            f"WHERE {LISTED} AND visibility = 'private'"
        )
    op.execute(f"CREATE INDEX ix_assets_name_trigrams ON assets USING gin (display_name gin_trgm_ops) WHERE {LISTED}")
    # The driver reads % as the mark of a parameter, here too where there are none.
    op.get_bind().exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
