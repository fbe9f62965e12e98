"""A multipart/form-data body as a stream: small fields as text, the file as chunks, in any order.

FastAPI's own forms spool the whole file first. The parser is `multipart`. The field names are those of the studio
contract (docs/studio-contract.md).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import asynccontextmanager
from typing import Any, Self
from urllib.parse import unquote_to_bytes

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from butai.assets import keys
from butai.assets.keys import AssetKey
from butai.errors import BodyTooSlow, ClientDisconnected, HeaderUnsupported, InvalidRequest, MissingParameters

FIELD_LIMIT = 64 * 1024
"""Bytes of all text fields together: a key has 1 KB, and no other field is long."""

FIELD_COUNT = 32
"""Most fields and files of a form; studios send five."""

HEAD_LIMIT = 16 * 1024
"""Most bytes of one line of a part's head: a name of 1,024 bytes, twice, with three bytes for each in one of them."""

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
        name, text, charset, room = "", bytearray(), "utf-8", FIELD_LIMIT
        async for event in events:
            if isinstance(event, MultipartSegment):
                name, text, charset = _readable(event.name or _name(event)), bytearray(), event.charset or "utf-8"
                _check_coding(event)
                if (filename := _filename(event)) is not None:
                    yield FilePart(name, filename, events)
                    name = ""
            elif event is not None:
                room -= len(event)
                if room < 0:
                    raise InvalidRequest(f"The form's text fields are longer than {FIELD_LIMIT} bytes")
                text += event
            elif name:
                try:
                    self.fields.setdefault(name, _decoded(bytes(text), charset))
                except (UnicodeError, LookupError) as error:
                    raise InvalidRequest(f"The field {name[:40]!r} is not {charset[:20]}") from error

    async def _events(self) -> AsyncIterator[MultipartSegment | bytes | None]:
        try:
            with PushMultipartParser(
                self._boundary,
                max_segment_count=FIELD_COUNT,
                max_header_size=HEAD_LIMIT,
                # Old clients write a file's name in the encoding of their system. This one decodes whatever comes.
                header_charset="latin-1",
                strict=False,
            ) as parser:
                async for chunk in self._body:
                    for event in parser.parse(chunk):
                        yield bytes(event) if isinstance(event, bytearray) else event
        except (MultipartError, UnicodeDecodeError, LookupError) as error:
            raise InvalidRequest("The form cannot be read to its end") from error


_PLAIN_CODINGS = ("", "7bit", "8bit", "binary", "identity")
_NAME = re.compile(r"""\bname\s*=\s*"?([^";]*)""", re.IGNORECASE)
_DISPOSITION = re.compile(r"\bfilename\s*=", re.IGNORECASE)
_EXTENDED = re.compile(r"""\bfilename\*\s*=\s*"?([\w.:-]{1,40})'[^']*'([^;"\s]*)""", re.IGNORECASE)


def _check_coding(segment: MultipartSegment) -> None:
    """Raises `HeaderUnsupported` for a part whose bytes stand for others (RFC 7578, 4.7, allows none)."""
    for name, value in segment.headerlist:
        if name in ("Content-Transfer-Encoding", "Content-Encoding") and value.strip().lower() not in _PLAIN_CODINGS:
            raise HeaderUnsupported(f"{name} is not supported in a form: send the bytes as they are")


def _disposition(segment: MultipartSegment) -> str:
    return next((value for name, value in segment.headerlist if name == "Content-Disposition"), "")


def _name(segment: MultipartSegment) -> str:
    """The field's name where the parser found none: the last byte of a file's name before it may be a backslash."""
    match = _NAME.search(_disposition(segment))
    return match[1] if match is not None else ""


def _filename(segment: MultipartSegment) -> str | None:
    """The client's name of a part's file; None for a text field. It is shown and never used, so it is no reason to refuse a
    form, in whatever way it is written: `filename*` of RFC 5987 alone, or in an encoding that is not said."""
    disposition = _disposition(segment)
    if (match := _EXTENDED.search(disposition)) is not None:
        try:
            return _decoded(unquote_to_bytes(match[2]), match[1])
        except (UnicodeError, LookupError):
            return _readable(unquote_to_bytes(match[2]).decode("latin-1"))
    if segment.filename is not None:
        return _readable(segment.filename)
    return "" if _DISPOSITION.search(disposition) else None


_CHARSETS = {
    **dict.fromkeys(("utf-8", "utf8"), "utf-8"),
    **dict.fromkeys(("us-ascii", "ascii"), "ascii"),
    **{f"iso-8859-{part}": f"iso8859-{part}" for part in (*range(1, 12), *range(13, 17))},
    "latin1": "iso8859-1",
    **{f"{prefix}{page}": f"cp{page}" for page in range(1250, 1259) for prefix in ("windows-", "cp")},
    **dict.fromkeys(("shift-jis", "sjis", "x-sjis", "cp932", "windows-31j"), "cp932"),
    "euc-jp": "euc_jp",
    **dict.fromkeys(("gb2312", "gbk", "cp936", "gb18030"), "gb18030"),
    "big5": "cp950",
    **dict.fromkeys(("euc-kr", "ks-c-5601-1987", "cp949"), "cp949"),
    "koi8-r": "koi8-r",
}
"""Character sets of forms (those of the WHATWG's Encoding Standard that clients send), and their codecs. Others of Python's give
what is no text, or take a time that grows with the square of the length."""


def _decoded(text: bytes, charset: str) -> str:
    """Raises `LookupError` for a character set that is not known here, `UnicodeError`."""
    return text.decode(_CHARSETS[charset.lower().replace("_", "-")])


def _readable(text: str) -> str:
    """The text of a form's head, which was decoded byte by byte: UTF-8, with marks for what is none."""
    return text.encode("latin-1", "replace").decode("utf-8", "replace")


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
