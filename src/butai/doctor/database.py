"""Checks Postgres: reachable, recent enough, with the tables, its clock right. Part of `butai doctor`."""

from __future__ import annotations

import re
import time
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from butai.config import Settings
from butai.database import head_revision, sqlalchemy_url
from butai.doctor.findings import CHECK_SECONDS, Findings

OLDEST = 15
"""The oldest version with the features that are used (as README promises); the tests run on a newer one."""

CLOCK_SECONDS = 2.0
"""Most seconds by which the database's clock may differ without a finding. Leases of uploads (`BUTAI_UPLOAD_LEASE`) are
written with this machine's clock and read with another's."""

# As the API connects: a pooler in between may refuse the options.
_OPTIONS = "-c plan_cache_mode=force_generic_plan -c statement_timeout=5000"

_ADVICE = (
    ("password authentication failed", "check the user and the password in BUTAI_DATABASE_URL"),
    ("no password supplied", "BUTAI_DATABASE_URL names no password: postgresql://user:password@host:5432/butai"),
    ('role ".*" does not exist', "make the user, or name one that exists in BUTAI_DATABASE_URL"),
    (
        'database ".*" does not exist',
        "make the database: createdb, or CREATE DATABASE … OWNER the user in BUTAI_DATABASE_URL",
    ),
    (r"no pg_hba\.conf entry", "let this machine in (pg_hba.conf), or add ?sslmode=require to BUTAI_DATABASE_URL"),
    ("SSL", "add ?sslmode=require (or disable) to BUTAI_DATABASE_URL, as the server wants it"),
    ("too many", "the server has no connection left: raise max_connections, or lower BUTAI_DATABASE_POOL_SIZE"),
    (
        "startup parameter",
        "the pooler in between refuses options: connect to Postgres itself, or let it ignore `options`",
    ),
    ("translate host name", "the host in BUTAI_DATABASE_URL has no address: check its spelling and this machine's DNS"),
    ("resolve", "the host in BUTAI_DATABASE_URL has no address: check its spelling and this machine's DNS"),
    ("timeout", "nothing answers there: check the host, the port and the firewall in between"),
)
_ELSE = "check that Postgres runs there, and the host and port in BUTAI_DATABASE_URL"


def connection_secrets(url: str) -> list[str]:
    """The passwords in a connection URL, as they stand and decoded. Never raises."""
    try:
        password = conninfo_to_dict(url).get("password")
        return [str(password)] if password else []
    except (psycopg.Error, ValueError, UnicodeError):
        # A URL that cannot be parsed is never shown either.
        return []


async def examine_database(settings: Settings, findings: Findings) -> None:
    """Adds findings; raises no error of the database."""
    url = settings.database.url.get_secret_value()
    if not url:
        findings.broken(
            "configured",
            "BUTAI_DATABASE_URL is not set",
            "export BUTAI_DATABASE_URL=postgresql://user:password@host:5432/butai (butai up brings its own Postgres)",
        )
        return
    try:
        sqlalchemy_url(url)
        parts = {name: str(value or "") for name, value in conninfo_to_dict(url).items()}
        # An unescaped / or @ in a password moves the rest of it into these parts.
        if any("@" in parts.get(name, "") for name in ("host", "dbname")) or re.search(
            "[^0-9,]", parts.get("port", "")
        ):
            raise ValueError("a piece of the password is in another part")
    except (ValueError, psycopg.Error, UnicodeError):
        # The error's own text would quote pieces of the password.
        findings.broken(
            "configured",
            "BUTAI_DATABASE_URL cannot be read",
            "write it as postgresql://user:password@host:5432/butai; in the password @ is %40, / is %2F, : is %3A",
        )
        return
    where = f"{parts.get('host') or 'the local socket'}, port {parts.get('port') or 5432}"
    try:
        connection = await psycopg.AsyncConnection.connect(
            url, autocommit=True, connect_timeout=int(CHECK_SECONDS), options=_OPTIONS
        )
    except (psycopg.Error, OSError, UnicodeError) as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        advice = next((advice for sign, advice in _ADVICE if re.search(sign, said, re.IGNORECASE)), _ELSE)
        findings.broken("reachable", f"no connection to {where}: {said}", advice)
        return
    async with connection:
        try:
            await _examine_server(connection, where, settings, findings)
            await _examine_tables(connection, findings)
        except psycopg.Error as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            findings.broken("statements", f"the server closed the connection: {said}", "look at the server's log")


async def _examine_server(
    connection: psycopg.AsyncConnection[Any], where: str, settings: Settings, findings: Findings
) -> None:
    before = time.time()
    cursor = await connection.execute(
        """SELECT current_setting('server_version_num')::int, current_setting('server_version'), clock_timestamp(),
                  pg_is_in_recovery() OR current_setting('default_transaction_read_only')::bool, current_database()"""
    )
    row = await cursor.fetchone()
    after = time.time()
    assert row is not None
    number, version, clock, read_only, name = row
    findings.ok("reachable", f"database {name} at {where}")
    judge_version(number, version, findings)
    if read_only:
        findings.broken(
            "writable",
            "this server only reads: it is a standby, or set to read-only",
            "name the primary server instead",
        )
    judge_clock(clock.timestamp() - (before + after) / 2, (after - before) / 2, settings.assets.upload_lease, findings)


def judge_version(number: int, version: str, findings: Findings) -> None:
    """Adds a finding about the version. `number` is `server_version_num`: 150004 is 15.4."""
    if number // 10000 < OLDEST:
        findings.broken("version", f"PostgreSQL {version}", f"bring the server to {OLDEST} or newer")
    else:
        findings.ok("version", f"PostgreSQL {version}")


def judge_clock(difference: float, uncertainty: float, lease: float, findings: Findings) -> None:
    """Adds a finding about the clock. `difference` is the database's clock minus ours, in seconds; `uncertainty` half
    the round trip."""
    off = max(0.0, abs(difference) - uncertainty)
    said = (
        f"the database's clock is {abs(difference):.1f} s {'ahead of' if difference > 0 else 'behind'} this machine's"
    )
    advice = "let chrony or systemd-timesyncd run on both machines"
    if off <= CLOCK_SECONDS:
        findings.ok("clock", f"{off:.1f} s from this machine's")
    elif off < lease:
        findings.warn("clock", said, advice)
    else:
        findings.broken("clock", f"{said}: uploads under way seem to be abandoned", advice)


async def _examine_tables(connection: psycopg.AsyncConnection[Any], findings: Findings) -> None:
    cursor = await connection.execute(
        """SELECT to_regclass('alembic_version') IS NOT NULL, has_database_privilege(current_database(), 'CREATE'),
                  coalesce(has_schema_privilege(current_schema(), 'CREATE'), false),
                  (SELECT (default_version, installed_version) FROM pg_available_extensions WHERE name = 'pg_trgm')::text,
                  coalesce(has_table_privilege(to_regclass('alembic_version'), 'SELECT'), false)"""
    )
    row = await cursor.fetchone()
    assert row is not None
    has_revision, in_database, in_schema, trigrams, may_read = row
    revision = None
    if may_read:
        found = await (await connection.execute("SELECT version_num FROM alembic_version")).fetchone()
        revision = found[0] if found else None
    head = head_revision()
    current = revision is not None and revision >= head

    if trigrams is None:
        findings.broken(
            "pg_trgm",
            "the server does not have this extension, which searching by name needs",
            "install Postgres's contrib package on the server (postgresql-contrib)",
        )
    else:
        installed = trigrams.strip("()").partition(",")[2]
        findings.ok("pg_trgm", f"installed, {installed}" if installed else "available; butai migrate enables it")

    if has_revision and not may_read:
        findings.broken(
            "tables",
            "the role in BUTAI_DATABASE_URL may not read them",
            "run butai migrate with the address of their owner in BUTAI_DATABASE_OWNER_URL (docs/operations.md)",
        )
    elif revision is None:
        findings.broken("tables", "this database has none of Butai's tables", "run: butai migrate")
    elif revision < head:
        findings.broken("tables", f"at {revision}; this version needs {head}", "run: butai migrate")
    elif revision > head:
        findings.warn(
            "tables",
            f"at {revision}, made by a newer version; this one knows {head}",
            "run the newer version here too, unless you are in the middle of an upgrade",
        )
    else:
        findings.ok("tables", f"at {revision}, as this version needs them")

    apart = await _examine_owner(connection, findings) if has_revision else False
    missing = [what for what, may in (("database", in_database), ("schema", in_schema)) if not may]
    if apart:
        findings.ok("may create", "the role that owns the tables makes those of the next version")
    elif not missing:
        findings.ok("may create", "the user may make tables and extensions")
    else:
        said = f"the user may create nothing in the {' and the '.join(missing)}"
        advice = f"GRANT CREATE ON {missing[0].upper()} … TO the user, or let an administrator run butai migrate"
        if current:
            findings.warn("may create", f"{said}: the next version's tables will need it", advice)
        else:
            findings.broken("may create", said, advice)


async def _examine_owner(connection: psycopg.AsyncConnection[Any], findings: Findings) -> bool:
    """Adds a finding about the role that owns the tables. Returns whether it is another one than the service's."""
    cursor = await connection.execute(
        """SELECT pg_get_userbyid(c.relowner), pg_has_role(c.relowner, 'USAGE') OR r.rolsuper,
                  coalesce(has_table_privilege(to_regclass('audit'), 'UPDATE, DELETE, TRUNCATE'), false)
           FROM pg_class c, pg_roles r WHERE c.oid = to_regclass('alembic_version') AND r.rolname = current_user"""
    )
    row = await cursor.fetchone()
    assert row is not None
    owner, owns, may_change = row
    if owns or may_change:
        findings.warn(
            "owner",
            "the service's role can change what the audit trail has, since it owns the tables"
            if owns
            else "the service's role can change what the audit trail has",
            "give the tables an owner of their own, and name it to butai migrate in BUTAI_DATABASE_OWNER_URL "
            "(docs/operations.md)",
        )
    else:
        findings.ok("owner", f"the tables belong to {owner}; the service's role can only add to the audit trail")
    return not owns
