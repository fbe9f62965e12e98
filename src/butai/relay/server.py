"""The relay's side of the conversation with its controller, and what it sets to work.

One `Relay` is one broadcast. It listens on a unix socket, since it outlives its controller: whoever holds the
broadcast's lease connects, the one before is hung up on, and nothing in the media changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from butai.errors import Code
from butai.relay import messages
from butai.relay.messages import FromRelay, MetricsLine, OutputLine, StartOutputLine, WelcomeLine
from butai.relay.mixer import Mixer
from butai.relay.outputs import MakePush, Outputs, rtmp
from butai.relay.picture import Screen
from butai.relay.pipeline import Pipeline
from butai.relay.source import HostSource

log = structlog.get_logger(__name__)

ABANDONED_AFTER = 30.0
"""Seconds without a controller's line until the relay ends by itself."""
BACKLOG = 1024**2
"""Bytes that a controller may leave unread before it is hung up on."""


class MediaSource(Protocol):
    """Where the media comes from. `HostSource` is it."""

    line: messages.SourceLine

    @property
    def pictures(self) -> int:
        """Frames that came."""
        ...

    def renew(self, token: str) -> None:
        """Another token."""
        ...

    async def run(self) -> None:
        """Until it has ended."""
        ...

    async def close(self) -> None:
        """Lets go of the room."""
        ...


MakeSource = Callable[[messages.ConfigureLine, Screen, Mixer, Callable[[messages.SourceLine], None]], MediaSource]


@dataclass
class _Media:
    source: MediaSource
    pipeline: Pipeline
    outputs: Outputs
    following: asyncio.Task[None]


class Relay:
    """`run` until the end; `end` from a signal's handler."""

    def __init__(
        self,
        socket_path: Path,
        broadcast_id: str,
        *,
        make_source: MakeSource = HostSource,
        make_push: MakePush = rtmp,
        abandoned_after: float = ABANDONED_AFTER,
        ending: Callable[[], None] = lambda: None,
    ) -> None:
        """`ending`: called once, when the end begins."""
        self._path, self._broadcast_id = socket_path, broadcast_id
        self._make_source, self._make_push, self._abandoned_after = make_source, make_push, abandoned_after
        self._ending = ending
        self._asked = False
        self._run_id = uuid.uuid4().hex
        self._epoch = -1
        self._controller: asyncio.StreamWriter | None = None
        self._heard_at = time.monotonic()
        self._media: _Media | None = None
        self._idle = messages.SourceLine(phase="connecting", at=time.time())
        self._end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._orders: set[asyncio.Task[None]] = set()
        self._talks: set[asyncio.Task[None]] = set()

    def end(self, reason: str) -> None:
        """Makes `run` return soon."""
        if not self._end.done():
            log.info("relay.ending", reason=reason)
            self._end.set_result(reason)
            self._ending()

    async def run(self) -> str:
        """Serves until the end and closes everything in order. Returns the reason, which was also said in `Bye`.

        Raises `OSError` when the socket cannot be made.
        """
        server = await self._listen()
        log.info("relay.listening", broadcast_id=self._broadcast_id, run_id=self._run_id)
        reports = asyncio.create_task(self._report_each_second())
        try:
            reason = await self._end
        finally:
            reports.cancel()
            server.close()
        for order in list(self._orders):
            order.cancel()
        try:
            code = "" if self._asked else Code.EGRESS_CRASHED if reason == "crashed" else Code.EGRESS_LOST
            await self._close_media(code)
        except Exception:
            log.exception("relay.close_failed")
            reason = "crashed"
        self._tell(messages.ByeLine(reason))
        await self._hang_up()
        for talk in list(self._talks):
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        return reason

    async def _listen(self) -> asyncio.Server:
        with contextlib.suppress(FileNotFoundError):
            # Of a relay that was killed: the lock says that nobody listens there.
            self._path.unlink()
        before = os.umask(0o177)
        try:
            return await asyncio.start_unix_server(self._talk, self._path, limit=messages.LINE_LIMIT)
        finally:
            os.umask(before)

    # The conversation

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        try:
            await self._listen_to(reader, writer)
        except (msgspec.MsgspecError, ValueError) as error:
            # Neither the line nor what is wrong in it: it may hold a key. ValueError: the line is too long.
            log.warning("controller.bad_line", error=type(error).__name__)
        except (ConnectionError, asyncio.CancelledError):
            # Cancelled at the end only; asyncio's streams would log that as an error.
            pass
        finally:
            if self._controller is writer:
                self._controller = None
                log.info("controller.gone", epoch=self._epoch)
            writer.close()
            self._talks.discard(task)

    async def _listen_to(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
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
        self._heard_at = time.monotonic()
        log.info("controller.welcome", controller=hello.controller, epoch=hello.epoch)
        self._tell(self._welcome())
        while self._controller is writer and (line := await reader.readline()):
            order = messages.read_by_relay(line)
            # Another one may have said hello while this one's line was on its way.
            if self._controller is not writer:
                return
            self._heard_at = time.monotonic()
            self._obey(order)

    def _welcome(self) -> WelcomeLine:
        media = self._media
        return WelcomeLine(
            run_id=self._run_id,
            pid=os.getpid(),
            configured=media is not None,
            source=media.source.line if media else self._idle,
            outputs=media.outputs.lines if media else [],
        )

    def _obey(self, order: messages.FromController) -> None:
        match order:
            case messages.ConfigureLine():
                self._configure(order)
            case messages.StartOutputLine():
                self._start(order)
            case messages.StopOutputLine():
                if self._media is None:
                    self._tell(OutputLine(order.output_id, 0, "ended", time.time()))
                else:
                    self._spawn(self._media.outputs.stop(order.output_id))
            case messages.StopLine():
                self._asked = True
                self.end("stopped")
            case messages.HelloLine() | messages.PingLine():
                pass

    def _start(self, order: StartOutputLine) -> None:
        if self._media is None:
            code, detail = Code.EGRESS_UNAVAILABLE, "the relay is not configured"
            self._tell(OutputLine(order.output_id, order.attempt, "failed", time.time(), code, detail))
        else:
            self._spawn(self._media.outputs.start(order))

    def _tell(self, line: FromRelay) -> None:
        writer = self._controller
        if writer is None or writer.is_closing():
            return
        if writer.transport.get_write_buffer_size() > BACKLOG:
            log.warning("controller.slow")
            writer.transport.abort()
            return
        writer.write(messages.encode(line))

    async def _hang_up(self) -> None:
        writer, self._controller = self._controller, None
        if writer is not None:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1):
                    await writer.drain()
            writer.close()

    # The media

    def _configure(self, order: messages.ConfigureLine) -> None:
        if self._media is not None:
            self._media.source.renew(order.token)
            return
        if order.broadcast_id != self._broadcast_id:
            log.error("relay.other_broadcast", broadcast_id=order.broadcast_id)
            return
        preset = order.preset
        screen, mixer = Screen(preset.width, preset.height), Mixer(preset.audio_rate)
        loop = asyncio.get_running_loop()
        pipeline = Pipeline(preset, screen, mixer, loop, lambda packets: outputs.send(packets), self._broken)
        outputs = Outputs(
            pipeline.video_format,
            pipeline.audio_format,
            self._tell,
            wanted=pipeline.want,
            keyframe=pipeline.force_keyframe,
            make=self._make_push,
        )
        source = self._make_source(order, screen, mixer, self._tell)
        following = asyncio.create_task(source.run())
        following.add_done_callback(self._source_done)
        self._media = _Media(source, pipeline, outputs, following)
        pipeline.start()
        self._tell(source.line)

    def _source_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("source.crashed", error=type(error).__name__, exc_info=error)
            self.end("crashed")

    def _broken(self, detail: str) -> None:
        log.error("relay.broken", detail=detail)
        self.end("crashed")

    async def _close_media(self, code: str) -> None:
        media, self._media = self._media, None
        if media is None:
            return
        await media.outputs.close(code)
        media.pipeline.stop()
        media.following.cancel()
        await asyncio.gather(media.following, return_exceptions=True)
        await media.source.close()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._orders.add(task)
        task.add_done_callback(self._orders.discard)

    async def _report_each_second(self) -> None:
        cpu, pictures, before = time.process_time(), 0, time.monotonic()
        while True:
            await asyncio.sleep(1)
            now = time.monotonic()
            if now - self._heard_at > self._abandoned_after:
                self.end("abandoned")
                return
            if self._media is None:
                continue
            seconds, used, came = now - before, time.process_time() - cpu, self._media.source.pictures - pictures
            before, cpu, pictures = now, cpu + used, pictures + came
            self._tell(
                MetricsLine(
                    at=time.time(),
                    outputs=self._media.outputs.metrics(now),
                    source_fps=round(came / seconds, 1),
                    encode_load=round(used / seconds, 3),
                    rss_mib=_rss_mib(),
                )
            )


def _rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return round(pages * resource.getpagesize() / 1024**2, 1)
