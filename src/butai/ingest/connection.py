"""One connection of an encoder: its session on a socket, with bounds of time and bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from butai.errors import Code
from butai.relay.incoming.tags import SourceRefused
from butai.relay.rtmp.chunks import ProtocolError
from butai.relay.rtmp.server_session import (
    Media,
    Metadata,
    PublishAsked,
    PublishEnded,
    ServerEvent,
    ServerSession,
)

log = structlog.get_logger(__name__)

_MOST_UNSENT = 64 * 1024
"""Bytes of answers for an encoder that reads none; two hours of acknowledgements at 4 Mbps are 160 KB."""
_PIECE = 16 * 1024
"""Bytes that are read at once, so that one encoder keeps the others waiting for a short time only."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What the ingest gives to encoders. Seconds and bytes."""

    connections: int = 500
    """Connections at once, those without an accepted key included."""
    connections_without_key: int = 250
    """Connections at once whose key is not accepted yet."""
    connections_of_address: int = 20
    """Connections at once of one IPv4 address, or of one IPv6 network of 64 bits."""
    publish_within: float = 10.0
    """Most time from the connection until a key was accepted, TLS and handshake included."""
    bytes_before_publish: int = 64 * 1024
    """Most bytes before a key was accepted; encoders send 5 KB."""
    messages_per_second: int = 5000
    """Most messages of a publisher in a second; 240 pictures with their sound are 430, and there is room for what a stalled
    network held back."""
    silent_after: float = 30.0
    """Time without a byte after which a publisher's connection is taken for lost: a machine that lost its power says nothing."""
    linger: float = 1.0
    """Most time for an encoder to read why it was refused."""
    close_within: float = 5.0
    """Most time for an encoder that has ended its publish to close the connection. GStreamer's pipeline fails where the server
    closes it first."""


class Receiver(Protocol):
    """Where a publisher's media goes. Called in order, from the event loop, never after `ended`."""

    def media(self, event: Media) -> None:
        """Takes a message. May raise `SourceRefused`, which ends the publish in words."""

    def metadata(self, values: Mapping[str, Any]) -> None:
        """Takes what the encoder says of its stream."""

    def ended(self, *, in_order: bool) -> None:
        """The publish is over. `in_order`: the encoder said so."""


class KeyRefused(Exception):
    """The publish is not accepted. `code`: a stable one; `text`: a sentence, which encoders may show."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class Publication(Protocol):
    """A publish, as the function that accepts it sees it."""

    address: str
    """The IP address of the encoder."""

    def end(self, code: Code, text: str) -> None:
        """Ends it in words, and closes the connection; the receiver's `ended` is called."""


Admit = Callable[[tuple[str, ...], Publication], Awaitable[Receiver]]
"""Decides about a publish by the texts that may be its key. Raises `KeyRefused`."""


class EncoderConnection(asyncio.Protocol):
    """A connection that was just made. Reads to its end even where nothing can be written any more: an encoder that closes with
    our answers unread resets the connection behind its goodbye, which has arrived."""

    def __init__(
        self,
        plain: socket.socket | None,
        address: str,
        admit: Admit,
        bounds: Bounds,
        counts: Counter[str],
        until: float,
    ) -> None:
        """`until`: the time of the event loop until which a key has to be accepted."""
        self.address = address
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Is done when the connection is closed."""
        self._plain, self._admit, self._bounds, self._counts, self._until = plain, admit, bounds, counts, until
        self._session = ServerSession()
        self._loop = asyncio.get_running_loop()
        self._receiver: Receiver | None = None
        self._unsent = bytearray()
        self._writable = True
        self._heard_at = 0.0
        self._counted_from, self._counted = 0.0, 0
        self._timer: asyncio.TimerHandle | None = None
        self._asking: asyncio.Task[None] | None = None

    # From the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins to wait for the publish."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if hasattr(transport, "max_size"):
            # Of asyncio's sockets; those of other event loops read as much as they want.
            transport.max_size = _PIECE  # pyright: ignore[reportAttributeAccessIssue]
        self._timer = self._loop.call_at(self._until, self._close, "late")

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the encoder."""
        self._heard_at = self._loop.time()
        for at in range(0, len(data), _PIECE):
            if self._session.step == "over":
                return
            self._take(data[at : at + _PIECE])

    def _take(self, data: bytes) -> None:
        if self._session.step != "publishing":
            # What is beyond the bound is not looked at.
            data = data[: self._bounds.bytes_before_publish + 1 - self._session.received]
        try:
            for event in self._session.feed(data):
                self._handle(event)
        except ProtocolError:
            self._close("malformed")
            return
        except SourceRefused as error:
            self.end(error.code, error.text, "NetStream.Publish.Rejected")
            return
        waits = self._session.step not in ("publishing", "over")
        if waits and self._session.received > self._bounds.bytes_before_publish:
            self._close("too_much")
            return
        if self._session.step == "publishing" and self._too_many():
            self._close("too_much")
            return
        self._send()

    def _too_many(self) -> bool:
        """Whether more messages came in this second than may."""
        if self._heard_at - self._counted_from >= 1:
            self._counted_from, self._counted = self._heard_at, self._session.messages
        return self._session.messages - self._counted > self._bounds.messages_per_second

    def eof_received(self) -> None:
        """The encoder sends no more; the transport closes."""
        self._over(in_order=False)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio passes it
        """The connection is closed, by either side."""
        self._over(in_order=False)
        for waiting in (self._timer, self._asking):
            if waiting is not None:
                waiting.cancel()
        if not self.closed.done():
            self.closed.set_result(None)

    # From the ingest

    def end(self, code: Code, text: str, status: str = "NetStream.Publish.Denied") -> None:
        """Ends the publish in words, and closes the connection when the encoder has read them, or after `Bounds.linger`."""
        self._session.refuse(code, text, status)
        self._send()
        self._over(in_order=False)
        self._linger()

    def abort(self) -> None:
        """Closes it at once."""
        self._transport.abort()

    def _handle(self, event: ServerEvent) -> None:
        match event:
            case Media():
                if self._receiver is not None:
                    self._receiver.media(event)
            case Metadata():
                if self._receiver is not None:
                    self._receiver.metadata(event.values)
            case PublishAsked():
                self._asking = self._loop.create_task(self._ask(event))
            case PublishEnded():
                self._over(in_order=event.in_order)
                self._abort_in(self._bounds.close_within)

    async def _ask(self, asked: PublishAsked) -> None:
        try:
            receiver = await self._admit(asked.candidates, self)
        except KeyRefused as error:
            self._counts["refused"] += 1
            self.end(error.code, error.text, "NetStream.Publish.BadName")
            return
        except Exception as error:  # noqa: BLE001 - whatever fails behind the key, this connection is told and ends
            # Only the kind of it: what failed had the key in its hands.
            log.error("ingest.admission_failed", error=type(error).__name__)
            self._counts["failed"] += 1
            self.end(Code.INTERNAL, "The key cannot be checked now: try again in a moment")
            return
        if self._session.step != "asked":
            # The encoder went away meanwhile, or was ended.
            _tell_end(receiver, in_order=False)
            return
        self._receiver = receiver
        self._counted_from, self._counted = self._loop.time(), self._session.messages
        self._counts["accepted"] += 1
        self._session.accept()
        self._send()
        self._heard_at = self._loop.time()
        self._watch()

    def _watch(self) -> None:
        """Looks again when the encoder would have been silent for too long."""
        if self._timer is not None:
            self._timer.cancel()
        left = self._heard_at + self._bounds.silent_after - self._loop.time()
        if left <= 0:
            self._close("silent")
        else:
            self._timer = self._loop.call_later(left, self._watch)

    def _over(self, *, in_order: bool) -> None:
        receiver, self._receiver = self._receiver, None
        self._session.end_of_input()
        if receiver is not None:
            _tell_end(receiver, in_order=in_order)

    def _close(self, reason: str) -> None:
        self._counts[reason] += 1
        self._over(in_order=False)
        self._transport.abort()

    def _linger(self) -> None:
        """Sends no more, and closes once the encoder has closed, or a little later."""
        self._abort_in(self._bounds.linger)
        if self._plain is not None and self._writable and not self._unsent:
            with contextlib.suppress(OSError):
                self._plain.shutdown(socket.SHUT_WR)

    def _abort_in(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, self._transport.abort)

    def _send(self) -> None:
        """Sends what the session has to say. A plain socket is written to beside its transport, which would stop reading at the
        first error."""
        out = self._session.data_to_send()
        if self._plain is None:
            if out and not self._transport.is_closing():
                self._transport.write(out)
                if self._transport.get_write_buffer_size() > _MOST_UNSENT:
                    self._close("unread")
            return
        self._unsent += out
        if not self._unsent or not self._writable:
            return
        try:
            del self._unsent[: self._plain.send(self._unsent)]
        except BlockingIOError:
            pass
        except OSError:
            self._writable = False
            self._unsent.clear()
        if len(self._unsent) > _MOST_UNSENT:
            self._close("unread")


def _tell_end(receiver: Receiver, *, in_order: bool) -> None:
    try:
        receiver.ended(in_order=in_order)
    except Exception as error:  # noqa: BLE001 - whatever fails behind it, the connection is closed and its timers end
        log.error("ingest.receiver_failed", error=type(error).__name__)
