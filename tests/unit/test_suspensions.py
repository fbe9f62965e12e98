"""The copy of the suspended users in a process, while Postgres answers late or not at all."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from butai.database import Database
from butai.errors import DatabaseUnavailable, UserSuspended
from butai.identity import suspensions
from butai.identity.suspensions import FRESH_SECONDS, Suspensions


class Postgres:
    """Answers with the suspended users; or not at all, which takes its caller five seconds."""

    def __init__(self) -> None:
        self.users = ["mallory"]
        self.asked = 0
        self.now = 100.0
        self.is_away = False
        self.answering = asyncio.Event()
        self.answering.set()

    async def query(self, _: object) -> list[tuple[str]]:
        self.asked += 1
        await self.answering.wait()
        if self.is_away:
            self.now += 5
            raise DatabaseUnavailable
        return [(user,) for user in self.users]

    def copy(self) -> Suspensions:
        return Suspensions(cast("Database", cast("Any", self)), lambda: self.now)


async def test_a_postgres_that_is_away_is_asked_once_in_an_interval() -> None:
    postgres = Postgres()
    copy = postgres.copy()
    await copy.check("alice")
    postgres.is_away = True
    for expected in (2, 3):
        postgres.now += FRESH_SECONDS
        for _ in range(5):
            await copy.check("alice")
            with pytest.raises(UserSuspended):
                await copy.check("mallory")
        assert postgres.asked == expected
    postgres.is_away = False
    postgres.now += FRESH_SECONDS
    postgres.users = ["alice"]
    with pytest.raises(UserSuspended):
        await copy.check("alice")
    await copy.check("mallory")


async def test_a_late_answer_is_waited_for_only_where_there_is_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspensions, "MOST_SECONDS", 0.0)
    postgres = Postgres()
    postgres.answering.clear()
    copy = postgres.copy()
    first = asyncio.create_task(copy.check("mallory"))
    while not postgres.asked:
        await asyncio.sleep(0)
    assert not first.done()
    postgres.answering.set()
    with pytest.raises(UserSuspended):
        await first
    postgres.answering.clear()
    postgres.now += FRESH_SECONDS
    async with asyncio.timeout(20):
        await copy.check("alice")
        with pytest.raises(UserSuspended):
            await copy.check("mallory")
    postgres.users = ["alice"]
    postgres.answering.set()
    async with asyncio.timeout(20):
        while "alice" not in copy._users:
            await asyncio.sleep(0)
    assert postgres.asked == 2


async def test_a_request_that_is_cancelled_leaves_the_reading_to_the_others() -> None:
    postgres = Postgres()
    postgres.answering.clear()
    copy = postgres.copy()
    first, second = (asyncio.create_task(copy.check("mallory")) for _ in range(2))
    while not postgres.asked:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    postgres.answering.set()
    with pytest.raises(UserSuspended):
        await second
    assert postgres.asked == 1
