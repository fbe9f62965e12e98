"""Bytes of resumable uploads that are too few for a part, in rows of their own."""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"

PIECES = """
CREATE TABLE resumable_pieces (
    upload_id uuid NOT NULL,
    first_byte bigint NOT NULL,
    body bytea NOT NULL,
    CONSTRAINT pk_resumable_pieces PRIMARY KEY (upload_id, first_byte),
    CONSTRAINT fk_resumable_pieces_upload_id FOREIGN KEY (upload_id) REFERENCES resumable_uploads (id) ON DELETE CASCADE
);
ALTER TABLE resumable_pieces ALTER COLUMN body SET STORAGE EXTERNAL;
INSERT INTO resumable_pieces (upload_id, first_byte, body)
SELECT id, upload_offset - length(tail), tail FROM resumable_uploads WHERE state = 'open' AND length(tail) > 0;
ALTER TABLE resumable_uploads DROP COLUMN tail;
"""


def upgrade() -> None:
    """Uploads under way go on: their bytes move. They are models and sound, which Postgres cannot compress further."""
    op.execute(PIECES)
