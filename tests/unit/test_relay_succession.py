"""A relay that joins its room a second time, beside a stay that has had many subscriptions. The rooms are stand-ins."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from butai.errors import Code
from butai.live.tokens import engine_identity, is_engines
from butai.relay import source as module
from butai.relay.messages import ConfigureLine, Preset, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.picture import Screen
from butai.relay.room import JoinError, Received
from butai.relay.source import SUBSCRIPTIONS, HostSource
from butai.relay.timing import RelayTiming
from butai.relay.tracks import Choice
from tests.relay_stage import until

TIMING = RelayTiming(phase_every=0.005, settle_for=0.01, join_delay=0.005)
PRESET = Preset(320, 180, 30, 500)


class FakeRoom:
    """A stay in a room whose host sends a picture."""

    host, reconnecting, stale, pictures = object(), False, False, 7
    choice = Choice("v", shown=True)

    def __init__(self, *_: Any, active: bool) -> None:
        self.active, self.ready, self.closed, self.subscriptions = active, False, False, 0
        self.token, self.fails, self.refuses = "", False, dict[str, asyncio.Event]()
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def join(self, token: str) -> None:
        self.token = token
        if self.fails:
            raise JoinError(Code.LIVEKIT_UNREACHABLE, "no connection")
        if token in self.refuses:
            await self.refuses[token].wait()
            raise JoinError(Code.LIVEKIT_UNAUTHORIZED, "the server refused the token")

    async def received(self) -> Received:
        return Received(0, 0)

    async def close(self) -> None:
        self.closed = True


class Stays:
    """A `HostSource` that runs, and its stays in the room."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, spare: str, succeed_within: float) -> None:
        timing = replace(TIMING, succeed_within=succeed_within)
        self.all: list[FakeRoom] = []
        self.fail = self.ready = False
        self.refuse: dict[str, asyncio.Event] = {}
        """Tokens that the server refuses, each once its event is set."""
        monkeypatch.setattr(module, "JoinedRoom", self._make)
        configure = ConfigureLine("b1", "ws://127.0.0.1:9", "main", "host", PRESET, timing=timing, spare_token=spare)
        self.said: list[SourceLine] = []
        self.source = HostSource(configure, Screen(PRESET.width, PRESET.height), Mixer(48000), self.said.append)
        self.running = asyncio.create_task(self.source.run())

    def _make(self, *given: Any, active: bool) -> FakeRoom:
        self.all.append(FakeRoom(*given, active=active))
        self.all[-1].fails, self.all[-1].ready = self.fail, self.ready and not active
        self.all[-1].refuses = self.refuse
        return self.all[-1]

    @property
    def active(self) -> list[FakeRoom]:
        return [one for one in self.all if one.active]

    @property
    def tokens(self) -> list[str]:
        """The token of each join."""
        return [one.token for one in self.all if one.token]

    def refuse_now(self, *tokens: str) -> None:
        for token in tokens:
            self.refuse[token] = asyncio.Event()
            self.refuse[token].set()

    async def wear_out(self, stay: FakeRoom) -> FakeRoom:
        """Makes a stay have had many subscriptions besides the one to its picture, and returns the one that begins beside it."""
        count = len(self.all)
        stay.subscriptions = SUBSCRIPTIONS + 1
        await until(lambda: len(self.all) > count)
        return self.all[-1]


@pytest.fixture
async def stays(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Stays]]:
    made: list[Stays] = []

    def make(spare: str = "spare", succeed_within: float = 10) -> Stays:
        made.append(Stays(monkeypatch, spare, succeed_within))
        return made[-1]

    yield make
    for one in made:
        one.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await one.running
        await one.source.close()
        assert all(room.closed for room in one.all)


async def test_a_new_stay_takes_over_once_everything_is_received_there(stays: Callable[..., Stays]) -> None:
    show = stays(succeed_within=0.5)
    await until(lambda: bool(show.all))
    first = show.all[0]
    first.subscriptions = SUBSCRIPTIONS
    await asyncio.sleep(0.05)
    assert len(show.all) == 1
    second = await show.wear_out(first)
    await until(lambda: second.token == "spare")
    assert show.active == [first] and not first.closed
    second.ready = True
    await until(lambda: first.closed)
    assert show.active == [second] and show.source.pictures == 14
    # The identity of the first stay is free again.
    third = await show.wear_out(second)
    await until(lambda: third.token == "main")
    third.ready = True
    await until(lambda: second.closed)
    assert show.active == [third]


async def test_a_new_stay_that_fails_or_shows_nothing_leaves_the_old_one_and_is_tried_again(
    stays: Callable[..., Stays],
) -> None:
    show = stays(succeed_within=0.05)
    await until(lambda: bool(show.all))
    first = show.all[0]
    show.fail = True
    await until(lambda: bool(first.token))
    failed = await show.wear_out(first)
    await until(lambda: failed.closed)
    show.fail = False
    await until(lambda: len(show.all) > 2 and bool(show.all[-1].token))
    empty = show.all[-1]
    await until(lambda: empty.closed)
    assert show.active == [first] and not first.closed
    show.ready = True
    await until(lambda: first.closed)
    assert len(show.active) == 1


async def test_tracks_that_are_there_from_the_beginning_wear_no_stay_out(stays: Callable[..., Stays]) -> None:
    show = stays()
    await until(lambda: bool(show.all))
    first = show.all[0]
    sounds = frozenset(f"a{number}" for number in range(SUBSCRIPTIONS))
    first.choice, first.subscriptions = Choice("v", sounds, shown=True, heard=True), 1 + SUBSCRIPTIONS
    await asyncio.sleep(0.05)
    assert len(show.all) == 1
    first.subscriptions += SUBSCRIPTIONS
    await until(lambda: len(show.all) == 2)


async def test_a_new_stay_that_is_worn_at_once_lasts_for_a_while(stays: Callable[..., Stays]) -> None:
    show = stays(succeed_within=0.3)
    await until(lambda: bool(show.all))
    began = time.monotonic()
    second = await show.wear_out(show.all[0])
    second.subscriptions, second.ready = 2 * SUBSCRIPTIONS, True
    await until(lambda: len(show.all) == 3)
    assert time.monotonic() - began >= 0.3


async def test_without_a_second_identity_the_relay_stays(stays: Callable[..., Stays]) -> None:
    show = stays("")
    await until(lambda: bool(show.all))
    show.all[0].subscriptions = SUBSCRIPTIONS * 3
    await asyncio.sleep(0.05)
    assert len(show.all) == 1
    # A newer controller brings it.
    show.source.renew_token("main-2", "spare-2")
    await until(lambda: len(show.all) == 2 and show.all[1].token == "spare-2")


async def test_a_stay_that_ends_takes_the_new_one_with_it(stays: Callable[..., Stays]) -> None:
    show = stays()
    await until(lambda: bool(show.all))
    second = await show.wear_out(show.all[0])
    show.all[0].ended.set_result("SERVER_SHUTDOWN")
    await until(lambda: second.closed and len(show.all) > 2 and bool(show.all[-1].token))
    assert show.all[-1].token == "main" and show.all[-1].active


async def test_an_outage_costs_no_token(stays: Callable[..., Stays]) -> None:
    show = stays()
    await until(lambda: show.tokens == ["main"])
    show.source.renew_token("main-2", "spare-2")
    show.source.renew_token("main-3", "spare-3")
    show.fail = True
    show.all[0].ended.set_result("SERVER_SHUTDOWN")
    await until(lambda: len(show.tokens) > 4)
    show.fail = False
    assert set(show.tokens[1:]) == {"main-3"}


async def test_a_token_that_is_refused_gives_way_to_the_one_before_it(stays: Callable[..., Stays]) -> None:
    show = stays()
    await until(lambda: show.tokens == ["main"])
    show.source.renew_token("main-2")
    for _ in range(3):
        # The same one, with a configuration that has changed elsewhere.
        show.source.renew_token("main-3")
    show.refuse_now("main", "main-2", "main-3")
    show.all[0].ended.set_result("SERVER_SHUTDOWN")
    await until(lambda: len(show.tokens) > 5)
    assert show.tokens[1:6] == ["main-3", "main-2", "main", "main", "main"]
    # The one that comes next is used at once.
    show.source.renew_token("main-4")
    await until(lambda: show.tokens[-1] == "main-4")


async def test_a_token_that_comes_while_another_is_refused_takes_its_place(stays: Callable[..., Stays]) -> None:
    show = stays()
    await until(lambda: bool(show.all))
    second = await show.wear_out(show.all[0])
    second.ready = True
    await until(lambda: show.all[0].closed)
    show.refuse["spare"] = asyncio.Event()
    second.ended.set_result("SERVER_SHUTDOWN")
    await until(lambda: show.tokens == ["main", "spare", "spare"])
    show.source.renew_token("main-2", "spare-2")
    show.refuse_now("spare-2")
    show.refuse["spare"].set()
    await until(lambda: len(show.tokens) > 5)
    assert set(show.tokens[3:]) == {"spare-2"}


def test_both_identities_of_a_relay_are_those_of_an_engine() -> None:
    broadcast = uuid4()
    identities = {engine_identity(broadcast), engine_identity(broadcast, spare=True)}
    # LiveKit admits one participant of each; neither is removed with the tokens of a room, or shown as a guest.
    assert len(identities) == 2 and all(is_engines(one) for one in identities)
    assert not is_engines(f"{engine_identity(broadcast)}-other")
