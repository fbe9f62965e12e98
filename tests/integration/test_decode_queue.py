"""Decoding holds up nothing else: queues, turns, and sounds that are refused unread."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from sqlalchemy import text
from yarl import URL

from butai import worker
from butai.assets.contents import decode_tasks
from butai.config import Settings
from butai.database import Database
from butai.errors import StoreUnavailable
from butai.jobs import queue
from butai.jobs.retries import AtEndOfTurn
from tests import avatars, files
from tests.conftest import Api
from tests.integration.test_resumable import create, patch

Found = tuple[dict[str, Any], str | None]


def flac(folder: Path, claimed_seconds: int | None = None) -> bytes:
    """A second of silence. `claimed_seconds`: what its head says instead, 0 for a length that is not known."""
    path = folder / "silence.flac"
    source = ["-f", "lavfi", "-i", "anullsrc=r=44100:cl=mono", "-t", "1"]
    subprocess.run(["ffmpeg", "-y", "-v", "error", *source, str(path)], check=True, timeout=60)
    body = bytearray(path.read_bytes())
    if claimed_seconds is not None:
        # STREAMINFO: the last 36 bits before the MD5 are the number of samples (RFC 9639, 8.2).
        head = int.from_bytes(body[18:26]) >> 36 << 36 | claimed_seconds * 44100
        body[18:26] = head.to_bytes(8)
    return bytes(body)


@pytest_asyncio.fixture
async def working(settings: Settings) -> AsyncIterator[asyncio.Task[None]]:
    """A worker as `butai worker` runs it."""
    running = asyncio.create_task(worker.run(settings))
    yield running
    running.cancel()
    await asyncio.wait([running])


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.05)


class HeldDecoder:
    """Stands in for the decoding of whole files: each stays under way until `release`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended = 0
        self.release = asyncio.Event()
        self.fails_first = False
        self.failed = ""

    async def decoded(self, _store: Any, object_key: str, _kind: str, _suffix: str) -> Found:
        if self.fails_first and not self.failed:
            self.failed = object_key
            await self.release.wait()
            raise StoreUnavailable
        self.begun.append(object_key)
        await self.release.wait()
        self.ended += 1
        return {}, "decode_failed"


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> HeldDecoder:
    held = HeldDecoder()
    monkeypatch.setattr(decode_tasks, "_decoded", held.decoded)
    return held


async def test_a_file_that_the_store_does_not_give_out_holds_up_no_other_of_its_owner(
    api: Api, database: Database, decoder: HeldDecoder, working: asyncio.Task[None], tmp_path: Path
) -> None:
    decoder.fails_first = True
    for number in range(3):
        assert (await api.upload("alice", f"bgm/{number}.flac", flac(tmp_path, 0)))[0] == 200

    async def all_wait() -> bool:
        async with database.transaction() as session:
            jobs = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'assets.decode'"
            return await session.scalar(text(jobs)) == 3 and bool(decoder.failed)

    await until(all_wait)
    decoder.release.set()

    async def others_ended() -> bool:
        return decoder.ended == 2

    await until(others_ended)
    assert decoder.failed
    # It may be under way again by now, behind them.
    assert decoder.failed not in decoder.begun[:2], "it was tried again before the others"


@pytest.mark.slow
async def test_ten_long_sounds_delay_neither_another_user_nor_a_removal(
    api: Api, database: Database, decoder: HeldDecoder, working: asyncio.Task[None], tmp_path: Path
) -> None:
    body = flac(tmp_path, 0)
    for number in range(10):
        assert (await api.upload("mallory", f"bgm/{number}.flac", body))[0] == 200

    async def waiting() -> bool:
        async with database.transaction() as session:
            left = "SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'assets.inspect'"
            return not await session.scalar(text(left)) and bool(decoder.begun)

    await until(waiting)
    _, answer = await api.upload("bob", "vrm/b.vrm", avatars.vrm1(files.png(8, 8)))
    assert (await api.upload("carol", "vrm/c.vrm", files.vrm(1), sha256="0" * 64))[0] == 422

    async def inspected() -> bool:
        return (await api.call("GET", f"/api/assets/{answer['data']['id']}", "bob"))[1]["facts"] != {}

    async def removed() -> bool:
        async with database.transaction() as session:
            states = await session.scalars(
                text("SELECT state FROM asset_objects WHERE state IN ('condemned', 'removed')")
            )
            return list(states) == ["removed"]

    await until(inspected)
    await until(removed)
    assert decoder.ended == 0, "they came after a sound"
    assert len(decoder.begun) == 1, "one user decodes several files at a time"
    decoder.release.set()

    async def all_ended() -> bool:
        return decoder.ended == 10

    await until(all_ended)
    assert not working.done()


async def test_users_take_turns(
    api: Api, database: Database, decoder: HeldDecoder, run_jobs: Any, tmp_path: Path
) -> None:
    body = flac(tmp_path)
    for user, number in [*(("mallory", number) for number in range(5)), ("bob", 0), ("bob", 1), ("carol", 0)]:
        assert (await api.upload(user, f"bgm/{number}.flac", body))[0] == 200
    decoder.release.set()
    await run_jobs()
    async with database.transaction() as session:
        found = await session.execute(text("SELECT object_key, owner_user_id FROM assets"))
        owners = {row.object_key: row.owner_user_id for row in found}
    order = [owners[key] for key in decoder.begun]
    assert Counter(order) == {"mallory": 5, "bob": 2, "carol": 1}
    assert set(order[:3]) == {"mallory", "bob", "carol"}
    assert order[5:] == ["mallory"] * 3


async def test_the_end_of_a_turn_wakes_the_queue(
    api: Api, settings: Settings, decoder: HeldDecoder, run_jobs: Any, tmp_path: Path
) -> None:
    decoder.release.set()
    url = settings.database.url.get_secret_value()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as listener:
        await listener.execute('LISTEN "procrastinate_queue_v1#decode"')
        for number in range(2):
            await api.upload("mallory", f"bgm/{number}.flac", flac(tmp_path))
        await run_jobs()
        told = Counter([json.loads(one.payload)["job_id"] async for one in listener.notifies(timeout=0)])
    assert len(decoder.begun) == 2
    # Once for its beginning, once for its end.
    assert list(told.values()) == [2, 2]


async def test_a_sound_that_says_it_has_five_hours_is_not_read(
    api: Api, decoder: HeldDecoder, run_jobs: Any, tmp_path: Path
) -> None:
    _, answer = await api.upload("mallory", "bgm/long.flac", flac(tmp_path, 5 * 3600))
    await run_jobs()
    asset = (await api.call("GET", f"/api/assets/{answer['data']['id']}", "mallory"))[1]
    assert asset["facts"]["decode_error"] == "decode_too_long"
    assert asset["status"] == "ready"
    assert decoder.begun == []


async def test_a_decoding_that_waits_in_another_queue_moves_to_its_own(
    api: Api, database: Database, decoder: HeldDecoder, run_jobs: Any, tmp_path: Path
) -> None:
    """As those that an older version has left do."""
    await api.upload("mio", "bgm/a.flac", flac(tmp_path))
    decoder.release.set()
    async with database.transaction() as session:
        await session.execute(
            text(
                """INSERT INTO procrastinate_jobs (queue_name, task_name, args)
                   SELECT 'default', 'assets.decode', jsonb_build_object('asset_id', id, 'object_key', object_key)
                   FROM assets"""
            )
        )
    await run_jobs()
    async with database.transaction() as session:
        queues = await session.scalars(
            text("SELECT queue_name FROM procrastinate_jobs WHERE task_name = 'assets.decode' ORDER BY id")
        )
    assert list(queues) == ["default", "decode", "decode"]
    assert len(decoder.begun) == 2


async def test_hashes_and_ends_of_uploads_take_turns_too(
    api: Api, database: Database, run_jobs: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = files.vrm(5)
    for user, number in [("mallory", 0), ("mallory", 1), ("mallory", 2), ("bob", 0)]:
        wanted = {"fileName": f"vrm/{number}.vrm", "fileType": "model/vrm", "size": len(body)}
        signed = (await api.call("POST", "/api/s3/presigned-url", user, json=wanted))[1]["data"]
        async with api.client.put(URL(signed["url"], encoded=True), data=body) as put:
            assert put.status == 200
        assert (await api.call("POST", signed["completeUrl"], user))[0] == 200
        path = await create(api, len(body), f"vrm/resumed-{number}.vrm", user)
        assert (await patch(api, path, 0, body, user))[0] == 204
    async with database.transaction() as session:
        found = await session.execute(
            text(
                """SELECT lock, priority FROM procrastinate_jobs
                   WHERE task_name IN ('assets.hash_object', 'assets.finish_upload') ORDER BY priority DESC, id"""
            )
        )
        order = [tuple(row) for row in found]
    for task in ("assets.hash_object", "assets.finish_upload"):
        assert [one for one in order if one[0].startswith(task)] == [
            (f"{task}:mallory", 0),
            (f"{task}:bob", 0),
            (f"{task}:mallory", -1),
            (f"{task}:mallory", -2),
        ]


def test_a_job_of_a_turn_is_tried_again_behind_the_others(settings: Settings) -> None:
    """Their turn would wait for it otherwise."""
    app = worker.make_app(settings.database.url.get_secret_value())
    behind = {name for name, task in app.tasks.items() if isinstance(task.retry_strategy, AtEndOfTurn)}
    assert behind == {"assets.decode", "assets.hash_object", "assets.finish_upload"}


def test_each_task_has_a_queue_that_is_worked_on(settings: Settings) -> None:
    app = worker.make_app(settings.database.url.get_secret_value())
    assert {task.queue for task in app.tasks.values()} <= set(queue.QUEUES)
    users = {name for name, task in app.tasks.items() if task.queue != queue.CARE}
    assert users == set(queue._OF_USERS), "a name that no task has"
    assert app.tasks["assets.decode"].queue == queue.DECODE
