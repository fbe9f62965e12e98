"""The stream of events when things are not as they should be: a client that reads nothing, a right that ends, a Postgres
that does not tell."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from butai import api as api_module
from butai.config import Settings
from butai.database import Database
from butai.live.broadcasts import stream_routes
from butai.live.feed import Feed
from butai.web.uvicorn_limits import ending
from tests.conftest import Api, serving
from tests.live_api import ROOM, Listener, go_live, make_room, save, sql


@pytest.fixture
def feeds(monkeypatch: pytest.MonkeyPatch) -> list[Feed]:
    """The feed of each API that is started."""
    found: list[Feed] = []

    def feed(database: Database) -> Feed:
        found.append(Feed(database))
        return found[-1]

    monkeypatch.setattr(api_module, "Feed", feed)
    return found


@pytest.fixture
async def api(live_settings: Settings, feeds: list[Feed]) -> AsyncIterator[Api]:
    async with serving(live_settings) as running:
        yield running


async def on_air(api: Api) -> dict[str, Any]:
    await make_room(api)
    await save(api)
    return await go_live(api)


def watching(api: Api, **headers: str) -> Any:
    return api.client.get(f"{api.url}/api/live/events?room_id={ROOM}", headers=api.cookie("alice") | headers)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.02)


async def tell_much(database: Database) -> None:
    """More than all buffers between the service and a client hold."""
    await sql(
        database,
        "INSERT INTO live_events (room_id, broadcast_id, event, detail) "
        "SELECT room_id, id, 'test.long', jsonb_build_object('text', repeat('x', 60000)) "
        "FROM broadcasts, generate_series(1, 400)",
    )


async def test_a_client_that_reads_nothing_is_dropped(
    api: Api, database: Database, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_routes, "_SEND_TIMEOUT", 0.5)
    await on_air(api)
    path, cookie = f"/api/live/events?room_id={ROOM}", api.cookie("alice")["Cookie"]
    with socket.socket() as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        wire.connect(("127.0.0.1", int(api.url.rpartition(":")[2])))
        wire.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\n\r\n".encode())
        await eventually(lambda: feeds[0].watchers == 1)
        await tell_much(database)
        await eventually(lambda: feeds[0].watchers == 0)


@pytest.mark.slow
async def test_a_websocket_that_reads_nothing_is_dropped(
    api: Api, database: Database, feeds: list[Feed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_routes, "_SEND_TIMEOUT", 0.5)
    await on_air(api)
    url = f"{api.url}/api/live/events/ws?room_id={ROOM}"
    async with api.client.ws_connect(url, headers=api.cookie("alice"), autoclose=False) as wire:
        await wire.receive_json(timeout=60)
        connection = wire._response.connection
        assert connection is not None and connection.transport is not None
        connection.transport.pause_reading()
        await tell_much(database)
        await eventually(lambda: feeds[0].watchers == 0)


async def test_who_is_no_host_any_more_sees_no_more(
    api: Api, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_routes, "_PROVE_EACH", 0.2)
    await on_air(api)
    url = f"{api.url}/api/live/events/ws?room_id={ROOM}"
    async with watching(api) as answer, api.client.ws_connect(url, headers=api.cookie("alice")) as wire:
        await Listener(answer).next("status")
        await wire.receive_json(timeout=60)
        await sql(database, "UPDATE rooms SET owner_user_id = 'bob'")
        assert await asyncio.wait_for(answer.content.read(), 60) == b""
        assert (await wire.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
        assert wire.close_code == 1008


async def test_what_postgres_does_not_tell_is_found_all_the_same(
    api: Api, as_owner: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_routes, "_READ_EACH", 0.3)
    await on_air(api)
    async with watching(api) as answer:
        listener = Listener(answer)
        await listener.next("status")
        as_owner("ALTER TABLE live_events DISABLE TRIGGER live_events_tell")
        await api.call("POST", "/api/live/stop", "alice", json={"room_id": ROOM})
        assert (await listener.next("change"))[2]["event"]["event"] == "broadcast.stop_asked"


async def test_figures_come_while_something_is_on_air(api: Api, database: Database) -> None:
    begun = await on_air(api)
    output = begun["outputs"][0]["id"]
    async with watching(api) as answer:
        listener = Listener(answer)
        await listener.next("status")
        await sql(
            database,
            "INSERT INTO output_metrics (output_id, attempt, at, data) VALUES (:id, 1, now() + interval '1 minute', "
            """'{"bitrate_kbps": 2500, "fps": 30, "dropped_frames": 0, "uptime_s": 3}')""",
            id=output,
        )
        await sql(database, "UPDATE outputs SET state = 'live', attempt = 1, live_since = now()")
        await sql(
            database,
            "INSERT INTO live_events (room_id, broadcast_id, output_id, event, from_state, to_state) "
            "SELECT room_id, id, :id, 'output.accepted', 'starting', 'live' FROM broadcasts",
            id=output,
        )
        _, _, change = await listener.next("change")
        assert (change["event"]["to"], change["status"]["status"]) == ("live", "live")
        _, number, figures = await listener.next("metrics")
        assert number is None
        assert figures == {output: {"bitrate_kbps": 2500, "fps": 30, "dropped_frames": 0, "uptime_s": 3}}


async def test_silence_is_kept_alive(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_routes, "_KEEP_ALIVE", 0.3)
    await on_air(api)
    async with watching(api) as answer:
        await Listener(answer).next("status")
        assert await asyncio.wait_for(answer.content.readline(), 60) == b":\n"


async def test_a_room_that_was_never_on_air_can_be_watched(api: Api) -> None:
    await make_room(api)
    await save(api)
    async with watching(api) as answer:
        listener = Listener(answer)
        assert await listener.next() == ("status", None, None)
        begun = await go_live(api)
        kind, number, change = await listener.next()
        assert (kind, change["status"]["session_id"]) == ("change", begun["session_id"])
        assert number == change["event"]["id"]


async def test_a_number_of_another_installation_begins_anew(api: Api) -> None:
    await on_air(api)
    for number in (str(2**62), "-1", "x", "9" * 30):
        async with watching(api, **{"Last-Event-ID": number}) as answer:
            assert (await Listener(answer).next())[0] == "status"


async def test_every_event_comes_once_though_the_connection_breaks_again_and_again(
    api: Api, database: Database
) -> None:
    await on_air(api)
    seen: list[int] = []
    last = 0

    async def tell() -> None:
        for number in range(200):
            await sql(
                database,
                "INSERT INTO live_events (room_id, broadcast_id, event) SELECT room_id, id, :event FROM broadcasts",
                event=f"test.{number}",
            )

    telling = asyncio.create_task(tell())
    while len(seen) < 200:
        async with watching(api, **{"Last-Event-ID": str(last)}) as answer:
            listener = Listener(answer)
            for _ in range(7):
                if len(seen) == 200:
                    break
                kind, number, said = await listener.next()
                if kind == "change":
                    assert number is not None
                    last = number
                    if said["event"]["event"].startswith("test."):
                        seen.append(int(said["event"]["event"].removeprefix("test.")))
    await telling
    assert seen == list(range(200))


@pytest.mark.parametrize("query", ["room_id=%00", "room_id=a/b", "session_id=x", "after=x", "", "room_id=a%FF"])
async def test_a_websocket_that_asks_nonsense_is_refused(api: Api, query: str) -> None:
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await api.client.ws_connect(f"{api.url}/api/live/events/ws?{query}", headers=api.cookie("alice"))
    assert refused.value.status == 403


async def test_a_service_that_stops_says_so_to_websockets(api: Api) -> None:
    await on_air(api)
    url = f"{api.url}/api/live/events/ws?room_id={ROOM}"
    async with api.client.ws_connect(url, headers=api.cookie("alice")) as wire:
        assert json.loads((await wire.receive(timeout=60)).data)["type"] == "status"
        for end in ending:
            end()
        assert (await wire.receive(timeout=60)).type is aiohttp.WSMsgType.CLOSE
        assert wire.close_code == 1001
