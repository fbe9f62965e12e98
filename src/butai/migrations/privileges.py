"""Two roles of the database: the owner, which migrates, and the service's, which may do what the service does.

The service's role reads and writes the tables, but it owns nothing: it can neither change a table nor switch off a
trigger, and what has happened (the audit trail, the timelines) it may only add to.
"""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

ADDED_TO = {
    "alembic_version": "SELECT",
    "audit": "SELECT, INSERT",
    "audit_counts": "SELECT, INSERT, UPDATE (times, last_at)",
    "live_events": "SELECT, INSERT",
    "retired_names": "SELECT, INSERT",
}
"""Tables with fewer privileges than the others, and those that the service's role has on them."""

FORGETTING = ("audit_forget(text, text)", "audit_erase(text, text)")
"""The functions of the owner that the service's role may call. They take a user's name out of these tables."""


class RolesNotApart(Exception):
    """The service's role could do what the owner does. The text names the remedy."""


def role_of(url: str) -> str:
    """The role that a connection URL leads to. Raises `psycopg.OperationalError`."""
    if named := conninfo_to_dict(url).get("user"):
        return str(named)
    with psycopg.connect(url, connect_timeout=5) as connection:
        return str(_value(connection, "SELECT current_user"))


def check_owner(connection: psycopg.Connection[Any]) -> None:
    """Raises `RolesNotApart` when the tables that are there belong to another role than the connection's."""
    owner = _value(
        connection, "SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass('alembic_version')"
    )
    mine = _value(connection, "SELECT current_user")
    if owner not in (None, mine):
        raise RolesNotApart(
            f"the tables belong to {owner}: let an administrator run, in this database, "
            f"ALTER DATABASE … OWNER TO {mine}; REASSIGN OWNED BY {owner} TO {mine}; then butai migrate again"
        )


def grant_to_service(connection: psycopg.Connection[Any], service: str) -> None:
    """Gives the role `service` its privileges on all that the connection's role owns in its schema, and takes all others from it.
    One transaction; idempotent. Raises `RolesNotApart` for a role that is the owner, a member of it, or a superuser."""
    superuser = _value(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = %s", service)
    if superuser is None:
        raise RolesNotApart(f"there is no role {service}")
    if superuser or _value(connection, "SELECT pg_has_role(%s, current_user, 'MEMBER')", service):
        raise RolesNotApart(
            f"{service} is a superuser, or a member of the role that owns the tables: take that from it"
        )
    role = sql.Identifier(service)
    with connection.transaction():
        schema = sql.Identifier(str(_value(connection, "SELECT current_schema()")))
        _do(connection, "GRANT USAGE ON SCHEMA {} TO {}", schema, role)
        _do(connection, "REVOKE CREATE ON SCHEMA {} FROM {}", schema, role)
        for kind, names in _owned(connection).items():
            for name in names:
                thing = sql.SQL("{}.{}").format(schema, sql.Identifier(name))
                _do(connection, "REVOKE ALL ON {} FROM {}", thing, role)
                if kind == "S":
                    _do(connection, "GRANT USAGE, SELECT ON SEQUENCE {} TO {}", thing, role)
                else:
                    given = ADDED_TO.get(name, "SELECT, INSERT, UPDATE, DELETE")
                    _do(connection, f"GRANT {given} ON {{}} TO {{}}", thing, role)
        for function in FORGETTING:
            if _value(connection, "SELECT to_regprocedure(%s)::text", function) is not None:
                _do(connection, f"GRANT EXECUTE ON FUNCTION {function} TO {{}}", role)


def move_ownership(connection: psycopg.Connection[Any], service: str, owner: str) -> None:
    """Makes all that `service` owns in the connection's database the property of `owner`, and gives it its privileges. One
    transaction. The connection is a superuser's."""
    database = str(_value(connection, "SELECT current_database()"))
    with connection.transaction():
        others = connection.execute(
            "SELECT datname FROM pg_database WHERE pg_get_userbyid(datdba) = %s AND datname <> %s", [service, database]
        ).fetchall()
        _do(connection, "REASSIGN OWNED BY {} TO {}", sql.Identifier(service), sql.Identifier(owner))
        for (name,) in others:
            # REASSIGN OWNED takes databases too, this one or not.
            _do(connection, "ALTER DATABASE {} OWNER TO {}", sql.Identifier(name), sql.Identifier(service))
        _do(connection, "SET LOCAL ROLE {}", sql.Identifier(owner))
        grant_to_service(connection, service)


def _owned(connection: psycopg.Connection[Any]) -> dict[str, list[str]]:
    """The tables (`r`) and sequences (`S`) of the schema that the connection's role owns."""
    rows = connection.execute(
        """SELECT relkind::text, array_agg(relname::text) FROM pg_class
           WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = current_schema()) AND relkind IN ('r', 'S')
             AND pg_get_userbyid(relowner) = current_user GROUP BY relkind"""
    ).fetchall()
    return dict(rows)


def _value(connection: psycopg.Connection[Any], statement: str, *values: str) -> object:
    row = connection.execute(statement.encode(), values or None).fetchone()
    return row[0] if row else None


def _do(connection: psycopg.Connection[Any], statement: str, *parts: sql.Composable) -> None:
    connection.execute(sql.SQL(statement).format(*parts))  # pyright: ignore[reportArgumentType]  one of the texts above
