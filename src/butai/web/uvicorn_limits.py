"""The limits that uvicorn's HTTP parser lacks: how long a request's head may be, and how long it may take to come.

httptools gathers a head of any length in memory, from anybody, before a route or a limit of ours sees it. `butai.cli`
gives this class to uvicorn. What is refused here never reaches the application, so these answers carry their own id.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import structlog
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from butai.errors import Code

log = structlog.get_logger(__name__)

HEAD_LIMIT = 64 * 1024
"""Bytes of a request line and its headers. Node takes 16 KiB, so no browser of a studio sends more; presigned URLs in
`/api/vrm-thumbnail?url=` and ten-thousand-byte keys, encoded twice, still fit and are refused with a reason."""

HEAD_SECONDS = 30.0
"""From a connection, or a head's first byte, to the head's end."""

ending: list[Callable[[], None]] = []
"""What to call when the process is asked to stop: streams that would go on for ever end then."""


class EndingServer(uvicorn.Server):
    """uvicorn's, which waits for open streams to end: here they are told to."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal."""
        for end in ending:
            end()
        super().handle_exit(sig, frame)


_CODES = {
    400: (Code.HTTP_INVALID, "This is not HTTP"),
    408: (Code.REQUEST_TIMEOUT, "The request did not come in time"),
    431: (Code.HEAD_TOO_LARGE, f"The request's head is longer than {HEAD_LIMIT} bytes"),
}


class BoundedHttp(HttpToolsProtocol):
    """uvicorn's protocol, with a head that ends. Refuses with problem+json and closes the connection."""

    _in_head = False
    _in_trailers = False
    _parsed = 0  # bytes of this head that the parser has made headers of
    _pending = 0  # bytes that came while it had not ended
    _refused = 400
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A connection that says nothing ends like one that says too little."""
        super().connection_made(transport)
        self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and counts what it has not yet made a head of."""
        began_before = self._in_head or self._in_trailers
        super().data_received(data)
        if not (self._in_head or self._in_trailers) or self.transport.is_closing():
            return
        self._pending = self._pending + len(data) if began_before else 0
        if self._pending > HEAD_LIMIT:
            self._refuse(431)
        elif self._timer is None and self._in_head:
            # Most heads come whole, and never need one.
            self._wait_for_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._in_head, self._in_trailers, self._parsed, self._pending = True, False, 0, 0

    def on_url(self, url: bytes) -> None:
        """Part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """One header. A trailer, which comes behind a chunked body, is dropped: uvicorn would add it to the headers that
        were looked at before."""
        self._count(len(name) + len(value) + 4)
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head has ended."""
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """A chunk's size has been read: what follows is its content or, behind the last, trailers."""
        self._in_trailers, self._pending = True, 0

    def on_body(self, body: bytes) -> None:
        """Content."""
        self._in_trailers = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request has ended."""
        self._in_trailers = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser, or a callback above, gave up."""
        self._refuse(self._refused)

    def _count(self, length: int) -> None:
        self._parsed += length
        if self._parsed > HEAD_LIMIT:
            self._refused = 431
            raise ValueError("the head is too long")

    def _wait_for_head(self) -> None:
        self._timer = self.loop.call_later(HEAD_SECONDS, self._refuse, 408)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _refuse(self, status: int) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if not answering and (self._in_head or status != 408):
            # Behind the beginning of another answer it would be taken for its body; a connection on which nothing was
            # asked, as browsers open them in advance, is owed none.
            self.transport.write(_answer(status))
        self.transport.close()
        log.info("http.refused", status=status, code=_CODES[status][0], client=self.client[0] if self.client else None)


def _answer(status: int) -> bytes:
    code, detail = _CODES[status]
    phrase = HTTPStatus(status).phrase
    request_id = uuid.uuid4()
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": detail,
        "code": code,
        # What was asked for is not known.
        "instance": request_id.urn,
    }
    body = json.dumps(problem).encode()
    head = (
        f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/problem+json\r\ncontent-length: {len(body)}\r\n"
        f"cache-control: no-store\r\nx-request-id: {request_id.hex}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
