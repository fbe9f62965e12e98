"""Functions that run when rows are written find the catalogue and this schema, whatever the session has made under their names.

Without a search path of its own a function looks in `pg_temp` first: the service's role could make a temporary `pg_class` in
which it owns the audit trail. The immutable functions are left as they are: they read no table, and with a setting of their
own they would not be inlined.
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"

FUNCTIONS = (
    "butai_append_only()",
    "butai_counts_up()",
    "butai_forgets(oid)",
    "butai_hide_of_suspended()",
    "butai_is_suspended(text)",
    "butai_tell_egress()",
    "butai_tell_live_event()",
    "butai_tell_wanted()",
    "butai_turn_ended()",
)


def upgrade() -> None:
    """Quick: no row is read or written."""
    schema = op.get_bind().exec_driver_sql("SELECT quote_ident(current_schema())").scalar_one()
    for function in FUNCTIONS:
        op.execute(f"ALTER FUNCTION {function} SET search_path = pg_catalog, {schema}, pg_temp")
