"""What webhooks change in the tables, and whom they wake: ingresses, egress events, hints, several projects, retention."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from procrastinate import App
from pydantic import SecretStr

from butai.config import LiveKitSettings, LiveSettings, Settings
from butai.database import Database
from butai.errors import WebhookRefused
from butai.live.projects import Projects
from butai.live.stream_keys import Sealer
from butai.live.tasks import LEAST_DAYS, SWEEP_BATCH
from butai.live.webhooks.intake import Intake, sealed_for
from butai.live.webhooks.payload import TIMELINE
from butai.web.metrics import Metrics
from butai.worker import make_app
from tests.conftest import Api, serving
from tests.fakes.livekit_egress import StandIn
from tests.live_api import ROOM, go_live, make_room, save, sql
from tests.unit.test_livekit_webhooks import recorded
from tests.webhooks import KEY, SECRET, encoded, event, joined, send, send_all, sign

TOKYO = "canary-tokyo-secret-of-32-letters"


@pytest.fixture
async def webhook_settings(live_settings: Settings, tmp_path: Path) -> AsyncIterator[Settings]:
    """Two projects, whose keys have one name, at a LiveKit each."""
    file = tmp_path / "projects.json"
    async with StandIn(key=KEY, secret=SECRET) as default, StandIn(key=KEY, secret=TOKYO) as tokyo:
        file.write_text(json.dumps({"tokyo": {"url": tokyo.url, "keys": [{"api_key": KEY, "api_secret": TOKYO}]}}))
        livekit = LiveKitSettings(url=default.url, api_key=KEY, api_secret=SecretStr(SECRET))
        live = live_settings.live.model_copy(update={"livekit_projects_file": file})
        yield replace(live_settings, livekit=livekit, live=live)


@pytest.fixture
async def api(webhook_settings: Settings) -> AsyncIterator[Api]:
    async with serving(webhook_settings) as running:
        yield running


async def told(database: Database) -> list[Any]:
    return await sql(
        database,
        "SELECT event, broadcast_id::text, output_id::text, platform, attempt, detail FROM live_events "
        "WHERE actor = 'service:livekit' ORDER BY id",
    )


async def test_a_project_speaks_of_its_own_rooms_alone(api: Api, database: Database) -> None:
    await make_room(api)
    await make_room(api, "in-tokyo")
    await sql(database, "UPDATE rooms SET livekit_project = 'tokyo' WHERE room_id = 'in-tokyo'")
    for room in (ROOM, "in-tokyo"):
        for secret in (SECRET, TOKYO):
            body = encoded(event(room=room))
            assert (await send(api, body, sign(body, secret=secret)))[0] == 200
    rows = await sql(database, "SELECT project, room_id FROM livekit_webhooks ORDER BY received_at")
    assert [tuple(row) for row in rows] == [
        ("default", ROOM),
        ("tokyo", ROOM),
        ("default", "in-tokyo"),
        ("tokyo", "in-tokyo"),
    ]
    rooms = await sql(database, "SELECT room_id FROM live_events WHERE actor = 'service:livekit' ORDER BY id")
    assert [row.room_id for row in rooms] == [ROOM, "in-tokyo"]
    body = encoded(event())
    assert (await send(api, body, sign(body, "osaka", TOKYO)))[1]["reason"] == "unknown_key"


# Egress


async def test_an_egress_event_stands_at_its_output_also_when_the_room_is_on_air_anew(
    api: Api, database: Database
) -> None:
    await make_room(api)
    await save(api)
    first = await go_live(api)
    output = first["outputs"][0]["id"]
    await sql(database, _EGRESS, broadcast=first["session_id"], output=output, attempt=3)
    about = {"egressId": "EG_1", "roomName": ROOM, "status": "EGRESS_ACTIVE"}
    assert (await send(api, event("egress_updated", egressInfo=about)))[0] == 200
    await sql(database, "UPDATE broadcasts SET ended_at = now(), wanted = 'off_air'")
    second = await go_live(api)
    # A page of one's own: LiveKit names no room.
    ended = {"egressId": "EG_1", "status": "EGRESS_ABORTED", "errorCode": 412}
    assert (await send(api, event("egress_ended", egressInfo=ended)))[0] == 200
    strange = {"egressId": "EG_strange", "roomName": ROOM, "status": "EGRESS_STARTING"}
    assert (await send(api, event("egress_started", egressInfo=strange)))[0] == 200
    updated, last, stranger = await told(database)
    assert tuple(updated)[:5] == ("egress.updated", first["session_id"], output, "youtube", 3)
    assert tuple(last)[:5] == ("egress.ended", first["session_id"], output, "youtube", 3)
    assert (last.detail["status"], last.detail["error_code"]) == ("aborted", 412)
    assert tuple(stranger)[:5] == ("egress.started", second["session_id"], None, None, None)
    # Webhooks are hints: what the outputs are said to be is as before.
    states = await sql(database, "SELECT DISTINCT state FROM outputs")
    assert [row.state for row in states] == ["pending"]


async def test_an_egress_that_several_outputs_share_is_nobodys_in_particular(api: Api, database: Database) -> None:
    await make_room(api)
    for platform in ("youtube", "twitch"):
        await save(api, platform)
    begun = await go_live(api, platforms="both")
    for output in begun["outputs"]:
        await sql(database, _EGRESS, broadcast=begun["session_id"], output=output["id"], attempt=1)
    about = {"egressId": "EG_1", "roomName": ROOM}
    assert (await send(api, event("egress_started", egressInfo=about)))[0] == 200
    (one,) = await told(database)
    assert tuple(one)[:5] == ("egress.started", begun["session_id"], None, None, None)


_EGRESS = (
    "INSERT INTO livekit_egresses (id, project, room_id, broadcast_id, output_id, attempt, egress_id) "
    f"VALUES (gen_random_uuid(), 'default', '{ROOM}', :broadcast, :output, :attempt, 'EG_1')"
)


# Ingress


async def test_an_ingress_follows_its_newest_event_whatever_order_they_come_in(api: Api, database: Database) -> None:
    await make_room(api)
    await sql(
        database,
        "INSERT INTO ingresses (ingress_id, room_id, project, kind, identity, url, sealed_key, key_fingerprint) "
        f"VALUES ('IN_1', '{ROOM}', 'default', 'rtmp', 'obs', 'u', '', '')",
    )
    now = time.time()

    def of(name: str, status: str, at: float, **more: Any) -> dict[str, Any]:
        state = {"status": status, "updatedAt": str(int((now + at) * 1e9))} | more
        return event(name, ingressInfo={"ingressId": "IN_1", "roomName": ROOM, "state": state})

    async def state() -> tuple[str, str | None]:
        ((found, error),) = await sql(database, "SELECT state, error FROM ingresses")
        return found, error

    # The first word counts even if LiveKit's clock is behind ours.
    assert (await send(api, of("ingress_started", "ENDPOINT_BUFFERING", -30)))[0] == 200
    assert await state() == ("buffering", None)
    assert (await send(api, of("ingress_started", "ENDPOINT_PUBLISHING", 1)))[0] == 200
    assert (await send(api, of("ingress_started", "ENDPOINT_BUFFERING", 0.5)))[0] == 200
    assert await state() == ("publishing", None)
    broken = of("ingress_ended", "ENDPOINT_ERROR", 3, error="no data from rtmp://h.example/x/secret-key")
    many = [of("ingress_ended", "ENDPOINT_COMPLETE", 2), broken, of("ingress_started", "ENDPOINT_PUBLISHING", 1.5)]
    assert await send_all(api, many) == [200] * 3
    assert await state() == ("error", "no data from rtmp://h.example/x/[redacted]")
    # Another project's LiveKit has no say.
    body = encoded(of("ingress_ended", "ENDPOINT_COMPLETE", 9))
    assert (await send(api, body, sign(body, secret=TOKYO)))[0] == 200
    assert (await state())[0] == "error"
    assert [row.event for row in await told(database)].count("ingress.started") == 4


# Hints and order


async def test_a_webhook_wakes_with_a_hint_once_for_each_thing(api: Api, database: Database) -> None:
    await make_room(api)
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        await connection.execute("LISTEN butai_livekit")
        said = joined("EG_1", "participant_left", kind="EGRESS")
        assert (await send(api, said))[0] == (await send(api, said))[0] == 200
        assert (await send(api, event(room="elsewhere")))[0] == 200
        track = joined("host", "track_unpublished") | {"track": {"sid": "TR_1"}}
        assert (await send(api, track))[0] == (await send(api, event("room_finished")))[0] == 200
        hints: list[dict[str, Any]] = [
            json.loads(notice.payload) async for notice in connection.notifies(timeout=10, stop_after=3)
        ]
    about = {"project": "default", "room_id": ROOM}
    assert hints == [
        about | {"event": "participant_left", "subject": "EG_1", "identity": "EG_1"},
        about | {"event": "track_unpublished", "subject": "TR_1", "identity": "host"},
        about | {"event": "room_finished", "subject": None, "identity": None},
    ]


async def test_ids_grow_in_the_order_of_commits_whoever_writes(api: Api, database: Database) -> None:
    """A webhook waits for the broadcast's row while another transaction writes events of it, and numbers its own after those."""
    await make_room(api)
    await save(api)
    session = (await go_live(api))["session_id"]
    async with await psycopg.AsyncConnection.connect(database.url) as other:
        await other.execute("SELECT 1 FROM broadcasts WHERE id = %s FOR NO KEY UPDATE", [session])
        await other.execute(
            "INSERT INTO live_events (room_id, broadcast_id, event) VALUES (%s, %s, 'theirs')", [ROOM, session]
        )
        waiting = asyncio.create_task(send(api, joined("guest")))
        await _until(
            database, "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        assert not waiting.done()
        await other.execute(
            "INSERT INTO live_events (room_id, broadcast_id, event) VALUES (%s, %s, 'theirs too')", [ROOM, session]
        )
    assert (await waiting)[0] == 200
    rows = await sql(database, "SELECT event FROM live_events ORDER BY id DESC LIMIT 3")
    assert [row.event for row in rows] == ["participant.joined", "theirs too", "theirs"]


async def test_two_processes_and_a_host_get_in_nobodys_way(webhook_settings: Settings, database: Database) -> None:
    rooms = [f"room-{number}" for number in range(20)]
    async with serving(webhook_settings) as one, serving(webhook_settings) as two:
        await save(one)
        for room in rooms:
            await make_room(one, room)
        there = [joined("guest", room=room) for room in rooms * 5]
        back = [joined("guest", room=room) for room in reversed(rooms * 5)]
        shows = [go_live(two, room_id=room) for room in rooms[:10]]
        first, second, *_ = await asyncio.gather(
            send_all(one, there + back[:50]), send_all(two, back + there[50:]), asyncio.gather(*shows)
        )
    assert set(first + second) == {200}
    ids = {said["id"] for said in there + back}
    ((kept, events),) = await sql(
        database,
        "SELECT (SELECT count(*) FROM livekit_webhooks), (SELECT count(*) FROM live_events WHERE actor = 'service:livekit')",
    )
    assert (kept, events) == (len(ids), len(ids))


async def _until(database: Database, question: str) -> None:
    async with asyncio.timeout(60):
        while not await sql(database, question):
            await asyncio.sleep(0.02)


# What is kept


async def test_a_body_opens_for_its_own_webhook_and_is_not_kept_in_clear(
    api: Api, webhook_settings: Settings, database: Database
) -> None:
    one, two = encoded(joined("guest", name="舞台")), encoded(event())
    assert (await send(api, one))[0] == (await send(api, two))[0] == 200
    rows = await sql(database, "SELECT id, sealed_body FROM livekit_webhooks ORDER BY received_at")
    sealer = Sealer(webhook_settings.live)
    for row, body in zip(rows, (one, two), strict=True):
        assert sealer.open(bytes(row.sealed_body), sealed_for(row.id)).encode() == body
        assert b"turnPassword" not in bytes(row.sealed_body)


async def test_without_a_key_to_seal_with_nothing_of_the_body_is_kept(
    webhook_settings: Settings, database: Database
) -> None:
    live = webhook_settings.live.model_copy(update={"secret_key": SecretStr("")})
    async with serving(replace(webhook_settings, live=live)) as api:
        assert (await send(api, event()))[0] == 200
    ((body,),) = await sql(database, "SELECT sealed_body FROM livekit_webhooks")
    assert bytes(body) == b""


@pytest.mark.parametrize("days", [7.0, 0.0])
async def test_webhooks_are_swept_after_their_days_and_never_within_the_hour(
    webhook_settings: Settings, database: Database, run_jobs: Callable[..., Awaitable[None]], days: float
) -> None:
    count = SWEEP_BATCH + 10
    kept_for = max(days, LEAST_DAYS)
    await sql(
        database,
        "INSERT INTO livekit_webhooks (id, project, event, created_at, received_at, sealed_body) "
        "SELECT 'old-' || n, 'default', 'x', now(), now() - make_interval(secs => :old), ''::bytea "
        "FROM generate_series(1, :count) n UNION ALL "
        "SELECT 'new', 'default', 'x', now(), now() - make_interval(secs => :new), ''::bytea",
        old=kept_for * 86400 + 60,
        new=kept_for * 86400 - 60,
        count=count,
    )
    await _sweep(webhook_settings.live.model_copy(update={"webhook_days": days}), database)
    assert [row.id for row in await sql(database, "SELECT id FROM livekit_webhooks")] == ["new"]


async def _sweep(live: LiveSettings, database: Database) -> None:
    """As the worker does, with the worker's own app."""

    class Library:
        def __init__(self) -> None:
            self.database = database

    app: App = make_app(database.url)
    assert {one.task.name for one in app.periodic_registry.periodic_tasks.values()} >= {"live.sweep_webhooks"}
    app.periodic_registry.periodic_tasks.clear()
    async with app.open_async():
        await app.tasks["live.sweep_webhooks"].defer_async(timestamp=0)
        await app.run_worker_async(
            wait=False,
            additional_context={"library": Library(), "live": live},
            install_signal_handlers=False,
            delete_jobs="successful",
        )
    assert await sql(database, "SELECT status FROM procrastinate_jobs") == []


# What LiveKit really sent


async def test_recorded_webhooks_are_taken_at_their_time_and_told(
    webhook_settings: Settings, database: Database
) -> None:
    """All of them, twice, with the clock as it was; then they are too old."""
    await sql(database, "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES ('r1', 'alice', 'host')")
    livekit = LiveKitSettings(
        url="ws://127.0.0.1:9", api_key="devkey", api_secret=SecretStr("secretsecretsecretsecretsecretsecret")
    )
    now = 0.0
    projects = Projects(livekit, LiveSettings())
    async with Intake(database, projects, Sealer(webhook_settings.live), Metrics(), lambda: now) as intake:
        everything = list(recorded())
        for _ in range(2):
            for _, _, body, authorization in everything:
                now = float(json.loads(body)["createdAt"]) + 1
                await intake.take(intake.sender(authorization.encode()), body)
        now += 3600
        for _, _, body, authorization in everything[:5]:
            with pytest.raises(WebhookRefused):
                await intake.take(intake.sender(authorization.encode()), body)
    rows = await sql(database, "SELECT event, detail FROM live_events ORDER BY id")
    ids = {json.loads(body)["id"] for _, _, body, _ in everything}
    assert len(rows) == len(ids)
    assert {row.event for row in rows} == {TIMELINE[name] for _, name, _, _ in everything}
    assert all("engine" in row.detail for row in rows if row.detail.get("identity", "").startswith("EG_"))
