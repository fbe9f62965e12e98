"""Until when a signed URL may write an object, and who completes an upload that has arrived."""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"

COLUMNS = """
ALTER TABLE asset_objects ADD COLUMN writable_until timestamptz;
ALTER TABLE asset_objects ADD COLUMN claimed_until timestamptz;
UPDATE asset_objects SET writable_until = lease_until + interval '10 minutes'
WHERE origin = 'signed' AND state = 'writing';
"""


def upgrade() -> None:
    """URLs that are out expire five minutes before their lease."""
    op.execute(COLUMNS)
