"""A relay that stands still: its outputs are not live meanwhile."""

from __future__ import annotations

import asyncio
import socket
import time
import uuid
from typing import Any, Self, cast

from butai.config import LiveKitSettings, LiveSettings
from butai.errors import Code
from butai.live.egress.relay.engine import RelayContext, RelayEngine
from butai.live.egress.relay.process import WatchedProcess
from butai.live.projects import Projects
from butai.live.reconcile.reports import Observations, OutputReport
from butai.live.reconcile.timing import Timing
from butai.live.tokens import Tokens
from butai.relay import messages
from butai.relay.telling import output_line
from tests.virtual_time import run_virtually

TIMING = Timing()
FIRST, SECOND = uuid.uuid4(), uuid.uuid4()


class NoProcess:
    pid = 1

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.ended.set()

    def is_gone(self) -> bool:
        return True

    def close(self) -> None:
        """Nothing is watched."""


class Watched:
    """An engine, the relay's end of its socket, and the phases that it reported, by the loop's time."""

    async def __aenter__(self) -> Self:
        self.told: list[tuple[float, uuid.UUID, str, str]] = []
        self.seen = Observations()
        self.seen.engine_running("r1", 0.0)
        ours, relays = socket.socketpair()
        reader, writer = await asyncio.open_connection(sock=ours)
        _, self._relay = await asyncio.open_connection(sock=relays)
        given = Projects(LiveKitSettings(), LiveSettings())
        context = RelayContext(given, Tokens(given), bytes.decode, TIMING, allow_private=False)
        welcome = messages.WelcomeLine("r1", 1, False, messages.SourceLine("connecting", 0.0), [])
        process = cast("WatchedProcess", NoProcess())
        self._engine = RelayEngine(context, uuid.uuid4(), reader, writer, process, welcome, on_close=lambda _: None)
        self._engine.follow(self._report, lambda: None)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._engine.detach()
        self._relay.close()

    def _report(self, report: Any) -> None:
        if isinstance(report, OutputReport) and self.seen.record(report):
            now = asyncio.get_running_loop().time()
            self.told.append((now, report.output_id, report.phase, str(report.code)))

    def say(self, *lines: messages.FromRelay) -> None:
        for line in lines:
            self._relay.write(messages.encode(line))


def metrics() -> messages.MetricsLine:
    return messages.MetricsLine(time.time(), [])


def output(one: uuid.UUID, phase: messages.OutputPhase) -> messages.OutputLine:
    return output_line(str(one), 1, phase)


def test_live_outputs_of_a_relay_that_says_nothing_are_interrupted_until_it_speaks() -> None:
    async def work() -> None:
        async with Watched() as watched:
            watched.say(output(FIRST, "live"), output(SECOND, "publishing"))
            await asyncio.sleep(1)
            watched.say(metrics())
            await asyncio.sleep(6)
            # It goes on, and says what became of them.
            watched.say(metrics(), output(SECOND, "live"), output(FIRST, "stalled"), output(FIRST, "live"))
            await asyncio.sleep(1)
        silent = TIMING.relay_silent_after + TIMING.relay_silent_again
        assert watched.told == [
            (0.0, FIRST, "live", ""),
            (0.0, SECOND, "publishing", ""),
            (1 + silent, FIRST, "stalled", Code.EGRESS_LOST),
            (7.0, FIRST, "live", ""),
            (7.0, SECOND, "live", ""),
            (7.0, FIRST, "stalled", ""),
            (7.0, FIRST, "live", ""),
        ]

    run_virtually(work())


def test_one_that_speaks_each_second_or_has_nothing_live_is_left_alone() -> None:
    async def work() -> None:
        async with Watched() as watched:
            watched.say(output(SECOND, "publishing"))
            await asyncio.sleep(60)
            watched.say(output(FIRST, "live"))
            for _ in range(30):
                # Metrics that come late once and again.
                await asyncio.sleep(TIMING.relay_silent_after + TIMING.relay_silent_again - 0.1)
                watched.say(metrics())
            watched.say(output(FIRST, "ended"))
            await asyncio.sleep(60)
        assert [phase for _, _, phase, _ in watched.told] == ["publishing", "live", "ended"]

    run_virtually(work())
