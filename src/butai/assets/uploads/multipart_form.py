"""A multipart/form-data body as a stream: small fields as text, the file as chunks, in whatever order they come.

The framework's own way spools the whole file first. Called by the upload route; the parser is `multipart`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from typing import Any

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from butai.errors import ClientDisconnected, InvalidRequest

FIELD_LIMIT = 64 * 1024
"""Bytes of all text fields together: a key has 1 KB, nothing else is long."""

FIELD_COUNT = 32

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


async def body_chunks(receive: Receive, idle_timeout: float) -> AsyncIterator[bytes]:
    """A request's body as it arrives. Raises `ClientDisconnected`, also after `idle_timeout` seconds of silence."""
    while True:
        try:
            async with asyncio.timeout(idle_timeout):
                message = await receive()
        except TimeoutError as error:
            raise ClientDisconnected(f"No byte came for {idle_timeout:g} seconds") from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body = message.get("body", b"")
        if body:
            yield body
        if not message.get("more_body", False):
            return


class Form:
    """One form. Iterate `file_parts`; `fields` fills as the text fields go by."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise InvalidRequest("Send the file as multipart/form-data")
        self.fields: dict[str, str] = {}
        self._body = body
        self._boundary = options["boundary"]

    async def file_parts(self) -> AsyncIterator[FilePart]:
        """The form's files, one after another. Each must be read to its end before the next is asked for.

        Raises `InvalidRequest` for a body that is not such a form, `ClientDisconnected` when it breaks off.
        """
        events = self._events()
        name, text, room = "", bytearray(), FIELD_LIMIT
        async for event in events:
            if isinstance(event, MultipartSegment):
                name, text = event.name or "", bytearray()
                if event.filename is not None:
                    yield FilePart(name, event.filename, events)
                    name = ""
            elif event is not None:
                room -= len(event)
                if room < 0:
                    raise InvalidRequest(f"The form's text fields are longer than {FIELD_LIMIT} bytes")
                text += event
            elif name:
                try:
                    self.fields.setdefault(name, text.decode())
                except UnicodeDecodeError as error:
                    raise InvalidRequest(f"The field {name[:40]!r} is not UTF-8") from error

    async def _events(self) -> AsyncIterator[MultipartSegment | bytes | None]:
        try:
            with PushMultipartParser(self._boundary, max_segment_count=FIELD_COUNT, strict=False) as parser:
                async for chunk in self._body:
                    for event in parser.parse(chunk):
                        yield bytes(event) if isinstance(event, bytearray) else event
        except (MultipartError, UnicodeDecodeError, LookupError) as error:
            raise InvalidRequest("The form cannot be read to its end") from error


class FilePart:
    """A file within a form. `name` is the field's, `filename` what the client calls the file."""

    def __init__(self, name: str, filename: str, events: AsyncIterator[MultipartSegment | bytes | None]) -> None:
        self.name = name
        self.filename = filename
        self._events = events

    async def chunks(self) -> AsyncIterator[bytes]:
        """The file's bytes."""
        async for event in self._events:
            if event is None:
                return
            if isinstance(event, bytes):
                yield event
