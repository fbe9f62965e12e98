"""A multipart/form-data body as a stream: small fields as text, the file as chunks, in any order.

FastAPI's own forms spool the whole file first. The parser is `multipart`. The field names are those of the studio
contract (docs/studio-contract.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Self

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from butai.assets import keys
from butai.assets.keys import AssetKey
from butai.errors import BodyTooSlow, ClientDisconnected, InvalidRequest, MissingParameters

FIELD_LIMIT = 64 * 1024
"""Bytes of all text fields together: a key has 1 KB, and no other field is long."""

FIELD_COUNT = 32
"""Most fields and files of a form; studios send five."""

FIELD_SECONDS = 10.0
"""Most seconds for the fields before a form's file, and for those after it: as for any small body."""

SLOWEST = 4 * 1024
"""Least bytes per second that a client must send, averaged over `SLOW_SECONDS`: what a telephone has where it barely has
a network. An avatar of 20 MB would take it an hour and a half."""

SLOW_SECONDS = 60.0
"""Seconds by which a body may be later than it would be at `SLOWEST`."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


def seconds_left(left: float, waited: float, size: int) -> float:
    """What is left of `SLOW_SECONDS` after a wait of `waited` seconds that ended with `size` bytes; 0 or less: too slow."""
    return min(left - waited + size / SLOWEST, SLOW_SECONDS)


async def body_chunks(receive: Receive, idle_timeout: float) -> AsyncIterator[bytes]:
    """Yields a request's body as it arrives. Raises `ClientDisconnected`, also after `idle_timeout` seconds of
    silence, and `BodyTooSlow` for a body that comes at less than `SLOWEST`.

    Waiting uses up `SLOW_SECONDS`, bytes give them back: a client at `SLOWEST` or above never runs out of them, and one
    that sends a byte now and then does, however fast it was before. Time that the store takes counts for nothing.
    """
    clock = asyncio.get_running_loop().time
    left = SLOW_SECONDS
    while True:
        since = clock()
        try:
            async with asyncio.timeout(min(idle_timeout, left)):
                message = await receive()
        except TimeoutError as error:
            if left <= idle_timeout:
                raise BodyTooSlow(f"The body came at less than {SLOWEST} bytes per second") from error
            raise ClientDisconnected(f"No byte came for {idle_timeout:g} seconds") from error
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        body = message.get("body", b"")
        left = seconds_left(left, clock() - since, len(body))
        if body:
            yield body
        if not message.get("more_body", False):
            return


class Form:
    """One form. Iterate `file_parts`; `fields` has the text fields that have been read so far."""

    def __init__(self, content_type: str, body: AsyncIterator[bytes]) -> None:
        kind, options = parse_options_header(content_type)
        if kind != "multipart/form-data" or not options.get("boundary"):
            raise InvalidRequest("Send the file as multipart/form-data")
        self.fields: dict[str, str] = {}
        self._body = body
        self._boundary = options["boundary"]

    async def file_parts(self) -> AsyncIterator[FilePart]:
        """Yields the form's files in their order. Each must be read to its end before the next is taken.

        Raises `InvalidRequest` for a body that is not such a form, `ClientDisconnected` when it stops early.
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
    """A file within a form. `name` is the field's, `filename` the client's name of the file."""

    def __init__(self, name: str, filename: str, events: AsyncIterator[MultipartSegment | bytes | None]) -> None:
        self.name = name
        self.filename = filename
        self._events = events

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yields the file's bytes."""
        async for event in self._events:
            if event is None:
                return
            if isinstance(event, bytes):
                yield event


@asynccontextmanager
async def _fields_in_time() -> AsyncGenerator[None]:
    """Raises `BodyTooSlow` when the block takes longer than `FIELD_SECONDS`."""
    try:
        async with asyncio.timeout(FIELD_SECONDS):
            yield
    except TimeoutError as error:
        raise BodyTooSlow(f"The form's fields were not complete after {FIELD_SECONDS:g} seconds") from error


class UploadForm:
    """A form with one file (`file`) and its key (`fileName`), in either order. Read `chunks`, then `key`.

    `early_key` is the key when it came before the file; `filename` the client's name of the file.
    """

    def __init__(self, form: Form, files: AsyncIterator[FilePart], file: FilePart) -> None:
        self._form, self._files, self._file = form, files, file
        self.filename = file.filename
        self.early_key = self._parsed_key() if "fileName" in form.fields else None

    @classmethod
    async def begun(cls, content_type: str, body: AsyncIterator[bytes]) -> Self:
        """Reads a form up to its file. Raises `MissingParameters`, `InvalidRequest`, `BodyTooSlow`,
        `ClientDisconnected`, and the errors of `keys.parse` for an early key."""
        form = Form(content_type, body)
        files = form.file_parts()
        async with _fields_in_time():
            file = await anext(files, None)
        if file is None or file.name != "file":
            raise MissingParameters("The form has no file")
        return cls(form, files, file)

    def chunks(self) -> AsyncIterator[bytes]:
        """Yields the file's bytes."""
        return self._file.chunks()

    async def key(self) -> AssetKey:
        """Reads the form to its end, after the file; returns the file's key. Raises as `begun` does."""
        async with _fields_in_time():
            if await anext(self._files, None) is not None:
                raise InvalidRequest("The form has more than one file")
        if not self._form.fields.get("fileType"):
            raise MissingParameters("fileType is missing")
        return self.early_key or self._parsed_key()

    @property
    def sha256(self) -> str | None:
        """The SHA-256 that the client declares, as far as the form has been read."""
        return self._form.fields.get("sha256")

    def _parsed_key(self) -> AssetKey:
        name = self._form.fields.get("fileName")
        if not name:
            raise MissingParameters("fileName is missing")
        return keys.parse(name)
