"""Where a row keeps its long columns: what lists, searches and filters read lies in the row, uncompressed.

A row of an avatar has about 3 KB, and Postgres makes rows of more than 2 KB smaller by itself: it compresses the widest
columns, then moves them to another table. Those were `item`, `summary` and `terms`, so that each item of a page cost a
look into that other table, and each row of a walk an unpacking. `facts`, which only one asset's own page reads, may go.
Rows that are there already change when they are written the next time.
"""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

STORAGE = """
ALTER TABLE assets ALTER COLUMN item SET STORAGE MAIN;
ALTER TABLE assets ALTER COLUMN summary SET STORAGE MAIN;
ALTER TABLE assets ALTER COLUMN terms SET STORAGE MAIN;
-- Three rows to a page of 8 KB.
ALTER TABLE assets SET (toast_tuple_target = 2700);
"""


def upgrade() -> None:
    """Cheap: no row is touched."""
    op.execute(STORAGE)
