"""What tests of going live over HTTP ask for, in few words."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
from sqlalchemy import text

from butai.database import Database
from tests.conftest import Api

CANARY = "canary-stream-key-55d0"
SECRET = "canary-livekit-secret-of-32-letters"
ROOM = "studio-1"


async def make_room(api: Api, room: str = ROOM, user: str = "alice") -> dict[str, Any]:
    status, made = await api.call("POST", "/api/live/rooms", user, json={"room_id": room})
    assert status == 200, made
    return made


async def save(api: Api, platform: str = "youtube", user: str = "alice", **more: str) -> dict[str, Any]:
    wanted = {"platform": platform, "stream_key": CANARY, "ingest_url": "rtmp://127.0.0.1:9/live"} | more
    status, made = await api.call("POST", "/api/live/destinations", user, json=wanted)
    assert status == 201, made
    return made


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def go_live(api: Api, user: str = "alice", **wanted: Any) -> dict[str, Any]:
    status, begun = await api.call(
        "POST", "/api/live/start", user, json={"room_id": ROOM, "platforms": "youtube"} | wanted
    )
    assert status == 201, begun
    return begun


async def sql(database: Database, statement: str, **values: Any) -> list[Any]:
    async with database.transaction() as session:
        result = await session.execute(text(statement), values)
        return list(result.all()) if result.returns_rows else []  # pyright: ignore[reportAttributeAccessIssue]


class Listener:
    """Reads server-sent events."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def next(self, kind: str | None = None) -> tuple[str, int | None, Any]:
        async with asyncio.timeout(60):
            while True:
                fields: dict[str, str] = {}
                while line := (await self.answer.content.readline()).decode().rstrip("\n"):
                    name, _, value = line.partition(": ")
                    fields[name] = value
                if "event" in fields and kind in (None, fields["event"]):
                    number = int(fields["id"]) if "id" in fields else None
                    return fields["event"], number, json.loads(fields["data"])
