"""The pushes of a broadcast: one task for each output's attempt, independent of all others.

The result of an attempt is kept until its output is stopped, so that a controller that missed it gets it by starting
the same attempt again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from butai.errors import Code
from butai.relay.messages import OutputLine, OutputMetrics, OutputPhase, StartOutputLine
from butai.relay.packets import Packet
from butai.relay.rtmp.connection import Connection
from butai.relay.rtmp.publisher import Publisher, PublishError, Stats, Target
from butai.relay.telling import output_line
from butai.relay.timing import Limits, RelayTiming, hurried

log = structlog.get_logger(__name__)


class Push(Protocol):
    """Carries one attempt: `Publisher`, or a test's replacement."""

    stats: Stats

    async def run(self) -> None:
        """Publishes until `stop`. Raises `PublishError`."""
        ...

    def send(self, packet: Packet) -> None:
        """Queues a packet, without waiting."""
        ...

    def stop(self) -> None:
        """Makes `run` return."""
        ...


Report = Callable[[OutputPhase, str, str], None]
MakePush = Callable[[StartOutputLine, Report], Push]


def rtmp(
    order: StartOutputLine,
    report: Report,
    limits: Limits | None = None,
    take: Callable[[StartOutputLine], Connection | None] = lambda _: None,
) -> Push:
    """Makes a `Publisher`. `take`: gives the open connection to an order's server, if there is one."""
    target = Target(url=order.url, key=order.key, allow_private=order.allow_private)
    if order.hurried:
        limits = hurried(limits or Limits())
    return Publisher(target, report=report, limits=limits, take=lambda: take(order))


@dataclass
class _Attempt:
    push: Push
    line: OutputLine
    task: asyncio.Task[None] | None = None
    stopping: bool = False
    live_since: float | None = None
    before: _Totals = field(default_factory=lambda: _Totals(0, 0, 0.0))

    @property
    def running(self) -> bool:
        return self.line.phase not in ("failed", "ended")


@dataclass(frozen=True)
class _Totals:
    bytes_sent: int
    frames_sent: int
    at: float


class Outputs:
    """All outputs of a broadcast. Calls `report` with every change of an output, and `wanted` with whether any attempt
    runs."""

    def __init__(
        self,
        report: Callable[[OutputLine], None],
        *,
        wanted: Callable[[bool], None],
        begin: Callable[[], Sequence[Packet]],
        make: MakePush = rtmp,
        stop_limit: float = RelayTiming.output_stop_limit,
    ) -> None:
        """`begin`: gives the packets that an output begins with, or asks for a key frame. `stop_limit`: seconds for the
        orderly end of a push, before its task is cancelled."""
        self._report, self._make = report, make
        self._wanted, self._begin_with, self._stop_limit = wanted, begin, stop_limit
        self._attempts: dict[str, _Attempt] = {}
        self._orders: dict[str, asyncio.Lock] = {}
        self._abort_code = ""

    @property
    def lines(self) -> list[OutputLine]:
        """The present state of each output."""
        return [attempt.line for attempt in self._attempts.values()]

    def send(self, packets: list[Packet]) -> None:
        """Queues packets for all running attempts."""
        for attempt in self._attempts.values():
            if attempt.running:
                for packet in packets:
                    attempt.push.send(packet)

    async def start(self, order: StartOutputLine) -> None:
        """Begins an attempt, after ending an older one. Reports the state of an attempt that is known."""
        async with self._lock(order.output_id):
            known = self._attempts.get(order.output_id)
            if known is not None:
                if known.line.attempt >= order.attempt:
                    self._report(known.line)
                    return
                await self._stop_push(known)
            self._begin(order)

    async def stop(self, output_id: str) -> None:
        """Ends a push. Reports `ended`, also if nothing was pushed."""
        async with self._lock(output_id):
            attempt = self._attempts.get(output_id)
            if attempt is None:
                self._report(output_line(output_id, 0, "ended"))
                return
            await self._stop_push(attempt)
            if attempt.line.phase == "failed":
                self._change(attempt, "ended")

    async def close(self, code: str = "") -> None:
        """Ends all pushes, concurrently. With a `code` they are reported as `failed`, since their end was not
        ordered."""
        self._abort_code = code
        await asyncio.gather(*(self._stop_push(attempt) for attempt in self._attempts.values()))

    def metrics(self, now: float) -> list[OutputMetrics]:
        """Metrics of the running attempts since the last call. `now`: monotonic seconds."""
        found: list[OutputMetrics] = []
        for attempt in self._attempts.values():
            if not attempt.running:
                continue
            stats, before = attempt.push.stats, attempt.before
            seconds = max(now - before.at, 0.001)
            attempt.before = _Totals(stats.bytes_sent, stats.frames_sent, now)
            found.append(
                OutputMetrics(
                    output_id=attempt.line.output_id,
                    attempt=attempt.line.attempt,
                    bytes_sent=stats.bytes_sent,
                    bytes_acked=stats.bytes_acked,
                    bitrate_kbps=round((stats.bytes_sent - before.bytes_sent) * 8 / 1000 / seconds, 1),
                    fps=round((stats.frames_sent - before.frames_sent) / seconds, 1),
                    dropped_frames=stats.dropped_frames,
                    rtt_ms=round(stats.rtt_ms, 1),
                    queue_ms=round(stats.queue_ms, 1),
                    uptime_s=round(now - attempt.live_since, 1) if attempt.live_since is not None else 0.0,
                )
            )
        return found

    def _lock(self, output_id: str) -> asyncio.Lock:
        return self._orders.setdefault(output_id, asyncio.Lock())

    def _begin(self, order: StartOutputLine) -> None:
        def report(phase: OutputPhase, code: str, detail: str) -> None:
            if attempt.running and (phase, code) != (attempt.line.phase, attempt.line.code):
                self._change(attempt, phase, code, detail)

        push = self._make(order, report)
        attempt = _Attempt(push, output_line(order.output_id, order.attempt, "connecting"))
        attempt.before = _Totals(0, 0, time.monotonic())
        self._attempts[order.output_id] = attempt
        self._report(attempt.line)
        attempt.task = asyncio.create_task(self._run(attempt))
        self._wanted(True)  # noqa: FBT003 - its one subject

    async def _run(self, attempt: _Attempt) -> None:
        try:
            await attempt.push.run()
        except PublishError as error:
            if attempt.stopping:
                self._set_ended(attempt)
            else:
                self._change(attempt, "failed", error.code, error.detail, error.if_key_worked or "")
        except asyncio.CancelledError:
            self._set_ended(attempt)
            raise
        except Exception as error:  # noqa: BLE001 - becomes a report of the failed attempt
            # The text of an unknown error may hold the URL with the stream key.
            log.error("output.crashed", output_id=attempt.line.output_id, error=type(error).__name__)
            self._change(attempt, "failed", Code.EGRESS_CRASHED, type(error).__name__)
        else:
            self._set_ended(attempt)

    def _set_ended(self, attempt: _Attempt) -> None:
        self._change(attempt, "failed" if self._abort_code else "ended", self._abort_code)

    async def _stop_push(self, attempt: _Attempt) -> None:
        attempt.stopping = True
        if attempt.task is None or attempt.task.done():
            return
        attempt.push.stop()
        done, _ = await asyncio.wait([attempt.task], timeout=self._stop_limit)
        if not done:
            attempt.task.cancel()
            await asyncio.wait([attempt.task], timeout=self._stop_limit)

    def _change(
        self, attempt: _Attempt, phase: OutputPhase, code: str = "", detail: str = "", if_key_worked: str = ""
    ) -> None:
        before = attempt.line
        attempt.line = output_line(before.output_id, before.attempt, phase, code, detail, if_key_worked=if_key_worked)
        if phase == "publishing":
            for packet in self._begin_with():
                attempt.push.send(packet)
        if phase == "live" and attempt.live_since is None:
            attempt.live_since = time.monotonic()
        log.info("output.changed", output_id=before.output_id, attempt=before.attempt, phase=phase, code=code)
        self._report(attempt.line)
        self._wanted(any(one.running for one in self._attempts.values()))
