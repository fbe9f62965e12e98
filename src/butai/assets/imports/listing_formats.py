"""Parses the formats in which other tools write a listing of a bucket. Pure.

Sources: AWS, "Amazon S3 Inventory list" (columns; keys are URL-encoded); aws-cli, `s3 ls`; rclone, `lsjson`.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import islice
from typing import Any, TextIO
from urllib.parse import unquote_plus

from butai.errors import Code

STRETCH = 64 * 1024
"""Characters read at a time from a format without lines."""

LONGEST_LINE = 64 * 1024
"""Characters. A key has at most 1,024 bytes, 3,072 when encoded: a longer line is no listing, and must not fill the
memory."""

UNREADABLE = "unreadable"
"""The one `ListedObject.problem` that counts as a failure: a line that fits none of the formats."""


class ListingError(Exception):
    """A listing that cannot be used. The message is one line for an operator."""


class ListingFormat(StrEnum):
    """The format of a listing."""

    INVENTORY = "inventory"
    AWS_LS = "aws-ls"
    RCLONE = "rclone"
    CSV = "csv"


@dataclass(frozen=True, slots=True)
class ListedObject:
    """One line: an object's key in the bucket, and when it was written.

    `problem`: why it cannot be imported (`folder`, `old_version`, `delete_marker`, `archived`), or `UNREADABLE`, with
    the whole line as `key`.
    """

    key: str
    modified: datetime | None = None
    problem: str | None = None


def sniff(name: str, beginning: str) -> ListingFormat:
    """The format of a listing with this `beginning`; `name` is for the error. Raises `ListingError` for an unknown
    format."""
    text = beginning.lstrip()
    if not text:
        raise ListingError(f"{name} is empty")
    first = beginning.lstrip("\r\n").partition("\n")[0].rstrip("\r")
    if text.startswith("{") and ('"fileSchema"' in text or '"fileFormat"' in text):
        return ListingFormat.INVENTORY
    if (text.startswith("[") and '"Path"' in text) or re.match(r"\[\s*\]", text):
        return ListingFormat.RCLONE
    if _AWS_LS.match(first) or _AWS_FOLDER.match(first):
        return ListingFormat.AWS_LS
    if _key_column(first) is not None:
        return ListingFormat.CSV
    if first.startswith('"') and '","' in first:
        return ListingFormat.INVENTORY
    raise ListingError(
        f"{name}: the format of this listing is not recognised; name it with --format "
        f"({', '.join(ListingFormat)}), and give a CSV a first line that names its columns, one of them key"
    )


def bounded_lines(text: TextIO) -> Iterator[str]:
    """The lines, with their line ends. Raises `ListingError` for one longer than `LONGEST_LINE`."""
    while line := text.readline(LONGEST_LINE):
        if len(line) == LONGEST_LINE and not line.endswith("\n"):
            raise ListingError(f"a line has more than {LONGEST_LINE} characters: this is not a listing")
        yield line


# aws s3 ls --recursive

_AWS_LS = re.compile(
    r"(?P<at>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) +(?:\d+|\d+(?:\.\d+)? (?:Bytes?|[KMGTPE]iB)) (?P<key>.+)", re.DOTALL
)
_AWS_FOLDER = re.compile(r" +PRE (?P<key>.+)")
_AWS_SUMMARY = re.compile(r"\s*(?:Total (?:Objects|Size): .*)?$")


def aws_ls(lines: Iterator[str]) -> Iterator[ListedObject]:
    """Lines such as `2024-05-01 12:00:00     123456 vrm/Aoi.vrm`: one space before the key, which is not encoded; local
    time."""
    for raw in lines:
        line = raw.rstrip("\n").removesuffix("\r")
        if match := _AWS_LS.fullmatch(line):
            yield to_import(match["key"], moment(match["at"]))
        elif match := _AWS_FOLDER.fullmatch(line):
            yield ListedObject(match["key"], problem=Code.FOLDER)
        elif not _AWS_SUMMARY.fullmatch(line):
            yield ListedObject(line, problem=Code.UNREADABLE)


# rclone lsjson


def rclone(text: TextIO) -> Iterator[ListedObject]:
    """An array of objects with `Path`, `ModTime`, `IsDir`; paths are not encoded. Raises `ListingError`."""
    for item in _json_objects(text):
        key = item.get("Path")
        if not isinstance(key, str):
            yield ListedObject(json.dumps(item)[:1000], problem=Code.UNREADABLE)
        elif item.get("IsDir") is True:
            yield ListedObject(key, problem=Code.FOLDER)
        else:
            yield to_import(key, moment(item.get("ModTime")), storage_class=item.get("Tier"))


_BETWEEN = re.compile(r"[\s,\[\]]*")


def _json_objects(text: TextIO) -> Iterator[dict[str, Any]]:
    """The objects of one long array, or of several. Holds one object and `STRETCH` characters at a time."""
    decoder = json.JSONDecoder()
    held, place = "", 0
    while True:
        place = _BETWEEN.match(held, place).end()  # pyright: ignore[reportOptionalMemberAccess]  (matches nothing too)
        try:
            value, place = decoder.raw_decode(held, place)
        except json.JSONDecodeError as error:
            held, place = held[place:], 0
            more = text.read(STRETCH)
            if not more and not held:
                return
            if not more or len(held) > LONGEST_LINE:
                raise ListingError(f"the JSON is damaged, or was not copied whole: {error.msg}") from error
            held += more
            continue
        if not isinstance(value, dict):
            raise ListingError("this is not the output of rclone lsjson: an array of objects")
        yield value


# A CSV whose header names its columns

_KEY_NAMES = ("key", "objectkey", "s3key", "path", "objectname", "name")
_TIME_NAMES = ("lastmodified", "lastmodifieddate", "modified", "modtime", "mtime", "date")
_DELIMITERS = (",", ";", "\t", "|")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _key_column(header: str) -> str | None:
    """The delimiter of a header that names a key column; None when it names none."""
    for delimiter in _DELIMITERS:
        names = [_plain(name) for name in next(csv.reader([header], delimiter=delimiter), [])]
        if any(name in names for name in _KEY_NAMES):
            return delimiter
    return None


def headed_csv(lines: Iterator[str]) -> Iterator[ListedObject]:
    """Rows of a CSV with a header; keys are not encoded. Only the key column is required; a time column is used when
    present."""
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
            yield ListedObject(delimiter.join(row), problem=Code.UNREADABLE)
        else:
            yield to_import(row[key], moment(row[at]) if at is not None and len(row) > at else None)


# S3 Inventory

_ARCHIVED = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Classes whose bytes can only be read after a restore of hours (AWS, "Storage classes"). GLACIER_IR needs none."""

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


def inventory(lines: Iterator[str], columns: Sequence[str] | None) -> Iterator[ListedObject]:
    """Rows without a header; keys are URL-encoded. `columns` None: guessed from the first 100 rows."""
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

    def listed(row: list[str]) -> ListedObject:
        if len(row) <= places["key"]:
            return ListedObject(",".join(row), problem=Code.UNREADABLE)
        # In this encoding a plus is a space, and a real plus is %2B.
        key = unquote_plus(value(row, "key"), errors="surrogateescape")
        if value(row, "isdeletemarker") == "true":
            return ListedObject(key, problem=Code.DELETE_MARKER)
        if value(row, "islatest") == "false":
            return ListedObject(key, problem=Code.OLD_VERSION)
        return to_import(key, moment(value(row, "lastmodifieddate")), value(row, "storageclass"))

    for row in sample:
        if row:
            yield listed(row)
    for row in rows:
        if row:
            yield listed(row)


def guess_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """The columns of an inventory's rows, as far as they matter, empty for others: AWS writes Bucket, Key, then the
    columns of versions, then the optional ones. Raises `ListingError` when the rows cannot be of one bucket."""
    rows = [row for row in rows if row]
    if not rows:
        return ["Bucket", "Key"]
    width = min(len(row) for row in rows)
    if width < 2 or len({row[0] for row in rows}) > 1:
        raise ListingError(
            "the columns of this inventory are not recognised: give them with --columns 'Bucket, Key, …'"
        )
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


def to_import(key: str, modified: datetime | None, storage_class: object = None) -> ListedObject:
    """A listed object; with a `problem` when its key or storage class shows that there is nothing to read."""
    if key.endswith("/"):
        return ListedObject(key, modified, Code.FOLDER)
    if isinstance(storage_class, str) and storage_class.upper() in _ARCHIVED:
        return ListedObject(key, modified, Code.ARCHIVED)
    return ListedObject(key, modified)


def moment(text: object) -> datetime | None:
    """An ISO 8601 time, in this machine's zone when it names none; None for other values."""
    if not isinstance(text, str) or not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at if at.tzinfo else at.astimezone()
    except (ValueError, OverflowError):
        return None
