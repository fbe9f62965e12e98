"""What operators see of all users: broadcasts, the audit trail as JSON and CSV, health; and that other users see none of it."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from livekit import api as livekit_api
from pydantic import SecretStr
from sqlalchemy import text

from butai.audit import export
from butai.config import LiveKitSettings, Settings
from butai.database import Database
from butai.live import stamps
from butai.live.stamps import Stamp
from butai.operations.health import PART_SECONDS
from tests.conftest import Api, serving
from tests.fakes.livekit_egress import StandIn
from tests.live_api import SECRET, bearer, go_live, make_room, save, sql
from tests.processes import free_port

ROOT = "root"
PATHS = ("/api/live/broadcasts/all", "/api/live/shows", "/api/audit", "/api/audit?format=csv", "/api/health")


@pytest.fixture
def settings_with_operator(live_settings: Settings) -> Settings:
    return replace(live_settings, identity=live_settings.identity.model_copy(update={"operators": (ROOT,)}))


@pytest.fixture
async def api(settings_with_operator: Settings) -> AsyncIterator[Api]:
    async with serving(settings_with_operator) as running:
        yield running


async def ask(api: Api, path: str, user: str = ROOT, **how: Any) -> Any:
    status, body = await api.call("GET", path, user, **how)
    assert status == 200, (path, status, body)
    return body


async def lines(api: Api, query: str = "") -> list[dict[str, str]]:
    """The trail's CSV, as a spreadsheet reads it."""
    raw = await ask(api, f"/api/audit?format=csv{query}")
    return list(csv.DictReader(io.StringIO(raw.decode(), newline="")))


@pytest.mark.parametrize("path", PATHS)
async def test_nobody_but_an_operator_sees_what_is_everybodys(api: Api, path: str) -> None:
    status, problem = await api.call("GET", path, "alice")
    assert (status, problem["code"]) == (403, "forbidden")
    status, problem = await api.call("GET", path)
    assert (status, problem["code"]) == (401, "auth_required")
    host = (await make_room(api))["host_token"]
    assert (await api.call("GET", path, headers=bearer(host)))[0] == 401


# Shows


async def two_shows(api: Api) -> tuple[str, str]:
    """alice's and bob's, both on air; the ids."""
    found: list[str] = []
    for user, room in (("alice", "studio-a"), ("bob", "studio-b")):
        await make_room(api, room, user)
        await save(api, user=user)
        found.append((await go_live(api, user, room_id=room))["session_id"])
    return found[0], found[1]


async def test_an_operator_sees_the_shows_of_all_rooms_page_by_page(api: Api, database: Database) -> None:
    first, second = await two_shows(api)
    await sql(database, "UPDATE broadcasts SET ended_at = now(), end_code = 'source_ended' WHERE id = :id", id=first)

    async def ids(query: str) -> list[str]:
        return [one["session_id"] for one in (await ask(api, f"/api/live/broadcasts/all?{query}"))["data"]]

    assert await ids("") == [second, first]
    assert await ids("state=on_air") == [second]
    assert await ids("state=over") == [first]
    assert await ids("owner=alice") == [first]
    assert await ids("room_id=studio-b") == [second]
    assert await ids(f"session_id={first}") == [first]
    assert await ids("room_id=studio-b&owner=alice") == []
    assert await ask(api, "/api/live/shows") == await ask(api, "/api/live/broadcasts/all"), "the path of version 0.1"
    page = await ask(api, "/api/live/broadcasts/all?limit=1")
    assert [one["session_id"] for one in page["data"]] == [second] and page["next_before"] == second
    page = await ask(api, f"/api/live/broadcasts/all?limit=1&before={page['next_before']}")
    assert [one["session_id"] for one in page["data"]] == [first] and page["next_before"] is None
    show = page["data"][0]
    assert (show["owner"], show["room_id"], show["end"]["code"]) == ("alice", "studio-a", "source_ended")
    assert [output["platform"] for output in show["outputs"]] == ["youtube"]
    events = await ask(api, f"/api/live/broadcasts/{second}/timeline")
    assert events["data"][0]["event"] == "broadcast.started"


async def test_what_an_operator_does_to_anothers_show_is_said_to_be_an_operators(api: Api) -> None:
    first, second = await two_shows(api)
    output = (await ask(api, f"/api/live/status?session_id={first}"))["outputs"][0]["id"]
    for path, body in (
        (f"/api/live/outputs/{output}/retry", None),
        (f"/api/live/outputs/{output}/stop", None),
        ("/api/live/stop", {"session_id": first}),
    ):
        assert (await api.call("POST", path, ROOT, json=body))[0] == 200
    assert (await api.call("POST", "/api/live/stop", "bob", json={"session_id": second}))[0] == 200
    assert (await api.call("POST", "/api/live/stop", "bob", json={"session_id": first}))[0] == 403
    acts = [
        (one["actor"], one["action"], one["result"], one["detail"].get("as_operator", False))
        for one in (await ask(api, "/api/audit?action=live.&limit=5"))["entries"][::-1]
    ]
    assert acts == [
        (f"user:{ROOT}", "live.output_retry", "ok", True),
        (f"user:{ROOT}", "live.output_stop", "ok", True),
        (f"user:{ROOT}", "live.stop", "ok", True),
        ("user:bob", "live.stop", "ok", False),
        ("user:bob", "live.stop", "refused", False),
    ]
    told = (await ask(api, f"/api/live/broadcasts/{first}/timeline", "alice"))["data"]
    assert ("broadcast.stop_asked", f"user:{ROOT}") in [(one["event"], one["actor"]) for one in told]


# Audit


async def test_users_hosts_and_the_service_have_no_names_in_common(api: Api) -> None:
    for room, user in (("w", "worker"), ("l", "livekit"), ("h", "host:x")):
        made = await make_room(api, room, user)
        await save(api, user=user)
        wanted = {"room_id": room, "platforms": "youtube"}
        assert (await api.call("POST", "/api/live/start", user, json=wanted))[0] == 201
        stop = {"room_id": room}
        assert (await api.call("POST", "/api/live/stop", headers=bearer(made["host_token"]), json=stop))[0] == 200
        acts = [(one["actor"], one["action"]) for one in (await ask(api, f"/api/audit?room_id={room}"))["entries"]]
        host = f"host:{made['host_identity']}"
        assert acts == [
            (host, "live.stop"),
            (f"user:{user}", "live.start"),
            (f"user:{user}", "live.room_made"),
        ]
        found = (await ask(api, f"/api/live/status?room_id={room}", user))["timeline"]
        assert {(one["actor"], one["event"]) for one in found} == {
            (host, "broadcast.stop_asked"),
            (f"user:{user}", "broadcast.started"),
        }
    found = await ask(api, f"/api/audit?{urlencode({'actor': 'user:host:x'})}")
    assert {one["subject"] for one in found["entries"]} >= {"room:h"}
    assert (await ask(api, f"/api/audit?{urlencode({'actor': 'host:x'})}"))["entries"] == []


async def entry(database: Database, **values: Any) -> None:
    wanted: dict[str, Any] = {
        "at": datetime.now(UTC),
        "actor": "alice",
        "action": "asset.trash",
        "subject": "asset:1",
        "result": "ok",
        "error_code": None,
        "user_agent": None,
        "detail": "{}",
    }
    await sql(
        database,
        "INSERT INTO audit (at, actor, action, subject, result, error_code, user_agent, detail) VALUES "
        "(:at, :actor, :action, :subject, :result, :error_code, :user_agent, CAST(:detail AS jsonb))",
        **(wanted | values),
    )


async def test_the_trail_has_all_that_was_done_and_is_narrowed_by_each_of_its_parts(
    api: Api, database: Database
) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC)
    await entry(database, at=day, action="asset.trash", actor="alice", subject="asset:1")
    await entry(database, at=day + timedelta(hours=1), action="jobs.retry", actor="root", subject="job:7")
    await entry(database, at=day + timedelta(hours=2), action="live.stop", actor="bob", subject="room:studio b")
    await entry(
        database,
        at=day + timedelta(hours=3),
        action="live.start",
        subject="room:studio b",
        result="refused",
        error_code="not_host",
    )
    await entry(database, at=day + timedelta(hours=4), action="alerts.test", actor="root", subject=None)

    async def actions(query: str) -> list[str]:
        found = [one["action"] for one in (await ask(api, f"/api/audit?{query}"))["entries"]]
        assert found == [one["action"] for one in await lines(api, f"&{query}")]
        return found

    everything = ["alerts.test", "live.start", "live.stop", "jobs.retry", "asset.trash"]
    assert await actions("") == everything
    assert await actions("action=live.") == ["live.start", "live.stop"]
    assert await actions("action=live.stop") == ["live.stop"]
    assert await actions("actor=root") == ["alerts.test", "jobs.retry"]
    assert await actions("result=refused") == ["live.start"]
    assert await actions("room_id=studio%20b") == ["live.start", "live.stop"]
    assert await actions("subject=job:7") == ["jobs.retry"]
    assert await actions("from=2026-03-01T01:00:00Z&to=2026-03-01T03:00:00Z") == ["live.stop", "jobs.retry"]
    assert await actions("actor=alice&result=ok") == ["asset.trash"]
    assert await actions("actor=nobody") == []
    seen: list[str] = []
    before = ""
    while True:
        page = await ask(api, f"/api/audit?limit=2{before}")
        seen += [one["action"] for one in page["entries"]]
        if page["nextBefore"] is None:
            break
        before = f"&before={page['nextBefore']}"
    assert seen == everything
    for wrong in ("action=LIVE", "from=0.5", "result=no", "limit=0", "room_id=a&subject=room:a", "before=0"):
        status, problem = await api.call("GET", f"/api/audit?{wrong}", ROOT)
        assert (status, problem["code"]) == (400, "invalid_request"), wrong


async def test_no_cell_of_the_trails_csv_is_a_formula_and_every_cell_comes_back_as_it_was(
    api: Api, database: Database
) -> None:
    cruel = 'x", "y"\r\n=1+1,舞台'
    await entry(database, actor="=HYPERLINK(1)", user_agent="@SUM(A1)", subject="+1", detail=json.dumps({"why": cruel}))
    await entry(database, actor="-2+3", user_agent="\t=1", subject="\uff1d1", detail="{}")
    await entry(database, actor=cruel, user_agent="Mozilla/5.0 (X11; Linux)", subject="room:舞台")
    third, second, first = await lines(api)
    assert (first["actor"], first["user_agent"], first["subject"]) == ("'=HYPERLINK(1)", "'@SUM(A1)", "'+1")
    assert json.loads(first["detail"]) == {"why": cruel}
    assert (second["actor"], second["user_agent"], second["subject"]) == ("'-2+3", "'\t=1", "'\uff1d1")
    assert (third["actor"], third["room_id"], third["user_agent"]) == (cruel, "舞台", "Mozilla/5.0 (X11; Linux)")
    async with api.client.get(f"{api.url}/api/audit", headers=api.cookie(ROOT) | {"Accept": "text/csv"}) as answer:
        assert answer.headers["Content-Disposition"] == 'attachment; filename="audit.csv"'
        assert answer.content_type == "text/csv" and "no-store" in answer.headers["Cache-Control"]


async def test_a_long_trail_streams_whole_and_no_longer_than_its_bound(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await sql(
        database,
        "INSERT INTO audit (actor, action, result) SELECT 'n' || n, 'asset.edit', 'ok' FROM generate_series(1, 2345) n",
    )
    found = await lines(api)
    assert [one["actor"] for one in found] == [f"n{n}" for n in range(2345, 0, -1)]
    assert len(await lines(api, "&limit=7")) == 7
    monkeypatch.setattr(export, "MOST_LINES", 1500)
    bounded = await lines(api)
    assert [one["actor"] for one in bounded] == [f"n{n}" for n in range(2345, 845, -1)]
    behind = await lines(api, f"&before={bounded[-1]['id']}")
    assert [one["actor"] for one in behind] == [f"n{n}" for n in range(845, 0, -1)]


# Health


async def parts(api: Api) -> dict[str, dict[str, Any]]:
    return {part["name"]: part for part in (await ask(api, "/api/health"))["parts"]}


async def alive(database: Database) -> None:
    """A worker, a controller and a patrol that have just been heard of."""
    await sql(database, "INSERT INTO procrastinate_workers DEFAULT VALUES")
    await sql(database, "INSERT INTO controllers (id, host) VALUES ('c1', 'here')")
    await sql(
        database,
        "INSERT INTO patrol_runs (kind, dry_run, state, ended_at) VALUES ('scheduled', false, 'finished', now())",
    )


async def test_health_says_what_is_well_and_counts_what_there_is(
    settings_with_operator: Settings, database: Database
) -> None:
    async with StandIn(key="devkey", secret=SECRET, speed=50) as livekit:
        settings = replace(
            settings_with_operator,
            livekit=LiveKitSettings(url=livekit.url, api_key="devkey", api_secret=SecretStr(SECRET)),
        )
        async with serving(settings) as api:
            await alive(database)
            await two_shows(api)
            await sql(
                database, "UPDATE outputs SET state = 'live' WHERE id = (SELECT min(id::text)::uuid FROM outputs)"
            )
            body = await ask(api, "/api/health")
    assert body["status"] == "ok", body
    assert {(part["name"], part["state"]) for part in body["parts"]} == {
        (name, "ok") for name in ("database", "store", "livekit", "worker", "controller", "patrol")
    }
    figures = body["figures"]
    wanted = {
        "broadcasts_on_air": 2,
        "outputs_live": 1,
        "outputs_in_trouble": 0,
        "jobs_failed": 0,
        "alerts_open": 0,
        "uploads": 0,
    }
    assert {name: figures[name] for name in wanted} == wanted
    assert figures["requests_in_flight"] == 1 and figures["requests_per_second"] > 0 and figures["assets"] == {}


async def test_health_says_which_part_is_not_well_and_why(settings_with_operator: Settings, database: Database) -> None:
    await sql(database, "INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 minute')")
    await sql(database, "INSERT INTO controllers (id, host, seen_at) VALUES ('c1', 'x', now() - interval '1 minute')")
    away = settings_with_operator.livekit.model_copy(update={"url": f"ws://127.0.0.1:{free_port()}"})
    async with serving(replace(settings_with_operator, livekit=away)) as api:
        found = await parts(api)
        status = (await ask(api, "/api/health"))["status"]
    assert {name: (part["state"], part["code"]) for name, part in found.items()} == {
        "database": ("ok", None),
        "store": ("ok", None),
        "livekit": ("down", "livekit_unreachable"),
        "worker": ("down", "no_worker"),
        "controller": ("down", "no_controller"),
        "patrol": ("ok", None),
    }
    assert 55 < found["worker"]["detail"]["seconds"] < 90
    assert status == "degraded"


async def test_broadcasts_that_wait_for_a_controller_with_room_are_a_warning(api: Api, database: Database) -> None:
    await alive(database)
    await two_shows(api)
    await sql(database, "UPDATE broadcasts SET waiting_since = now() WHERE room_id = 'studio-a'")
    controller = (await parts(api))["controller"]
    costs = json.dumps({"relay 720p30": 0.34})
    await sql(database, "UPDATE controllers SET capacity = 1.5, costs = CAST(:costs AS jsonb)", costs=costs)
    await sql(database, "UPDATE broadcasts SET lease_holder = 'c1'")
    text = (await api.call("GET", "/metrics"))[1].decode()
    assert (controller["state"], controller["code"]) == ("warning", "no_capacity")
    assert 'butai_controller_capacity_cores{controller="c1"} 1.5' in text
    assert 'butai_controller_used_cores{controller="c1"} 0.68' in text
    assert "butai_broadcasts_without_capacity 1.0" in text


@asynccontextmanager
async def silent_server() -> AsyncGenerator[tuple[int, list[bytes]]]:
    """Takes connections and never says a word. Its port, and what it was asked."""
    asked: list[bytes] = []
    release = asyncio.Event()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.read(200))
        await release.wait()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        release.set()
        server.close()
        await server.wait_closed()


async def test_a_livekit_that_hangs_holds_up_neither_health_nor_the_other_parts(
    settings_with_operator: Settings, database: Database
) -> None:
    async with silent_server() as (port, asked):
        livekit = LiveKitSettings(url=f"ws://127.0.0.1:{port}", api_key="devkey", api_secret=SecretStr(SECRET))
        async with serving(replace(settings_with_operator, livekit=livekit)) as api:
            await alive(database)
            began = time.monotonic()
            looks = await asyncio.gather(*(ask(api, "/api/health") for _ in range(5)))
            taken = time.monotonic() - began
    assert asked and b"ListRooms" in asked[0], "the fault did not happen"
    assert len(asked) == 1, "five that look at once are one look"
    assert taken > PART_SECONDS * 0.9, "the fault did not happen"
    for look in looks:
        states = {part["name"]: part["state"] for part in look["parts"]}
        assert states.pop("livekit") == "down" and set(states.values()) == {"ok"}
        assert look["status"] == "degraded" and look["figures"]["broadcasts_on_air"] == 0


async def test_a_table_that_is_locked_holds_up_its_figures_alone(api: Api, database: Database) -> None:
    await alive(database)
    async with database.engine.connect() as connection, connection.begin():
        await connection.execute(text("LOCK TABLE findings IN ACCESS EXCLUSIVE MODE"))
        began = time.monotonic()
        body = await ask(api, "/api/health")
        taken = time.monotonic() - began
    assert taken > PART_SECONDS * 0.9, "the fault did not happen"
    assert body["figures"]["broadcasts_on_air"] is None and body["figures"]["assets"] == {}
    states = {part["name"]: part["state"] for part in body["parts"]}
    assert (states["database"], states["store"], states["worker"]) == ("ok", "ok", "ok")
    async with asyncio.timeout(60):
        # The look that saw it is kept for a second.
        while (await ask(api, "/api/health"))["figures"]["broadcasts_on_air"] is None:
            await asyncio.sleep(0.1)


# Watching by invitation


async def invitation(api: Api, role: str = "viewer") -> str:
    status, made = await api.call("POST", "/api/live/rooms/studio-1/tokens", "alice", json={"role": role})
    assert status == 200, made
    return made["token"]


def claims_of(token: str) -> livekit_api.access_token.Claims:
    return livekit_api.TokenVerifier("devkey", SECRET).verify(token)


async def test_whoever_has_an_invitation_gets_a_way_of_their_own_to_watch_and_no_more(api: Api) -> None:
    made = await make_room(api)
    shown = await invitation(api)
    found: list[dict[str, Any]] = []
    for _ in range(2):
        status, answer = await api.call("POST", "/api/live/watch", json={"invitation": shown})
        assert status == 200, answer
        found.append(answer)
    one, other = found
    assert one["identity"] != other["identity"] and one["host_identity"] == made["host_identity"]
    assert (one["room_id"], one["role"], one["livekit_url"]) == ("studio-1", "viewer", made["livekit_url"])
    grants = claims_of(one["token"]).video
    assert grants is not None
    assert (grants.room, grants.can_subscribe, grants.can_publish, grants.can_publish_data) == (
        "studio-1",
        True,
        False,
        False,
    )
    assert not grants.room_admin


async def signed_invitation(
    api: Api,
    *,
    secret: str = SECRET,
    room: str = "studio-1",
    seconds: float = 3600,
    stamped: bool = True,
    **grants: Any,
) -> str:
    """An invitation as the service makes it, but for what is named."""
    status, made = await api.call("POST", "/api/live/rooms/studio-1/tokens", "alice", json={"role": "viewer"})
    assert status == 200, made
    stamp = Stamp("invitation", room, "x", 1, time.time() + seconds, made["invitation_id"])
    token = livekit_api.AccessToken("devkey", secret).with_identity("x").with_ttl(timedelta(seconds=seconds))
    wanted: dict[str, Any] = {"room_join": True, "can_publish": False, "can_subscribe": True, **grants}
    if stamped:
        text = stamps.sign(stamp, secret)
        token = token.with_attributes({stamps.ATTRIBUTE: text})
        token = token.with_room_config(livekit_api.RoomConfiguration(tags=stamps.tags(text)))
    return token.with_grants(livekit_api.VideoGrants(room=room, **wanted)).to_jwt()


async def test_what_is_no_invitation_opens_no_room(api: Api) -> None:
    made = await make_room(api)
    good = await signed_invitation(api)
    assert (await api.call("POST", "/api/live/watch", json={"invitation": good}))[0] == 200
    for wrong in (
        made["host_token"],
        await invitation(api, "guest"),
        await signed_invitation(api, secret="x" * 32),
        await signed_invitation(api, room="elsewhere"),
        await signed_invitation(api, seconds=-3600),
        await signed_invitation(api, room_join=False),
        await signed_invitation(api, can_subscribe=False),
        await signed_invitation(api, stamped=False),
        "nonsense",
    ):
        status, problem = await api.call("POST", "/api/live/watch", json={"invitation": wrong})
        assert (status, problem["code"]) == (403, "invitation_invalid")


async def test_a_way_to_watch_ends_with_the_invitation_it_came_from(api: Api) -> None:
    await make_room(api)
    shown = await signed_invitation(api, seconds=300)
    ends = jwt.decode(shown, options={"verify_signature": False})["exp"]
    for _ in range(3):
        status, answer = await api.call("POST", "/api/live/watch", json={"invitation": shown})
        assert status == 200
        # Whole seconds.
        assert jwt.decode(answer["token"], options={"verify_signature": False})["exp"] <= ends + 1
        # None of them is an invitation, of any length.
        status, problem = await api.call("POST", "/api/live/watch", json={"invitation": answer["token"]})
        assert (status, problem["code"]) == (403, "invitation_invalid")
