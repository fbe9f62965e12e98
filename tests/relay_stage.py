"""A relay in this process with stand-ins for its room and platforms, and a controller that speaks to one over its socket."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
from av import VideoFrame
from numpy.typing import NDArray

from butai.relay import messages
from butai.relay.messages import ConfigureLine, FromController, FromRelay, HelloLine, Line, SourceLine, StartOutputLine
from butai.relay.mixer import Mixer
from butai.relay.outputs import Report
from butai.relay.packets import Packet
from butai.relay.picture import Screen
from butai.relay.rtmp.publisher import Stats
from butai.relay.server import Relay
from tests.clock import Clock

L = TypeVar("L", bound=Line)
STEP = 1.0
"""Seconds, fewer than those from which on a process did not run."""


async def until(condition: Callable[[], bool], within: float = 10.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.005)


def luma(frame: VideoFrame) -> NDArray[np.uint8]:
    """The brightness of each pixel, by row and column."""
    plane = frame.planes[0]
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.line_size * frame.height]
    return rows.reshape(frame.height, plane.line_size)[:, : frame.width]


class FakePush:
    """Publishes at once; ends when told."""

    def __init__(self, order: StartOutputLine, report: Report) -> None:
        self.order, self.report = order, report
        self.stats = Stats()
        self.sent: list[Packet] = []
        self.stops = 0
        self.deaf = self.cut_off = False
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        self.report("publishing", "", "")
        try:
            await self._over
        except asyncio.CancelledError:
            self.cut_off = True
            raise

    def send(self, packet: Packet) -> None:
        self.sent.append(packet)

    def stop(self) -> None:
        self.stops += 1
        if not self.deaf and not self._over.done():
            self._over.set_result(None)

    def obey(self) -> None:
        """The stop that it did not hear at first."""
        self._over.set_result(None)

    def break_off(self, error: Exception) -> None:
        self._over.set_exception(error)


class FakeSource:
    def __init__(
        self, configure: ConfigureLine, screen: Screen, mixer: Mixer, report: Callable[[SourceLine], None]
    ) -> None:
        self.line = SourceLine(phase="connecting", at=time.time())
        self.pictures = 0
        self.tokens = [configure.token]
        self.closed = False
        self.report = report

    def renew_token(self, token: str, spare: str = "") -> None:
        self.tokens += [token, spare] if spare else [token]

    def say(self, line: SourceLine) -> None:
        self.line = line
        self.report(line)

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        self.closed = True


class RelayStage:
    """A relay that runs, and its stand-ins."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.sources: list[FakeSource] = []
        self.pushes: list[FakePush] = []
        self.relay = Relay(path, "b1", make_host=self._source, make_push=self._push, clock=clock)
        self.running = asyncio.create_task(self.relay.run())

    def _source(
        self, configure: ConfigureLine, screen: Screen, mixer: Mixer, report: Callable[[SourceLine], None]
    ) -> FakeSource:
        self.sources.append(FakeSource(configure, screen, mixer, report))
        return self.sources[-1]

    def _push(self, order: StartOutputLine, report: Report) -> FakePush:
        self.pushes.append(FakePush(order, report))
        return self.pushes[-1]


class Controller:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.heard: list[FromRelay] = []

    @classmethod
    async def connect(cls, path: Path, epoch: int = 1) -> Controller:
        await until(path.exists)
        async with asyncio.timeout(5):
            while True:
                # The file is there a moment before the server listens.
                with contextlib.suppress(ConnectionRefusedError):
                    controller = cls(*await asyncio.open_unix_connection(path))
                    break
                await asyncio.sleep(0.01)
        controller.say(HelloLine(f"c{epoch}", epoch))
        return controller

    def say(self, line: FromController) -> None:
        self.writer.write(messages.encode(line))

    async def hear(self, kind: type[L], condition: Callable[[L], bool] = lambda _: True) -> L:
        async with asyncio.timeout(10):
            while line := await self.reader.readline():
                said = messages.read_by_controller(line)
                self.heard.append(said)
                if isinstance(said, kind) and condition(said):
                    return said
        raise AssertionError(f"hung up before {kind.__name__}: {self.heard}")

    async def hung_up(self) -> bool:
        async with asyncio.timeout(10):
            while line := await self.reader.readline():
                self.heard.append(messages.read_by_controller(line))
        return True


async def pass_time(stage: RelayStage, clock: Clock, seconds: float) -> None:
    """Lets time pass on a relay's clock, and the relay look at it in between."""
    while seconds > 0:
        clock.now += min(STEP, seconds)
        seconds -= STEP
        await until(lambda: stage.relay._looked_at >= clock.now or stage.running.done())
