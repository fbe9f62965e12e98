"""Many small requests of a resumable upload: what they cost, and that nothing is lost by it."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import partialmethod
from typing import Any, LiteralString
from urllib.parse import urlsplit, urlunsplit

import psycopg
import pytest

from butai import database as database_module
from butai.assets.tus import pace, pieces
from butai.config import Settings
from butai.embedded.postgres import EmbeddedPostgres
from tests import files
from tests.clock import Clock
from tests.conftest import Api, serving
from tests.integration.test_resumable import BYTES, MIB, b64, big, create, offset_of, patch, rows, stored


@pytest.fixture
def log(postgres: EmbeddedPostgres, settings: Settings) -> Iterator[psycopg.Connection]:
    """A superuser's connection to the test's database, which reads Postgres's write-ahead log."""
    name = urlsplit(settings.database.url.get_secret_value()).path
    with psycopg.connect(urlunsplit(urlsplit(postgres.admin_url)._replace(path=name)), autocommit=True) as connection:
        connection.execute("CREATE EXTENSION pg_walinspect")
        yield connection


def position(log: psycopg.Connection) -> str:
    """The end of the write-ahead log, which is flushed up to it: the end of what is flushed is behind the commits here,
    which do not wait for it (`synchronous_commit`)."""
    return str(value(log, "SELECT pg_logical_emit_message(false, 'test', '', true)::text"))


def written(log: psycopg.Connection, since: str) -> int:
    """Bytes that this database's changes have added to the write-ahead log. Neither those of other databases on the
    server nor images of whole pages, which each page has once after a checkpoint: both depend on what else runs."""
    return int(
        value(
            log,
            "SELECT coalesce(sum(block_data_length + CASE block_id WHEN 0 THEN main_data_length ELSE 0 END), 0) "
            "FROM pg_get_wal_block_info(%s, %s, false) "
            "WHERE reldatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
            since,
            position(log),
        )
    )


def value(log: psycopg.Connection, question: LiteralString, *values: object) -> Any:
    row = log.execute(question, values).fetchone()
    assert row is not None
    return row[0]


async def test_one_byte_costs_no_more_log_behind_a_long_tail_than_elsewhere(api: Api, log: psycopg.Connection) -> None:
    body = big(6 * MIB)
    path = await create(api, len(body))
    at = 5 * MIB - 100
    assert (await patch(api, path, 0, body[:at]))[0] == 204
    before, count = position(log), 30
    for n in range(count):
        assert (await patch(api, path, at + n, body[at + n : at + n + 1]))[0] == 204
    cost = written(log, before) / count
    assert 1 <= cost < 4 * 1024, f"{cost:.0f} bytes of log for each byte"
    at += count
    assert await offset_of(api, path) == at
    assert (await patch(api, path, at, body[at:]))[0] == 204
    assert await stored(api) == body


async def test_small_pieces_are_joined_and_nothing_is_lost(settings: Settings) -> None:
    """Sizes around those at which pieces are joined; two processes in turn, of which none has the digest."""
    body = big(6 * MIB)
    dice = random.Random(7)
    sizes = [1, 63, 64, 65, 5, pieces.PIECE - 1, 1, pieces.PIECE, pieces.PIECE + 1, 3, 3]
    sizes += [dice.choice([1, 700, 5000, 20_000]) for _ in range(25)]
    async with serving(settings) as first, serving(settings) as second:
        path = await create(first, len(body))
        at = 0
        for n, size in enumerate(sizes):
            status, now, told = await patch((first, second)[n % 2], path, at, body[at : at + size])
            assert (status, now) == (204, at + size), told
            at += size
        kept = await rows(settings, "SELECT first_byte, length(body) AS size FROM resumable_pieces ORDER BY first_byte")
        assert sum(row["size"] for row in kept) == at
        assert len(kept) <= 2 * at / pieces.PIECE + 2
        assert (await patch(second, path, at, body[at:]))[0] == 204
        assert await stored(first) == body
    assert await rows(settings, "SELECT 1 FROM resumable_pieces") == []


async def test_pieces_go_with_their_upload(api: Api) -> None:
    body = big(MIB)
    for key, how in (("scene/a.glb", "cancelled"), ("scene/b.glb", "refused"), ("scene/c.glb", "forgotten")):
        path = await create(api, len(body), key, sha256="0" * 64)
        assert (await patch(api, path, 0, body[:1000]))[0] == 204
        assert len(await rows(api.settings, "SELECT 1 FROM resumable_pieces")) == 1
        if how == "cancelled":
            headers = {"Tus-Resumable": "1.0.0"}
            assert (await api.call("DELETE", path, "alice", headers=headers))[0] == 204
        elif how == "refused":
            assert (await patch(api, path, 1000, body[1000:]))[0] == 422
        else:
            await rows(api.settings, "DELETE FROM resumable_uploads WHERE state = 'open'")
        assert await rows(api.settings, "SELECT 1 FROM resumable_pieces") == []


@pytest.fixture
def empty_database(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    name = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(postgres.admin_url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} OWNER butai".encode())
        yield urlunsplit(urlsplit(postgres.url)._replace(path=f"/{name}"))
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


async def test_uploads_under_way_keep_their_bytes_when_the_tables_change(empty_database: str) -> None:
    url = empty_database
    (step,) = (database_module.MIGRATIONS / "versions").glob("*_resumable_pieces.py")
    database_module.migrate(url, f"{int(step.name[:4]) - 1:04}")
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await connection.execute(
            "INSERT INTO asset_objects (object_key, origin, state, attempt) VALUES ('o', 'resumable', 'writing', 1)"
        )
        insert: Any = (
            "INSERT INTO resumable_uploads (id, user_id, object_key, wanted_key, upload_length, upload_offset, state, tail,"
            " expires_at) VALUES (gen_random_uuid(), 'alice', 'o', 'vrm/a.vrm', 100, %s, %s, %s, now())"
        )
        await connection.execute(insert, (20, "open", b"tail"))
        await connection.execute(insert, (30, "open", b""))
        await connection.execute(insert, (40, "refused", b""))
        database_module.migrate(url)
        found = await connection.execute(
            "SELECT u.upload_offset, p.first_byte, p.body FROM resumable_pieces p JOIN resumable_uploads u ON u.id = p.upload_id"
        )
        assert await found.fetchall() == [(20, 16, b"tail")]


async def test_many_small_requests_are_slowed_and_the_upload_goes_on(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(pace.RequestPace, "__init__", partialmethod(pace.RequestPace.__init__, clock))
    monkeypatch.setattr(pace, "BURST", 10)
    monkeypatch.setattr(pace, "RATE", 1.0)
    body = big(20_000)
    async with serving(settings) as api:
        path = await create(api, len(body))
        for at in range(10):
            assert (await one_byte(api, path, at, body[at : at + 1]))[0] == 204
        for _ in range(3):
            status, refused = await one_byte(api, path, 10, body[10:11])
            assert (status, refused["code"]) == (429, "rate_limited")
        assert await offset_of(api, path) == 10
        headers = {**BYTES, **api.cookie("alice"), "Upload-Offset": "10"}
        async with api.client.patch(api.url + path, headers=headers, data=body[10:]) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (429, "1")
        # A client that waits as long as it was told goes on.
        clock.now += 1
        async with api.client.patch(api.url + path, headers=headers, data=body[10:]) as answer:
            assert answer.status == 204
        assert await stored(api) == body


async def one_byte(api: Api, path: str, at: int, byte: bytes) -> tuple[int, Any]:
    status, _, told = await patch(api, path, at, byte)
    return status, told


async def test_a_user_has_a_number_of_open_uploads(settings: Settings) -> None:
    """Resumable ones, signed URLs of both kinds, and forms, together; fifty at once do not slip past."""
    limited = replace(
        settings,
        assets=settings.assets.model_copy(update={"open_uploads": 5}),
        database=settings.database.model_copy(update={"connect_timeout": 30}),
    )
    async with serving(limited) as api:
        said = {"Tus-Resumable": "1.0.0", "Upload-Length": "900", **api.cookie("alice")}

        async def begin(number: int) -> int:
            if number % 3 == 0:
                metadata = {"Upload-Metadata": f"filename {b64(f'scene/{number}.glb')}"}
                status, told = await api.call("POST", "/api/assets/uploads", headers=said | metadata)
                code = told and told.get("code")
            else:
                wanted = {"fileName": f"scene/{number}.glb", "fileType": "x"} | ({"size": 9} if number % 3 == 1 else {})
                status, told = await api.call("POST", "/api/s3/presigned-url", "alice", json=wanted)
                code = told.get("error", {}).get("code")
            assert status in (200, 201) or (status, code) == (403, "quota_exceeded"), told
            return status

        assert await begin(0) == 201
        statuses = await asyncio.gather(*(begin(number) for number in range(1, 50)))
        assert len([status for status in statuses if status != 403]) == 4
        status, told = await api.upload("alice", "vrm/a.vrm", files.vrm(1))
        assert (status, told["error"]["code"]) == (403, "quota_exceeded")
        assert (await api.upload("bob", "vrm/a.vrm", files.vrm(1)))[0] == 200
        # What ends makes room.
        for row in await rows(limited, "SELECT id FROM resumable_uploads"):
            assert (await api.call("DELETE", f"/api/assets/uploads/{row['id']}", "alice", headers=said))[0] == 204
        assert (await api.upload("alice", "vrm/a.vrm", files.vrm(1)))[0] == 200
