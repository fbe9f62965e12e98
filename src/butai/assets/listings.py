"""What is in a bucket, as told by a listing that a person brings, or by the bucket itself where that is allowed.

The service may not list; an import has to know names from somewhere. `FileListing` reads what other tools write, line
by line, so that millions fit in a few MB of memory. `BucketListing` is the only code of the product that asks a bucket
for its contents. Called by `butai.moving_in` (`butai import`), and by `butai.doctor`, which asks whether listing works.

Sources: AWS, "Amazon S3 Inventory list" (columns, manifest, keys are URL-encoded), "ListObjectsV2"; aws-cli, `s3 ls`;
rclone, `lsjson`.
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO
from urllib.parse import unquote_plus

import aiohttp
from yarl import URL

from butai.assets.storage import Store

PEEK = 64 * 1024
"""How much of a listing's beginning tells its format."""

LONGEST_LINE = 64 * 1024
"""Characters. A key has 1,024 bytes, 3,072 when encoded; what is longer is no listing and shall not fill the memory."""

PAGE_SECONDS = 60.0
"""The longest that one page of ListObjectsV2 may take; AWS answers in well under a second, small stores in a few."""

PAGE_TRIES = 4

UNREADABLE = "unreadable"
"""The one `Listed.problem` that is a failure: a line that says nothing we know."""


class ListingError(Exception):
    """A listing that cannot be used. The message is one line for a person."""


class ListingDenied(ListingError):
    """The store lets this identity not list."""


class Format(StrEnum):
    """How a listing is written."""

    INVENTORY = "inventory"
    AWS_LS = "aws-ls"
    RCLONE = "rclone"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class Listed:
    """One line: an object's key in the bucket, and when it was written.

    `problem`: why it is no object to import (`folder`, `old_version`, `delete_marker`, `archived`), or `UNREADABLE`; then
    `key` is the line itself.
    """

    key: str
    modified: datetime | None = None
    problem: str | None = None


class Listing(Protocol):
    """Where the names come from."""

    def batches(self, size: int) -> AsyncIterator[list[Listed]]:
        """All lines, at most `size` at a time. Raises `ListingError`. Iterate once."""
        ...

    def progress(self) -> tuple[int, int | None]:
        """Bytes read, and how many there are in all; None when that is not known."""
        ...


# What other tools write


class FileListing:
    """A listing on disk, or on standard input (`-`); gzip and UTF-16 are seen by their first bytes.

    `format` None: told from the name and the beginning. `columns`: those of an inventory CSV without its manifest
    (`Bucket, Key, Size`), guessed when None. Raises `ListingError` at once when it cannot be read at all.
    """

    def __init__(self, path: Path, format: Format | None = None, columns: str | None = None) -> None:
        if path.is_dir() and (path / "manifest.json").is_file():
            path /= "manifest.json"
        self._columns = [name.strip() for name in columns.split(",")] if columns else None
        self._read = 0
        first = _File(path)
        beginning = first.beginning()
        self.format = format or _sniff(path, beginning)
        self._files = [first]
        self.total = first.size
        if self.format is Format.INVENTORY and beginning.lstrip().startswith("{"):
            self._files, self._columns = _manifest(path, first.text)
            self.total = sum(file.size or 0 for file in self._files)

    def __iter__(self) -> Iterator[Listed]:
        """Every line. Raises `ListingError`."""
        for file in self._files:
            try:
                yield from self._lines(file)
            except (EOFError, OSError, zlib.error, csv.Error) as error:
                raise ListingError(f"{file.name} is damaged, or was not copied whole: {error}") from error
            finally:
                self._read += file.read
                file.close()

    def _lines(self, file: _File) -> Iterator[Listed]:
        if self.format is Format.AWS_LS:
            return _aws_ls(_lines(file))
        if self.format is Format.RCLONE:
            return _rclone(file)
        if self.format is Format.CSV:
            return _csv(_lines(file))
        return _inventory(_lines(file), self._columns)

    async def batches(self, size: int) -> AsyncIterator[list[Listed]]:
        """As `Listing` says. Reading and unpacking happen in a thread."""
        lines = iter(self)
        while batch := await asyncio.to_thread(lambda: list(islice(lines, size))):
            yield batch

    def progress(self) -> tuple[int, int | None]:
        """As `Listing` says; bytes as they lie on the disk."""
        return self._read + sum(file.read for file in self._files if not file.closed), self.total


class _File:
    """One file, opened when first needed: a report may have thousands of them."""

    def __init__(self, path: Path) -> None:
        self.name = "standard input" if str(path) == "-" else str(path)
        self._path = path
        self._raw: BinaryIO | None = None
        self._stream: Any = None
        self.closed = False
        self.size: int | None = None
        if str(path) != "-":
            try:
                self.size = path.stat().st_size
            except OSError as error:
                raise ListingError(f"{self.name} cannot be read: {error.strerror}") from error

    @property
    def read(self) -> int:
        """Bytes taken from the disk."""
        try:
            return self._raw.tell() if self._raw is not None and not self._raw.closed else (self.size or 0)
        except OSError:  # a pipe
            return 0

    def _open(self) -> Any:
        if self._stream is None:
            try:
                raw: Any = sys.stdin.buffer if str(self._path) == "-" else self._path.open("rb", buffering=PEEK)
                self._raw = raw
                packed = raw.peek(2)[:2] == b"\x1f\x8b"
                self._stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), PEEK) if packed else raw  # pyright: ignore[reportArgumentType]
            except OSError as error:
                raise ListingError(f"{self.name} cannot be read: {error.strerror}") from error
        return self._stream

    def _encoding(self) -> str:
        begins = self._open().peek(4)[:4]
        # What PowerShell makes of `aws s3 ls > file`.
        if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        return "utf-8-sig"

    def beginning(self) -> str:
        """The first characters, which are still there for `text`."""
        try:
            return self._open().peek(PEEK)[:PEEK].decode(self._encoding(), errors="ignore")
        except (EOFError, OSError, zlib.error) as error:
            raise ListingError(f"{self.name} is damaged, or was not copied whole: {error}") from error

    @property
    def text(self) -> TextIO:
        """The characters. Bytes that are none stay in the key, which is refused for it; only a line feed ends a line."""
        return io.TextIOWrapper(self._open(), self._encoding(), errors="surrogateescape", newline="\n")

    def close(self) -> None:
        if self._stream is not None and self._raw is not sys.stdin.buffer:
            self._stream.close()
        if self._raw is not None and self._raw is not sys.stdin.buffer:
            self._raw.close()
        self.closed = True


def _lines(file: _File) -> Iterator[str]:
    text = file.text
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise ListingError(f"{file.name} has a line of more than {LONGEST_LINE} characters: it is no listing")
        yield line


def _sniff(path: Path, beginning: str) -> Format:
    """Raises `ListingError` for what looks like none of the formats."""
    text = beginning.lstrip()
    first = text.partition("\n")[0].rstrip("\r")
    if text.startswith("{") and ('"fileSchema"' in text or '"fileFormat"' in text):
        return Format.INVENTORY
    if (text.startswith("[") and '"Path"' in text) or re.match(r"\[\s*\]", text):
        return Format.RCLONE
    if _AWS_LS.match(first) or _AWS_FOLDER.match(first):
        return Format.AWS_LS
    if _key_column(first) is not None:
        return Format.CSV
    rows = list(csv.reader(beginning.splitlines()[:2]))
    if rows and len(rows[0]) >= 2 and "\0" not in beginning and first.startswith('"'):
        return Format.INVENTORY
    raise ListingError(
        f"{path}: cannot tell what kind of listing this is; say it with --format "
        f"({', '.join(Format)}), and give a CSV a first line that names its columns, one of them key"
    )


# aws s3 ls --recursive

_AWS_LS = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) +(?:\d+|\d+(?:\.\d+)? (?:Bytes?|[KMGTPE]iB)) (?P<key>.+)", re.DOTALL
)
_AWS_FOLDER = re.compile(r" +PRE (?P<key>.+)")
_AWS_SUMMARY = re.compile(r"\s*(?:Total (?:Objects|Size): .*)?$")


def _aws_ls(lines: Iterator[str]) -> Iterator[Listed]:
    """`2024-05-01 12:00:00     123456 vrm/Aoi.vrm`: one space before the key, which stands as it is; local time."""
    for raw in lines:
        line = raw.rstrip("\n").removesuffix("\r")
        if match := _AWS_LS.fullmatch(line):
            yield _object(match["key"], _time(match["at"]))
        elif match := _AWS_FOLDER.fullmatch(line):
            yield Listed(match["key"], problem="folder")
        elif not _AWS_SUMMARY.fullmatch(line):
            yield Listed(line, problem=UNREADABLE)


# rclone lsjson


def _rclone(file: _File) -> Iterator[Listed]:
    for item in _json_objects(file):
        key = item.get("Path")
        if not isinstance(key, str):
            yield Listed(json.dumps(item)[:1000], problem=UNREADABLE)
        elif item.get("IsDir") is True:
            yield Listed(key, problem="folder")
        else:
            yield _object(key, _time(item.get("ModTime")), storage_class=item.get("Tier"))


_BETWEEN = re.compile(r"[\s,\[\]]*")


def _json_objects(file: _File) -> Iterator[dict[str, Any]]:
    """The objects of one long array, or of several, without ever holding more than one and a stretch of text."""
    decoder, text = json.JSONDecoder(), file.text
    held, place = "", 0
    while True:
        place = _BETWEEN.match(held, place).end()  # pyright: ignore[reportOptionalMemberAccess]  (matches nothing too)
        try:
            value, place = decoder.raw_decode(held, place)
        except json.JSONDecodeError as error:
            held, place = held[place:], 0
            more = text.read(PEEK)
            if not more and not held:
                return
            if not more or len(held) > LONGEST_LINE:
                raise ListingError(f"{file.name} is damaged, or was not copied whole: {error.msg}") from error
            held += more
            continue
        if not isinstance(value, dict):
            raise ListingError(f"{file.name} is not what rclone lsjson writes: an array of objects")
        yield value


# A CSV that says what its columns are

_KEY_NAMES = ("key", "objectkey", "s3key", "path", "objectname", "name")
_TIME_NAMES = ("lastmodified", "lastmodifieddate", "modified", "modtime", "mtime", "date")
_DELIMITERS = (",", ";", "\t", "|")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _key_column(header: str) -> str | None:
    """The delimiter of a header that names a key; None when it is no such header."""
    for delimiter in _DELIMITERS:
        names = [_plain(name) for name in next(csv.reader([header], delimiter=delimiter), [])]
        if any(name in names for name in _KEY_NAMES):
            return delimiter
    return None


def _csv(lines: Iterator[str]) -> Iterator[Listed]:
    """Keys stand as they are. Only the column of the key must be there; the time is used when it is."""
    header = next(lines, "")
    delimiter = _key_column(header.rstrip("\r\n"))
    if delimiter is None:
        raise ListingError("the CSV's first line must name its columns, one of them key")
    names = [_plain(name) for name in next(csv.reader([header], delimiter=delimiter))]
    key = next(names.index(name) for name in _KEY_NAMES if name in names)
    at = next((names.index(name) for name in _TIME_NAMES if name in names), None)
    for row in csv.reader(lines, delimiter=delimiter):
        if not row:
            continue
        if len(row) <= key:
            yield Listed(delimiter.join(row), problem=UNREADABLE)
        else:
            yield _object(row[key], _time(row[at]) if at is not None and len(row) > at else None)


# S3 Inventory

_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Their bytes can only be read after a restore of hours (AWS, "Storage classes"). GLACIER_IR is read at once."""

_STORAGE_CLASSES = _ARCHIVED | {
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "REDUCED_REDUNDANCY",
    "EXPRESS_ONEZONE",
    "OUTPOSTS",
}


def _manifest(path: Path, text: TextIO) -> tuple[list[_File], list[str]]:
    """The data files that a manifest.json names, where they lie on this disk, and their columns."""
    try:
        manifest = json.loads(text.read())
        kind, schema = str(manifest["fileFormat"]), str(manifest["fileSchema"])
        named = [(str(file["key"]), int(file["size"])) for file in manifest["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ListingError(f"{path} is not the manifest of an S3 Inventory") from error
    if kind.upper() != "CSV":
        raise ListingError(f"the inventory is written as {kind}: have S3 write it as CSV")
    files: list[_File] = []
    for key, size in named:
        found = next((place for place in _places(path, key) if place.is_file()), None)
        if found is None:
            raise ListingError(f"{key}, which {path.name} names, is not beside it: copy the report's data folder too")
        file = _File(found)
        if file.size != size:
            raise ListingError(f"{found} has {file.size} bytes, and {size} by its manifest: it was not copied whole")
        files.append(file)
    return files, [name.strip() for name in schema.split(",")]


def _places(manifest: Path, key: str) -> Iterator[Path]:
    """Where a data file may lie: as in the bucket (`…/ID/2026-01-01T00-00Z/manifest.json`, `…/ID/data/x.csv.gz`), or
    copied next to the manifest."""
    name = key.rpartition("/")[2]
    folder = manifest.resolve().parent
    yield from (folder / name, folder / "data" / name, folder.parent / "data" / name)
    for above in folder.parents:
        yield above / key


def _inventory(lines: Iterator[str], columns: Sequence[str] | None) -> Iterator[Listed]:
    """Rows without a header, keys URL-encoded."""
    rows = csv.reader(lines)
    sample: list[list[str]] = []
    if columns is None:
        sample = list(islice(rows, 100))
        columns = guess_columns(sample)
    places = {_plain(name): place for place, name in enumerate(columns)}
    if "key" not in places:
        raise ListingError(f"the columns name no Key: {', '.join(columns)}")

    def value(row: list[str], name: str) -> str:
        place = places.get(name)
        return row[place] if place is not None and place < len(row) else ""

    def listed(row: list[str]) -> Listed:
        if len(row) <= places["key"]:
            return Listed(",".join(row), problem=UNREADABLE)
        # In this encoding a plus is a space, and a real plus is %2B.
        key = unquote_plus(value(row, "key"), errors="surrogateescape")
        if value(row, "isdeletemarker") == "true":
            return Listed(key, problem="delete_marker")
        if value(row, "islatest") == "false":
            return Listed(key, problem="old_version")
        return _object(key, _time(value(row, "lastmodifieddate")), value(row, "storageclass"))

    for row in sample:
        if row:
            yield listed(row)
    for row in rows:
        if row:
            yield listed(row)


def guess_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The columns of an inventory's rows, as far as they matter: AWS writes Bucket, Key, then those of versions, then the
    chosen ones. Raises `ListingError` when the rows cannot be of one bucket."""
    rows = [row for row in rows if row]
    if not rows:
        return ["Bucket", "Key"]
    width = min(len(row) for row in rows)
    if width < 2 or len({row[0] for row in rows}) > 1:
        raise ListingError("cannot tell the columns of this inventory: give them with --columns 'Bucket, Key, …'")
    names = ["Bucket", "Key", *[""] * (width - 2)]

    def all_are(place: int, pattern: str) -> bool:
        values = [row[place] for row in rows if row[place]]
        return bool(values) and all(re.fullmatch(pattern, value) for value in values)

    if width > 4 and all_are(3, "true|false") and all_are(4, "true|false"):
        names[2:5] = ["VersionId", "IsLatest", "IsDeleteMarker"]
    for place in range(2, width):
        if names[place]:
            continue
        if "LastModifiedDate" not in names and all_are(place, r"\d{4}-\d\d-\d\dT[\d:.]+Z"):
            names[place] = "LastModifiedDate"
        elif "StorageClass" not in names and all_are(place, "|".join(_STORAGE_CLASSES)):
            names[place] = "StorageClass"
    return names


def _object(key: str, modified: datetime | None, storage_class: object = None) -> Listed:
    if key.endswith("/"):
        return Listed(key, modified, "folder")
    if isinstance(storage_class, str) and storage_class.upper() in _ARCHIVED:
        return Listed(key, modified, "archived")
    return Listed(key, modified)


def _time(text: object) -> datetime | None:
    """A time with its zone; one without it is this machine's. None for what is none."""
    if not isinstance(text, str) or not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        return None


# The bucket itself

_CONTENTS = re.compile(r"<Contents>(.*?)</Contents>", re.DOTALL)
_ENTITY = re.compile(r"&(?:#(\d+)|#x([0-9a-fA-F]+)|(amp|lt|gt|quot|apos));")
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}

HOW_ELSE = (
    "bring a listing instead (--listing FILE: an S3 Inventory report, `aws s3 ls --recursive`, `rclone lsjson -R` or a CSV, "
    "made by somebody who may list), or run this once with credentials that may"
)


class BucketListing:
    """What the bucket itself says (ListObjectsV2), for an identity that may ask. `prefix`: only keys that begin so."""

    def __init__(self, store: Store, prefix: str = "") -> None:
        self._store = store
        self._prefix = prefix

    async def batches(self, size: int) -> AsyncIterator[list[Listed]]:
        """As `Listing` says. Raises `ListingDenied`."""
        token: str | None = None
        async with aiohttp.ClientSession() as http:
            while True:
                page = await _page(http, self._store, self._prefix, token)
                listed = [_from_xml(text) for text in _CONTENTS.findall(page)]
                for start in range(0, len(listed), size):
                    yield listed[start : start + size]
                token = _field(page, "NextContinuationToken") if _field(page, "IsTruncated") == "true" else None
                if not token:
                    return

    def progress(self) -> tuple[int, int | None]:
        """As `Listing` says: a bucket does not tell how much it holds."""
        return 0, None


async def may_list(store: Store) -> bool:
    """Whether the store's identity may list its bucket. Raises `ListingError` when the store gives no such answer."""
    async with aiohttp.ClientSession() as http:
        try:
            await _page(http, store, store.prefix, None, most=1, tries=1)
        except ListingDenied:
            return False
    return True


async def _page(
    http: aiohttp.ClientSession,
    store: Store,
    prefix: str,
    token: str | None,
    most: int = 1000,
    tries: int = PAGE_TRIES,
) -> str:
    """One page's XML. Not asked with `encoding-type`: some stores encode without saying so, others say so without."""
    query = {"list-type": "2", "max-keys": str(most), "prefix": prefix}
    if token:
        query["continuation-token"] = token
    failure = ""
    for attempt in range(tries):
        if attempt:
            await asyncio.sleep(0.25 * 2**attempt)
        url = URL(store.sign("GET", "", query=query), encoded=True)
        try:
            timeout = aiohttp.ClientTimeout(total=PAGE_SECONDS, sock_connect=store.settings.connect_timeout)
            async with http.get(url, allow_redirects=False, timeout=timeout) as answer:
                text = (await answer.read()).decode(errors="replace")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            failure = f"the store does not answer ({type(error).__name__})"
            continue
        if answer.status == 200:
            return text
        code = _field(text, "Code") or "no reason given"
        if answer.status in (401, 403):
            raise ListingDenied(f"the store lets this identity not list its bucket ({code}): {HOW_ELSE}")
        failure = f"the store cannot list the bucket: {answer.status}, {code}"
        if answer.status < 500:
            break
    raise ListingError(failure)


def _field(xml: str, name: str) -> str | None:
    match = re.search(f"<{name}>(.*?)</{name}>", xml, re.DOTALL)
    return None if match is None else _unescape(match[1])


def _unescape(text: str) -> str:
    """XML's entities. By hand: a key may hold characters that XML forbids, and AWS writes them all the same."""

    def character(match: re.Match[str]) -> str:
        if match[3]:
            return _NAMED[match[3]]
        number = int(match[1]) if match[1] else int(match[2], 16)
        return chr(number) if number <= sys.maxunicode else "\ufffd"

    return _ENTITY.sub(character, text)


def _from_xml(text: str) -> Listed:
    key = _field(text, "Key")
    if key is None:
        return Listed(text[:1000], problem=UNREADABLE)
    return _object(key, _time(_field(text, "LastModified")), _field(text, "StorageClass"))
