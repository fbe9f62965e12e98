"""The relay's socket: obeys one controller at a time, and runs the media of one broadcast.

The relay listens, since it outlives its controller: the next holder of the broadcast's lease connects, the previous
connection is closed, and the media are not affected.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from butai.errors import Code
from butai.relay import messages
from butai.relay.incoming.wire import source_socket
from butai.relay.ingest_source import IngestSource
from butai.relay.messages import FromRelay, MetricsLine, StartOutputLine, WelcomeLine
from butai.relay.outputs import MakePush, Outputs, rtmp
from butai.relay.packets import Packet
from butai.relay.reachability import Reachability
from butai.relay.room_source import MakeHost, RoomSource
from butai.relay.source import HostSource
from butai.relay.sources import MediaSource
from butai.relay.telling import output_line, source_line
from butai.relay.timing import RelayTiming

log = structlog.get_logger(__name__)

BACKLOG = 1024**2
"""Unread bytes after which a controller is disconnected."""


@dataclass
class _Media:
    source: MediaSource
    outputs: Outputs
    reachability: Reachability
    source_task: asyncio.Task[None]


class Relay:
    """One broadcast's relay. `end` may be called from a signal handler."""

    def __init__(
        self,
        socket_path: Path,
        broadcast_id: str,
        *,
        make_host: MakeHost = HostSource,
        make_push: MakePush | None = None,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        """`make_host`: `HostSource`, and `make_push`: `outputs.rtmp`, or tests' replacements. `clock`: monotonic seconds,
        also of a suspended machine.
        `ending`: called once, when the end begins."""
        self._path, self._broadcast_id = socket_path, broadcast_id
        self._make_host, self._make_push, self._clock = make_host, make_push, clock
        self.timing = RelayTiming()
        """The timing of the configuration, once there is one."""
        self._ending = ending
        self._stop_ordered = False
        self._run_id = uuid.uuid4().hex
        self._epoch = -1
        self._controller: asyncio.StreamWriter | None = None
        self._last_line_at = self._looked_at = clock()
        self._resumed_at: float | None = None
        self._wanted = self._held = False
        self._media: _Media | None = None
        self._initial_source = source_line("connecting", ready=False)
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orders: set[asyncio.Task[None]] = set()
        self._connections: set[asyncio.Task[None]] = set()

    def end(self, reason: str) -> None:
        """Makes `run` end all pushes and return. `reason`: as in `ByeLine`."""
        if not self._end.done():
            log.info("relay.ending", reason=reason)
            self._end.set_result(reason)
            self._ending()

    async def run(self) -> str:
        """Serves until `end`, then closes everything in order. Returns the reason, which `ByeLine` had, too.

        Raises `OSError` when the socket cannot be made.
        """
        server = await self._listen()
        log.info("relay.listening", broadcast_id=self._broadcast_id, run_id=self._run_id)
        reports = asyncio.create_task(self._send_metrics())
        try:
            reason = await self._end
        finally:
            reports.cancel()
            server.close()
        for order in list(self._orders):
            order.cancel()
        try:
            code = "" if self._stop_ordered else Code.EGRESS_CRASHED if reason == "crashed" else Code.EGRESS_LOST
            await self._close_media(code)
        except Exception:
            log.exception("relay.close_failed")
            reason = "crashed"
        self._send(messages.ByeLine(reason))
        await self._disconnect()
        for connection in list(self._connections):
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        return reason

    async def _listen(self) -> asyncio.Server:
        with contextlib.suppress(FileNotFoundError):
            # The socket of a relay that was killed; our lock proves that no other relay listens there.
            self._path.unlink()
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._serve_connection, self._path, limit=messages.LINE_LIMIT)
        finally:
            os.umask(before)

    # The connection

    async def _serve_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._read_orders(reader, writer)
        except (msgspec.MsgspecError, ValueError) as error:
            # Without the text of the error or the line, which may hold a stream key. ValueError: the line is too long.
            log.warning("controller.bad_line", error=type(error).__name__)
        except (ConnectionError, asyncio.CancelledError):
            # Cancelled only by `run`; asyncio's streams would log that as an error.
            pass
        finally:
            if self._controller is writer:
                self._controller = None
                log.info("controller.gone", epoch=self._epoch)
            writer.close()
            self._connections.discard(task)

    async def _read_orders(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        if not line:
            return
        hello = messages.read_by_relay(line)
        if not isinstance(hello, messages.HelloLine):
            log.warning("controller.bad_line", error="no hello")
            return
        if hello.epoch < self._epoch:
            log.warning("controller.refused", controller=hello.controller, epoch=hello.epoch, ruling=self._epoch)
            writer.write(messages.encode(messages.RefusedLine(self._epoch)))
            return
        self._epoch = hello.epoch
        before, self._controller = self._controller, writer
        if before is not None:
            before.close()
        self._hear_controller()
        log.info("controller.welcome", controller=hello.controller, epoch=hello.epoch)
        self._send(self._welcome())
        while self._controller is writer and (line := await reader.readline()):
            order = messages.read_by_relay(line)
            # Another controller may have connected while this line was in transit.
            if self._controller is not writer:
                return
            self._hear_controller()
            self._carry_out(order)

    def _welcome(self) -> WelcomeLine:
        media = self._media
        return WelcomeLine(
            run_id=self._run_id,
            pid=os.getpid(),
            configured=media is not None,
            source=media.source.line if media else self._initial_source,
            outputs=media.outputs.lines if media else [],
        )

    def _carry_out(self, order: messages.FromController) -> None:
        match order:
            case messages.ConfigureLine():
                self._configure(order)
            case messages.StartOutputLine():
                self._start(order)
            case messages.StopOutputLine():
                if self._media is None:
                    self._send(output_line(order.output_id, 0, "ended"))
                else:
                    self._spawn(self._media.outputs.stop(order.output_id))
            case messages.StopLine():
                self._stop_ordered = True
                self.end("stopped")
            case messages.HelloLine() | messages.PingLine():
                pass

    def _start(self, order: StartOutputLine) -> None:
        if self._media is None:
            code, detail = Code.EGRESS_UNAVAILABLE, "the relay is not configured"
            self._send(output_line(order.output_id, order.attempt, "failed", code, detail))
        else:
            self._spawn(self._media.outputs.start(order))

    def _send(self, line: FromRelay) -> None:
        writer = self._controller
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > BACKLOG:
            log.warning("controller.slow")
            writer.transport.abort()
            return
        writer.write(messages.encode(line))

    # A machine that stood still: other controllers may have started another relay meanwhile

    def _hear_controller(self) -> None:
        now = self._note_pause()
        if self._resumed_at is not None and now - self._resumed_at < self.timing.stale_for:
            return
        self._last_line_at, self._resumed_at = now, None
        self._hold_media(held=False)

    def _note_pause(self) -> float:
        now = self._clock()
        if now - self._looked_at > self.timing.stood_still_after:
            log.warning("relay.stood_still", seconds=round(now - self._looked_at, 1))
            self._resumed_at = now
        self._looked_at = now
        return now

    def _is_abandoned(self) -> bool:
        """Whether no controller wants this relay any more. After a pause it may be too early to say: nothing is pushed
        until a controller was heard, over connections that stay."""
        now = self._note_pause()
        if now - self._last_line_at <= self.timing.abandoned_after:
            return False
        if self._resumed_at is None or now - self._resumed_at > self.timing.heard_within:
            return True
        self._hold_media(held=True)
        return False

    def _hold_media(self, *, held: bool) -> None:
        if held is not self._held:
            self._held = held
            self._want(self._wanted)

    def _want(self, wanted: bool) -> None:  # noqa: FBT001 - its one subject
        self._wanted = wanted
        if self._media is not None:
            self._media.source.want(wanted and not self._held)

    async def _disconnect(self) -> None:
        writer, self._controller = self._controller, None
        if writer is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self.timing.disconnect_limit):
                    await writer.drain()
            writer.close()

    # The media

    def _configure(self, order: messages.ConfigureLine) -> None:
        if self._media is not None:
            self._media.source.configure_again(order)
            self._media.reachability.watch(order.held)
            return
        if order.broadcast_id != self._broadcast_id:
            log.error("relay.other_broadcast", broadcast_id=order.broadcast_id)
            return
        self.timing = order.timing
        reachability = Reachability(self._send, order.timing)
        outputs = Outputs(
            self._send,
            wanted=self._want,
            begin=lambda: source.begin_output(),  # noqa: PLW0108 - the source is made below, and delivers to the outputs
            make=self._make_push or functools.partial(rtmp, limits=order.timing.rtmp, take=reachability.take),
            stop_limit=order.timing.output_stop_limit,
        )
        source = self._make_source(order, outputs.send)
        source_task = asyncio.create_task(source.run())
        source_task.add_done_callback(self._source_ended)
        reachability.watch(order.held)
        self._media = _Media(source, outputs, reachability, source_task)
        self._send(source.line)

    def _make_source(self, order: messages.ConfigureLine, deliver: Callable[[list[Packet]], None]) -> MediaSource:
        if order.source == "room":
            return RoomSource(order, self._send, deliver, self._pipeline_failed, self._make_host)
        path = source_socket(self._path.parent, self._broadcast_id)
        return IngestSource(order, path, self._send, deliver)

    def _source_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("source.crashed", error=type(error).__name__, exc_info=error)
            self.end("crashed")

    def _pipeline_failed(self, detail: str) -> None:
        log.error("relay.broken", detail=detail)
        self.end("crashed")

    async def _close_media(self, code: str) -> None:
        media, self._media = self._media, None
        if media is None:
            return
        await media.reachability.close()
        await media.outputs.close(code)
        media.source_task.cancel()
        await asyncio.gather(media.source_task, return_exceptions=True)
        await media.source.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def _send_metrics(self) -> None:
        cpu, pictures, before = time.process_time(), 0, time.monotonic()
        while True:
            await asyncio.sleep(self.timing.metrics_every)
            if self._is_abandoned():
                self.end("abandoned")
                return
            if self._media is None:
                continue
            now = time.monotonic()
            seconds, used, came = now - before, time.process_time() - cpu, self._media.source.pictures - pictures
            before, cpu, pictures = now, cpu + used, pictures + came
            load = self._media.source.take_load()
            self._send(
                MetricsLine(
                    at=time.time(),
                    outputs=self._media.outputs.metrics(now),
                    source_fps=round(came / seconds, 1),
                    encode_load=round(used / seconds, 3),
                    rss_mib=_rss_mib(),
                    late_ms=round(load.late * 1000, 1),
                    skipped_frames=load.skipped,
                    source=self._media.source.details(),
                )
            )


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1024**2, 1)
