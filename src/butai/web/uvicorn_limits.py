"""The limits that uvicorn's HTTP parser lacks: the length of a request's head, and the time that a client may take.

httptools gathers a head of any length in memory, from any client, before a route or another limit sees it. Requests
refused here never reach the application, so these answers carry a request id of their own.

At any moment a connection waits for a head, is being answered, or has the rest of a refused body coming. The first and the
last have a time that no byte prolongs; while a request is answered, the application limits the time of its body
(`butai.web.bodies`, `butai.assets.uploads.multipart_form`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sys
import termios
import uuid
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any, cast

import msgspec
import structlog
import uvicorn
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from butai.errors import Code, TooManyConnections
from butai.web.connections import ALWAYS, Connections
from butai.web.problems import Problem

log = structlog.get_logger(__name__)

HEAD_LIMIT = 64 * 1024
"""Most bytes of a request line and its headers. Node takes 16 KiB, so no browser of a studio sends more; presigned URLs
in `/api/vrm-thumbnail?url=` and ten-thousand-byte keys, encoded twice, still fit and are refused with a reason."""

HEAD_SECONDS = 10.0
"""Most seconds from a connection, or from a head's first byte, to the head's end."""

REST_SECONDS = 10.0
REST_BYTES = 64 * 1024**2
"""Most seconds and bytes for which the rest of a body is read and dropped after its request was answered, by nginx's example
(`lingering_time`): a client that is cut off while it sends may lose the answer. Also where the connection is to be closed: the
proxy within Next.js asks for that with each request, and makes a 500 of an answer that it has lost."""

TAKE_SECONDS = 60.0
"""Seconds in which a client that an answer waits for has to take some of it, by nginx's example (`send_timeout`)."""

SLOWEST_TAKE = 4 * 1024
"""Least bytes of an answer that such a client takes in a second, as of a body that is sent."""

MOST_HEADERS = 256
"""Most headers of a request. In memory a header has some 200 bytes, where four are enough on the wire."""

MOST_PARAMETERS = 256
"""Most parameters of a query. The 32,000 that fit into a head take the framework 60 ms, before a route or a rate is asked."""

MOST_PIPELINED = 256
"""Most requests that wait for the answer to another one of their connection. In memory each has some 3 kB, where forty
bytes are enough on the wire. Browsers and proxies send none."""

ending: list[Callable[[], None]] = []
"""Callbacks for when the process is asked to stop: streams without an end of their own end then."""


class EndingServer(uvicorn.Server):
    """A uvicorn server that ends open streams when it stops; uvicorn itself waits for them."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Runs the callbacks, then uvicorn's own handling of the signal."""
        for end in ending:
            end()
        super().handle_exit(sig, frame)


_CODES = {
    400: (Code.HTTP_INVALID, "This is not HTTP"),
    408: (Code.REQUEST_TIMEOUT, "The request did not come in time"),
    431: (
        Code.HEAD_TOO_LARGE,
        f"The request's head has more than {HEAD_LIMIT} bytes, {MOST_HEADERS} headers or {MOST_PARAMETERS} parameters",
    ),
    503: (Code.TOO_MANY_CONNECTIONS, Code.TOO_MANY_CONNECTIONS.meaning),
}


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol with a bounded head. Refuses with problem+json and closes the connection."""

    connections_allowed = Connections(1 << 20, 1 << 20)
    _admitted = True
    _in_head = False
    _in_trailers = False
    _parsed = 0  # bytes of this head that the parser has turned into headers
    _pending = 0  # bytes received while the head was not complete
    _refused = 400
    _timer: asyncio.TimerHandle | None = None
    _timer_is_for_a_head = False
    _taking: asyncio.TimerHandle | None = None  # while an answer waits for the client
    _headers = 0  # headers of this head
    _running: RequestResponseCycle | None = None  # the request that is answered; others may wait for it
    _lingers = False  # the connection is closed once the rest of an answered body has come
    _rest = 0  # bytes of a body that was answered before they came

    def connection_made(self, transport: asyncio.Transport) -> None:
        """Starts the timeout: a silent connection ends like a slow one."""
        super().connection_made(transport)
        self._wait_for_head()
        self._admitted = self.connections_allowed.admit(transport, self.client[0] if self.client else "")
        if not self._admitted:
            # A WebSocket would stay.
            self.ws_protocol_class = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancels the timeouts."""
        self.connections_allowed.lost(self.transport)
        self._stop_waiting()
        self._stop_limiting()
        if self._running is not None and not self._running.response_complete:
            # uvicorn tells the request that came last alone.
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and counts the bytes that it has not yet turned into a head."""
        began_before = self._in_head or self._in_trailers
        super().data_received(data)
        if not (self._in_head or self._in_trailers) or self.transport.is_closing():
            return
        self._pending = self._pending + len(data) if began_before else 0
        if self._pending > HEAD_LIMIT:
            self._refuse(431)
        elif self._in_head and not (self._timer and self._timer_is_for_a_head):
            # Most heads arrive whole, and never need a timer.
            self._wait_for_head()

    def on_response_complete(self) -> None:
        """Starts the timeout of what comes now: the rest of the body, or the next request."""
        super().on_response_complete()
        # Any byte would end uvicorn's own timer of idle connections, even an empty line, which begins no request.
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            self._close()
        elif self.cycle.response_complete and not self._in_head:
            self.connections_allowed.wait(self.transport)
            self._rest, rest = 0, self.cycle.more_body
            seconds = min(REST_SECONDS, self.timeout_keep_alive) if rest else self.timeout_keep_alive
            self._wait(seconds, self._close)

    def pause_writing(self) -> None:
        """Notes that an answer waits for the client."""
        super().pause_writing()
        if self._taking is None:
            self._limit_taking()

    def resume_writing(self) -> None:
        """Notes that the client has taken most of what was sent."""
        # A transport that closes says so as well, with the rest still to be taken.
        if not self.transport.is_closing():
            self._stop_limiting()
        super().resume_writing()

    def on_message_begin(self) -> None:
        """Notes that a head begins."""
        super().on_message_begin()
        self._in_head, self._in_trailers, self._parsed, self._pending, self._headers = True, False, 0, 0, 0

    def on_url(self, url: bytes) -> None:
        """Counts a part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Takes one header. A trailer, which follows a chunked body, is dropped: uvicorn would add it to the headers
        that were checked before."""
        self._count(len(name) + len(value) + 4)
        self._headers += 1
        if self._headers > MOST_HEADERS:
            self._refused = 431
            raise ValueError("there are too many headers")
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Notes that the head is complete."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and len(self.pipeline) >= MOST_PIPELINED:
            raise ValueError("too many requests of this connection wait")
        if (answering or self._taking is not None) and self._upgrades():
            # A WebSocket would take the connection from the request that is being answered, its end included, and from the
            # limit of an answer that is not yet taken.
            raise ValueError("another request of this connection is being answered")
        if self.url.count(b"&") >= MOST_PARAMETERS:
            self._refused = 431
            raise ValueError("there are too many parameters")
        self._in_head = False
        if not self._admitted and self.url.partition(b"?")[0] != ALWAYS.encode():
            self._refused = 503
            raise ValueError("all connections are in use")
        self._stop_waiting()
        self.connections_allowed.work(self.transport)
        super().on_headers_complete()
        if not self._admitted:
            self.cycle.keep_alive = False

    def on_chunk_header(self) -> None:
        """Notes that a chunk's size was read: its content follows or, after the last chunk, trailers."""
        self._in_trailers, self._pending = True, 0

    def on_body(self, body: bytes) -> None:
        """Takes a piece of the body."""
        self._in_trailers = False
        if self.cycle.response_complete:
            self._rest += len(body)
            if self._rest > REST_BYTES:
                self._close()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Notes that a request is complete."""
        self._in_trailers = False
        if self.cycle is not None and self.cycle.response_complete and self.cycle.more_body:
            # The rest of a body that was answered before it had come.
            self.cycle.more_body = False
            if self._lingers:
                self._close()
            else:
                self._wait(self.timeout_keep_alive, self._close)
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn passes it
        """Answers when the parser, or a callback above, refuses the request; uvicorn calls it."""
        self._refuse(self._refused)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        if cycle.scope["method"] not in ("GET", "HEAD"):
            transport: Any = _ClosedLater(self.transport, lambda: self._close_after(cycle))
            cycle.transport = transport
        super()._start_asgi_task(cycle, app)

    def _close_after(self, cycle: RequestResponseCycle) -> None:
        """Closes the connection of a request that has ended: at once, or after the rest of its body."""
        if cycle.response_complete and cycle.more_body and not self.transport.is_closing():
            self._lingers = True
        else:
            self.transport.close()

    def _upgrades(self) -> bool:
        return self.parser is not None and self.parser.should_upgrade()

    def _count(self, length: int) -> None:
        self._parsed += length
        if self._parsed > HEAD_LIMIT:
            self._refused = 431
            raise ValueError("the head is too long")

    def _wait_for_head(self) -> None:
        self._wait(HEAD_SECONDS, lambda: self._refuse(408))
        self._timer_is_for_a_head = True

    def _wait(self, seconds: float, then: Callable[[], None]) -> None:
        self._stop_waiting()
        self._timer, self._timer_is_for_a_head = self.loop.call_later(seconds, then), False

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        cycle = self.cycle
        # A head follows the request of `cycle`, or those that wait for it.
        answering = (
            cycle is not None
            and not cycle.response_complete
            and (cycle.response_started or self._in_head or self.pipeline)
        )
        if not answering and (self._in_head or status != 408):
            # Before the end of another answer it would be read as that one, or as a part; a connection without a
            # request, which browsers open in advance, gets no answer.
            self.transport.write(_answer(status))
        self._close()
        log.info("http.refused", status=status, code=_CODES[status][0], client=self.client[0] if self.client else None)

    def _close(self) -> None:
        """Closes the connection once all is sent, or when the client does not take it."""
        self._stop_waiting()
        self.transport.close()
        if self._taking is None:
            self._limit_taking()

    def _limit_taking(self) -> None:
        """Ends the connection unless the client takes what is untaken now, or at the least rate, until it is all sent."""
        self._taking = self.loop.call_later(TAKE_SECONDS, self._look_at_taking, self._untaken())

    def _look_at_taking(self, before: int) -> None:
        if before - self._untaken() >= max(1, min(before, int(SLOWEST_TAKE * TAKE_SECONDS))):
            self._limit_taking()
        else:
            self.transport.abort()

    def _untaken(self) -> int:
        """Bytes that were sent and that the client has not acknowledged, in this process and in the kernel."""
        found = self.transport.get_write_buffer_size()
        known = self.transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            found += int.from_bytes(fcntl.ioctl(known.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return found

    def _stop_limiting(self) -> None:
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None


class _ClosedLater:
    """A connection as one request has it: the protocol decides when it is closed."""

    def __init__(self, transport: asyncio.Transport, close: Callable[[], None]) -> None:
        self.write, self.is_closing, self.close = transport.write, transport.is_closing, close


class BoundedWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSockets, whose connections are counted: each was taken over from a `BoundedHttp`."""

    connections_allowed = BoundedHttp.connections_allowed

    def connection_lost(self, exc: Exception | None) -> None:
        """Counts the connection no longer."""
        self.connections_allowed.lost(self.transport)
        super().connection_lost(exc)


def protocols(connections: Connections) -> tuple[type[BoundedHttp], type[BoundedWebSocket]]:
    """Uvicorn's `http` and `ws`, which share these connections."""

    class Http(BoundedHttp):
        connections_allowed = connections

    class WebSocket(BoundedWebSocket):
        connections_allowed = connections

    return Http, WebSocket


def trusted(proxies: str) -> Callable[[str], bool]:
    """Tells whether an address is one of `BUTAI_TRUSTED_PROXIES`, as uvicorn reads them: addresses, networks, `*`."""
    if not proxies:
        return lambda _: False
    return ProxyHeadersMiddleware(cast("Any", None), proxies).trusted_hosts.__contains__


def _answer(status: int) -> bytes:
    code, detail = _CODES[status]
    phrase = HTTPStatus(status).phrase
    request_id = uuid.uuid4()
    # The requested path is not known.
    body = msgspec.json.encode(Problem("about:blank", phrase, status, detail, code, request_id.urn))
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"cache-control: no-store\r\nx-content-type-options: nosniff\r\nreferrer-policy: same-origin\r\n"
        f"x-request-id: {request_id.hex}\r\nconnection: close\r\n"
    )
    if status == 503:
        head += f"retry-after: {TooManyConnections.retry_after}\r\n"
    return head.encode() + b"\r\n" + body
