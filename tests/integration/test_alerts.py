"""Alerts, from what went wrong to a real HTTP endpoint that Apprise posts to; and that its URL is written nowhere."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

import msgspec
import psycopg
import pytest
import structlog
from psycopg.rows import dict_row
from pydantic import SecretStr

from butai import log
from butai.alerts.delivery import AlertNotDelivered, deliver, services
from butai.alerts.rules import apply_rules
from butai.alerts.schemas import AlertsOut
from butai.alerts.service import raise_alert, resolve_alert
from butai.assets.patrol.run import Patrol
from butai.assets.storage.client import Store
from butai.cli.alerts import send_test
from butai.config import AlertSettings, LogSettings, Settings
from butai.database import Database
from butai.identity.api_keys import create_api_key
from tests import files
from tests.conftest import Api
from tests.fakes.store_proxy import StoreProxy
from tests.patrols import CANARY, Hooks


@contextlib.asynccontextmanager
async def _connected(database: Database) -> AsyncGenerator[psycopg.AsyncConnection[Any]]:
    async with await psycopg.AsyncConnection.connect(database.url, autocommit=True) as connection:
        yield connection


async def rows(database: Database, statement: str, *values: Any) -> list[dict[str, Any]]:
    async with _connected(database) as connection:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(statement.encode(), values)
        return await cursor.fetchall() if cursor.description else []


async def everything_kept(database: Database) -> str:
    """Both tables, and the jobs, as text."""
    found = await rows(
        database,
        """SELECT to_jsonb(x)::text AS kept FROM alerts x UNION ALL SELECT to_jsonb(x)::text FROM alert_messages x
           UNION ALL SELECT to_jsonb(x)::text FROM procrastinate_jobs x""",
    )
    return "\n".join(row["kept"] for row in found)


def alerts(*urls: str, **more: Any) -> AlertSettings:
    return AlertSettings(urls=SecretStr(" ".join(urls)), **more)


async def raised(database: Database, key: str = "thing_broken", title: str = "A thing is broken") -> int:
    """Raises an alert; the number of its message."""
    async with database.transaction() as session:
        await raise_alert(session, key=key, code=key, severity="failure", title=title, body="Look at it.")
    return (await rows(database, "SELECT max(id) AS id FROM alert_messages"))[0]["id"]


async def message(database: Database, message_id: int) -> dict[str, Any]:
    return (await rows(database, "SELECT * FROM alert_messages WHERE id = %s", message_id))[0]


async def test_a_message_reaches_every_url_once(database: Database, hooks: Hooks) -> None:
    settings = alerts(hooks.url("a"), hooks.url("b"))
    message_id = await raised(database)
    await deliver(database, settings, message_id)
    await deliver(database, settings, message_id)
    assert hooks.taken_by("a") == hooks.taken_by("b") == ["A thing is broken"]
    assert hooks.got[0][1]["message"] == "Look at it."
    assert hooks.got[0][1]["type"] == "failure"
    row = await message(database, message_id)
    assert row["delivered_at"] is not None
    assert row["attempts"] == 1
    assert row["error"] is None
    assert len(set(row["delivered_to"])) == 2


async def test_only_the_url_that_failed_is_asked_again(database: Database, hooks: Hooks) -> None:
    settings = alerts(hooks.url("good"), hooks.url("bad"))
    hooks.answers["bad"] = 500
    message_id = await raised(database)
    with pytest.raises(AlertNotDelivered) as caught:
        await deliver(database, settings, message_id)
    assert CANARY not in str(caught.value)
    assert any(body["answered"] == 500 for _, body in hooks.got)
    row = await message(database, message_id)
    assert row["error"] == "json: refused"
    assert row["delivered_at"] is None
    assert len(row["delivered_to"]) == 1
    hooks.answers.clear()
    await deliver(database, settings, message_id)
    assert hooks.taken_by("good") == hooks.taken_by("bad") == ["A thing is broken"]
    row = await message(database, message_id)
    assert (row["attempts"], row["error"]) == (2, None)
    assert row["delivered_at"] is not None


async def test_no_url_sends_nothing_and_asks_for_no_retry(database: Database, hooks: Hooks) -> None:
    message_id = await raised(database)
    await deliver(database, alerts(), message_id)
    row = await message(database, message_id)
    assert (row["attempts"], row["delivered_at"], row["delivered_to"]) == (0, None, [])
    assert hooks.got == []


async def test_a_hundred_raises_are_one_message_and_the_recovery_another(database: Database, hooks: Hooks) -> None:
    message_id = 0
    for _ in range(100):
        message_id = await raised(database)
    assert (await rows(database, "SELECT count FROM alerts"))[0]["count"] == 100
    async with database.transaction() as session:
        assert await resolve_alert(session, "thing_broken", "It works.")
        assert not await resolve_alert(session, "thing_broken", "It works.")
    found = await rows(database, "SELECT id, kind FROM alert_messages ORDER BY id")
    assert [row["kind"] for row in found] == ["raised", "recovered"]
    assert found[0]["id"] == message_id
    for row in found:
        await deliver(database, alerts(hooks.url("a")), row["id"])
    assert hooks.taken_by("a") == ["A thing is broken", "Recovered: A thing is broken"]


@pytest.fixture
def logging_for_real() -> Iterator[None]:
    """As a process of ours sets it up, and as the tests have it afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    # No secret is known by value: what keeps the lines clean is that nothing is written.
    log.configure(LogSettings(level="debug"))
    yield
    structlog.reset_defaults()
    root.handlers[:] = before[0]
    root.setLevel(before[1])


async def test_the_url_is_written_nowhere(
    database: Database,
    hooks: Hooks,
    settings: Settings,
    capsys: pytest.CaptureFixture[str],
    logging_for_real: None,
) -> None:
    urls = alerts(hooks.url("bad"), f"json://127.0.0.1:1/{CANARY}-closed", f"{CANARY}-no-scheme", f"nosuch://{CANARY}")
    hooks.answers["bad"] = 500
    message_id = await raised(database)
    with pytest.raises(AlertNotDelivered):
        await deliver(database, replace(settings, alerts=urls).alerts, message_id)
    assert [path for path, _ in hooks.got] == [f"/{CANARY}-bad"]
    written = capsys.readouterr()
    assert "alert.not_delivered" in written.err
    assert CANARY not in written.err + written.out
    assert CANARY not in await everything_kept(database)
    assert CANARY not in repr(services(urls))
    error = (await message(database, message_id))["error"]
    assert error == "json: refused; json: refused; unreadable URL: unknown; unreadable URL: unknown"


def test_urls_are_parted_at_spaces_and_commas_but_not_within_one() -> None:
    found = services(AlertSettings(urls=SecretStr("json://a/1,json://b/2, json://c/x,y\n json://a/1 ")))
    assert [one.name for one in found] == ["json"] * 3


async def watched(database: Database, settings: AlertSettings | None = None) -> list[tuple[str, bool]]:
    """What is open or closed after one more look."""
    async with database.transaction() as session:
        await apply_rules(session, settings or AlertSettings())
    found = await rows(database, "SELECT key, resolved_at IS NULL AS open FROM alerts ORDER BY id")
    return [(row["key"], row["open"]) for row in found]


_ASSET = """INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status, visibility,
                                ever_public, object_key, change_seq, created_at)
            VALUES (gen_random_uuid(), 'vrm', 'vrm/a.vrm', 'vrm/a.vrm', 'vrm/a', 'a', 'model/gltf-binary', 1, 'ready',
                    'public', true, 'o', 0, now() - interval '3 hours')"""


async def test_a_patrol_that_does_not_come(database: Database) -> None:
    assert await watched(database) == []
    await rows(database, _ASSET)
    assert await watched(database) == [("patrol_stale", True)]
    await rows(
        database,
        "INSERT INTO patrol_runs (kind, dry_run, state, ended_at) VALUES ('scheduled', false, 'finished', now())",
    )
    assert await watched(database) == [("patrol_stale", False)]


async def test_uploads_that_fail_for_our_reasons(database: Database) -> None:
    fail = """INSERT INTO asset_events (asset_id, event, to_status, attempt, error_code, at)
              SELECT gen_random_uuid(), 'upload_failed', 'failed', 1, %s, now() - %s::interval FROM generate_series(1, %s)"""
    await rows(database, fail, "glb_invalid", "1 minute", 50)
    await rows(database, fail, "store_timeout", "1 minute", 4)
    assert await watched(database) == []
    await rows(database, fail, "store_timeout", "2 minutes", 1)
    assert await watched(database) == [("upload_failures:store_timeout", True)]
    await rows(database, "UPDATE asset_events SET at = at - interval '30 minutes'")
    assert await watched(database) == [("upload_failures:store_timeout", True)]
    await rows(database, "UPDATE asset_events SET at = at - interval '30 minutes'")
    assert await watched(database) == [("upload_failures:store_timeout", False)]


async def test_from_uploads_that_the_store_refuses_to_the_operator_s_phone(
    api: Api, database: Database, hooks: Hooks, proxy: StoreProxy, run_jobs: Any
) -> None:
    told = replace(api.settings, alerts=alerts(hooks.url("phone")))
    fault = proxy.fault("PUT", status=403, code="AccessDenied")
    answers = [await api.upload("alice", f"vrm/{number}.vrm", files.vrm(number)) for number in range(5)]
    assert fault.met >= 5
    assert {body["error"]["code"] for _, body in answers} == {"store_access_denied"}
    # A file that is none is its sender's own business.
    proxy.heal()
    for number in range(9):
        assert (await api.upload("alice", f"vrm/bad{number}.vrm", b"MZ"))[0] == 422
    for _ in range(2):
        await run_jobs("alerts.watch", settings=told)
    assert hooks.taken_by("phone") == ["5 uploads failed within 15 minutes: store_access_denied"]
    await rows(database, "UPDATE asset_events SET at = at - interval '2 hours'")
    await run_jobs("alerts.watch", settings=told)
    assert hooks.taken_by("phone")[1:] == ["Recovered: 5 uploads failed within 15 minutes: store_access_denied"]


async def test_outputs_that_gave_up_and_engines_that_are_away(database: Database) -> None:
    await rows(
        database,
        "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES ('stage', 'alice', 'host')",
    )
    await rows(
        database,
        """INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress)
           VALUES (gen_random_uuid(), 'stage', 'host', 'on_air', '720p30', 60, 'end', 'relay')""",
    )
    known = {
        row["column_name"]
        for row in await rows(
            database,
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'outputs' AND is_nullable = 'NO' "
            "AND column_default IS NULL",
        )
    }
    values = {
        "id": "gen_random_uuid()",
        "broadcast_id": "(SELECT id FROM broadcasts)",
        "platform": "'youtube'",
        "ingest_url": "'rtmp://x/y'",
        "state": "'failed'",
        "wanted": "'on'",
    }
    for name in known - set(values):
        kind = (
            await rows(
                database,
                "SELECT data_type FROM information_schema.columns WHERE table_name = 'outputs' AND column_name = %s",
                name,
            )
        )[0]["data_type"]
        values[name] = {"text": "'x'", "bytea": "'x'", "uuid": "gen_random_uuid()"}.get(kind, "'{}'")
    names = ", ".join([*values, "error_code", "error_cause"])
    await rows(
        database,
        f"INSERT INTO outputs ({names}) SELECT {', '.join(values.values())}, 'retries_exhausted', 'key_rejected'",
    )
    await rows(
        database,
        "INSERT INTO livekit_projects (name, failing_since, error_code) VALUES ('default', now() - interval '1 minute', 'x')",
    )
    found = dict(await watched(database))
    output = (await rows(database, "SELECT id FROM outputs"))[0]["id"]
    assert found == {f"live:{output}": True, "egress:default": True}
    told = (await rows(database, "SELECT title, body FROM alerts ORDER BY id"))[0]
    assert told["title"] == "stage: youtube is off the air"
    assert "key_rejected" in told["body"]
    await rows(database, "UPDATE outputs SET error_code = NULL, error_cause = NULL, state = 'live'")
    await rows(database, "UPDATE livekit_projects SET failing_since = NULL")
    assert set(dict(await watched(database)).values()) == {False}
    kinds = [row["kind"] for row in await rows(database, "SELECT kind FROM alert_messages ORDER BY id")]
    assert kinds == ["raised", "raised", "recovered", "recovered"]
    # A show that is over has not recovered.
    await rows(database, "UPDATE outputs SET error_code = 'retries_exhausted', state = 'failed'")
    await watched(database)
    await rows(database, "UPDATE broadcasts SET ended_at = now() - interval '1 hour'")
    assert (await watched(database))[-1] == (f"live:{output}", False)
    kinds = [row["kind"] for row in await rows(database, "SELECT kind FROM alert_messages ORDER BY id")]
    assert kinds[4:] == ["raised"]


async def test_from_a_lost_file_to_the_operator_s_phone(
    database: Database, hooks: Hooks, settings: Settings, run_jobs: Any
) -> None:
    told = replace(settings, alerts=alerts(hooks.url("phone")))
    await rows(database, _ASSET)
    async with Store(settings.store) as store:
        run = await Patrol(database, store, settings.patrol).run("asked", everything=True)
    assert (run.lost, run.found) == (1, 0)
    await run_jobs(settings=told)
    assert hooks.taken_by("phone") == ["Patrol: 1 file lost"]
    assert "vrm/a.vrm" in hooks.got[0][1]["message"]


async def test_operators_read_them_and_others_do_not(api: Api, database: Database, run_jobs: Any, hooks: Hooks) -> None:
    _, key = await create_api_key(database, "root", ["user", "operator"], "")
    await raised(database)
    status, body = await api.call("GET", "/api/alerts?open=true", headers={"X-API-Key": key})
    assert status == 200, body
    assert [(one["code"], one["notified"]) for one in body["alerts"]] == [("thing_broken", None)]
    shown = msgspec.convert(body, AlertsOut, strict=False)
    assert (shown.next, shown.alerts[0].resolved_at, shown.alerts[0].count) == (None, None, 1)
    for name, old in (("opened_at", "openedAt"), ("seen_at", "seenAt"), ("resolved_at", "resolvedAt")):
        assert body["alerts"][0][name] == body["alerts"][0][old], "the old name stays for one version"
    assert (await api.call("GET", "/api/alerts", "alice"))[0] == 403
    assert (await api.call("POST", "/api/alerts/test", headers={"X-API-Key": key}))[0] == 202
    await run_jobs(settings=replace(api.settings, alerts=alerts(hooks.url("x"))))
    assert hooks.taken_by("x") == ["A thing is broken", "Butai: a test message"]


async def test_pages_of_alerts_show_each_once(api: Api, database: Database) -> None:
    _, key = await create_api_key(database, "root", ["user", "operator"], "")
    async with database.transaction() as session:
        for number in range(5):
            await raise_alert(session, key=str(number), code="x", severity="info", title="x", body="")
    seen: list[str] = []
    before = ""
    while True:
        _, body = await api.call("GET", f"/api/alerts?limit=2{before}", headers={"X-API-Key": key})
        seen += [one["key"] for one in body["alerts"]]
        assert body["next"] == body["nextBefore"], "the old name stays for one version"
        if body["next"] is None:
            break
        before = f"&before={body['next']}"
    assert seen == ["4", "3", "2", "1", "0"]


@pytest.mark.parametrize("healthy", [True, False])
async def test_the_command_says_how_each_took_it(
    hooks: Hooks, healthy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    hooks.answers["one"] = 200 if healthy else 500
    assert await send_test(alerts(hooks.url("one"), hooks.url("two"))) == (0 if healthy else 1)
    assert await send_test(alerts()) == 1
    written = capsys.readouterr()
    assert written.out.startswith("json: delivered" if healthy else "json: not delivered")
    assert CANARY not in written.out + written.err
