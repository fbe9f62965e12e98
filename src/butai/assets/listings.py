"""What is in a bucket, as told by a listing that a person brings, or by the bucket itself where that is allowed.

The service may not list; an import has to know names from somewhere. `FileListing` reads what other tools write, line
by line, so that millions fit in a few MB of memory. `BucketListing` is the only code of the product that asks a bucket
for its contents. Called by `butai.cli.import_` (`butai import`), and by `butai.doctor`, which asks whether listing works.

Sources: AWS, "Amazon S3 Inventory" (manifest), "ListObjectsV2". The formats themselves are in `listing_formats`.
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
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

import aiohttp
from yarl import URL

from butai.assets.listing_formats import (
    UNREADABLE,
    Format,
    Listed,
    ListingError,
    aws_ls,
    bounded_lines,
    headed_csv,
    inventory,
    moment,
    rclone,
    sniff,
    to_import,
)
from butai.assets.storage import Store

PEEK = 64 * 1024
"""How much of a listing's beginning tells its format."""

PAGE_SECONDS = 60.0
"""The longest that one page of ListObjectsV2 may take; AWS answers in well under a second, small stores in a few."""

PAGE_TRIES = 4


class ListingDenied(ListingError):
    """The store lets this identity not list."""


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
        self.format = format or sniff(str(path), beginning)
        self._files = [first]
        self.total = first.size
        if self.format is Format.INVENTORY and beginning.lstrip().startswith("{"):
            self._files, self._columns = _manifest(path, first.text)
            first.close()
            self.total = sum(file.size or 0 for file in self._files)

    def __iter__(self) -> Iterator[Listed]:
        """Every line. Raises `ListingError`."""
        for file in self._files:
            try:
                yield from self._lines(file)
            except (EOFError, OSError, zlib.error, csv.Error) as error:
                raise ListingError(f"{file.name} is damaged, or was not copied whole: {error}") from error
            finally:
                self._read += file.size or 0
                file.close()

    def _lines(self, file: _File) -> Iterator[Listed]:
        if self.format is Format.AWS_LS:
            return aws_ls(bounded_lines(file.text))
        if self.format is Format.RCLONE:
            return rclone(file.text)
        if self.format is Format.CSV:
            return headed_csv(bounded_lines(file.text))
        return inventory(bounded_lines(file.text), self._columns)

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
        if self._raw is None or self._raw.closed:
            return 0
        try:
            return self._raw.tell()
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
    return to_import(key, moment(_field(text, "LastModified")), _field(text, "StorageClass"))
