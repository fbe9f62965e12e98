"""An erased user: nothing bears their name any more, nobody is given what was theirs, and it can be done twice."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import event
from typer.testing import CliRunner

from butai import jobs
from butai.alerts.service import raise_alert, resolve_alert
from butai.assets import erasure as of_assets
from butai.assets import ledger
from butai.assets.patrol import finding_writer
from butai.assets.storage.client import Store
from butai.audit import Origin
from butai.cli import users
from butai.cli.__main__ import app
from butai.config import Settings
from butai.database import Database
from butai.errors import Conflict, StoreUnavailable
from butai.identity import api_keys
from butai.identity.api_keys import create_api_key
from butai.live import erasure as of_live
from butai.operations import erasure, suspension
from butai.sign_in.codes import make_code, open_folder, take_code
from tests import files
from tests.conftest import Api, serving
from tests.forked import command
from tests.integration.everything_of_a_user import CANARY, ROOM, do_everything, room_is_taken
from tests.integration.test_suspension import with_operator
from tests.live_api import SECRET, go_live, make_room, save, sql
from tests.processes import environment, free_port

ROWS_GO = (
    *(
        "api_keys",
        "asset_checks",
        "asset_waveforms",
        "assets",
        "broadcasts",
        "destinations",
        "encoder_connections",
        "encoder_keys",
        "idempotency_keys",
        "ingresses",
    ),
    *("livekit_egresses", "livekit_webhooks", "output_metrics", "outputs", "resumable_pieces", "resumable_uploads"),
    *("plain_names", "room_invitations", "rooms", "suspended_users"),
)
"""Tables of which a user's rows are deleted, whatever is in their columns."""

NEVER_NAMES = {
    # Words of this service, random ids, and digests.
    "alembic_version": "version_num",
    "asset_events": "error_code event from_status to_status",
    "asset_objects": "declared_sha256 origin state upload_id",
    "asset_tombstones": "type",
    "findings": "kind resolution",
    "job_failures": "code",
    "live_events": "code event from_state platform to_state",
    "patrol_runs": "kind state stop_code detail",
    "procrastinate_events": "type",
    "procrastinate_jobs": "queue_name queueing_lock status task_name",
    "procrastinate_periodic_defers": "periodic_id task_name",
    "retired_names": "name_sha256",
    # Machines, settings and platforms.
    "alert_messages": "delivered_to error kind severity",
    "alerts": "code key severity",
    "controllers": "admits costs host id",
    "livekit_projects": "error_code lease_holder name",
    # An address, a program and a request's id are removed with the actor's name; a test looks at them.
    "audit": "action error_code ip request_id result user_agent",
    "audit_counts": "action error_code ip request_id result user_agent",
}
"""Columns of other tables that the canary does not fill, since no user's word gets there."""

TEXTS = {"text", "character varying", "jsonb", "ARRAY", "bytea", "USER-DEFINED", "name"}


@pytest.fixture(autouse=True)
def keys_are_cached_briefly(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the processes, and so the command waits for less."""
    monkeypatch.setattr(api_keys, "CACHE_SECONDS", 0.4)
    monkeypatch.setattr(erasure, "CACHED_KEYS", 0.5)


@pytest.fixture
async def api(live_settings: Settings) -> AsyncIterator[Api]:
    async with serving(with_operator(live_settings)) as running:
        yield running


async def columns(database: Database) -> list[tuple[str, str, str]]:
    """Table, column and type of all columns."""
    return await sql(
        database,
        """SELECT c.table_name, c.column_name, c.data_type FROM information_schema.columns c
           JOIN information_schema.tables t USING (table_schema, table_name)
           WHERE c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'""",
    )


async def places_of(database: Database, name: str) -> set[str]:
    """The columns of all tables in which a text occurs, in bytes as well."""
    found = set[str]()
    for table, column, _ in await columns(database):
        holds = f"""SELECT 1 FROM "{table}" WHERE position(:name IN "{column}"::text) > 0
                    OR position(:bytes IN "{column}"::text) > 0 LIMIT 1"""
        if await sql(database, holds, name=name, bytes=name.encode().hex()):
            found.add(f"{table}.{column}")
    return found


async def execute(database: Database, statement: str) -> None:
    """A statement of the service's role, with the driver's errors."""
    async with await psycopg.AsyncConnection.connect(database.url) as connection:
        await connection.execute(statement.encode())


async def erase(api: Api, database: Database, capsys: pytest.CaptureFixture[str]) -> str:
    await users.erase(database, api.settings, CANARY)
    return capsys.readouterr().out


async def test_nothing_bears_an_erased_users_name(
    api: Api,
    database: Database,
    run_jobs: Callable[..., Any],
    store_keys: Callable[[], list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    open_folder(api.settings.up.data_dir)
    code = make_code(api.settings.up.data_dir, CANARY)
    (asset, _) = await do_everything(api, database, run_jobs)
    filled = await places_of(database, CANARY)
    texts = {f"{table}.{column}" for table, column, kind in await columns(database) if kind in TEXTS}
    kept = {one for one in texts - filled if one.partition(".")[0] not in ROWS_GO}
    # A new column that holds text: say here why it never holds a name, or erase it and fill it above.
    assert kept == {f"{table}.{column}" for table, names in NEVER_NAMES.items() for column in names.split()}
    keys = [key for (key,) in await sql(database, "SELECT s3_key FROM assets WHERE owner_user_id = :u", u=CANARY)]
    capsys.readouterr()
    said = await erase(api, database, capsys)
    # The log's lines are among it.
    assert "user.erased" in said and "Kept:" in said and CANARY not in said, said
    pseudonym = re.findall(r"user:erased-[0-9a-f]{16}", said)[0]
    assert await places_of(database, CANARY) == set()
    missing = [
        body for (body,) in await sql(database, "SELECT body FROM alerts UNION ALL SELECT body FROM alert_messages")
    ]
    assert missing == ["Missing:\n(erased)\nvrm/Bob.vrm"] * 2
    others = {"suspended_users": 1}
    for table in ROWS_GO:
        assert (await sql(database, f"SELECT count(*) FROM {table}"))[0][0] == others.get(table, 0), table
    assert take_code(api.settings.up.data_dir, code) is None
    await run_jobs(settings=api.settings)
    # Bytes of the purged file stay for readers that have begun on them; their removal is enqueued.
    left = await sql(database, "SELECT object_key FROM asset_objects WHERE state = 'condemned' AND asset_id IS NULL")
    assert set(store_keys()) <= {key for (key,) in left}
    # A second run finds nothing.
    assert "Nothing of this user is left" in await erase(api, database, capsys)
    # What the trail keeps.
    entries = (await api.call("GET", f"/api/audit?subject=asset:{asset}&limit=1000", "op"))[1]["entries"]
    assert {entry["action"] for entry in entries} >= {"asset.upload", "asset.take_down"}
    assert all(entry["actor"] == "user:op" or entry["actor"].startswith("user:erased-") for entry in entries)
    assert all(entry["ip"] is None for entry in entries if entry["actor"] != "user:op")
    counted = await sql(database, "SELECT actor, subject, ip, user_agent, request_id, detail FROM audit_counts")
    names = {(row.actor, row.subject): row for row in counted}
    host, room = pseudonym.replace("user:", "host:"), pseudonym.replace("user:", "room:") + "-1"
    assert set(names) >= {(host, "room:other"), (pseudonym, "room:other"), (host, room), ("user:bob", room)}
    assert sum((row.actor, row.subject) == (host, room) for row in counted) == 2
    for row in counted:
        assert row.actor == "user:bob" or tuple(row[2:]) == (None, None, None, {}), row
    # The suspension outlasts what processes keep of a key that is no more.
    waited = "SELECT max(at) FILTER (WHERE action = 'user.erase') - max(at) FILTER (WHERE action = 'api_key.revoke') FROM audit"
    assert (await sql(database, waited))[0][0] >= timedelta(seconds=0.5)
    # Neither the trail nor a retired name can be changed, nor the function used for a user who is not being erased.
    for statement in (
        "UPDATE audit SET actor = 'x'",
        "DELETE FROM retired_names",
        "SET LOCAL butai.forgetting = 'on'; UPDATE audit_counts SET minute = at",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await execute(database, statement)
    for erased_as in (None, "user:erased-0123456789abcdef"):
        await sql(
            database,
            "INSERT INTO suspended_users (user_id, reason, erased_as) VALUES ('bob', 'r', :as) "
            "ON CONFLICT (user_id) DO UPDATE SET erased_as = excluded.erased_as",
            **{"as": erased_as},
        )
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="audit_erase takes"):
            await execute(database, "SELECT audit_erase('bob', 'user:erased-ffffffffffffffff')")
    await sql(database, "DELETE FROM suspended_users WHERE user_id = 'bob'")
    # The user who signs in again is a new one; names that were given out are given to no one.
    assert await api.items(CANARY) == []
    assert (await api.call("GET", "/api/live/rooms", CANARY))[1]["data"] == []
    for user in ("bob", CANARY):
        assert (await api.call("POST", "/api/live/rooms", user, json={"room_id": ROOM}))[1]["code"] == "room_taken"
    status, made = await api.upload("bob", f"vrm/{CANARY}.vrm", files.vrm(9))
    assert status == 200 and made["data"]["s3Key"] not in keys
    assert (await api.read(f"/api/s3/read-object?key=vrm/{CANARY}.vrm", "carol"))[0] == 404


async def test_an_erasure_that_broke_off_is_finished_by_the_next_one(
    api: Api,
    database: Database,
    as_owner: Callable[[str], None],
    run_jobs: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Counts as of one minute, whenever the test runs.
    as_owner("ALTER TABLE audit_counts ALTER COLUMN minute SET DEFAULT 'epoch'")
    as_owner("ALTER TABLE audit_counts DISABLE TRIGGER audit_counts_counts_up")
    open_folder(api.settings.up.data_dir)
    await do_everything(api, database, run_jobs)
    held = {"X-API-Key": (await create_api_key(database, CANARY, ["user"]))[1]}
    assert (await api.call("GET", "/api/live/rooms", headers=held))[0] == 200

    async def broken(*_: object) -> None:
        raise StoreUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(Store, "delete", broken)
        with pytest.raises(StoreUnavailable):
            await users.erase(database, api.settings, CANARY)
    assert await sql(database, "SELECT 1 FROM api_keys WHERE revoked_at IS NULL") == []
    async with asyncio.timeout(10):
        while (await api.call("GET", "/api/live/rooms", headers=held))[0] == 200:
            await asyncio.sleep(0.05)
    with pytest.raises(Conflict, match="is being erased"):
        await suspension.restore(database, Origin("user:op"), CANARY)
    # Counted in the trail under the name that has left it once.
    await room_is_taken(api)
    pseudonym = (await sql(database, "SELECT erased_as FROM suspended_users WHERE user_id = :u", u=CANARY))[0][0]
    capsys.readouterr()
    said = await erase(api, database, capsys)
    assert f"The\n  user is called {pseudonym}" in said and CANARY not in said
    assert await places_of(database, CANARY) == set()
    assert (await api.call("GET", "/api/live/rooms", headers=held))[0] == 401
    # Nor is it counted when the room is asked for afterwards.
    await room_is_taken(api)
    assert await places_of(database, CANARY) == set()


@pytest.mark.parametrize("actor", ["host:alice", "host_token:alice"])
async def test_a_user_of_whom_the_trail_knows_a_host_alone_is_erased(
    api: Api, database: Database, capsys: pytest.CaptureFixture[str], actor: str
) -> None:
    open_folder(api.settings.up.data_dir)
    await sql(database, "INSERT INTO audit (actor, action, result) VALUES (:actor, 'live.start', 'ok')", actor=actor)
    await users.erase(database, api.settings, "alice")
    assert "Erased: 0 files, 0 rooms" in capsys.readouterr().out
    assert await sql(database, "SELECT 1 FROM audit WHERE actor = :actor", actor=actor) == []


async def test_no_statement_of_an_erasure_has_a_parameter_for_each_row(
    database: Database, live_settings: Settings
) -> None:
    """Postgres takes 65,535 in one statement."""
    counts: list[int] = []

    def count(_1: object, _2: object, _3: object, parameters: object, *_: object) -> None:
        assert isinstance(parameters, dict)
        counts.append(len(parameters))

    most: list[int] = []
    for number in (1, 50):
        series = {"number": number, "prefix": f"{number}-"}
        room = "INSERT INTO rooms (room_id, owner_user_id, host_identity, origin, livekit_project)"
        await sql(
            database,
            f"{room} SELECT :prefix || n, 'alice', 'h', 'made', 'default' FROM generate_series(1, :number) n",
            **series,
        )
        gone = "INSERT INTO asset_tombstones (id, type, owner_user_id, ever_public, change_seq)"
        await sql(
            database,
            f"{gone} SELECT gen_random_uuid(), 'vrm', 'alice', true, nextval('asset_changes') FROM generate_series(1, :number)",
            number=number,
        )
        keys = [f"{number}-{n}" for n in range(number)]
        event.listen(database.engine.sync_engine, "before_cursor_execute", count)
        async with database.transaction() as session:
            await of_assets.forget(session, "alice", "user:erased-0123456789abcdef")
            assert await of_live.erase(session, "alice") == (number, 0)
            await ledger.uploads_of(session, keys)
            await ledger.forget_erased(session, keys)
            await finding_writer.erase(session, [], keys)
        event.remove(database.engine.sync_engine, "before_cursor_execute", count)
        most.append(max(counts))
    assert most[0] == most[1] < 10
    assert (await sql(database, "SELECT count(*) FROM retired_names"))[0][0] == 51


async def test_what_is_others_and_only_looks_like_the_users_stays(api: Api, database: Database) -> None:
    open_folder(api.settings.up.data_dir)
    for room in ("a", "bob"):
        await make_room(api, room, "42")
    await make_room(api, "42", "bob")
    others = [
        ("alerts.deliver", {"message_id": 42}, None),
        ("live.remove_revoked", {"room_id": "42"}, None),
        ("operations.apply_suspension", {"user_id": "bob"}, None),
        ("operations.apply_suspension", {"user_id": "user:42"}, None),
        ("assets.hash_object", {"asset_id": "1", "object_key": "42"}, "assets.hash_object:team:42"),
        ("assets.hash_object", {"asset_id": "a", "object_key": "2"}, "assets.hash_object:bob"),
        ("assets.recheck", {"asset_ids": ["42", "a"]}, None),
    ]
    theirs = [
        ("live.remove_revoked", {"room_id": "bob"}, None),
        ("assets.patrol_now", {"dry_run": True, "requested_by": "user:42"}, None),
        ("assets.hash_object", {"asset_id": "1", "object_key": "2"}, "assets.hash_object:42"),
    ]
    tomorrow = datetime.now(UTC) + timedelta(1)
    async with database.transaction() as session:
        for task, args, turn in (*others, *theirs):
            await jobs.enqueue(session, task, args, turn=turn, at=tomorrow)
        for key, title in (("of_others", "bob2: youtube is off the air"), ("of_bob", "bob: youtube is off the air")):
            await raise_alert(session, key=key, code="c", severity="info", title=title, body="A word of a room, bob")
            await resolve_alert(session, key)
        await raise_alert(session, key="a", code="a", severity="info", title="a: bob", body="Missing:\nvrm/Bob.vrm")
    waiting = "SELECT task_name, args, lock FROM procrastinate_jobs WHERE scheduled_at > now() + interval '1 hour' ORDER BY id"
    assert len(await sql(database, waiting)) == len(others) + len(theirs)
    await users.erase(database, api.settings, "42")
    assert [tuple(row) for row in await sql(database, waiting)] == others
    assert [key for (key,) in await sql(database, "SELECT key FROM alerts ORDER BY id")] == ["of_others", "a"]
    titles = [title for (title,) in await sql(database, "SELECT title FROM alert_messages ORDER BY id")]
    of_others = "bob2: youtube is off the air"
    assert titles == [of_others, f"Recovered: {of_others}", "a: bob"]


async def test_a_broadcast_and_running_jobs_end_before_anything_is_deleted(
    api: Api, database: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasure, "PATIENCE", 0.0)
    await make_room(api, ROOM, CANARY)
    await save(api, user=CANARY)
    await go_live(api, CANARY, room_id=ROOM)
    with pytest.raises(Conflict, match=r"^1 broadcasts have not ended yet"):
        await users.erase(database, api.settings, CANARY)
    assert await sql(database, "SELECT wanted FROM broadcasts") == [("off_air",)]
    assert len(await sql(database, "SELECT 1 FROM rooms, destinations")) == 1
    await sql(database, "UPDATE broadcasts SET ended_at = now()")
    await sql(database, "UPDATE procrastinate_jobs SET status = 'doing' WHERE task_name = :task", task=suspension.APPLY)
    with pytest.raises(Conflict, match="jobs of the user are running still"):
        await users.erase(database, api.settings, CANARY)
    assert len(await sql(database, "SELECT 1 FROM rooms, destinations")) == 1
    await sql(database, "UPDATE procrastinate_jobs SET status = 'succeeded' WHERE status = 'doing'")
    await erase(api, database, capsys)
    assert await places_of(database, CANARY) == set()


def test_the_command_asks_before_it_erases(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUTAI_DATABASE_URL", settings.database.url.get_secret_value())
    monkeypatch.setenv("BUTAI_S3_ENDPOINT", settings.store.endpoint)
    erased: list[str] = []

    async def instead(_database: Database, _settings: Settings, user: str) -> None:
        erased.append(user)

    monkeypatch.setattr(users, "erase", instead)
    refused = CliRunner().invoke(app, ["erase-user", "alice"], input="n\n")
    assert refused.exit_code == 1 and "Delete everything of 'alice' for good?" in refused.output and erased == []
    assert CliRunner().invoke(app, ["erase-user", "alice", "--yes"]).exit_code == 0 and erased == ["alice"]


async def test_the_command_writes_no_name_of_the_users_while_livekit_is_away(api: Api, database: Database) -> None:
    open_folder(api.settings.up.data_dir)
    await make_room(api, ROOM, CANARY)
    away = {
        "LIVEKIT_URL": f"ws://127.0.0.1:{free_port()}",
        "LIVEKIT_API_KEY": "devkey",
        "LIVEKIT_API_SECRET": SECRET,
        "BUTAI_SECRET_KEY": "ab" * 32,
    }
    done = await command("erase-user", CANARY, "--yes", env=environment(api.settings, **away))
    assert done.returncode == 0, done.stderr
    assert "room.removal_pending" in done.stderr and "user.erased" in done.stderr
    assert "1 rooms" in done.stdout and CANARY not in done.stdout + done.stderr
    assert await places_of(database, CANARY) == set()
