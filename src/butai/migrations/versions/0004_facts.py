"""What is inside files: facts as columns and JSON, the words to filter by, waveforms, objects that Butai makes itself."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

# Kept by Postgres itself, so that a page of a search is a concatenation (as `item` is of the lists): members of an object,
# with a comma before each. The long lists and texts of the facts are for those who ask for one asset.
SUMMARY = """
CREATE FUNCTION butai_asset_summary(type text, status text, visibility text, triangles bigint, facts jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT ', "status": "' || status || '", "triangles": ' || coalesce(triangles::text, 'null')
        || ', "facts": ' || (facts - 'derived_from' #- '{model,bones}' #- '{model,image_sizes}' #- '{model,references}'
                             #- '{model,custom_expressions}' #- '{licence,raw}' #- '{licence,third_party}'
                             #- '{animation,bones}' #- '{animation,custom_expressions}')::text
        || ', "warnings": '
        || CASE WHEN type = 'vrm' AND visibility = 'public' AND facts #>> '{licence,redistribution}' = 'forbidden'
                THEN '["licence_forbids_redistribution"]' ELSE '[]' END
$$;
"""

TABLES = """
ALTER TABLE assets
    ADD COLUMN facts jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN inspected_key text,
    ADD COLUMN inspect_error text,
    ADD COLUMN triangles bigint,
    ADD COLUMN terms text[] NOT NULL DEFAULT '{}',
    ADD COLUMN summary text NOT NULL GENERATED ALWAYS AS (
        butai_asset_summary(type, status, visibility, triangles, facts)) STORED;
-- One index for words, tags and names: Postgres never combines two partial indexes with the same condition, and GIN looks
-- only at the columns that are asked for.
DROP INDEX ix_assets_name_trigrams;
CREATE INDEX ix_assets_search ON assets USING gin (terms, tags, display_name gin_trgm_ops)
    WHERE status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL;
-- These two are combined with it, so they have another condition. Nothing but an asset has either.
CREATE INDEX ix_assets_triangles ON assets (type, triangles) WHERE triangles IS NOT NULL;
CREATE INDEX ix_assets_duration ON assets (type, duration_seconds) WHERE duration_seconds IS NOT NULL;
-- What an operator sees: everything in the order of its upload, and what did not become ready.
CREATE INDEX ix_assets_created ON assets (created_at, id) WHERE sidecar IS NULL;
CREATE INDEX ix_assets_unready ON assets (status, created_at, id) WHERE sidecar IS NULL AND status <> 'ready';
-- A search counts on the planner's word for whether a term is rare. With 100 entries, the default, all that it knows of a
-- million assets are the terms that half of them have.
ALTER TABLE assets ALTER COLUMN terms SET STATISTICS 1000;
ALTER TABLE assets ALTER COLUMN tags SET STATISTICS 1000;
CREATE INDEX ix_assets_uninspected ON assets (id)
    WHERE status = 'ready' AND sidecar IS NULL AND inspected_key IS DISTINCT FROM object_key;

CREATE TABLE asset_waveforms (
    asset_id uuid NOT NULL,
    object_key text NOT NULL,
    peaks smallint[] NOT NULL,
    CONSTRAINT pk_asset_waveforms PRIMARY KEY (asset_id),
    CONSTRAINT fk_asset_waveforms_asset_id FOREIGN KEY (asset_id) REFERENCES assets (id) ON DELETE CASCADE
);

ALTER TABLE asset_objects DROP CONSTRAINT ck_asset_objects_origin;
ALTER TABLE asset_objects ADD CONSTRAINT ck_asset_objects_origin
    CHECK (origin IN ('upload', 'signed', 'import', 'resumable', 'derived', 'trash'));
"""


def upgrade() -> None:
    op.execute(SUMMARY)
    op.execute(TABLES)
