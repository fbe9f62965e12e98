"""A publisher of the ingest as a source: takes its links at a socket, and passes H.264 and AAC on without decoding."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from butai.errors import Code
from butai.relay.incoming import wire
from butai.relay.incoming.passing import Passing
from butai.relay.incoming.tags import SourceRefused
from butai.relay.incoming.wire import Ended, FrameReader, Hello, Refused, WireError
from butai.relay.messages import ConfigureLine, SourceDetails, SourceLine
from butai.relay.packets import Packet
from butai.relay.rtmp.server_session import Media, Metadata
from butai.relay.sources import SourceLoad
from butai.relay.telling import source_line

log = structlog.get_logger(__name__)

TICK = 0.05
"""Seconds between two looks at what is missing."""
HELLO_WITHIN = 5.0
"""Seconds until a link has said whose it is."""
_PIECE = 64 * 1024


class IngestSource:
    """The publishers of one broadcast."""

    def __init__(
        self,
        configure: ConfigureLine,
        path: Path,
        report: Callable[[SourceLine], None],
        deliver: Callable[[list[Packet]], None],
    ) -> None:
        """`path`: of the socket (`wire.source_socket`)."""
        self._path, self._report, self._deliver = path, report, deliver
        self._passing = Passing(round(configure.grace * 1000), configure.on_lost, _now())
        self._wanted = False
        self._numbers = 0
        self._writers: dict[int, asyncio.StreamWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.line = source_line("waiting", ready=False)
        """The last report."""

    @property
    def pictures(self) -> int:
        """Pictures received."""
        return self._passing.pictures

    def configure_again(self, configure: ConfigureLine) -> None:
        """Changes nothing: it has no tokens."""

    def want(self, wanted: bool) -> None:  # noqa: FBT001 - its one subject
        """Sets whether packets are wanted. Links are read all the same."""
        self._wanted = wanted

    def begin_output(self) -> tuple[Packet, ...]:
        """The packets since the last key frame."""
        return self._passing.kept()

    def take_load(self) -> SourceLoad:
        """Nothing is encoded."""
        return SourceLoad(0.0, 0)

    def details(self) -> SourceDetails | None:
        """What the publisher on air sends."""
        return self._passing.details(_now())

    async def run(self) -> None:
        """Takes links until the source has ended. Raises `OSError` when the socket cannot be made."""
        with contextlib.suppress(FileNotFoundError):
            # Of a relay that was killed: the broadcast's lock proves that no other one listens.
            self._path.unlink()
        before = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._serve, self._path)
        finally:
            os.umask(before)
        while self.line.phase != "ended":
            await asyncio.sleep(TICK)
            self._send(self._passing.tick(_now()))
            self._update_phase()
        self._stop_listening()

    async def close(self) -> None:
        """Closes the socket and all links."""
        self._stop_listening()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._numbers += 1
        link = self._numbers
        self._writers[link] = writer
        try:
            await self._read(link, reader)
        except SourceRefused as error:
            log.warning("link.refused", code=error.code)
            self._passing.refuse(link, error, _now())
            writer.write(wire.write(Refused(error.code, error.text)))
        except WireError as error:
            log.warning("link.unreadable", error=str(error))
        except (OSError, TimeoutError, asyncio.CancelledError):
            # Cancelled only by `close`; asyncio's streams would log that as an error.
            pass
        finally:
            self._passing.close(link, _now())
            self._update_phase()
            self._writers.pop(link, None)
            writer.close()
            self._tasks.discard(task)

    async def _read(self, link: int, reader: asyncio.StreamReader) -> None:
        frames, known = FrameReader(), False
        async with asyncio.timeout(HELLO_WITHIN) as limit:
            while data := await reader.read(_PIECE):
                for frame in frames.feed(data):
                    match frame:
                        case Hello() if not known:
                            known = True
                            limit.reschedule(None)
                            self._open(link, frame)
                        case Media() | Metadata() if known:
                            self._send(self._passing.take(link, frame, _now()))
                            if self.line.phase != "live":
                                self._update_phase()
                        case Ended() if known:
                            log.info("link.ended", in_order=frame.in_order)
                            return
                        case _:
                            raise WireError("a frame that does not belong here")

    def _open(self, link: int, hello: Hello) -> None:
        log.info("link.opened", source=hello.source, source_id=hello.source_id)
        replaced = self._passing.open(link, hello, _now())
        before = self._writers.get(replaced) if replaced is not None else None
        if before is not None:
            before.write(wire.write(Refused(Code.SOURCE_CLOSED, "A newer connection with this key has taken over")))
            before.close()

    def _send(self, packets: list[Packet]) -> None:
        if packets and self._wanted:
            self._deliver(packets)

    def _update_phase(self) -> None:
        """Reports a change of the phase."""
        phase, code, detail = self._passing.phase(_now())
        ready = self._passing.pictures > 0
        if (phase, code or "", ready) == (
            self.line.phase,
            self.line.code,
            self.line.ready,
        ) or self.line.phase == "ended":
            return
        self.line = source_line(phase, code or "", detail, ready=ready)
        log.info("source.changed", phase=phase, code=code, detail=detail)
        self._report(self.line)


def _now() -> int:
    return int(time.monotonic() * 1000)
