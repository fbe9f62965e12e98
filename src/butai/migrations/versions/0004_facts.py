"""What is inside files: facts as columns and JSON, the words to filter by, waveforms, objects that Butai makes itself."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

TABLES = """
ALTER TABLE assets
    ADD COLUMN facts jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN inspected_key text,
    ADD COLUMN inspect_error text,
    ADD COLUMN triangles bigint,
    ADD COLUMN terms text[] NOT NULL DEFAULT '{}';
CREATE INDEX ix_assets_terms ON assets USING gin (terms)
    WHERE status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL;
CREATE INDEX ix_assets_tags ON assets USING gin (tags)
    WHERE status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL;
CREATE INDEX ix_assets_triangles ON assets (type, triangles)
    WHERE status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL AND triangles IS NOT NULL;
CREATE INDEX ix_assets_duration ON assets (type, duration_seconds)
    WHERE status = 'ready' AND deleted_at IS NULL AND sidecar IS NULL AND duration_seconds IS NOT NULL;
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
    op.execute(TABLES)
