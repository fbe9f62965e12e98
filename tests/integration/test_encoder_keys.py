"""Keys of encoders: stored as a hash, recognised among what people type, and refused when they should be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from butai.audit import Origin
from butai.config import Settings
from butai.database import Database
from butai.errors import QuotaExceeded
from butai.live import erasure
from butai.live.encoders import keys
from butai.live.encoders.keys import AcceptedKey, NewKey
from butai.live.encoders.models import EncoderKey
from butai.live.models import Room
from tests.conftest import serving
from tests.live_api import make_room, sql

ALICE = Origin("user:alice", "192.0.2.1", "test", "r-1")


@pytest.fixture
async def rooms(live_settings: Settings) -> AsyncIterator[None]:
    async with serving(live_settings) as api:
        for room in ("one", "two"):
            await make_room(api, room)
        yield


async def add(database: Database, room_id: str, *, generation: int | None = None) -> tuple[EncoderKey, NewKey]:
    async with database.transaction() as session:
        room = await session.get_one(Room, room_id, with_for_update=True)
        return await keys.add(session, room, ALICE, "OBS at home", token_generation=generation)


async def known(database: Database, *texts: str) -> AcceptedKey | None:
    return await keys.accepted(database, texts, "203.0.113.9")


@pytest.mark.usefixtures("rooms")
async def test_a_key_is_recognised_among_other_texts_and_stored_nowhere(database: Database) -> None:
    row, made = await add(database, "one")
    other, _ = await add(database, "two")
    assert len(made.text) == 48 and made.text not in repr(made)
    assert await known(database, "live", f"{made.text}?x=1", made.text) == AcceptedKey(row.id, "one")
    ((used, stored),) = await sql(
        database, "SELECT last_used_from, row_to_json(encoder_keys)::text FROM encoder_keys WHERE id = :id", id=row.id
    )
    assert used == "203.0.113.9"
    assert made.text not in stored and made.text.removeprefix("live_") not in stored
    assert await sql(database, "SELECT last_used_at FROM encoder_keys WHERE id = :id", id=other.id) == [(None,)]


@pytest.mark.usefixtures("rooms")
async def test_what_is_no_key_is_refused(database: Database) -> None:
    row, made = await add(database, "one")
    for texts in (
        (),
        ("",),
        ("live",),
        (made.text[:-1],),
        (made.text.upper(),),
        (made.fingerprint,),
        (made.hash.hex(),),
    ):
        assert await known(database, *texts) is None
    # A part of the hash that is the same is not enough.
    await sql(database, "UPDATE encoder_keys SET key_hash = sha256('x') WHERE id = :id", id=row.id)
    assert await known(database, made.text) is None


@pytest.mark.usefixtures("rooms")
async def test_a_renewed_key_replaces_the_old_one_and_a_revoked_one_is_gone(database: Database) -> None:
    row, first = await add(database, "one")
    async with database.transaction() as session:
        room, other = await session.get_one(Room, "one"), await session.get_one(Room, "two")
        assert await keys.renew(session, other, row.id, token_generation=None) is None, "of another room"
        assert not await keys.revoke(session, other, row.id)
        second = await keys.renew(session, room, row.id, token_generation=None)
        assert await keys.renew(session, room, uuid4(), token_generation=None) is None
    assert second is not None
    assert await known(database, first.text) is None
    assert await known(database, second.text) == AcceptedKey(row.id, "one")
    async with database.transaction() as session:
        room = await session.get_one(Room, "one")
        assert [one.id for one in await keys.listed(session, room)] == [row.id]
        assert await keys.revoke(session, room, row.id)
        assert not await keys.revoke(session, room, row.id)
        assert await keys.renew(session, room, row.id, token_generation=None) is None
        assert await keys.listed(session, room) == []
    assert await known(database, second.text) is None


@pytest.mark.usefixtures("rooms")
async def test_a_key_ends_with_its_room_its_owner_and_the_token_that_made_it(database: Database) -> None:
    _, by_user = await add(database, "one")
    _, by_token = await add(database, "one", generation=1)
    assert await known(database, by_user.text) and await known(database, by_token.text)
    await sql(database, "UPDATE rooms SET token_generation = 2 WHERE room_id = 'one'")
    assert await known(database, by_user.text)
    assert await known(database, by_token.text) is None
    async with database.transaction() as session:
        assert len(await keys.listed(session, await session.get_one(Room, "one"))) == 1
    await sql(database, "UPDATE rooms SET closed_at = now() WHERE room_id = 'one'")
    assert await known(database, by_user.text) is None
    await sql(database, "UPDATE rooms SET closed_at = NULL WHERE room_id = 'one'")
    assert await known(database, by_user.text)
    await sql(database, "INSERT INTO suspended_users (user_id, reason) VALUES ('alice', 'test')")
    assert await known(database, by_user.text) is None


@pytest.mark.usefixtures("rooms")
async def test_a_room_has_a_number_of_valid_keys(database: Database) -> None:
    made = [await add(database, "one") for _ in range(keys.MOST)]
    with pytest.raises(QuotaExceeded):
        await add(database, "one")
    await add(database, "two")
    async with database.transaction() as session:
        await keys.revoke(session, await session.get_one(Room, "one"), made[0][0].id)
    await add(database, "one")
    # Keys of a host token that has ended take no room from others.
    await sql(database, "UPDATE encoder_keys SET token_generation = 1 WHERE room_id = 'one'")
    await sql(database, "UPDATE rooms SET token_generation = 2 WHERE room_id = 'one'")
    await add(database, "one")


@pytest.mark.usefixtures("rooms")
async def test_rows_of_keys_that_are_not_valid_are_deleted_when_they_are_old_or_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys, "MOST_INVALID", 2)
    made = [(await add(database, "one", generation=1 if number < 2 else None))[0].id for number in range(6)]
    await sql(database, "UPDATE rooms SET token_generation = 2 WHERE room_id = 'one'")
    await sql(database, "UPDATE encoder_keys SET renewed_at = now() - interval '91 days' WHERE id = :id", id=made[0])
    # Old, and valid.
    await sql(database, "UPDATE encoder_keys SET renewed_at = now() - interval '91 days' WHERE id = :id", id=made[2])
    for one in made[3:5]:
        async with database.transaction() as session:
            assert await keys.revoke(session, await session.get_one(Room, "one"), one)
    added, _ = await add(database, "one")
    left = {row[0] for row in await sql(database, "SELECT id FROM encoder_keys")}
    assert left == {*made[2:], added.id}, "neither the old one nor the third"


@pytest.mark.usefixtures("rooms")
async def test_a_key_that_a_host_token_renewed_ends_with_it(database: Database) -> None:
    row, _ = await add(database, "one")
    async with database.transaction() as session:
        room = await session.get_one(Room, "one")
        renewed = await keys.renew(session, room, row.id, token_generation=1)
        assert renewed is not None
    assert await known(database, renewed.text)
    await sql(database, "UPDATE rooms SET token_generation = 2 WHERE room_id = 'one'")
    assert await known(database, renewed.text) is None


@pytest.mark.usefixtures("rooms")
async def test_a_key_that_is_revoked_while_it_is_checked_is_refused(database: Database) -> None:
    row, made = await add(database, "one")
    async with database.transaction() as session:
        assert await keys.revoke(session, await session.get_one(Room, "one"), row.id)
        await session.flush()
        # It finds the key as it still is for others, and waits for the row.
        check = asyncio.create_task(known(database, made.text))
        async with asyncio.timeout(20):
            waits = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
            while not await sql(database, waits):
                await asyncio.sleep(0.01)
    assert await check is None


@pytest.mark.usefixtures("rooms")
async def test_a_key_that_an_erased_user_made_for_others_keeps_nothing_of_the_user(database: Database) -> None:
    row, made = await add(database, "one")
    assert await known(database, made.text)
    async with database.transaction() as session:
        await erasure.forget(session, "alice", "erased-1")
    columns = "SELECT created_by, label, last_used_from FROM encoder_keys WHERE id = :id"
    assert await sql(database, columns, id=row.id) == [("erased-1", "", None)]
