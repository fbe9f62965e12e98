"""An erased user: nothing bears their name any more, nobody is given what was theirs, and it can be done twice."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from butai import jobs
from butai.assets.storage.client import BytesPayload, Store
from butai.audit import Origin
from butai.cli import users
from butai.cli.__main__ import app
from butai.config import Settings
from butai.database import Database
from butai.errors import Conflict, StoreUnavailable
from butai.identity import api_keys
from butai.identity.api_keys import create_api_key
from butai.operations import erasure, suspension
from butai.sign_in.codes import make_code, open_folder, take_code
from tests import files
from tests.conftest import Api, serving
from tests.integration.test_suspension import publish, with_operator
from tests.live_api import go_live, make_room, save, sql

CANARY = "erased-canary-5b1e"
ROOM = f"{CANARY}-room"
ROWS_GO = (
    *(
        "api_keys",
        "asset_checks",
        "asset_waveforms",
        "assets",
        "broadcasts",
        "destinations",
        "idempotency_keys",
        "ingresses",
    ),
    *("livekit_egresses", "livekit_webhooks", "output_metrics", "outputs", "resumable_pieces", "resumable_uploads"),
    *("room_invitations", "rooms", "suspended_users"),
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
    "alerts": "code severity",
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


async def do_everything(api: Api, database: Database, run_jobs: Callable[..., Any]) -> list[str]:
    """Acts of a user that leave something. Returns the ids of files."""
    made = [
        await publish(api, f"vrm/{CANARY}.vrm", CANARY),
        await publish(api, f"vrm/{CANARY}-2.vrm", CANARY, files.vrm(2)),
    ]
    for key, body in (
        (f"vrm/{CANARY}_thumb.png", files.png()),
        (f"vrm/{CANARY}_meta.json", json.dumps({"description": CANARY, "author": CANARY}).encode()),
    ):
        assert (await api.upload(CANARY, key, body))[0] == 200
    edit = {"display_name": CANARY, "description": CANARY, "tags": [CANARY]}
    assert (await api.call("PATCH", f"/api/assets/{made[0]}", CANARY, json=edit))[0] == 200
    # Refused, in the trash, purged, under way by tus and by a signed URL.
    assert (await api.upload(CANARY, f"vrm/{CANARY}-bad.vrm", b"nothing"))[0] == 422
    assert (await api.call("DELETE", f"/api/assets/{made[1]}", CANARY))[0] == 204
    gone = await publish(api, f"vrm/{CANARY}-gone.vrm", CANARY, files.vrm(3))
    assert (await api.call("DELETE", f"/api/assets/{gone}", CANARY))[0] == 204
    await sql(database, "UPDATE assets SET deleted_at = now() - interval '90 days' WHERE id = :id", id=gone)
    await run_jobs("assets.purge_trash", settings=api.settings)
    name = base64.b64encode(f"vrm/{CANARY}-tus.vrm".encode()).decode()
    begin = {
        **api.cookie(CANARY),
        "Tus-Resumable": "1.0.0",
        "Upload-Length": "5000",
        "Upload-Metadata": f"filename {name}",
    }
    async with api.client.post(f"{api.url}/api/assets/uploads", headers=begin) as answer:
        assert answer.status == 201
    signed = {"fileName": f"vrm/{CANARY}-signed.vrm", "fileType": "vrm", "size": 5000}
    assert (await api.call("POST", "/api/s3/presigned-url", CANARY, json=signed))[0] == 200
    # An imported object bears the name that it had in the bucket.
    imported = f"{api.settings.store.prefix}vrm/{CANARY}-old.vrm"
    async with Store(api.settings.store) as store:
        await store.put(imported, BytesPayload(files.vrm(2)), "model/gltf-binary")
    await sql(
        database,
        "INSERT INTO asset_objects (object_key, asset_id, origin, state, attempt) "
        "VALUES (:key, :id, 'import', 'current', 1)",
        key=imported,
        id=made[1],
    )
    await sql(database, "UPDATE assets SET object_key = :key WHERE id = :id", key=imported, id=made[1])
    # Going live.
    assert (await api.call("POST", "/api/live/rooms", CANARY, json={"room_id": ROOM}))[0] == 200
    token = {"role": "viewer", "name": CANARY}
    assert (await api.call("POST", f"/api/live/rooms/{ROOM}/tokens", CANARY, json=token))[0] == 200
    place = {"platform": "youtube", "stream_key": "k-123456", "ingest_url": "rtmp://127.0.0.1:9/live", "label": CANARY}
    assert (await api.call("POST", "/api/live/destinations", CANARY, json=place))[0] == 201
    start = {"room_id": ROOM, "platforms": "youtube"}
    headers = {"Idempotency-Key": "one"}
    assert (await api.call("POST", "/api/live/start", CANARY, json=start, headers=headers))[0] == 201
    assert (await api.call("POST", "/api/live/start", CANARY, json=start))[0] == 409
    await sql(
        database,
        """INSERT INTO livekit_webhooks (id, project, event, room_id, subject, created_at, sealed_body)
           VALUES ('EV_1', 'default', 'participant_joined', :room, :user, now(), '')""",
        room=ROOM,
        user=CANARY,
    )
    await sql(
        database,
        """INSERT INTO ingresses (room_id, project, kind, name, identity, state)
           VALUES (:room, 'default', 'rtmp', :user, :user, 'failed')""",
        room=ROOM,
        user=CANARY,
    )
    # What an operator leaves, and what names files and rooms to operators.
    await sql(
        database,
        "INSERT INTO patrol_runs (kind, dry_run, state, requested_by, ended_at) "
        "VALUES ('asked', false, 'finished', :user, now())",
        user=f"user:{CANARY}",
    )
    await sql(
        database,
        "INSERT INTO findings (kind, object_key, detail, resolution, resolved_at, resolved_by) "
        "VALUES ('mismatch', 'other', '{}', 'ignored', now(), :user)",
        user=f"user:{CANARY}",
    )
    await sql(
        database,
        "INSERT INTO findings (kind, object_key, asset_id, detail) "
        "VALUES ('mismatch', :key, :id, jsonb_build_object('s3_key', CAST(:key AS text)))",
        key=imported,
        id=made[1],
    )
    await sql(
        database,
        "INSERT INTO suspended_users (user_id, reason, suspended_by) VALUES ('x', 'r', :user)",
        user=f"user:{CANARY}",
    )
    await sql(
        database,
        "INSERT INTO alerts (key, code, severity, title, body) VALUES (:room, 'c', 'info', :room, :room)",
        room=f"room {ROOM} and vrm/{CANARY}.vrm",
    )
    await sql(
        database,
        "INSERT INTO alert_messages (kind, severity, title, body) VALUES ('digest', 'info', :room, :room)",
        room=f"room {ROOM} and vrm/{CANARY}.vrm",
    )
    await sql(
        database,
        "INSERT INTO live_events (room_id, event, actor, detail) VALUES ('other', 'e', :user, "
        "jsonb_build_object('by', CAST(:user AS text)))",
        user=f"user:{CANARY}",
    )
    async with database.transaction() as session:
        args = {"asset_id": made[1], "object_key": imported}
        await jobs.enqueue(
            session, "assets.decode", args, turn=f"assets.decode:{CANARY}", at=datetime.now(UTC) + timedelta(1)
        )
    await sql(
        database,
        "INSERT INTO job_failures (job_id, code, text) "
        "SELECT id, 'c', CAST(:user AS text) FROM procrastinate_jobs WHERE lock = 'assets.decode:' || CAST(:user AS text)",
        user=CANARY,
    )
    # The trail: an operator's act on an imported object, and counts of the user, of two hosts and of a stranger.
    await sql(
        database,
        "INSERT INTO audit (actor, action, subject, result, detail) VALUES ('user:op', 'finding.ignore', 'finding:1', 'ok', "
        "jsonb_build_object('object_key', CAST(:key AS text)))",
        key=imported,
    )
    for actor, room in ((f"host:{CANARY}", "other"), ("host:a", ROOM), ("host:b", ROOM), (f"user:{CANARY}", "other")):
        await sql(
            database,
            "INSERT INTO audit_counts (actor, action, subject, result, error_code, ip, user_agent, request_id, detail) "
            "VALUES (:actor, 'live.stop', :room, 'refused', 'not_host', '192.0.2.9', 'b', 'r', "
            "jsonb_build_object('user_id', CAST(:user AS text)))",
            actor=actor,
            room=f"room:{room}",
            user=CANARY,
        )
    await room_is_taken(api)
    # A key and a code; and an act of an operator on the user's file.
    await create_api_key(database, CANARY, ["user"], f"of {CANARY}")
    make_code(api.settings.up.data_dir, CANARY)
    assert (await api.call("POST", f"/api/operations/assets/{made[0]}/take_down", "op", json={"reason": CANARY}))[
        0
    ] == 204
    await sql(database, "UPDATE broadcasts SET ended_at = now()")
    return made


async def room_is_taken(api: Api, user: str = "bob") -> None:
    """Another user asks for the user's room, which is counted in the trail."""
    assert (await api.call("POST", "/api/live/rooms", user, json={"room_id": ROOM}))[1]["code"] == "room_taken"


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
