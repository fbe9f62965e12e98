"""Webhooks between real processes: livekit-server sends them, `butai api` keeps them, SIGKILL loses none of those it took."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
import pytest
from livekit import api as livekit_api
from psycopg import sql as pg

from butai.config import Settings
from butai.embedded.livekit import EmbeddedLiveKit
from tests.canaries import leaks
from tests.fakes.livekit_egress import StandIn
from tests.live_api import make_room
from tests.processes import api_process, environment, free_port
from tests.studio_host import StudioHost
from tests.webhooks import KEY, PIECES, SECRET, TURN_PASSWORD, encoded, event, joined, send, sign

SEALED: dict[str, Any] = {"BUTAI_SECRET_KEY": "ab" * 32}


@pytest.fixture
async def keys() -> AsyncIterator[dict[str, Any]]:
    """The environment of a service whose LiveKit has no rooms and sends nothing by itself."""
    async with StandIn(key=KEY, secret=SECRET) as standin:
        yield {"LIVEKIT_URL": standin.url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="butai-webhooks-"))
    yield path
    shutil.rmtree(path)


def rows(settings: Settings, statement: str, *values: Any) -> list[Any]:
    with psycopg.connect(settings.database.url.get_secret_value()) as connection:
        return connection.execute(statement, values).fetchall()  # pyright: ignore[reportArgumentType]


async def until_told(settings: Settings, room: str, *wanted: str, seconds: float = 15) -> list[Any]:
    """The room's events of LiveKit's, once all of `wanted` are among them, as often as they are named."""
    async with asyncio.timeout(seconds):
        while True:
            found = rows(
                settings,
                "SELECT event, detail FROM live_events WHERE room_id = %s AND actor = 'service:livekit' ORDER BY id",
                room,
            )
            if Counter(wanted) <= Counter(name for name, _ in found):
                return found
            await asyncio.sleep(0.05)


async def test_a_real_livekit_tells_a_hosts_coming_and_going(settings: Settings, folder: Path) -> None:
    port = free_port()
    told_at = f"http://127.0.0.1:{port}/api/live/webhook"
    with EmbeddedLiveKit(folder / "livekit", webhooks=[told_at]) as server:
        there = server.livekit
        keys = {"LIVEKIT_URL": there.url, "LIVEKIT_API_KEY": there.api_key, "LIVEKIT_API_SECRET": there.api_secret}
        log = folder / "api.log"
        async with api_process(settings, log, port, **(SEALED | keys)) as (_, api):
            made = await make_room(api, "stage")
            await until_told(settings, "stage", "room.started")
            host = StudioHost(there.url, made["host_token"], 320, 180, 10)
            await host.start()
            try:
                await until_told(settings, "stage", "participant.joined", "track.published", "track.published")
            finally:
                await host.stop()
            await until_told(settings, "stage", "participant.left")
            async with livekit_api.LiveKitAPI(there.url, there.api_key, there.api_secret) as client:
                await client.room.delete_room(livekit_api.DeleteRoomRequest(room="stage"))
            found = await until_told(settings, "stage", "room.finished")
            metrics = (await api.call("GET", "/metrics"))[1].decode()
        names = [name for name, _ in found]
        assert names.count("room.started") == names.count("participant.joined") == names.count("room.finished") == 1
        assert names[0] == "room.started" and names[-1] == "room.finished"
        assert names.index("participant.joined") < names.index("participant.left")
        by_name = dict(found)
        assert by_name["participant.joined"]["identity"] == made["host_identity"]
        assert by_name["participant.left"]["reason"] == "client_initiated"
        published = [detail for name, detail in found if name == "track.published"]
        assert {(one["kind"], one["source"], one["name"]) for one in published} == {
            ("audio", "microphone", "tone-0"),
            ("video", "camera", "stage"),
        }
        assert "butai_livekit_webhooks_refused_total{" not in metrics
        # LiveKit itself says nothing of failure to send.
        assert "webhook" not in server.log_file.read_text()
        opened = printed(settings, "--room", "stage", **SEALED)
        assert {one["event"] for one in opened} >= {"room_started", "participant_left", "track_published"}
        started = next(one for one in opened if one["event"] == "room_started")
        assert started["body"]["room"]["turnPassword"] == "[redacted]"
        assert started["body"]["room"]["emptyTimeout"] == 12 * 3600
        leaked = leaks(
            {"api secret": there.api_secret}, {"log": log.read_bytes(), "printed": json.dumps(opened).encode()}
        )
        assert leaked == []


def printed(settings: Settings, *arguments: str, **more: str) -> list[dict[str, Any]]:
    """What `butai livekit webhooks` prints."""
    argv = [sys.executable, "-m", "butai.cli", "livekit", "webhooks", *arguments]
    ended = subprocess.run(
        argv, env=environment(settings, **more), capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def test_what_was_answered_200_survives_sigkill(settings: Settings, folder: Path, keys: dict[str, Any]) -> None:
    answered: list[str] = []
    asked = 0
    async with api_process(settings, folder / "api.log", **SEALED, **keys) as (child, api):
        await make_room(api)

        async def sender(client: aiohttp.ClientSession) -> None:
            nonlocal asked
            while True:
                said = joined("guest")
                body = encoded(said)
                asked += 1
                async with client.post(
                    f"{api.url}/api/live/webhook", data=body, headers={"Authorization": sign(body)}
                ) as answer:
                    assert answer.status == 200
                answered.append(said["id"])

        async def kill() -> None:
            async with asyncio.timeout(30):
                while len(answered) < 1500:
                    await asyncio.sleep(0.001)
            child.send_signal(signal.SIGKILL)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=64)) as client:
            ended = await asyncio.gather(kill(), *(sender(client) for _ in range(64)), return_exceptions=True)
        assert child.wait(5) == -signal.SIGKILL
        assert ended[0] is None and all(isinstance(one, aiohttp.ClientError) for one in ended[1:]), ended
    assert len(answered) >= 1500
    assert asked > len(answered), "it was killed while nothing was on its way"
    kept = {one for (one,) in rows(settings, "SELECT id FROM livekit_webhooks")}
    assert set(answered) <= kept
    assert len(rows(settings, "SELECT id FROM live_events WHERE actor = 'service:livekit'")) == len(kept)


async def test_a_stop_answers_what_it_took(settings: Settings, folder: Path, keys: dict[str, Any]) -> None:
    async with api_process(settings, folder / "api.log", **SEALED, **keys) as (child, api):
        await make_room(api)
        waiting = [asyncio.create_task(send(api, joined(f"guest-{number}"))) for number in range(80)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        child.send_signal(signal.SIGTERM)
        statuses = [one[0] for one in await asyncio.gather(*waiting, return_exceptions=True) if isinstance(one, tuple)]
        # uvicorn ends in good order, then by the signal it was sent.
        assert child.wait(20) == -signal.SIGTERM
    assert set(statuses) == {200}
    assert len(rows(settings, "SELECT 1 FROM livekit_webhooks")) >= len(statuses) > 0


STREAM_KEY = "canary-ingress-stream-key-71aa"
CANARIES = {
    "turn password": TURN_PASSWORD,
    "ingress key": STREAM_KEY,
    "pieces of a key": PIECES,
    "metadata": "canary-metadata-29f0",
    "api secret": SECRET,
}


async def test_secrets_in_a_body_are_nowhere_in_clear(settings: Settings, folder: Path, keys: dict[str, Any]) -> None:
    log = folder / "api.log"
    async with api_process(settings, log, **SEALED, **keys) as (_, api):
        await make_room(api)
        url = f"rtmp://a.example/live2/{{{PIECES}...{PIECES}}}"
        egress = {
            "egressId": "EG_1",
            "roomName": "studio-1",
            "status": "EGRESS_FAILED",
            "error": f"could not connect to {url}",
            "errorCode": 503,
            "streamResults": [{"url": url, "error": f"{url} refused"}],
        }
        ingress = {
            "ingressId": "IN_1",
            "roomName": "studio-1",
            "streamKey": STREAM_KEY,
            "url": f"rtmp://127.0.0.1:1935/x/{STREAM_KEY}",
            "state": {"status": "ENDPOINT_ERROR", "error": f"bad publish of {STREAM_KEY}", "updatedAt": "1"},
        }
        rows_before = (
            "INSERT INTO ingresses (ingress_id, room_id, project, kind, identity, url, sealed_key, key_fingerprint)"
        )
        with psycopg.connect(settings.database.url.get_secret_value()) as connection:
            connection.execute(rows_before + " VALUES ('IN_1', 'studio-1', 'default', 'rtmp', 'obs', 'u', '', '')")
        for said in (
            event("egress_ended", egressInfo=egress),
            event("ingress_ended", ingressInfo=ingress),
            joined("guest", metadata="canary-metadata-29f0", attributes={"key": "canary-metadata-29f0"}),
        ):
            assert (await send(api, said))[0] == 200
        # What goes wrong goes into logs and answers.
        wrong = encoded(event(secret=STREAM_KEY))
        refused = await send(api, wrong, sign(wrong, secret="y" * 32))
        broken = b'{"streamKey":"' + STREAM_KEY.encode()
        rubbish = await send(api, broken)
        assert (refused[0], rubbish[0]) == (401, 400)
        shown = await api.call("GET", "/api/live/rooms", "alice")
        outputs = {
            "answers": json.dumps([refused, rubbish, shown]).encode(),
            "metrics": (await api.call("GET", "/metrics"))[1],
            "printed": json.dumps(found := printed(settings, **SEALED)).encode(),
            "log": log.read_bytes(),
            **dump(settings),
        }
        assert len(found) == 3 and all(isinstance(one["body"], dict) for one in found)
    assert leaks(CANARIES, outputs) == []
    ((state, error),) = rows(settings, "SELECT state, error FROM ingresses")
    assert (state, error) == ("error", "bad publish of [redacted]")
    details = dict(rows(settings, "SELECT event, detail FROM live_events WHERE actor = 'service:livekit'"))
    assert details["egress.ended"].items() >= {"egress_id": "EG_1", "status": "failed", "error_code": 503}.items()
    assert details["ingress.ended"].items() >= {"ingress_id": "IN_1", "status": "error"}.items()


def dump(settings: Settings) -> dict[str, bytes]:
    """Every table, as text."""
    with psycopg.connect(settings.database.url.get_secret_value()) as connection:
        names = [name for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
        assert {"livekit_webhooks", "live_events", "ingresses"} <= set(names)
        return {
            name: "\n".join(
                row for (row,) in connection.execute(pg.SQL("SELECT t::text FROM {} t").format(pg.Identifier(name)))
            ).encode()
            for name in names
        }
