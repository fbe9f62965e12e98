"""A room of ours that LiveKit does not have: the relay tries on, and its controller makes the room again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from livekit import api

from butai.errors import Code
from butai.live.egress.relay import missing_room as making
from butai.live.egress.relay.missing_room import MissingRoom
from butai.live.projects import Projects
from butai.live.reconcile.commands import EndBegun, Move
from butai.live.reconcile.plan import plan
from butai.live.reconcile.reports import SourceReport
from butai.live.reconcile.rows import BroadcastRow
from butai.relay import source as module
from butai.relay.messages import ConfigureLine, Preset, SourceLine
from butai.relay.mixer import Mixer
from butai.relay.picture import Screen
from butai.relay.room import JoinError
from butai.relay.source import HostSource
from butai.relay.timing import RelayTiming
from tests.unit.test_live_plan import NOW, POLICY, broadcast, output, running

TIMING = RelayTiming(join_delay=0.001, join_delay_cap=0.002, phase_every=0.001)
LOST = SourceLine("lost", 0.0, Code.ROOM_NOT_FOUND)


class NoRoom:
    """A room that is not there for the first `times` joins; then the stay ends as `reason` says, each time."""

    times = 3
    joins = 0

    def __init__(self, *_: Any, **__: Any) -> None:
        self.pictures, self.host, self.all_muted, self.reconnecting, self.stale, self.token = (
            0,
            None,
            False,
            False,
            False,
            "",
        )
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def join(self, _token: str) -> None:
        NoRoom.joins += 1
        if NoRoom.joins <= self.times:
            raise JoinError(Code.ROOM_NOT_FOUND, "the server has no such room")
        self.ended.set_result("ROOM_DELETED")

    async def close(self) -> None:
        pass


def source(monkeypatch: pytest.MonkeyPatch, said: list[SourceLine], *, times: int, **more: Any) -> HostSource:
    monkeypatch.setattr(module, "JoinedRoom", NoRoom)
    monkeypatch.setattr(NoRoom, "times", times)
    monkeypatch.setattr(NoRoom, "joins", 0)
    configure = ConfigureLine(
        "b1", "ws://127.0.0.1:9", "token", "host", Preset(320, 180, 30, 500), timing=TIMING, **more
    )
    return HostSource(configure, Screen(320, 180), Mixer(48000), said.append)


async def test_a_relay_waits_for_a_room_of_ours_until_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[SourceLine] = []
    async with asyncio.timeout(30):
        await source(monkeypatch, said, times=50, room_made=True).run()
    told = [(line.phase, line.code) for line in said]
    assert told[0] == ("waiting", "room_not_found")
    assert told[-1] == ("ended", "source_ended"), "deleted on purpose, in the end"
    assert NoRoom.joins == 51


async def test_a_claimed_room_that_is_not_there_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[SourceLine] = []
    async with asyncio.timeout(30):
        await source(monkeypatch, said, times=50).run()
    assert [(line.phase, line.code) for line in said] == [("failed", "room_not_found")]


async def test_a_host_who_does_not_come_meanwhile_ends_it_within_the_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[SourceLine] = []
    async with asyncio.timeout(30):
        await source(monkeypatch, said, times=10**9, room_made=True, grace=0.05).run()
    assert [(line.phase, line.code) for line in said] == [("waiting", "room_not_found"), ("ended", "no_media")]


def test_a_missing_room_of_ours_ends_nothing() -> None:
    row, seen = broadcast(output()), running()
    seen.record(SourceReport("lost", NOW, "room_not_found"))
    writes = plan(row, seen.snapshot(), NOW, POLICY).writes
    assert not [one for one in writes if isinstance(one, EndBegun | Move)]
    assert [getattr(one, "code", None) for one in writes] == ["room_not_found"]


class LiveKit:
    """What was asked of it; `answers` are raised, in turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: Exception | None) -> None:
        self.asked, self.answers = list[tuple[str, str]](), list(answers)
        self.held: Callable[[], Awaitable[None]] | None = None
        monkeypatch.setattr(making, "open_room", self.open_room)

    async def open_room(self, _projects: Projects, project: str, room_id: str, _seconds: float) -> None:
        self.asked.append((project, room_id))
        if self.held is not None:
            await self.held()
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


def row(*, made: bool) -> BroadcastRow:
    return BroadcastRow(
        uuid.uuid4(), "r", "h", "on_air", "720p30", "any", "", 60.0, "end", (), livekit_project="tokyo", room_made=made
    )


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_it_is_made_again_and_again_until_the_relay_finds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = api.TwirpError("unavailable", "no", status=503)
    livekit, room = LiveKit(monkeypatch, refused, TimeoutError()), MissingRoom(None, 1.0)  # pyright: ignore[reportArgumentType]
    for _ in range(2):
        room.make(row(made=True))
        await settle()
    assert livekit.asked == [], "it is there"
    room.observe(LOST)
    for _ in range(4):
        room.make(row(made=True))
        await settle()
    assert livekit.asked == [("tokyo", "r")] * 4
    room.observe(SourceLine("waiting", 0.0))
    room.make(row(made=True))
    await settle()
    assert len(livekit.asked) == 4


async def test_one_request_at_a_time_and_none_for_a_claimed_room(monkeypatch: pytest.MonkeyPatch) -> None:
    livekit, room = LiveKit(monkeypatch), MissingRoom(None, 1.0)  # pyright: ignore[reportArgumentType]
    room.observe(LOST)
    room.make(None)
    room.make(row(made=False))
    await settle()
    assert livekit.asked == []
    livekit.held = asyncio.Event().wait  # pyright: ignore[reportAttributeAccessIssue]
    for _ in range(3):
        room.make(row(made=True))
        await settle()
    assert len(livekit.asked) == 1
    room.close()
    room.make(row(made=True))
    await settle()
    assert len(livekit.asked) == 1


@pytest.mark.parametrize("phase", ["failed", "ended"])
async def test_what_is_over_is_not_made_again(monkeypatch: pytest.MonkeyPatch, phase: Any) -> None:
    livekit, room = LiveKit(monkeypatch), MissingRoom(None, 1.0)  # pyright: ignore[reportArgumentType]
    room.observe(SourceLine(phase, 0.0, Code.ROOM_NOT_FOUND))
    room.make(row(made=True))
    await settle()
    assert livekit.asked == []
