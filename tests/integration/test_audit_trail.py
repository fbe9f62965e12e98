"""The audit trail: what is repeated is counted, strangers do not hide it, and the service's role cannot change it."""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from butai import audit
from butai import database as database_module
from butai.assets.uploads import opening
from butai.audit import Origin
from butai.audit.queries import MOST_STRANGERS
from butai.config import Settings
from butai.database import Database
from butai.embedded.ownership import give_to_owner
from butai.embedded.postgres import EmbeddedPostgres
from butai.identity.api_keys import create_api_key
from butai.migrations.privileges import ADDED_TO, RolesNotApart
from tests.conftest import Api, serving
from tests.databases import Databases
from tests.live_api import ROOM, make_room, sql

TRAIL = f"/api/live/audit?room_id={ROOM}"


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


@pytest.fixture
def one_minute(as_owner: Callable[[str], None]) -> None:
    """Counts as of one minute, whenever the test runs."""
    as_owner("ALTER TABLE audit_counts ALTER COLUMN minute SET DEFAULT 'epoch'")
    as_owner("ALTER TABLE audit_counts DISABLE TRIGGER audit_counts_counts_up")


@pytest.mark.usefixtures("one_minute")
async def test_refusals_of_two_processes_are_one_entry_with_their_number(
    live_settings: Settings, database: Database
) -> None:
    async with serving(live_settings) as one, serving(live_settings) as other:
        await make_room(one)
        first = {"X-Request-Id": "the-first-one"}
        body = {"room_id": ROOM}
        assert (await one.call("POST", "/api/live/stop", "bob", json=body, headers=first))[0] == 403
        answers = await asyncio.gather(
            *((one, other)[n % 2].call("POST", "/api/live/stop", "bob", json=body) for n in range(40))
        )
        assert {status for status, _ in answers} == {403}
        entry, made = (await other.call("GET", TRAIL, "alice"))[1]["data"]
    assert (entry["actor"], entry["action"], entry["error_code"]) == ("user:bob", "live.stop", "not_host")
    assert (entry["times"], entry["ip"]) == (41, "127.0.0.1") and entry["at"] < entry["last_at"]
    assert (made["times"], made["last_at"]) == (1, made["at"])
    (row,) = await sql(database, "SELECT request_id, times FROM audit_counts")
    assert tuple(row) == ("the-first-one", 41)


async def test_names_that_are_no_rooms_have_no_trail(api: Api, database: Database) -> None:
    for number in range(20):
        assert (await api.call("POST", "/api/live/stop", "bob", json={"room_id": f"never-{number}"}))[0] == 403
        assert (await api.call("POST", f"/api/live/rooms/never-{number}/close", "bob"))[0] == 403
    assert await sql(database, "SELECT 1 FROM audit UNION ALL SELECT 1 FROM audit_counts") == []


async def test_strangers_do_not_push_the_owners_own_entries_out(api: Api, database: Database) -> None:
    await make_room(api)
    insert = (
        "INSERT INTO audit_counts (minute, actor, action, subject, result, error_code) "
        "SELECT now() - n * interval '1 minute', 'user:mallory' || n % 7, 'live.stop', 'room:' || :room, 'refused', :code "
        "FROM generate_series(1, :number) n"
    )
    await sql(database, insert, room=ROOM, code="not_host", number=300)
    await api.call("POST", "/api/live/start", "alice", json={"room_id": ROOM, "platforms": "youtube"})
    await sql(database, insert.replace("mallory", "eve"), room=ROOM, code="room_taken", number=300)
    for limit in (2, 100):
        page = (await api.call("GET", f"{TRAIL}&limit={limit}", "alice"))[1]
        own = [(one["action"], one["error_code"]) for one in page["data"] if one["actor"] == "user:alice"]
        assert own == [("live.start", "no_destination"), ("live.room_made", None)]
        assert len(page["data"]) == 2 + MOST_STRANGERS and page["next"] is None
        assert [one["id"] for one in page["data"]] == sorted((one["id"] for one in page["data"]), reverse=True)
        assert page["data"][0]["actor"].startswith("user:eve"), "the newest are shown"
    first = (await api.call("GET", f"{TRAIL}&limit=1", "alice"))[1]
    second = (await api.call("GET", f"{TRAIL}&limit=1&before={first['next']}", "alice"))[1]
    assert [one["actor"] for one in first["data"] if "eve" not in one["actor"]] == ["user:alice"]
    assert {one["actor"][:12] for one in second["data"]} == {"user:mallory", "user:alice"} and second["next"] is None
    async with api.client.get(f"{api.url}{TRAIL}&format=csv", headers=api.cookie("alice")) as answer:
        lines = list(csv.DictReader(io.StringIO(await answer.text())))
    assert len(lines) == 2 + MOST_STRANGERS and {line["times"] for line in lines} == {"1"}


async def test_operators_find_each_count_in_the_whole_trail(api: Api, database: Database) -> None:
    await make_room(api)
    now = datetime.now(UTC)
    await sql(
        database,
        "INSERT INTO audit_counts (at, last_at, actor, action, result, error_code, times) "
        "SELECT :at, :at + interval '40 seconds', 'user:mallory', 'live.stop', 'refused', 'not_host', n "
        "FROM generate_series(1, 1) n",
        at=now - timedelta(hours=1),
    )
    root = await operator(api, database)
    found = (await api.call("GET", "/api/audit?result=refused&actor=user:mallory", headers=root))[1]["entries"]
    assert [(one["times"], one["error_code"]) for one in found] == [(1, "not_host")]
    between = (now - timedelta(hours=1) + timedelta(seconds=20)).isoformat().replace("+00:00", "Z")
    # A count lasts from its first to its last time.
    assert (
        len((await api.call("GET", f"/api/audit?actor=user:mallory&from={between}", headers=root))[1]["entries"]) == 1
    )
    assert len((await api.call("GET", f"/api/audit?actor=user:mallory&to={between}", headers=root))[1]["entries"]) == 1


@pytest.mark.usefixtures("one_minute")
async def test_failing_uploads_leave_a_bounded_number_of_rows(
    api: Api, database: Database, run_jobs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "KEPT_ATTEMPTS", 4)
    for number in range(15):
        assert (await api.upload("mallory", "vrm/same.vrm", b"GIF89a" + bytes(99)))[0] == 422
        if number % 5 == 4:
            await run_jobs()
    counted = await sql(database, "SELECT result, error_code, times, detail FROM audit_counts ORDER BY id")
    assert [(row[0], row[1], row[2]) for row in counted] == [("refused", "signature_mismatch", 15), ("ok", None, 14)]
    assert counted[0][3]["key"] == "vrm/same.vrm" and counted[0][3]["attempt"] == 1
    assert [tuple(row) for row in await sql(database, "SELECT action FROM audit")] == [("asset.upload",)]
    events = await sql(database, "SELECT event, attempt FROM asset_events ORDER BY id")
    assert [tuple(row) for row in events[:3]] == [("created", 1), ("retried", 9), ("upload_failed", 9)]
    assert len(events) == 1 + 2 * 7
    assert await sql(database, "SELECT attempt FROM asset_objects WHERE attempt <= 8") == []


async def operator(api: Api, database: Database) -> dict[str, str]:
    _, token = await create_api_key(database, "root", ["user", "operator"], "test")
    return {"X-API-Key": token}


# What the service's role may do

FORBIDDEN = (
    "UPDATE audit SET actor = 'user:bob'",
    "DELETE FROM audit",
    "TRUNCATE audit",
    "ALTER TABLE audit DISABLE TRIGGER ALL",
    "ALTER TABLE audit DISABLE TRIGGER audit_append_only",
    "DROP TRIGGER audit_append_only ON audit",
    "DROP TABLE audit",
    "ALTER TABLE audit OWNER TO CURRENT_USER",
    "CREATE OR REPLACE FUNCTION butai_append_only() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
    "CREATE RULE hide AS ON INSERT TO audit DO INSTEAD NOTHING",
    "CREATE TABLE mine (a int)",
    "SET session_replication_role = replica",
    "SET ROLE butai_owner",
    "GRANT butai_owner TO butai",
    "UPDATE audit_counts SET actor = 'user:bob'",
    "UPDATE audit_counts SET times = 1",
    "UPDATE audit_counts SET times = times + 2",
    "DELETE FROM audit_counts",
    "TRUNCATE audit_counts",
    "ALTER TABLE audit_counts DISABLE TRIGGER ALL",
    "DELETE FROM live_events",
    "UPDATE live_events SET actor = 'user:bob'",
    "UPDATE alembic_version SET version_num = '0001'",
    "SELECT setval('audit_id_seq', 1)",
    "SET butai.forgetting = 'on'; UPDATE audit SET actor = 'user:bob'",
    "SET butai.forgetting = 'on'; UPDATE audit_counts SET times = 1",
    # What a session makes for itself under the names that the triggers use.
    """SET butai.forgetting = 'on';
       CREATE TEMP TABLE pg_class AS SELECT 'audit_counts'::regclass::oid AS oid, 1::oid AS relowner;
       CREATE TEMP TABLE pg_roles AS SELECT 1::oid AS oid, current_user AS rolname;
       UPDATE audit_counts SET times = 1000""",
    """SET butai.forgetting = 'on';
       CREATE FUNCTION pg_temp.butai_forgets(oid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
       SET search_path = pg_temp, public; UPDATE audit_counts SET times = 1000""",
)


async def test_the_services_role_cannot_change_the_trail(database: Database) -> None:
    async with database.transaction() as session:
        audit.record(session, Origin("user:alice"), "asset.edit", None)
        await audit.count(session, Origin("user:alice"), "live.stop", None, result="refused", error_code="not_host")
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        for statement in FORBIDDEN:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                await connection.execute(statement.encode())
    assert [tuple(row) for row in await sql(database, "SELECT actor FROM audit")] == [("user:alice",)]
    assert [tuple(row) for row in await sql(database, "SELECT actor, times FROM audit_counts")] == [("user:alice", 1)]


def test_each_table_that_is_only_added_to_has_its_privileges(databases: Databases, database_url: str) -> None:
    with psycopg.connect(databases.owners(database_url)) as connection:
        guarded = connection.execute(
            "SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger WHERE tgfoid = 'butai_append_only'::regproc"
        ).fetchall()
    assert {name for (name,) in guarded} | {"alembic_version"} == set(ADDED_TO)


def test_functions_find_nothing_that_a_session_has_made_for_itself(database_url: str) -> None:
    """The immutable ones read no table."""
    query = """SELECT proname, proconfig FROM pg_proc
               WHERE proname ~ '^(butai|audit)_' AND pronamespace = current_schema()::regnamespace AND provolatile <> 'i'"""
    with psycopg.connect(database_url) as connection:
        found = dict(connection.execute(query).fetchall())
    assert found.keys() >= {"butai_append_only", "butai_counts_up", "butai_forgets", "audit_forget", "audit_erase"}
    assert {name: path for name, path in found.items() if path != ["search_path=pg_catalog, public, pg_temp"]} == {}


def test_the_owner_meets_the_triggers(as_owner: Callable[[str], None], database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("INSERT INTO audit_counts (minute, action, result) VALUES ('epoch', 'live.stop', 'refused')")
    for statement in ("UPDATE audit_counts SET times = times + 1", "DELETE FROM audit_counts", "TRUNCATE audit"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only"):
            as_owner(statement)


async def test_a_users_name_leaves_the_trail_by_one_function_alone(database: Database) -> None:
    alice = Origin("user:alice", "192.0.2.1", "a browser", "req-12345678")
    async with database.transaction() as session:
        audit.record(session, alice, "live.start", "room:r", detail={"platforms": ["twitch"]})
        audit.record(
            session, Origin("user:bob"), "user.suspend", "user:alice", detail={"user_id": "alice", "why": "alice"}
        )
        audit.record(session, Origin("alice"), "live.stop", "room:r")
        await audit.count(session, alice, "live.stop", "room:q", result="refused", error_code="not_host")
    await sql(
        database, "INSERT INTO live_events (room_id, event, actor) VALUES ('r', 'broadcast.stop_asked', 'user:alice')"
    )
    (changed,) = await sql(database, "SELECT audit_forget('user:alice', 'user:erased-0123456789abcdef')")
    assert changed[0] == 5
    rows = await sql(database, "SELECT actor, ip, user_agent, subject, detail FROM audit ORDER BY id")
    gone = "user:erased-0123456789abcdef"
    assert [tuple(row) for row in rows] == [
        (gone, None, None, "room:r", {"platforms": ["twitch"]}),
        ("user:bob", None, None, gone, {"user_id": "erased-0123456789abcdef", "why": "alice"}),
        (gone, None, None, "room:r", {}),
        ("service:database", None, None, gone, {"entries": 5}),
    ]
    (counted,) = await sql(database, "SELECT actor, ip, request_id, times FROM audit_counts")
    assert tuple(counted) == (gone, None, "req-12345678", 1)
    assert [tuple(row) for row in await sql(database, "SELECT actor FROM live_events")] == [(gone,)]
    for forgotten, pseudonym in (
        ("service:cli", gone),
        ("alice", gone),
        ("user:bob", "user:alice"),
        ("user:bob", "service:cli"),
        ("user:bob", "user:erased-Mallory"),
    ):
        with pytest.raises(Exception, match="audit_forget takes"):
            await sql(database, "SELECT audit_forget(:forgotten, :pseudonym)", forgotten=forgotten, pseudonym=pseudonym)


# Taking over what one role owned


def test_tables_of_one_role_are_given_to_an_owner(databases: Databases, postgres: EmbeddedPostgres) -> None:
    tag = f"t{id(databases):x}"
    old, owner = f"{tag}_one", f"{tag}_owner"
    parts = urlsplit(postgres.admin_url)
    there = parts._replace(path=f"/{old}")
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {old} LOGIN PASSWORD 'a'".encode())
        admin.execute(f"CREATE DATABASE {old} OWNER {old}".encode())
        service = urlunsplit(there._replace(netloc=f"{old}:a@127.0.0.1:{postgres.port}"))
        owners = urlunsplit(there._replace(netloc=f"{owner}:b@127.0.0.1:{postgres.port}"))
        try:
            database_module.migrate(service, "0017")
            admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'b'".encode())
            with pytest.raises(RolesNotApart, match=f"REASSIGN OWNED BY {old} TO {owner}"):
                database_module.migrate(owners, service_url=service)
            for _ in range(2):
                give_to_owner(urlunsplit(there), old, owner, "b")
            database_module.migrate(owners, service_url=service)
            with psycopg.connect(service, autocommit=True) as connection:
                connection.execute("INSERT INTO audit (action, result) VALUES ('asset.edit', 'ok')")
                connection.execute("DELETE FROM assets")
                for statement in (
                    "DELETE FROM audit",
                    "ALTER TABLE audit DISABLE TRIGGER ALL",
                    "CREATE TABLE t (a int)",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        connection.execute(statement.encode())
            admin.execute(f"GRANT {owner} TO {old}".encode())
            with pytest.raises(RolesNotApart, match="a member of the role that owns"):
                database_module.migrate(owners, service_url=service)
        finally:
            admin.execute(f"DROP DATABASE {old} WITH (FORCE)".encode())
            admin.execute(f"DROP ROLE IF EXISTS {owner}, {old}".encode())
