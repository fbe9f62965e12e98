"""Gives a database whose tables belong to the service's role to an owner of its own.

Of a data folder of version 0.1, whose one role did both.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from butai.migrations.privileges import move_ownership


def give_to_owner(admin_url: str, service: str, owner: str, password: str) -> None:
    """Makes the role `owner`, which may sign in with `password`, and moves all to it that `service` owns. Idempotent."""
    with psycopg.connect(admin_url, connect_timeout=10, autocommit=True) as connection:
        # A statement that fails would stand in the log, with the password.
        connection.execute("SET log_min_error_statement = panic")
        there = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [owner]).fetchone() is not None
        statement = sql.SQL("ALTER ROLE {} LOGIN PASSWORD {}" if there else "CREATE ROLE {} LOGIN PASSWORD {}")
        connection.execute(statement.format(sql.Identifier(owner), sql.Literal(password)))
        move_ownership(connection, service, owner)
