"""Who may publish by Postgres's tables, and for how long; and the ingest as a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr

from butai.audit import Origin
from butai.config import DatabaseSettings, Settings
from butai.database import Database
from butai.errors import Code, DatabaseUnavailable
from butai.ingest.connection import KeyRefused
from butai.ingest.publishers import Publisher, Publishers
from butai.live.encoders import admission, keys
from butai.live.encoders.admission import EncoderAdmission
from butai.live.encoders.keys import NewKey
from butai.live.models import Room
from butai.relay.rtmp.server_session import Media
from butai.relay.rtmp.session import Publishing, PublishRefused
from tests.canaries import leaks
from tests.embedded_servers import temporary_folder
from tests.ingest_stage import talk
from tests.live_api import sql
from tests.processes import free_port, process
from tests.waiting import eventually, until

ALICE = Origin("user:alice", "192.0.2.1", "test", "r-1")
AAC = Media("audio", 0, b"\xaf\0\x11\x90")


@dataclass
class Encoder:
    """A connection, as the admission sees it."""

    address: str = "203.0.113.9"
    told: list[Code] = field(default_factory=list[Code])

    def end(self, code: Code, text: str) -> None:
        assert text
        self.told.append(code)


@pytest.fixture
async def on_air(database: Database) -> None:
    """Two rooms, of which `studio-1` has a broadcast, which no controller takes."""
    for room in ("studio-1", "studio-2"):
        await sql(
            database,
            "INSERT INTO rooms (room_id, owner_user_id, host_identity) VALUES (:room, 'alice', 'host')",
            room=room,
        )
    await sql(
        database,
        """INSERT INTO broadcasts (id, room_id, host_identity, wanted, preset, source_grace, on_source_lost, egress)
           VALUES (gen_random_uuid(), 'studio-1', 'host', 'on_air', '720p30', 60, 'end', 'relay')""",
    )


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Short, for the sockets of relays."""
    with temporary_folder("ingest") as path:
        yield path


async def key_of(
    database: Database, room_id: str = "studio-1", *, generation: int | None = None
) -> tuple[UUID, NewKey]:
    async with database.transaction() as session:
        room = await session.get_one(Room, room_id, with_for_update=True)
        row, made = await keys.add(session, room, ALICE, "OBS", token_generation=generation)
        return row.id, made


@contextlib.asynccontextmanager
async def ingest(
    database: Database, folder: Path, name: str = "one"
) -> AsyncGenerator[tuple[EncoderAdmission, Publishers]]:
    """What an ingest process has behind its sockets."""
    publishers = Publishers(folder)
    admitting = EncoderAdmission(database, publishers, name)
    publishers.when_ended = admitting.left
    looking = asyncio.create_task(admitting.run())
    try:
        yield admitting, publishers
    finally:
        for one in publishers.all():
            one.ended(in_order=False)
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
        await admitting.say_goodbye()


async def rows(database: Database) -> list[Any]:
    return await sql(database, "SELECT key_id, id, ingest, address, broadcast_id, figures FROM encoder_connections")


@pytest.mark.usefixtures("on_air")
async def test_a_key_is_admitted_seen_and_let_go(database: Database, tmp_path: Path) -> None:
    key_id, key = await key_of(database)
    async with ingest(database, tmp_path) as (admitting, publishers), asyncio.timeout(60):
        encoder = Encoder()
        for wrong in ((), ("live",), (key.text[:-1] + "!",), ("live_" + "x" * 43,)):
            with pytest.raises(KeyRefused) as refused:
                await admitting.admit(wrong, encoder)
            assert refused.value.code == Code.ENCODER_KEY_REFUSED and "live_" not in refused.value.text
        publisher = await admitting.admit(("live", key.text), encoder)
        publisher.media(AAC)
        await admitting.look()
        ((row_key, connection, name, address, broadcast, figures),) = await rows(database)
        assert (row_key, connection, name, address) == (key_id, publisher.connection_id, "one", encoder.address)
        assert broadcast is None and figures["sound_rate"] == 48000, "no relay takes it: a rehearsal"
        assert publisher.source.label == "OBS" and publisher.source.room_id == "studio-1"
        publisher.ended(in_order=True)

        async def gone() -> bool:
            return await rows(database) == []

        await eventually(gone, 30)
    assert not encoder.told and publishers.all() == []


@pytest.mark.usefixtures("on_air")
async def test_a_publish_ends_with_its_key(database: Database, tmp_path: Path) -> None:
    _, key = await key_of(database, generation=1)
    async with ingest(database, tmp_path) as (admitting, publishers), asyncio.timeout(90):
        for ends, undone in (
            ("UPDATE encoder_keys SET revoked_at = now()", "UPDATE encoder_keys SET revoked_at = NULL"),
            ("UPDATE rooms SET closed_at = now()", "UPDATE rooms SET closed_at = NULL"),
            (
                "INSERT INTO suspended_users (user_id, reason) VALUES ('alice', 'test')",
                "DELETE FROM suspended_users",
            ),
            ("UPDATE rooms SET token_generation = 2", "UPDATE rooms SET token_generation = 1"),
            ("UPDATE encoder_keys SET key_fingerprint = 'another'", ""),
        ):
            encoder = Encoder()
            await admitting.admit((key.text,), encoder)
            await admitting.look()
            assert not encoder.told, ends
            await sql(database, ends)
            await admitting.look()
            assert encoder.told == [Code.ENCODER_KEY_ENDED] and publishers.all() == [], ends
            with pytest.raises(KeyRefused):
                await admitting.admit((key.text,), Encoder())
            if undone:
                await sql(database, undone)


@pytest.mark.usefixtures("on_air")
async def test_a_renewed_or_revoked_key_ends_its_publish_at_once_and_others_go_on(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission, "LOOK_EVERY", 3600.0)
    first, second = await key_of(database), await key_of(database, "studio-2")
    async with ingest(database, tmp_path) as (admitting, publishers), asyncio.timeout(60):
        encoders = [Encoder(), Encoder()]
        for encoder, (_, key) in zip(encoders, (first, second), strict=True):
            await admitting.admit((key.text,), encoder)
        listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND datname = current_database()"
        await eventually(lambda: _holds(database, listening), 30)
        async with database.transaction() as session:
            room = await session.get_one(Room, "studio-1")
            assert await keys.renew(session, room, first[0], token_generation=None)
        await until(lambda: encoders[0].told == [Code.ENCODER_KEY_ENDED], "the end of the renewed key")
        assert [one.source.id for one in publishers.all()] == [second[0]]
        async with database.transaction() as session:
            assert await keys.revoke(session, await session.get_one(Room, "studio-2"), second[0])
        await until(lambda: encoders[1].told == [Code.ENCODER_KEY_ENDED], "the end of the revoked key")


async def _holds(database: Database, query: str) -> bool:
    return bool((await sql(database, query))[0][0])


@pytest.mark.usefixtures("on_air")
async def test_a_publisher_is_told_the_broadcast_of_its_room(database: Database, tmp_path: Path) -> None:
    ((broadcast,),) = await sql(database, "SELECT id FROM broadcasts")
    keys_ = [await key_of(database), await key_of(database, "studio-2")]
    linked, heard = tmp_path / f"{broadcast}.in", list[bytes]()

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(65536))
        await reader.read()
        writer.close()

    server = await asyncio.start_unix_server(take, linked)
    async with ingest(database, tmp_path) as (admitting, _), asyncio.timeout(60):
        on_air, elsewhere = [await admitting.admit((key.text,), Encoder()) for _, key in keys_]
        await until(lambda: on_air.broadcast_id == str(broadcast), "a link")
        await admitting.look()
        assert {row[0]: row[4] for row in await rows(database)} == {keys_[0][0]: broadcast, keys_[1][0]: None}
        assert elsewhere.broadcast_id is None
        await until(lambda: heard, "a hello")
        assert str(keys_[0][0]).encode() in heard[0] and keys_[0][1].text.encode() not in heard[0]
        await sql(database, "UPDATE broadcasts SET ended_at = now()")
        await admitting.look()
        assert on_air.broadcast_id is None, "a rehearsal again"
    server.close()


@pytest.mark.usefixtures("on_air")
async def test_a_newer_connection_at_another_process_takes_over(database: Database, tmp_path: Path) -> None:
    _, key = await key_of(database)
    async with ingest(database, tmp_path) as (one, ones), ingest(database, tmp_path, "two") as (two, twos):
        first, second = Encoder(), Encoder()
        async with asyncio.timeout(60):
            await one.admit((key.text,), first)
            publisher = await two.admit((key.text,), second)
            await until(lambda: first.told == [Code.ENCODER_REPLACED], "the end of the older one")
            await one.look()
            await two.look()
            assert ones.all() == [] and twos.all() == [publisher] and not second.told
            assert [(row[1], row[2]) for row in await rows(database)] == [(publisher.connection_id, "two")]


@pytest.mark.usefixtures("on_air")
async def test_while_postgres_is_away_publishers_go_on_and_new_ones_are_told_to_try_again(
    database: Database, tmp_path: Path
) -> None:
    _, key = await key_of(database)
    away = DatabaseSettings(url=SecretStr("postgresql://nobody@127.0.0.1:9/none"), connect_timeout=1)
    async with ingest(database, tmp_path) as (admitting, publishers), asyncio.timeout(60):
        encoder = Encoder()
        publisher: Publisher = await admitting.admit((key.text,), encoder)
        async with Database(away) as nowhere:
            admitting._database = nowhere
            with pytest.raises(DatabaseUnavailable):
                await admitting.look()
            with pytest.raises(KeyRefused) as refused:
                await admitting.admit((key.text,), Encoder())
            assert refused.value.code == Code.DATABASE_UNAVAILABLE
            publisher.media(AAC)
            assert not encoder.told and publishers.all() == [publisher]
            admitting._database = database
        await admitting.look()
        assert not encoder.told


@pytest.mark.usefixtures("on_air")
async def test_the_process_serves_its_encoders_to_their_end_when_another_takes_over(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    """And no key, typed where it belongs or not, is in its log, its arguments, its environment or a table."""
    _, key = await key_of(database)
    _, other = await key_of(database, "studio-2")
    port, log = free_port(), tmp_path / "ingest.log"
    folder = tmp_path / "r"
    more = {"BUTAI_INGEST_PORT": str(port), "BUTAI_RELAY_FOLDER": str(folder)}
    with process(settings, log, "ingest", **more) as first:
        await eventually(lambda: "ingest.started" in _read(log), 60, every=0.1)
        async with asyncio.timeout(120):
            session, reader, writer, events = await talk(port, key.text)
            assert isinstance(events[-1], Publishing)
            # Refused: an unknown key, and a good one with a letter missing; in the stream name, and in what follows it.
            for wrong in ("live_canary-4b1e" + "x" * 32, f"{key.text[:-1]}?{other.text}x"):
                _, _, closing, events = await talk(port, wrong)
                assert isinstance(events[-1], PublishRefused) and "encoder_key_refused" in repr(events[-1])
                closing.close()
            with process(settings, tmp_path / "second.log", "ingest", **more) as second:
                await eventually(lambda: "ingest.started" in _read(tmp_path / "second.log"), 60, every=0.1)
                await eventually(lambda: "ingest.succeeded" in _read(log), 60, every=0.1)
                _, _, newer, events = await talk(port, other.text)
                assert isinstance(events[-1], Publishing)
                assert {int(row[2].split(":")[1]) for row in await rows(database)} == {first.pid, second.pid}
                assert first.poll() is None, "its encoder is still there"
                session.goodbye()
                writer.write(session.data_to_send())
                await reader.read()
                writer.close()
                await eventually(lambda: first.poll() is not None, 60, every=0.1)
                assert first.returncode == 0
                second.send_signal(signal.SIGTERM)
                await eventually(lambda: second.poll() is not None, 60, every=0.1)
                assert second.returncode == 0
                newer.close()
    assert await rows(database) == []
    outputs = {"first log": log.read_bytes(), "second log": (tmp_path / "second.log").read_bytes()}
    for table in ("encoder_keys", "encoder_connections", "live_events", "audit"):
        outputs[table] = str(await sql(database, f"SELECT t::text FROM {table} t")).encode()
    assert b"ingest.refused" in outputs["first log"]
    secrets = {"key": key.text[5:-1], "other": other.text[5:], "wrong": "canary-4b1e"}
    assert leaks(secrets, outputs) == []


def _read(log: Path) -> str:
    return log.read_text() if log.exists() else ""
