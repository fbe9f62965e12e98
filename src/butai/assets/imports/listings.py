"""Reads a listing of a bucket from a file or from standard input.

An import needs the names of objects, and the service may not list. Files are read line by line, so that millions of
lines take a few MB of memory. `listing_formats` parses the lines.

Source: AWS, "Amazon S3 Inventory" (manifest).
"""

from __future__ import annotations

import asyncio
import codecs
import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import AsyncIterator, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TextIO

from butai.assets.imports.listing_formats import (
    ListedObject,
    ListingError,
    ListingFormat,
    aws_ls,
    bounded_lines,
    headed_csv,
    inventory,
    rclone,
    sniff,
)

PEEK = 64 * 1024
"""Bytes of a listing's beginning by which its format is recognised."""


class Listing(Protocol):
    """A source of object names: a file, or the bucket itself."""

    def batches(self, size: int) -> AsyncIterator[list[ListedObject]]:
        """All listed objects, at most `size` at a time. Can be iterated once. Raises `ListingError`."""
        ...

    def progress(self) -> tuple[int, int | None]:
        """Bytes read, and the total, or None where that is not known."""
        ...


class FileListing:
    """A listing on disk, or on standard input (`-`). Gzip and UTF-16 are recognised by their first bytes.

    `listing_format` None: recognised by the first bytes. `columns`: those of an inventory CSV without its manifest (`Bucket,
    Key, Size`), guessed when None. Raises `ListingError` when the file cannot be opened or its format is not
    recognised."""

    def __init__(self, path: Path, listing_format: ListingFormat | None = None, columns: str | None = None) -> None:
        if path.is_dir() and (path / "manifest.json").is_file():
            path /= "manifest.json"
        self._columns = [name.strip() for name in columns.split(",")] if columns else None
        self._read = 0
        first = _File(path)
        beginning = first.beginning()
        self.format = listing_format or sniff(str(path), beginning)
        self._files = [first]
        self.total = first.size
        if self.format is ListingFormat.INVENTORY and beginning.lstrip().startswith("{"):
            self._files, self._columns = _manifest(path, first.text)
            first.close()
            self.total = sum(file.size or 0 for file in self._files)

    def __iter__(self) -> Iterator[ListedObject]:
        """Every listed object. Raises `ListingError`."""
        for file in self._files:
            try:
                yield from self._lines(file)
            except (EOFError, OSError, zlib.error, csv.Error) as error:
                raise ListingError(f"{file.name} is damaged, or was not copied whole: {error}") from error
            finally:
                self._read += file.size or 0
                file.close()

    def _lines(self, file: _File) -> Iterator[ListedObject]:
        if self.format is ListingFormat.AWS_LS:
            return aws_ls(bounded_lines(file.text))
        if self.format is ListingFormat.RCLONE:
            return rclone(file.text)
        if self.format is ListingFormat.CSV:
            return headed_csv(bounded_lines(file.text))
        return inventory(bounded_lines(file.text), self._columns)

    async def batches(self, size: int) -> AsyncIterator[list[ListedObject]]:
        """As in `Listing`. Files are read and decompressed in a thread."""
        lines = iter(self)
        while batch := await asyncio.to_thread(lambda: list(islice(lines, size))):
            yield batch

    def progress(self) -> tuple[int, int | None]:
        """As in `Listing`; bytes as on disk, before decompression."""
        return self._read + sum(file.read for file in self._files if not file.closed), self.total


class _File:
    """One file, opened when first read: a report may have thousands of them."""

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
        """Bytes read from the disk so far."""
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
                self._stream = io.BufferedReader(gzip.GzipFile(fileobj=raw), PEEK) if packed else raw
            except OSError as error:
                raise ListingError(f"{self.name} cannot be read: {error.strerror}") from error
        return self._stream

    def _encoding(self) -> str:
        begins = self._open().peek(4)[:4]
        # PowerShell's encoding of `aws s3 ls > file`.
        if begins.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return "utf-16"
        return "utf-8-sig"

    def beginning(self) -> str:
        """The first characters; `text` returns them again."""
        try:
            return self._open().peek(PEEK)[:PEEK].decode(self._encoding(), errors="ignore")
        except (EOFError, OSError, zlib.error) as error:
            raise ListingError(f"{self.name} is damaged, or was not copied whole: {error}") from error

    @property
    def text(self) -> TextIO:
        """The file as text. Bytes that are not UTF-8 become surrogates, and keys with them are refused later. Only a
        line feed ends a line."""
        return io.TextIOWrapper(self._open(), self._encoding(), errors="surrogateescape", newline="\n")

    def close(self) -> None:
        if self._stream is not None and self._raw is not sys.stdin.buffer:
            self._stream.close()
        if self._raw is not None and self._raw is not sys.stdin.buffer:
            self._raw.close()
        self.closed = True


def _manifest(path: Path, text: TextIO) -> tuple[list[_File], list[str]]:
    """The data files that a manifest.json names, found on this disk, and their columns."""
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
    """Paths where a data file may be: as in the bucket (`…/ID/2026-01-01T00-00Z/manifest.json`, `…/ID/data/x.csv.gz`),
    or copied next to the manifest."""
    name = key.rpartition("/")[2]
    folder = manifest.resolve().parent
    yield from (folder / name, folder / "data" / name, folder.parent / "data" / name)
    for above in folder.parents:
        yield above / key
