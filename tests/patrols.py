"""A library with real objects and a patrol whose clock the test moves, and an endpoint that alerts arrive at."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
from aiohttp import web
from psycopg.rows import dict_row

from butai.assets.patrol.progress import RunProgress
from butai.assets.patrol.run import Patrol
from butai.assets.storage.client import BytesPayload, Store
from butai.config import Settings
from butai.database import Database

CANARY = "canary-hook-7c21"
"""In each URL that alerts go to: it may be written nowhere."""


@dataclass
class Studio:
    """A library with real objects, and a patrol whose clock the test moves."""

    settings: Settings
    database: Database
    store: Store
    keys: dict[UUID, str] = field(default_factory=dict)
    bodies: dict[UUID, bytes] = field(default_factory=dict)
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def patrol(self, **how: Any) -> Patrol:
        return Patrol(
            self.database,
            self.store,
            self.settings.patrol.model_copy(update={"rate": 0.0} | how),
            clock=lambda: self.now,
        )

    async def go(self, **how: Any) -> RunProgress:
        return await self.patrol().run("asked", everything=True, **how)

    async def do(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        async with await psycopg.AsyncConnection.connect(self.database.url, autocommit=True) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

    async def fill(self, count: int) -> list[UUID]:
        """Ready assets with their objects."""
        made: list[UUID] = []
        slots = asyncio.Semaphore(16)

        async def put(number: int) -> tuple[UUID, str, bytes, str]:
            asset_id, key = uuid4(), f"{self.store.prefix}objects/{uuid4().hex}"
            body = f"file {number}".encode()
            async with slots:
                return asset_id, key, body, await self.store.put(key, BytesPayload(body), "model/gltf-binary")

        for asset_id, key, body, etag in await asyncio.gather(*(put(number) for number in range(count))):
            await self.do(
                """INSERT INTO assets (id, type, s3_key, wanted_key, stem, display_name, mime_type, size_bytes, status,
                                       owner_user_id, visibility, ever_public, object_key, etag, change_seq)
                   SELECT %s, 'vrm', 'vrm/' || %s || '.vrm', 'vrm/' || %s || '.vrm', 'vrm/' || %s, %s, 'model/gltf-binary',
                          %s, 'ready', 'alice', 'private', false, %s, %s,
                          nextval('asset_changes')""",
                asset_id, asset_id, asset_id, asset_id, str(asset_id), len(body), key, etag,
            )  # fmt: skip
            made.append(asset_id)
            self.keys[asset_id], self.bodies[asset_id] = key, body
        return made

    async def lose(self, *ids: UUID) -> None:
        for asset_id in ids:
            await self.store.delete(self.keys[asset_id])

    async def bring_back(self, *ids: UUID) -> None:
        """Puts the objects back, byte for byte; the index is not touched."""
        for asset_id in ids:
            await self.store.put(self.keys[asset_id], BytesPayload(self.bodies[asset_id]), "model/gltf-binary")

    async def rows(self) -> dict[UUID, dict[str, Any]]:
        """All of each asset's row."""
        return {row["id"]: row["row"] for row in await self.do("SELECT id, to_jsonb(assets) AS row FROM assets")}

    async def statuses(self) -> Counter[str]:
        return Counter(row["status"] for row in await self.do("SELECT status FROM assets"))

    async def missing(self) -> set[UUID]:
        return {row["id"] for row in await self.do("SELECT id FROM assets WHERE status = 'missing'")}

    async def events(self) -> Counter[str]:
        return Counter(row["event"] for row in await self.do("SELECT event FROM asset_events"))

    async def messages(self) -> list[tuple[str, str]]:
        """All alerts and digests: kind, and the code or the title."""
        rows = await self.do(
            """SELECT m.kind, coalesce(a.code, m.title) AS what FROM alert_messages m
               LEFT JOIN alerts a ON a.id = m.alert_id ORDER BY m.id"""
        )
        return [(row["kind"], row["what"]) for row in rows]

    async def findings(self) -> list[tuple[str, bool]]:
        rows = await self.do("SELECT kind, resolved_at IS NULL AS open FROM findings ORDER BY id")
        return [(row["kind"], row["open"]) for row in rows]


@dataclass
class Hooks:
    """An endpoint with as many paths as one likes: what came, and with which status each answers."""

    port: int = 0
    got: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def url(self, name: str) -> str:
        return f"json://127.0.0.1:{self.port}/{CANARY}-{name}"

    def taken_by(self, name: str) -> list[str]:
        """The titles that a path took, with 200."""
        return [body["title"] for path, body in self.got if path.endswith(f"-{name}") and body["answered"] == 200]

    async def take(self, request: web.Request) -> web.Response:
        status = self.answers.get(request.path.rpartition("-")[2], 200)
        self.got.append((request.path, await request.json() | {"answered": status}))
        return web.Response(status=status)
