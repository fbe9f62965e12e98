"""LiveKit's webhooks over HTTP: what is believed, what is kept, what stands in the timeline, and what never comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from livekit import api as livekit_api
from pydantic import SecretStr

from butai.config import DatabaseSettings, LiveKitSettings, Settings
from butai.database import Database
from butai.embedded.postgres import EmbeddedPostgres
from tests.conftest import Api, serving
from tests.fakes.livekit_egress import StandIn
from tests.live_api import ROOM, go_live, make_room, save, sql
from tests.webhooks import KEY, SECRET, encoded, event, joined, send, send_all, sign


@pytest.fixture
async def webhook_settings(live_settings: Settings) -> AsyncIterator[Settings]:
    async with StandIn(key=KEY, secret=SECRET) as standin:
        livekit = LiveKitSettings(url=standin.url, api_key=KEY, api_secret=SecretStr(SECRET))
        yield replace(live_settings, livekit=livekit)


@pytest.fixture
async def api(webhook_settings: Settings) -> AsyncIterator[Api]:
    async with serving(webhook_settings) as running:
        yield running


async def told(database: Database, room: str = ROOM) -> list[Any]:
    return await sql(
        database,
        "SELECT event, broadcast_id, actor, detail, at FROM live_events WHERE room_id = :room AND actor = 'service:livekit' "
        "ORDER BY id",
        room=room,
    )


async def kept(database: Database) -> list[Any]:
    return await sql(database, "SELECT id, project, event, room_id, subject, sealed_body FROM livekit_webhooks")


# What is believed


async def test_a_webhook_is_kept_and_told_in_the_timeline_of_the_broadcast(api: Api, database: Database) -> None:
    await make_room(api)
    await save(api)
    status, _ = await send(api, event("room_started"))
    assert status == 200
    session = (await go_live(api))["session_id"]
    assert (await send(api, joined("guest", kind="AGENT")))[0] == 200
    assert (await send(api, joined("guest", "participant_left", disconnectReason="CLIENT_INITIATED")))[0] == 200
    track = {"sid": "TR_1", "type": "VIDEO", "name": "stage", "source": "CAMERA"}
    assert (await send(api, joined("guest", "track_published") | {"track": track}))[0] == 200

    before, *during = await told(database)
    assert (before.event, before.broadcast_id, before.detail.keys()) == ("room.started", None, {"created_at"})
    assert [(row.event, str(row.broadcast_id)) for row in during] == [
        ("participant.joined", session),
        ("participant.left", session),
        ("track.published", session),
    ]
    facts = [{name: value for name, value in row.detail.items() if name != "created_at"} for row in during]
    assert facts == [
        {"identity": "guest", "kind": "agent"},
        {"identity": "guest", "reason": "client_initiated"},
        {"identity": "guest", "track": "TR_1", "kind": "video", "name": "stage", "source": "camera"},
    ]
    status, shown = await api.call("GET", f"/api/live/broadcasts/{session}/timeline", "alice")
    assert status == 200
    assert [one["event"] for one in shown["data"] if one["actor"] == "service:livekit"] == [row.event for row in during]
    # Guests come and go: the status leaves room for what its host must see.
    status, shown = await api.call("GET", f"/api/live/status?room_id={ROOM}", "alice")
    assert (status, [one for one in shown["timeline"] if one["actor"] == "service:livekit"]) == (200, [])


async def test_the_engines_own_participants_are_marked(api: Api, database: Database) -> None:
    await make_room(api)
    relay = "egress-019a0000-0000-7000-8000-000000000001"
    for said in (joined("EG_abc", kind="EGRESS"), joined(relay), joined("egress-fan"), joined("EG_cosplay fan")):
        assert (await send(api, said))[0] == 200
    assert [(row.detail["identity"], "engine" in row.detail) for row in await told(database)] == [
        ("EG_abc", True),
        (relay, True),
        ("egress-fan", False),
        ("EG_cosplay fan", False),
    ]


async def test_what_is_not_proved_is_refused_with_its_reason_and_counted(api: Api, database: Database) -> None:
    await make_room(api)
    body = encoded(event())
    now = time.time()
    access = livekit_api.AccessToken(KEY, SECRET).with_identity("host").to_jwt()
    changed = body.replace(b"room_started", b"room_finished")
    cases: list[tuple[str, bytes, str]] = [
        ("no_token", body, ""),
        ("malformed", body, "Bearer nonsense"),
        ("malformed", body, sign(body, head={"alg": "none"})),
        ("malformed", body, sign(body, head={"alg": "RS256"})),
        ("unknown_key", body, sign(body, key="somebody")),
        ("signature", body, sign(body, secret="x" * 32)),
        ("body", changed, sign(body)),
        ("body", body, access),
        ("expired", body, sign(body, at=now - 400)),
        ("expired", body, sign(body, at=now - 900, exp=int(now) + 900)),
        ("expired", body, sign(body, exp=None)),
        ("expired", body, sign(body, nbf=None, iat=None)),
        ("too_early", body, sign(body, at=now + 120)),
    ]
    for reason, sent, authorization in cases:
        status, problem = await send(api, sent, authorization)
        assert (status, problem["code"], problem["reason"]) == (401, "webhook_refused", reason), authorization
    assert await kept(database) == []
    metrics = (await api.call("GET", "/metrics"))[1].decode()
    for reason in {case[0] for case in cases}:
        count = sum(case[0] == reason for case in cases)
        assert f'butai_livekit_webhooks_refused_total{{reason="{reason}"}} {count}.0' in metrics
    # Clocks may differ by a minute, either way.
    for at in (now - 345, now + 45):
        assert (await send(api, body, sign(body, at=at)))[0] == 200
    assert (await send(api, encoded(event()), ""))[0] == 401
    said = encoded(event())
    assert (await send(api, said, f"Bearer {sign(said)}"))[0] == 200
    assert 'butai_livekit_webhooks_total{event="room_started"} 3.0' in (await api.call("GET", "/metrics"))[1].decode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'{"event":"room_started"}', b'{"event":"","id":"x","createdAt":"1"}',
     b'{"event":"x","id":"","createdAt":"1"}', b'{"event":"x","id":"y","createdAt":"soon"}',
     b'{"event":"x","id":"y","createdAt":"99999999999999"}', b'{"event":7,"id":"y","createdAt":"1"}',
     b'{"event":"x","id":"y","createdAt":"1","room":7}', b'{"event":"x","id":"y","createdAt":"1","z":"\xff"}',
     b'{"event":"x","id":"y\\ud800","createdAt":"1"}', b'{"event":"x","id":"y","createdAt":"1"}trailing',
     b"[" * 10_000],
)  # fmt: skip
async def test_rubbish_is_400_however_well_it_is_signed(api: Api, database: Database, body: bytes) -> None:
    status, problem = await send(api, body)
    assert (status, problem["code"]) == (400, "invalid_request")
    assert await kept(database) == []


async def test_a_giant_is_refused_before_it_is_read(api: Api) -> None:
    giant = encoded(event(filler="x" * 300_000))
    status, problem = await send(api, giant)
    assert (status, problem["code"]) == (413, "body_too_large")

    async def in_pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(giant), 4096):
            yield giant[start : start + 4096]

    headers = {"Authorization": sign(giant)}
    async with api.client.post(f"{api.url}/api/live/webhook", data=in_pieces(), headers=headers) as answer:
        assert (answer.status, (await answer.json())["code"]) == (413, "body_too_large")
    large = encoded(event(filler="x" * 200_000))
    assert (await send(api, large))[0] == 200


async def test_a_double_is_answered_200_and_told_once(api: Api, database: Database) -> None:
    await make_room(api)
    said = event("room_finished")
    assert set(await send_all(api, [said] * 20)) == {200}
    assert (await send(api, said))[0] == 200
    assert len(await told(database)) == len(await kept(database)) == 1


async def test_five_hundred_at_once_are_all_kept_in_few_transactions(api: Api, database: Database) -> None:
    await make_room(api)
    many = [joined(f"guest-{number}") for number in range(500)]
    assert set(await send_all(api, many)) == {200}
    assert {row.id for row in await kept(database)} == {said["id"] for said in many}
    rows = await sql(
        database, "SELECT id, detail->>'identity' AS who, xmin::text AS wrote FROM live_events ORDER BY id"
    )
    assert {row.who for row in rows} == {f"guest-{number}" for number in range(500)}
    assert len({row.wrote for row in rows}) < 250


async def test_an_unknown_room_is_kept_and_told_nobody(api: Api, database: Database) -> None:
    await make_room(api)
    for said in (event(room="elsewhere"), event("sip_call_started", room=None), event("room_renamed")):
        assert (await send(api, said))[0] == 200
    assert sorted((row.event, row.room_id) for row in await kept(database)) == [
        ("room_renamed", ROOM),
        ("room_started", "elsewhere"),
        ("sip_call_started", None),
    ]
    assert await told(database) == [] == await told(database, "elsewhere")


@pytest.mark.slow
async def test_one_that_postgres_will_not_take_leaves_its_neighbours_alone(
    api: Api, database: Database, as_owner: Callable[[str], None]
) -> None:
    await make_room(api)
    as_owner(
        "CREATE FUNCTION choke() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "IF NEW.subject = 'poison' THEN RAISE 'no such thing'; END IF; RETURN NEW; END $$",
    )
    as_owner("CREATE TRIGGER choke BEFORE INSERT ON livekit_webhooks FOR EACH ROW EXECUTE FUNCTION choke()")
    identities = [f"guest-{number}" for number in range(9)] + ["poison"] + [f"late-{number}" for number in range(9)]
    statuses = await send_all(api, [joined(one) for one in identities])
    assert [status for one, status in zip(identities, statuses, strict=True) if one != "poison"] == [200] * 18
    assert statuses[9] == 500
    assert len(await told(database)) == 18


async def test_text_that_postgres_cannot_keep_is_kept_without_it(api: Api, database: Database) -> None:
    await make_room(api)
    assert (await send(api, joined("nul\x00nul 🎤 " + "x" * 1000)))[0] == 200
    (row,) = await told(database)
    assert row.detail["identity"].startswith("nul\ufffdnul 🎤 xxx") and len(row.detail["identity"]) == 256


async def test_the_event_has_livekits_time_when_it_came_late(api: Api, database: Database) -> None:
    await make_room(api)
    now = int(time.time())
    for age in (0, 25, 200, -3600):
        assert (await send(api, event(at=now - age)))[0] == 200
    fresh, late, very_late, future = await told(database)
    assert abs(fresh.at.timestamp() - now) < 5 and abs(future.at.timestamp() - now) < 5
    assert (late.at.timestamp(), very_late.at.timestamp()) == (now - 25, now - 200)
    assert very_late.detail["created_at"] == datetime.fromtimestamp(now - 200, UTC).isoformat()


# Without a database


async def test_without_a_database_it_is_503_and_the_same_webhook_is_taken_later(
    webhook_settings: Settings, database: Database, postgres: EmbeddedPostgres
) -> None:
    quick = DatabaseSettings(url=webhook_settings.database.url, connect_timeout=0.5)
    name = webhook_settings.database.url.get_secret_value().rpartition("/")[2]
    async with serving(replace(webhook_settings, database=quick)) as api:
        await make_room(api)
        said = event()
        # This connection stays, and ends all others.
        await sql(database, "SELECT 1")
        _limit_connections(postgres, name, 0)
        await _end_all_others(database)
        try:
            status, problem = await send(api, said)
            assert (status, problem["code"]) == (503, "database_unavailable")
            assert set(await send_all(api, [joined(f"{n}") for n in range(50)])) == {503}
        finally:
            _limit_connections(postgres, name, -1)
        async with asyncio.timeout(60):
            while (await send(api, said))[0] != 200:
                await asyncio.sleep(0.1)
    assert len(await told(database)) == 1


def _limit_connections(postgres: EmbeddedPostgres, name: str, most: int) -> None:
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" CONNECTION LIMIT {most}'.encode())


async def _end_all_others(database: Database) -> None:
    await sql(
        database,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
