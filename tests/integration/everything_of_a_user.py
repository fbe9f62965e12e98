"""Does everything that leaves something of a user, under names that contain one word."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from butai import jobs
from butai.alerts.service import raise_alert, resolve_alert
from butai.assets.patrol.notifications import list_keys
from butai.assets.storage.client import BytesPayload, Store
from butai.database import Database
from butai.identity.api_keys import create_api_key
from butai.sign_in.codes import make_code
from tests import files
from tests.conftest import Api
from tests.integration.test_suspension import publish
from tests.live_api import sql

CANARY = "erased-canary-5b1e"
ROOM = f"{CANARY}-room"


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
    await sql(
        database,
        """INSERT INTO encoder_keys (id, room_id, label, key_hash, key_fingerprint, created_by, last_used_from)
           VALUES (gen_random_uuid(), :room, :user, '', '', :user, '192.0.2.7')""",
        room=ROOM,
        user=CANARY,
    )
    await sql(
        database,
        """INSERT INTO encoder_connections (key_id, id, ingest, address)
           SELECT id, gen_random_uuid(), 'machine:1:ab', '192.0.2.7' FROM encoder_keys""",
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
    async with database.transaction() as session:
        lost = {"code": "c", "severity": "info", "body": list_keys("Missing", [f"vrm/{CANARY}.vrm", "vrm/Bob.vrm"])}
        await raise_alert(session, key="lost", title="2 files lost by the store", **lost)
        off = {"code": "c", "severity": "info", "title": f"{ROOM}: youtube is off the air", "body": "b"}
        await raise_alert(session, key="live:1", **off)
        await resolve_alert(session, "live:1")
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
