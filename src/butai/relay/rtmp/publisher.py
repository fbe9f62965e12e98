"""One push to one platform, and the truth about it.

`live` means: the platform took the key *and* its application has read bytes of the media. What says so is weighed in
`evidence`. Without it for 1.5 s the push is `stalled`, whatever the kernel goes on taking. Called by `butai.relay.outputs`.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import structlog

from butai.errors import Code
from butai.relay.packets import AudioFormat, Packet, VideoFormat
from butai.relay.rtmp import tcp
from butai.relay.rtmp.chunks import ProtocolError
from butai.relay.rtmp.connection import Limits, Target, bearable, connect
from butai.relay.rtmp.evidence import Evidence, TcpProgress
from butai.relay.rtmp.failures import PublishError, closed, refused
from butai.relay.rtmp.session import Acknowledged, Event, Pong, Publishing, PublishRefused, Session

__all__ = ["Limits", "PublishError", "Publisher", "Stats", "Target"]

log = structlog.get_logger(__name__)

Phase = Literal["connecting", "publishing", "live", "stalled"]
Report = Callable[[Phase, str, str], None]

_LOOK_EVERY = 0.1
_GOODBYE = 0.75
"""Seconds for the platform's word that it has read everything, when a publish is ended in order."""
_CLOSE = 0.25
_LAST_PING = 0
"""Behind the goodbye. The others are numbered from 1."""


@dataclass
class Stats:
    """Figures of one push. Bytes are totals; `rtt_ms` is the last ping's, `queue_ms` what waits now."""

    bytes_sent: int = 0
    bytes_acked: int = 0
    frames_sent: int = 0
    dropped_frames: int = 0
    rtt_ms: float = 0.0
    queue_ms: float = 0.0


class Publisher:
    """Made for one attempt; `run` it once."""

    def __init__(
        self,
        target: Target,
        video: VideoFormat,
        audio: AudioFormat,
        *,
        report: Report,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.stats = Stats()
        self._target, self._video, self._audio = target, video, audio
        self._report, self._limits, self._tls = report, limits or Limits(), tls
        self._queue: deque[Packet] = deque()
        self._wakes = asyncio.Event()
        self._stopping = asyncio.Event()
        self._dismissed = asyncio.Event()
        self._needs_keyframe = True
        self._first: int | None = None
        self._taking = False
        self._session: Session | None = None
        self._evidence = Evidence(self._limits.ignored_after)
        self._stalled_since: float | None = None

    # From the encoder

    def send(self, packet: Packet) -> None:
        """Queues a packet; never waits. What comes before the platform took the key is not kept."""
        if not self._taking:
            return
        if self._needs_keyframe:
            if packet.kind != "video" or not packet.keyframe:
                self.stats.dropped_frames += packet.kind == "video" and self._first is not None
                return
            self._needs_keyframe = False
            if self._first is None:
                self._first = packet.dts
        if packet.dts < (self._first or 0):
            return
        self._queue.append(packet)
        if packet.dts - self._queue[0].dts > self._limits.queue_ms:
            self._drop()
        self._wakes.set()

    def _drop(self) -> None:
        """Forgets what is late: to the newest key frame that waits, or to the next that comes."""
        late = [packet for packet in self._queue if packet.kind == "video"]
        keyframe = next((packet for packet in reversed(late[1:]) if packet.keyframe), None)
        kept = deque(packet for packet in self._queue if keyframe is not None and packet.dts >= keyframe.dts)
        if keyframe is not None and kept[-1].dts - kept[0].dts > self._limits.queue_ms:
            keyframe, kept = None, deque()
        self.stats.dropped_frames += len(late) - sum(packet.kind == "video" for packet in kept)
        self._needs_keyframe = keyframe is None
        self._queue = kept

    def stop(self) -> None:
        """Ends the publish in order; `run` returns within about a second."""
        self._stopping.set()

    # The connection

    async def run(self) -> None:
        """Connects, publishes and carries until `stop`. Raises `PublishError` when it ends otherwise."""
        self._report("connecting", "", "")
        address = self._target.address()
        opening = asyncio.create_task(connect(self._target, address, self._limits, self._tls))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return
            reader, writer = opening.result()
            session = self._session = Session(address, self._target.key)
            try:
                await self._carry(session, reader, writer)
            finally:
                await _close(writer)
        finally:
            for task in (opening, stop):
                task.cancel()
            await asyncio.gather(opening, stop, return_exceptions=True)

    async def _carry(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self._taken(session))
        listening = asyncio.create_task(self._listen(session, reader, writer))
        pushing = [asyncio.create_task(self._pump(session, writer)), asyncio.create_task(self._watch(session, writer))]
        stop = asyncio.create_task(self._stopping.wait())
        tasks = [listening, *pushing, stop]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                # The pump may wait for a socket that nobody empties.
                for task in pushing:
                    task.cancel()
                await self._leave(session, writer, listening)
                return
            for task in done:
                try:
                    task.result()
                except OSError as error:
                    raise self._broken(session, error) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _leave(self, session: Session, writer: asyncio.StreamWriter, listening: asyncio.Task[None]) -> None:
        """Says goodbye, and waits a moment until it was read: a socket closed on what comes in loses what went out."""
        if session.step != "publishing" or listening.done():
            return
        session.goodbye()
        session.ping(_LAST_PING)
        writer.write(self._taken(session))
        dismissed = asyncio.create_task(self._dismissed.wait())
        try:
            await asyncio.wait({dismissed, listening}, timeout=_GOODBYE, return_when=asyncio.FIRST_COMPLETED)
        finally:
            dismissed.cancel()

    def _broken(self, session: Session, error: OSError) -> PublishError:
        failure = closed(session.step, self._evidence.media_taken)
        failure.detail += f" ({error.strerror or type(error).__name__})"
        return failure

    def _taken(self, session: Session) -> bytes:
        out = session.take()
        self.stats.bytes_sent += len(out)
        return out

    async def _listen(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Everything the platform says. Raises `PublishError` at its end."""
        began = time.monotonic()
        while data := await reader.read(16384):
            try:
                events = session.feed(data)
            except ProtocolError as error:
                raise PublishError(Code.DESTINATION_UNREACHABLE, f"not RTMP as we know it: {error}") from None
            for event in events:
                self._heed(session, event)
            if out := self._taken(session):
                writer.write(out)
            bearable(writer, session.received, time.monotonic() - began)
        if not self._stopping.is_set():
            raise closed(session.step, self._evidence.media_taken)

    def _heed(self, session: Session, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Acknowledged(total):
                self._evidence.acknowledged(min(total, self.stats.bytes_sent), now)
            case Pong(number) if number == _LAST_PING:
                self._dismissed.set()
            case Pong(number):
                rtt = self._evidence.pong(number, now)
                if rtt is not None:
                    self.stats.rtt_ms = rtt * 1000
            case Publishing():
                self._report("publishing", "", "")
                self._evidence.media_begins(self.stats.bytes_sent, now)
                session.formats(self._video, self._audio)
                self._taking = True
            case PublishRefused():
                if not self._stopping.is_set():
                    raise refused(event, session.step, self._target.key)
                self._dismissed.set()
            case _:
                pass
        self.stats.bytes_acked = self._evidence.bytes

    async def _pump(self, session: Session, writer: asyncio.StreamWriter) -> None:
        """The queue, as fast as the platform takes it."""
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            while self._queue:
                packet = self._queue.popleft()
                assert self._first is not None
                session.media(packet, packet.dts - self._first)
                self.stats.frames_sent += packet.kind == "video"
                writer.write(self._taken(session))
                await writer.drain()

    async def _watch(self, session: Session, writer: asyncio.StreamWriter) -> None:
        """Looks ten times a second whether what is sent is taken."""
        began, pinged, said = time.monotonic(), 0.0, ""
        raw = writer.get_extra_info("socket")
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = time.monotonic()
            self.stats.queue_ms = self._queue[-1].dts - self._queue[0].dts if self._queue else 0.0
            if session.step != "publishing":
                if now - began > self._limits.publish_timeout:
                    raise PublishError(Code.DESTINATION_UNREACHABLE, f"no answer in time ({session.step})")
                continue
            # Also into a full buffer: it is eighteen bytes, and whoever is slow is still heard by the answers.
            if now - pinged >= self._limits.ping_every:
                pinged = now
                session.ping(self._evidence.ping(self.stats.bytes_sent, now))
                writer.write(self._taken(session))
            self._evidence.look(self._progress(raw, writer), self.stats.bytes_sent, now)
            self.stats.bytes_acked = self._evidence.bytes
            if self._evidence.silent(now) > self._limits.stall_after and self._evidence.media_taken:
                if said != "stalled":
                    said, self._stalled_since = "stalled", now
                    self._report("stalled", Code.DESTINATION_STALLED, "no bytes are acknowledged")
                elif now - (self._stalled_since or now) > self._limits.give_up_stalled:
                    raise PublishError(Code.DESTINATION_STALLED, "no bytes were acknowledged for too long")
            elif self._evidence.media_taken:
                if said != "live":
                    said, self._stalled_since = "live", None
                    self._report("live", "", "")
            elif self._evidence.silent(now) > self._limits.publish_timeout:
                raise PublishError(Code.DESTINATION_STALLED, "it took the key and no bytes")

    def _progress(self, raw: object, writer: asyncio.StreamWriter) -> TcpProgress:
        """What waits in the transport is not even with our kernel. Where that does not tell, the transport alone does."""
        kept, told = writer.transport.get_write_buffer_size(), tcp.progress(raw)
        if told is None:
            return TcpProgress(self.stats.bytes_sent - kept, kept)
        return TcpProgress(told.acked, told.waiting + kept)


async def _close(writer: asyncio.StreamWriter) -> None:
    """In order if the other side takes part, else at once: a stalled one would hold on to its buffers for ever."""
    writer.close()
    try:
        async with asyncio.timeout(_CLOSE):
            await writer.wait_closed()
    except (OSError, TimeoutError):
        writer.transport.abort()
