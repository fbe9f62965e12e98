"""One push to one platform.

`live` means that the platform accepted the publish and that its application has read a picture, by `evidence`. Without
expected evidence for `Limits.stall_after` (1.5 s) the push is `stalled`, whatever the kernels accept.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from butai.errors import Code
from butai.relay.packets import KINDS, AudioFormat, Kind, Packet, VideoFormat
from butai.relay.rtmp import tcp
from butai.relay.rtmp.addresses import IngestAddress
from butai.relay.rtmp.chunks import ProtocolError
from butai.relay.rtmp.connection import (
    Connection,
    Target,
    check_peer_limits,
    close,
    connect,
    follow,
    peer_address,
    redirect_failed,
)
from butai.relay.rtmp.evidence import Evidence, TcpProgress
from butai.relay.rtmp.failures import PublishError, Redirected, closed, refused
from butai.relay.rtmp.session import Acknowledged, Event, Pong, Publishing, PublishRefused, Session
from butai.relay.timing import Limits

STOOD_STILL = 1.0
"""Seconds between two checks, beyond those that are wanted, from which on this process did not run: it was stopped, or its
machine was."""

__all__ = ["Limits", "PublishError", "Publisher", "Stats", "Target"]

log = structlog.get_logger(__name__)

Phase = Literal["connecting", "publishing", "live", "stalled"]
Report = Callable[[Phase, str, str], None]

_GOODBYE_PING = 0
"""The number of the ping after the goodbye. The others are numbered from 1."""


@dataclass
class Stats:
    """Metrics of one push. Bytes and frames are totals; `rtt_ms` is of the last ping, `queue_ms` the queue's present
    length."""

    bytes_sent: int = 0
    bytes_acked: int = 0
    frames_sent: int = 0
    dropped_frames: int = 0
    rtt_ms: float = 0.0
    queue_ms: float = 0.0


class Publisher:
    """One attempt to publish: `run` once. Calls `report(phase, code, detail)` with every change.

    It needs no format to connect: each packet has its own. Headers are sent with the first packet that needs them, and again
    when another format comes."""

    def __init__(
        self,
        target: Target,
        *,
        report: Report,
        limits: Limits | None = None,
        tls: ssl.SSLContext | None = None,
        take: Callable[[], Connection | None] = lambda: None,
    ) -> None:
        """`take`: gives an open connection to the target's server, if there is one, to begin with."""
        self.stats = Stats()
        self._secrets = target.secrets
        self._target, self._take = target, take
        self._report, self._limits, self._tls = report, limits or Limits(), tls
        self._queue: deque[Packet] = deque()
        self._wakes = asyncio.Event()
        self._stopping = asyncio.Event()
        self._goodbye_read = asyncio.Event()
        self._needs_keyframe = True
        self._first: int | None = None
        self._accepted = False
        self._newest: dict[Kind, VideoFormat | AudioFormat] = {}
        """The formats of the newest packets."""
        self._told: dict[Kind, VideoFormat | AudioFormat] = {}
        """The formats that the platform has."""
        self._first_picture: int | None = None
        """The bytes that were sent when the first picture was."""
        self._session: Session | None = None
        self._refused = False
        # Monotonic seconds. A time in which this process did not run moves all but the first.
        self._looked_at = self._began = self._read_at = self._deadline = 0.0
        self._handshake_silence = self._limits.silence_timeout
        self._evidence = Evidence(self._limits)
        self._stalled_since: float | None = None

    # From the encoder

    def send(self, packet: Packet) -> None:
        """Queues a packet, without waiting. Drops it if the platform has not accepted the publish yet."""
        if packet.format is not None:
            self._newest[packet.kind] = packet.format
        if not self._accepted:
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
        """Drops late packets: those before the newest queued keyframe, or all until the next keyframe."""
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
        """Connects and publishes until `stop`. Raises `PublishError` when it ends for another reason.

        A redirect is followed once. A server that hangs up in the handshake, or says nothing, may not be the only one of its
        name: the others are tried within the same time. One that ends a connection of `take` without a word may have waited for
        too long: another connection is made."""
        self._report("connecting", "", "")
        try:
            await self._run(self._target, self._take)
        except Redirected as redirect:
            target = follow(self._target, redirect)
            try:
                log.info("output.redirected", to=target.address().host)
                await self._run(target)
            except PublishError as error:
                raise redirect_failed(redirect, error) from None

    async def _run(self, target: Target, take: Callable[[], Connection | None] = lambda: None) -> None:
        address, tried, failure = target.address(), set[str](), None
        self._secrets = target.secrets
        self._deadline = time.monotonic() + self._limits.connect_timeout + self._limits.publish_timeout
        kept = take()
        while True:
            # Both are of one connection.
            self._evidence, self.stats.bytes_sent = Evidence(self._limits), 0
            connection = kept or await self._connect(target, address, tried, failure)
            if connection is None:
                return None
            session = self._session = Session(address, target.stream_key)
            # Not known of a TLS connection that has ended.
            peer = peer_address(connection.writer)
            self._handshake_silence = self._limits.kept_silence if kept else self._limits.silence_timeout
            try:
                return await self._publish(session, *connection)
            except PublishError as error:
                if time.monotonic() > self._deadline or self._refused or session.step == "publishing":
                    raise
                if kept is None:
                    if session.step != "handshake" or not peer:
                        raise
                    failure = error
                    tried.add(peer)
                kept = None
            finally:
                await close(connection.writer, self._limits.close_timeout)

    async def _connect(
        self, target: Target, address: IngestAddress, tried: set[str], failure: PublishError | None
    ) -> Connection | None:
        """Returns None when stopped meanwhile. Raises `PublishError`: `failure`, if there is one."""
        opening = asyncio.create_task(connect(target, address, self._limits, self._tls, without=tried))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({opening, stop}, return_when=asyncio.FIRST_COMPLETED)
            if not opening.done():
                return None
            if failure is not None and opening.exception() is not None:
                raise failure
            return opening.result()
        finally:
            for task in (opening, stop):
                task.cancel()
            await asyncio.gather(opening, stop, return_exceptions=True)

    async def _publish(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._looked_at = self._began = self._read_at = time.monotonic()
        writer.write(self._data_to_send(session))
        receiving = asyncio.create_task(self._receive(session, reader, writer))
        pushing = [asyncio.create_task(self._pump(session, writer)), asyncio.create_task(self._watch(session, writer))]
        stop = asyncio.create_task(self._stopping.wait())
        tasks: list[asyncio.Task[Any]] = [receiving, *pushing, stop]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if self._stopping.is_set():
                # The pump may wait for a platform that does not read.
                for task in pushing:
                    task.cancel()
                await self._say_goodbye(session, writer, receiving)
                return
            for task in done:
                try:
                    task.result()
                except OSError as error:
                    raise self._connection_lost(session, error) from None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _say_goodbye(self, session: Session, writer: asyncio.StreamWriter, receiving: asyncio.Task[None]) -> None:
        """Ends the publish in order, and waits until the platform has read that: closing a socket with unread input
        discards what was sent."""
        if session.step != "publishing" or receiving.done():
            return
        session.goodbye()
        session.ping(_GOODBYE_PING)
        writer.write(self._data_to_send(session))
        goodbye_read = asyncio.create_task(self._goodbye_read.wait())
        try:
            await asyncio.wait(
                {goodbye_read, receiving}, timeout=self._limits.goodbye_timeout, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            goodbye_read.cancel()

    def _connection_lost(self, session: Session, error: OSError) -> PublishError:
        failure = closed(session.step, acknowledged=self._evidence.media_taken)
        failure.detail += f" ({error.strerror or type(error).__name__})"
        return failure

    def _data_to_send(self, session: Session) -> bytes:
        out = session.data_to_send()
        self.stats.bytes_sent += len(out)
        return out

    async def _receive(self, session: Session, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles the platform's messages. Raises `PublishError` when it closes the connection."""
        began = time.monotonic()
        while data := await reader.read(16384):
            # Before the words that waited in the socket meanwhile: they came late for another reason than the platform's habit.
            self._note_pause(time.monotonic())
            try:
                events = session.feed(data)
            except ProtocolError as error:
                raise PublishError(Code.DESTINATION_UNREACHABLE, f"not valid RTMP: {error}") from None
            for event in events:
                self._handle(session, event)
            if out := self._data_to_send(session):
                writer.write(out)
            check_peer_limits(writer, session.received, time.monotonic() - began)
        if not self._stopping.is_set():
            raise closed(session.step, acknowledged=self._evidence.media_taken)

    def _handle(self, session: Session, event: Event) -> None:
        now = time.monotonic()
        match event:
            case Acknowledged(number):
                self._evidence.acknowledged(number, now)
            case Pong(number) if number == _GOODBYE_PING:
                self._goodbye_read.set()
            case Pong(number):
                rtt = self._evidence.pong(number, now)
                if rtt is not None:
                    self.stats.rtt_ms = rtt * 1000
            case Publishing():
                self._evidence.media_begins(self.stats.bytes_sent, now)
                self._accepted = True
                self._report("publishing", "", "")
            case PublishRefused():
                self._refused = True
                if not self._stopping.is_set():
                    raise refused(event, session.step, self._secrets, acknowledged=self._evidence.media_taken)
                self._goodbye_read.set()
            case _:
                pass
        self.stats.bytes_acked = min(self._evidence.bytes, self.stats.bytes_sent)

    async def _pump(self, session: Session, writer: asyncio.StreamWriter) -> None:
        """Sends the queue, as fast as the platform reads."""
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            while self._queue:
                packet = self._queue.popleft()
                assert self._first is not None
                self._tell_format(session, packet, packet.dts - self._first)
                session.media(packet, packet.dts - self._first)
                self.stats.frames_sent += packet.kind == "video"
                writer.write(self._data_to_send(session))
                if self._first_picture is None and packet.kind == "video":
                    self._first_picture = self.stats.bytes_sent
                await writer.drain()

    def _tell_format(self, session: Session, packet: Packet, timestamp: int) -> None:
        """Sends headers and metadata before a packet that needs others than those that the platform has. The first ones are of
        both kinds, as encoders send them."""
        kind, known = packet.kind, self._told
        if packet.format is None or packet.format == known.get(kind):
            return
        self._told = {**(known or self._newest), kind: packet.format}
        video, audio = self._told.get("video"), self._told.get("audio")
        assert not isinstance(video, AudioFormat)
        assert not isinstance(audio, VideoFormat)
        new = [one for one in KINDS if _header(self._told.get(one)) != _header(known.get(one))]
        session.formats(video, audio, timestamp, of=new)

    @property
    def _picture_taken(self) -> bool:
        """Whether the platform has read a whole picture."""
        return self._first_picture is not None and self._evidence.bytes >= self._first_picture

    async def _watch(self, session: Session, writer: asyncio.StreamWriter) -> None:
        """Checks ten times a second whether the platform reads what is sent."""
        pinged, reported, limits = 0.0, "", self._limits
        patience = min(limits.silence_timeout, limits.publish_timeout)
        raw = writer.get_extra_info("socket")
        while True:
            await asyncio.sleep(self._limits.check_every)
            now = time.monotonic()
            self._note_pause(now)
            self.stats.queue_ms = self._queue[-1].dts - self._queue[0].dts if self._queue else 0.0
            if session.step != "publishing":
                # A server that answers late is waited for, as long as it reads.
                if session.step != "handshake" and not self._progress(raw, writer).waiting:
                    self._read_at = now
                silence = self._handshake_silence if session.step == "handshake" else patience
                late = now - self._began > limits.publish_timeout or now > self._deadline
                if late or now - self._read_at > silence:
                    raise PublishError(Code.DESTINATION_UNREACHABLE, f"no answer in time ({session.step})")
                continue
            # Also into a full buffer: a ping has eighteen bytes, and the answers of a slow platform are needed.
            if now - pinged >= self._limits.ping_every:
                pinged = now
                session.ping(self._evidence.ping(self.stats.bytes_sent, now))
                writer.write(self._data_to_send(session))
            self._evidence.observe_tcp(self._progress(raw, writer), self.stats.bytes_sent, now)
            self.stats.bytes_acked = min(self._evidence.bytes, self.stats.bytes_sent)
            if self._evidence.silent(now) > self._limits.stall_after and self._picture_taken:
                if reported != "stalled":
                    reported, self._stalled_since = "stalled", now
                    self._report("stalled", Code.DESTINATION_STALLED, "no bytes are acknowledged")
                elif now - (self._stalled_since or now) > self._limits.give_up_stalled:
                    raise PublishError(Code.DESTINATION_STALLED, "no bytes were acknowledged for too long")
            elif self._picture_taken:
                if reported != "live":
                    reported, self._stalled_since = "live", None
                    self._report("live", "", "")
            elif self._evidence.silent(now) > patience:
                raise PublishError(Code.DESTINATION_STALLED, "it accepted the key and no bytes")

    def _note_pause(self, now: float) -> None:
        """Leaves out the time since the last call if this process did not run in it: it is no silence of the platform."""
        still = now - self._looked_at - self._limits.check_every
        self._looked_at = now
        if still <= STOOD_STILL:
            return
        self._evidence.stood_still(still, now)
        self._began, self._read_at = min(self._began + still, now), min(self._read_at + still, now)
        self._deadline += still
        if self._stalled_since is not None:
            self._stalled_since = min(self._stalled_since + still, now)

    def _progress(self, raw: object, writer: asyncio.StreamWriter) -> TcpProgress:
        """The state of TCP, with the transport's buffer as waiting bytes; only that buffer where the kernel gives no
        state."""
        kept, kernel = writer.transport.get_write_buffer_size(), tcp.progress(raw)
        if kernel is None:
            return TcpProgress(self.stats.bytes_sent - kept, kept)
        return TcpProgress(kernel.acked, kernel.waiting + kept)


def _header(format_: VideoFormat | AudioFormat | None) -> bytes:
    """What a decoder needs of a format; empty for none."""
    if format_ is None:
        return b""
    return format_.avcc if isinstance(format_, VideoFormat) else format_.asc
