"""How many invitations a room has, and how they are forgotten."""

from __future__ import annotations

from dataclasses import replace

import pytest

from butai.config import Settings
from butai.database import Database
from butai.live.rooms import invitations
from tests.conftest import serving
from tests.live_api import make_room, sql


async def test_a_room_has_a_number_of_invitations_and_viewers_tokens(
    live_settings: Settings, database: Database
) -> None:
    live = live_settings.live.model_copy(update={"max_invitations": 3})
    async with serving(replace(live_settings, live=live)) as api:
        for room in ("one", "two"):
            await make_room(api, room)
        path = "/api/live/rooms/one/invitations"
        assert (await api.call("POST", path, "alice", json={}))[0] == 201
        status, made = await api.call("POST", path, "alice", json={"name": "Press"})
        assert status == 201
        viewer = ("POST", "/api/live/rooms/one/tokens", "alice")
        assert (await api.call(*viewer, json={"role": "viewer"}))[0] == 200
        # What was taken back has its row until its time has passed.
        assert (await api.call("DELETE", f"{path}/{made['invitation_id']}", "alice"))[0] == 204
        status, problem = await api.call("POST", path, "alice", json={})
        assert (status, problem["code"]) == (403, "quota_exceeded")
        assert "3" in problem["detail"]
        assert (await api.call(*viewer, json={"role": "viewer"}))[0] == 403
        # Others are not counted: of guests, of another room, and those that ended.
        assert (await api.call(*viewer, json={"role": "guest"}))[0] == 200
        assert (await api.call("POST", "/api/live/rooms/two/invitations", "alice", json={}))[0] == 201
        await sql(database, "UPDATE room_invitations SET expires_at = now() WHERE name = 'Press'")
        assert (await api.call("POST", path, "alice", json={}))[0] == 201


async def test_invitations_are_forgotten_in_batches(
    live_settings: Settings, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(live_settings) as api:
        await make_room(api, "one")
    await sql(
        database,
        """INSERT INTO room_invitations (id, room_id, token_generation, expires_at)
           SELECT gen_random_uuid(), 'one', 1, now() - make_interval(hours => 18 + number, mins => 30)
           FROM generate_series(0, 12) AS number""",
    )
    monkeypatch.setattr(invitations, "BATCH", 3)
    transactions = 0
    begin = database.transaction

    def counted() -> object:
        nonlocal transactions
        transactions += 1
        return begin()

    monkeypatch.setattr(database, "transaction", counted)
    assert await invitations.forget(database) == 7
    # Three, three and one.
    assert transactions == 3
    monkeypatch.undo()
    assert await sql(database, "SELECT count(*) FROM room_invitations") == [(6,)]
