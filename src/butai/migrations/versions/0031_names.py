"""One meaning for a key: each file has a public key that no wanted key can equal, plain names stay with who published under
them first, and a sidecar belongs to one file.

Addresses that meant one file for all callers still do: what was public under a key without a tag has it as its plain name.
"""

from __future__ import annotations

from typing import Any

from alembic import op
from sqlalchemy import text

revision = "0031"
down_revision = "0030"

TAG = "~[a-kmnp-z2-9]{8}"
"""As `butai.assets.names` makes it."""

FUNCTIONS = r"""
ALTER TABLE assets DROP COLUMN item;
DROP FUNCTION butai_asset_item(uuid, text, text, text, text, bigint, text, timestamptz, timestamptz, text[], text, text,
                               jsonb, double precision);

-- Spelled like encodeURIComponent and like butai.assets.keys.read_url.
CREATE OR REPLACE FUNCTION butai_read_url(key text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT '/api/s3/read-object?key=' || coalesce(string_agg(
        CASE WHEN c ~ '^[A-Za-z0-9_.!~*''()-]$' THEN c
             ELSE regexp_replace(upper(encode(convert_to(c, 'UTF8'), 'hex')), '(..)', '%\1', 'g') END,
        '' ORDER BY place), '')
    FROM regexp_split_to_table(key, '') WITH ORDINALITY AS characters (c, place)
$$;

-- One item of a list, but for its names. What a _meta.json says comes first, so that it can never speak over a field of ours.
CREATE FUNCTION butai_asset_item(
    id uuid, type text, wanted_key text, display_name text, mime_type text, size_bytes bigint, visibility text,
    created_at timestamptz, updated_at timestamptz, tags text[], thumbnail_key text, description text, meta jsonb,
    duration_seconds double precision
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((meta - '{url,s3Key,thumbnail}'::text[]) || jsonb_build_object(
        'id', id,
        'name', display_name,
        'size', coalesce(size_bytes, 0),
        'type', CASE type WHEN 'vrm' THEN 'model/vrm'
                          WHEN 'animation' THEN lower(substring(wanted_key FROM '\.([^./]+)$'))
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
    || CASE WHEN type IN ('animation', 'bgm') THEN jsonb_build_object('duration', coalesce(duration_seconds, 0))
            ELSE '{}' END)::text;

-- The beginning of an item: by what names a caller knows the file and its thumbnail.
CREATE FUNCTION butai_asset_names(type text, key text, thumbnail_key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left((jsonb_build_object('url', butai_read_url(key), 's3Key', key)
        || CASE WHEN thumbnail_key IS NOT NULL THEN jsonb_build_object('thumbnail', butai_read_url(thumbnail_key))
                WHEN type = 'animation' THEN '{"thumbnail": null}' ELSE '{}' END)::text, -1) || ', ';
"""

TABLES = """
ALTER TABLE assets
    ADD COLUMN main_id uuid,
    ADD COLUMN own_thumbnail_key text,
    ADD COLUMN of_studio boolean NOT NULL DEFAULT false,
    ADD COLUMN title text,
    ADD COLUMN named boolean NOT NULL DEFAULT false,
    ADD CONSTRAINT fk_assets_main_id_assets FOREIGN KEY (main_id) REFERENCES assets (id) ON DELETE SET NULL;
CREATE TABLE plain_names (
    name text NOT NULL,
    of_studio boolean NOT NULL,
    owner_user_id text,
    type text NOT NULL,
    stem text NOT NULL,
    asset_id uuid NOT NULL,
    published_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT pk_plain_names PRIMARY KEY (name, of_studio)
);
"""

# A user's wanted key may have had the form that public keys have from now on: the tag goes, for the file and its sidecars.
TAGGED_STEMS = f"""
SELECT DISTINCT owner_user_id, type, stem FROM assets WHERE stem ~ '^.*[^/]{TAG}$' ORDER BY 1, 2, 3
"""
TAKEN = """
SELECT EXISTS (SELECT FROM assets WHERE owner_user_id IS NOT DISTINCT FROM :owner AND type = :type AND stem = :stem
               AND (NOT :beside OR wanted_key IN (
                        SELECT :stem || substr(wanted_key, length(:old) + 1) FROM assets
                        WHERE owner_user_id IS NOT DISTINCT FROM :owner AND type = :type AND stem = :old)))
"""
# Sidecars that were named after their file's public key made a second row.
NAMED_AFTER = """
SELECT main.stem FROM assets AS main
WHERE main.owner_user_id IS NOT DISTINCT FROM :owner AND main.type = :type AND main.sidecar IS NULL
  AND regexp_replace(main.s3_key, '\\.[^./]+$', '') = :stem AND main.stem <> :stem
"""
RENAME = """
UPDATE assets SET wanted_key = :new || substr(wanted_key, length(:old) + 1), stem = :new
WHERE owner_user_id IS NOT DISTINCT FROM :owner AND type = :type AND stem = :old
"""

ROWS = rf"""
-- Rows without an owner had no constraint that kept two of one key apart.
UPDATE assets SET wanted_key = stem || ' (' || left(id::text, 8) || ')' || substr(wanted_key, length(stem) + 1),
                  stem = stem || ' (' || left(id::text, 8) || ')'
FROM (SELECT id AS twin, row_number() OVER (PARTITION BY wanted_key ORDER BY s3_key = wanted_key DESC, created_at, id) AS place
      FROM assets WHERE owner_user_id IS NULL) AS again
WHERE id = again.twin AND again.place > 1;
CREATE UNIQUE INDEX uq_assets_ownerless_wanted ON assets (wanted_key) WHERE owner_user_id IS NULL;

INSERT INTO plain_names (name, of_studio, owner_user_id, type, stem, asset_id, published_at)
SELECT DISTINCT ON (wanted_key, owner_user_id IS NULL)
       wanted_key, owner_user_id IS NULL, owner_user_id, type, stem, id, created_at
FROM assets WHERE sidecar IS NULL AND ever_public
ORDER BY wanted_key, owner_user_id IS NULL, s3_key = wanted_key DESC, created_at, id;

-- A sidecar belongs to one file. Of several that it was shown with, the one whose picture it is; else a private one, so that
-- nothing of it is public beside another.
UPDATE assets AS side SET main_id = (
    SELECT main.id FROM assets AS main
    WHERE main.stem = side.stem AND main.type = side.type AND main.sidecar IS NULL
      AND main.owner_user_id IS NOT DISTINCT FROM side.owner_user_id
    ORDER BY main.object_key IS NOT DISTINCT FROM side.facts ->> 'derived_from' DESC, main.deleted_at IS NOT NULL,
             main.visibility = 'public', main.created_at DESC
    LIMIT 1)
WHERE sidecar IS NOT NULL;
CREATE INDEX ix_assets_main ON assets (main_id) WHERE main_id IS NOT NULL;

-- Public keys. A random UUID begins with 32 random bits.
UPDATE assets SET s3_key = butai_0031_shortened(stem, wanted_key) || '~'
                           || translate(left(gen_random_uuid()::text, 8), '01', 'gh') || substr(wanted_key, length(stem) + 1)
WHERE sidecar IS NULL AND s3_key !~ '^.*[^/]{TAG}\.[^./]+$'
      -- A sidecar without a file may be named after the public key of one.
      OR sidecar IS NOT NULL AND main_id IS NULL;
-- In two steps, since one may have the name that another is given.
UPDATE assets SET s3_key = 'moving/' || id WHERE main_id IS NOT NULL;
UPDATE assets AS side
SET s3_key = regexp_replace(main.s3_key, '\.[^./]+$', '') || substr(side.wanted_key, length(side.stem) + 1)
FROM assets AS main WHERE main.id = side.main_id;

UPDATE assets SET thumbnail_key = NULL WHERE thumbnail_key IS NOT NULL;
UPDATE assets AS main SET thumbnail_key = side.s3_key, own_thumbnail_key = side.wanted_key
FROM (SELECT DISTINCT ON (main_id) main_id, thumb.s3_key, wanted_key
      FROM assets AS thumb LEFT JOIN asset_objects AS stored USING (object_key)
      WHERE sidecar = 'thumb' AND main_id IS NOT NULL AND status = 'ready' AND deleted_at IS NULL
      ORDER BY main_id, stored.origin IS NOT DISTINCT FROM 'derived', thumb.created_at DESC) AS side
WHERE main.id = side.main_id;

-- What a _meta.json says of another file now.
UPDATE assets AS main
SET tags = ARRAY(SELECT tag FROM unnest(tags) AS tag
                 WHERE NOT jsonb_path_exists(meta, '$.** ? (@ == $tag)', jsonb_build_object('tag', tag))),
    description = CASE WHEN description = meta ->> 'description' THEN '' ELSE description END,
    meta = '{{}}'
WHERE sidecar IS NULL AND meta <> '{{}}'
  AND EXISTS (SELECT FROM assets AS side WHERE side.stem = main.stem AND side.type = main.type AND side.sidecar = 'meta'
              AND side.owner_user_id IS NOT DISTINCT FROM main.owner_user_id AND side.main_id <> main.id)
  AND NOT EXISTS (SELECT FROM assets AS side WHERE side.main_id = main.id AND side.sidecar = 'meta');

-- Its tags have the prefixes that studios filter by.
UPDATE assets SET tags = array_replace(array_replace(array_replace(array_replace(tags,
        meta ->> 'voice', 'voice:' || (meta ->> 'voice')),
        meta ->> 'gender', 'gender:' || (meta ->> 'gender')),
        meta ->> 'identity', 'identity:' || (meta ->> 'identity')),
        meta ->> 'suggestedVoice', 'voice:' || (meta ->> 'suggestedVoice'))
WHERE sidecar IS NULL AND meta ?| ARRAY['gender', 'identity', 'suggestedVoice', 'voice'];

UPDATE assets SET title = display_name,
    named = EXISTS (SELECT FROM asset_events AS e WHERE e.asset_id = assets.id AND e.event = 'edited'
                    AND e.detail -> 'changed' ? 'display_name');
UPDATE assets SET display_name = btrim(meta ->> 'name')
WHERE sidecar IS NULL AND NOT named AND jsonb_typeof(meta -> 'name') = 'string'
  AND length(btrim(meta ->> 'name')) BETWEEN 1 AND 255 AND meta ->> 'name' !~ '[\x01-\x1f\x7f]';
"""

SHORTENED = """
CREATE FUNCTION butai_0031_shortened(stem text, wanted text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    name text := regexp_replace(stem, '^.*/', '');
    folder text := left(stem, length(stem) - length(name));
    -- Room for a tag and the longest suffix of a sidecar, or a longer extension.
    room integer := 9 + greatest(11, length(wanted) - length(stem));
BEGIN
    name := left(name, 255 - room);
    IF octet_length(folder || name) > 1024 - room THEN
        folder := regexp_replace(folder, '/.*$', '/');
        WHILE octet_length(folder || name) > 1024 - room LOOP
            name := left(name, -1);
        END LOOP;
    END IF;
    RETURN folder || name;
END
$$;
"""

AFTERWARDS = """
DROP FUNCTION butai_0031_shortened(text, text);
CREATE INDEX ix_plain_names_stem ON plain_names (stem, type);
CREATE INDEX ix_plain_names_owner ON plain_names (owner_user_id);
ALTER TABLE assets
    ADD COLUMN names text NOT NULL GENERATED ALWAYS AS (butai_asset_names(type, s3_key, thumbnail_key)) STORED,
    ADD COLUMN own_names text NOT NULL GENERATED ALWAYS AS (butai_asset_names(type, wanted_key, own_thumbnail_key)) STORED,
    ADD COLUMN item text NOT NULL GENERATED ALWAYS AS (
        butai_asset_item(id, type, wanted_key, display_name, mime_type, size_bytes, visibility, created_at, updated_at,
                         tags, thumbnail_key, description, meta, duration_seconds)) STORED;

-- Whatever makes a file public, its plain name is the first publisher's; a name of an erased user is never given again.
CREATE FUNCTION butai_claim_plain_name() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain_names AS held (name, of_studio, owner_user_id, type, stem, asset_id)
    SELECT NEW.wanted_key, NEW.of_studio OR NEW.owner_user_id IS NULL, NEW.owner_user_id, NEW.type, NEW.stem, NEW.id
    WHERE NOT EXISTS (SELECT FROM retired_names WHERE name_sha256 = sha256(convert_to('asset:' || NEW.wanted_key, 'UTF8')))
    ON CONFLICT (name, of_studio) DO UPDATE SET asset_id = EXCLUDED.asset_id, owner_user_id = EXCLUDED.owner_user_id
    WHERE held.asset_id <> EXCLUDED.asset_id AND (
        held.owner_user_id IS NOT DISTINCT FROM EXCLUDED.owner_user_id
        -- Operators may replace what none of them shows any more.
        OR held.of_studio AND NOT EXISTS (SELECT FROM assets WHERE id = held.asset_id AND visibility = 'public'
                                          AND status = 'ready' AND deleted_at IS NULL));
    RETURN NULL;
END
$$;
ALTER FUNCTION butai_claim_plain_name() SET search_path = pg_catalog, SCHEMA, pg_temp;
CREATE TRIGGER assets_claim_plain_name
    AFTER INSERT OR UPDATE OF visibility, status, deleted_at, of_studio, owner_user_id, wanted_key ON assets
    FOR EACH ROW WHEN (NEW.sidecar IS NULL AND NEW.visibility = 'public' AND NEW.status = 'ready' AND NEW.deleted_at IS NULL)
    EXECUTE FUNCTION butai_claim_plain_name();
"""

# As in procrastinate 3, but for the check: without it a job that still waits is an error in the log of Postgres each time that it
# is due again.
PERIODIC = """
CREATE OR REPLACE FUNCTION procrastinate_defer_periodic_job_v2(
    _queue_name character varying, _lock character varying, _queueing_lock character varying, _task_name character varying,
    _priority integer, _periodic_id character varying, _defer_timestamp bigint, _args jsonb
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    _job_id bigint;
    _defer_id bigint;
BEGIN
    INSERT INTO procrastinate_periodic_defers (task_name, periodic_id, defer_timestamp)
    VALUES (_task_name, _periodic_id, _defer_timestamp)
    ON CONFLICT DO NOTHING
    RETURNING id INTO _defer_id;
    IF _defer_id IS NULL OR EXISTS (SELECT FROM procrastinate_jobs WHERE queueing_lock = _queueing_lock AND status = 'todo') THEN
        RETURN NULL;
    END IF;
    UPDATE procrastinate_periodic_defers SET job_id = (
        SELECT COALESCE((SELECT unnest(procrastinate_defer_jobs_v1(ARRAY[
            ROW(_queue_name, _task_name, _priority, _lock, _queueing_lock, _args, NULL::timestamptz)
        ]::procrastinate_job_to_defer_v1[]))), NULL))
    WHERE id = _defer_id
    RETURNING job_id INTO _job_id;
    DELETE FROM procrastinate_periodic_defers USING (
        SELECT id FROM procrastinate_periodic_defers
        WHERE task_name = _task_name AND periodic_id = _periodic_id AND defer_timestamp < _defer_timestamp
        ORDER BY id FOR UPDATE
    ) AS to_delete WHERE procrastinate_periodic_defers.id = to_delete.id;
    RETURN _job_id;
END
$$;
"""


def upgrade() -> None:
    """Writes each row of `assets` several times, and then the table: minutes for a million files, in which none is read."""
    bind = op.get_bind()
    schema = bind.exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for statements in (FUNCTIONS, TABLES):
        bind.exec_driver_sql(statements.replace("%", "%%"))
    for owner, kind, stem in bind.exec_driver_sql(TAGGED_STEMS.replace("%", "%%")).all():
        _untag(owner, kind, stem)
    for statements in (SHORTENED, ROWS, AFTERWARDS.replace("SCHEMA", schema), PERIODIC):
        bind.exec_driver_sql(statements.replace("%", "%%"))


def _untag(owner: str | None, kind: str, stem: str) -> None:
    bind = op.get_bind()
    about: dict[str, Any] = {"owner": owner, "type": kind, "old": stem}
    beside = bind.execute(text(NAMED_AFTER), {**about, "stem": stem}).scalar()
    plain = beside or stem.rpartition("~")[0]
    new, number = plain, 1
    while bind.execute(text(TAKEN), {**about, "stem": new, "beside": new == beside}).scalar_one():
        number += 1
        new = f"{plain} ({number})"
    bind.execute(text(RENAME), {**about, "new": new})
