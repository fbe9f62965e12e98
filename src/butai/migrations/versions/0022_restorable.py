"""The function that writes an asset's item names the functions it uses for good, so that a dump can be restored.

A body in a string is resolved when it is called, by the search path; `pg_restore` (and `pg_upgrade`) set an empty one, and the
table `assets` could not be made. The body of `RETURN` is resolved once, here (CREATE FUNCTION, `sql_body`). What it
returns is what it returned.
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"

ITEM = r"""
CREATE OR REPLACE FUNCTION butai_asset_item(
    id uuid, type text, s3_key text, display_name text, mime_type text, size_bytes bigint, visibility text,
    created_at timestamptz, updated_at timestamptz, tags text[], thumbnail_key text, description text, meta jsonb,
    duration_seconds double precision
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN ((meta - '{thumbnail}'::text[]) || jsonb_build_object(
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
            ELSE '{}' END)::text;
"""


def upgrade() -> None:
    op.execute(ITEM)
