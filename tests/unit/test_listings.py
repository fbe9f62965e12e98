"""Listings as other tools write them: what is read, what is left out, what is refused."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest

from butai.assets.imports.listing_formats import ListedObject, ListingError, ListingFormat, guess_columns
from butai.assets.imports.listings import FileListing
from butai.errors import Code

ODD = [
    "vrm/plain.vrm",
    "vrm/with space.vrm",
    "vrm/a+b.vrm",
    "vrm/100%.vrm",
    "vrm/a%20b.vrm",
    "vrm/舞台 アバター.vrm",
    "vrm/e\u0301.vrm",
    'vrm/"quoted", and comma.vrm',
    "vrm/&amp;<x>'.vrm",
    "vrm/line\u2028separator.vrm",
    "bgm/  leading and double  spaces.mp3",
]


def read(path: Path, format: ListingFormat | None = None, columns: str | None = None) -> list[ListedObject]:
    return list(FileListing(path, format, columns))


def names(path: Path, format: ListingFormat | None = None, columns: str | None = None) -> list[str]:
    found = read(path, format, columns)
    assert all(entry.problem is None for entry in found), found
    return [entry.key for entry in found]


def quoted(*values: str) -> str:
    return ",".join('"' + value.replace('"', '""') + '"' for value in values)


def inventory_line(key: str, encode: Callable[..., str] = quote_plus) -> str:
    return quoted("studio", encode(key, safe="/"), "123", "2024-05-01T12:00:00.000Z", "0" * 32, "STANDARD")


SCHEMA = "Bucket, Key, Size, LastModifiedDate, ETag, StorageClass"


def write_report(folder: Path, parts: list[str], schema: str = SCHEMA, format: str = "CSV") -> Path:
    """As S3 lays it out: ID/2026-01-01T00-00Z/manifest.json and ID/data/*.csv.gz."""
    data = folder / "studio" / "weekly" / "data"
    data.mkdir(parents=True)
    files = []
    for number, part in enumerate(parts):
        name = data / f"part-{number}.csv.gz"
        name.write_bytes(gzip.compress(part.encode()))
        files.append({"key": f"reports/studio/weekly/data/{name.name}", "size": name.stat().st_size, "MD5checksum": ""})
    manifest = folder / "studio" / "weekly" / "2026-01-01T00-00Z" / "manifest.json"
    manifest.parent.mkdir()
    manifest.write_text(
        json.dumps({"fileFormat": format, "fileSchema": schema, "files": files, "version": "2016-11-30"})
    )
    return manifest


@pytest.mark.parametrize("encode", [quote, quote_plus])
def test_an_inventory_report_is_read_in_all_its_parts_with_keys_decoded(
    tmp_path: Path, encode: Callable[..., str]
) -> None:
    parts = ["\n".join(inventory_line(key, encode) for key in half) + "\n" for half in (ODD[:5], ODD[5:])]
    listing = FileListing(write_report(tmp_path, parts))
    assert listing.format is ListingFormat.INVENTORY
    found = list(listing)
    assert [entry.key for entry in found] == ODD
    assert found[0].modified == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert listing.progress()[0] == listing.progress()[1] == listing.total


def test_an_inventory_report_may_lie_flat_beside_its_manifest(tmp_path: Path) -> None:
    manifest = write_report(tmp_path / "as-in-bucket", [inventory_line("vrm/a.vrm")])
    flat = tmp_path / "flat"
    flat.mkdir()
    for file in (manifest, *manifest.parent.parent.glob("data/*")):
        (flat / file.name).write_bytes(file.read_bytes())
    assert names(flat / "manifest.json") == names(flat) == ["vrm/a.vrm"]


def test_versions_markers_and_archives_are_told_from_objects(tmp_path: Path) -> None:
    schema = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size, StorageClass"
    rows = [
        quoted("studio", "vrm/a.vrm", "v2", "true", "false", "10", "STANDARD"),
        quoted("studio", "vrm/a.vrm", "v1", "false", "false", "10", "STANDARD"),
        quoted("studio", "vrm/gone.vrm", "v3", "true", "true", "", ""),
        quoted("studio", "vrm/cold.vrm", "v1", "true", "false", "10", "DEEP_ARCHIVE"),
        quoted("studio", "vrm/cool.vrm", "v1", "true", "false", "10", "GLACIER_IR"),
        quoted("studio", "vrm/", "v1", "true", "false", "0", "STANDARD"),
    ]
    expected = [None, "old_version", "delete_marker", "archived", None, "folder"]
    assert [entry.problem for entry in read(write_report(tmp_path, ["\n".join(rows)], schema))] == expected
    bare = tmp_path / "bare.csv"
    bare.write_text("\n".join(rows))
    assert [entry.problem for entry in read(bare)] == expected


def test_an_inventory_csv_without_its_manifest_is_guessed_or_told(tmp_path: Path) -> None:
    path = tmp_path / "part.csv.gz"
    path.write_bytes(gzip.compress("\n".join(map(inventory_line, ODD)).encode()))
    assert names(path) == ODD
    other = tmp_path / "other.csv"
    other.write_text("\n".join(quoted("12", quote_plus(key, safe="/"), "studio") for key in ODD))
    assert names(other, ListingFormat.INVENTORY, "Size, Key, Bucket") == ODD
    with pytest.raises(ListingError, match="name no Key"):
        read(other, ListingFormat.INVENTORY, "Size, Bucket")


def test_columns_are_guessed_from_their_values() -> None:
    row = ["studio", "vrm/a.vrm", "123", "2024-05-01T12:00:00.000Z", "0" * 32, "STANDARD", "false", "NOT-SSE"]
    assert guess_columns([row]) == ["Bucket", "Key", "", "LastModifiedDate", "", "StorageClass", "", ""]
    with pytest.raises(ListingError, match="--columns"):
        guess_columns([["a", "b"], ["c", "d"]])


@pytest.mark.parametrize("human", [False, True])
def test_aws_s3_ls_keeps_keys_as_they_stand(tmp_path: Path, human: bool) -> None:
    path = tmp_path / "ls.txt"
    size = "  1.2 KiB" if human else "      1234"
    lines = [f"2024-05-01 12:00:00 {size} {key}" for key in ODD]
    lines += ["", f"Total Objects: {len(ODD)}", "   Total Size: 13574"]
    path.write_text("\n".join(lines) + "\n")
    listing = FileListing(path)
    assert listing.format is ListingFormat.AWS_LS
    assert [entry.key for entry in listing] == ODD
    assert listing.progress() == (path.stat().st_size, path.stat().st_size)
    assert read(path)[0].modified == datetime(2024, 5, 1, 12).astimezone()


def test_aws_s3_ls_through_powershell_is_utf_16_with_carriage_returns(tmp_path: Path) -> None:
    path = tmp_path / "ls.txt"
    path.write_bytes("".join(f"2024-05-01 12:00:00       1234 {key}\r\n" for key in ODD).encode("utf-16"))
    assert names(path) == ODD


def test_folders_are_left_out_and_odd_lines_are_failures(tmp_path: Path) -> None:
    path = tmp_path / "ls.txt"
    path.write_text("                           PRE vrm/\n2024-05-01 12:00:00          0 bgm/\nwhat is this\n")
    assert [entry.problem for entry in read(path)] == ["folder", "folder", Code.UNREADABLE]


@pytest.mark.parametrize("indent", [None, 2])
def test_rclone_lsjson_is_read_however_it_is_laid_out(tmp_path: Path, indent: int | None) -> None:
    path = tmp_path / "ls.json"
    at = "2024-05-01T14:00:00.034468261+02:00"
    items = [{"Path": key, "Name": key, "Size": 1, "ModTime": at, "IsDir": False} for key in ODD]
    items.append({"Path": "vrm", "Name": "vrm", "Size": -1, "ModTime": "", "IsDir": True})
    items.append({"Path": "vrm/cold.vrm", "Size": 1, "ModTime": at, "IsDir": False, "Tier": "GLACIER"})
    items.append({"Size": 1})
    if indent is None:
        path.write_text("[\n" + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]\n")
    else:
        path.write_text(json.dumps(items, indent=indent))
    found = read(path)
    assert [entry.key for entry in found[: len(ODD)]] == ODD
    assert found[0].modified == datetime(2024, 5, 1, 12, 0, 0, 34468, tzinfo=UTC)
    assert [entry.problem for entry in found[len(ODD) :]] == ["folder", "archived", Code.UNREADABLE]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("header", ["Key", "object_key", "PATH", "s3 key"])
def test_a_csv_with_a_header_needs_only_the_key(tmp_path: Path, delimiter: str, header: str) -> None:
    path = tmp_path / "list.csv"
    rows = [delimiter.join(("size", header, "LastModified"))]
    rows += [delimiter.join(("1", '"' + key.replace('"', '""') + '"', "2024-05-01T12:00:00Z")) for key in ODD]
    path.write_text("\ufeff" + "\r\n".join([*rows, "", "1"]), newline="")
    found = read(path)
    assert [entry.key for entry in found[:-1]] == ODD
    assert found[0].modified == datetime(2024, 5, 1, 12, tzinfo=UTC)
    assert found[-1].problem == Code.UNREADABLE


def test_bytes_that_are_no_text_do_not_stop_a_listing(tmp_path: Path) -> None:
    path = tmp_path / "ls.txt"
    path.write_bytes(b"2024-05-01 12:00:00 1 vrm/\xff\xfe.vrm\n2024-05-01 12:00:00 1 vrm/a.vrm\n")
    assert [entry.key for entry in read(path)] == ["vrm/\udcff\udcfe.vrm", "vrm/a.vrm"]


def test_what_is_no_listing_is_refused_in_one_line(tmp_path: Path) -> None:
    def refused(body: bytes, match: str, **how: ListingFormat) -> None:
        path = tmp_path / "list"
        path.write_bytes(body)
        with pytest.raises(ListingError, match=match) as caught:
            read(path, **how)
        assert "\n" not in str(caught.value)

    refused(b"", "empty")
    refused(b"hello\nworld\n", "format of this listing is not recognised")
    refused(b"\x89PNG\r\n\x1a\n" + bytes(100), "format of this listing is not recognised")
    refused(b"{}", "format of this listing is not recognised")
    refused(b'[{"Path": "vrm/a.vrm"}, {"Path": "vrm/b', "not copied whole")
    refused(b'[{"Path": "vrm/a.vrm"}, 7]', "rclone")
    refused(b"x" * 100_000, "longer|more than", format=ListingFormat.AWS_LS)
    refused(b"a,b\n1,2\n", "key", format=ListingFormat.CSV)
    refused(gzip.compress(b"2024-05-01 12:00:00 1 vrm/a.vrm\n" * 50_000)[:-200], "not copied whole")
    refused(b'{"fileSchema": "Bucket, Key", "fileFormat": "CSV"}', "not the manifest")
    with pytest.raises(ListingError, match="No such file"):
        FileListing(tmp_path / "none")
    with pytest.raises(ListingError, match="Parquet"):
        FileListing(write_report(tmp_path / "p", ["x"], format="Parquet"))
    cut = write_report(tmp_path / "cut", [inventory_line("vrm/a.vrm")])
    (part,) = cut.parent.parent.glob("data/*")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(ListingError, match="bytes"):
        FileListing(cut)
    part.unlink()
    with pytest.raises(ListingError, match="not beside it"):
        FileListing(cut)


@pytest.mark.slow
@pytest.mark.parametrize("format", ["aws-ls", "inventory", "rclone", "csv"])
def test_a_long_listing_stays_out_of_memory(tmp_path: Path, format: str) -> None:
    """60,000 lines are 5 to 8 MB of text; as objects all at once they would be three times that."""
    path = tmp_path / "long"
    keys = [f"vrm/folder {number // 1000}/avatar number {number}.vrm" for number in range(60_000)]
    with path.open("w") as file:
        if format == "csv":
            file.write("key,size\n")
        for number, key in enumerate(keys):
            if format == "aws-ls":
                file.write(f"2024-05-01 12:00:00       1234 {key}\n")
            elif format == "inventory":
                file.write(inventory_line(key) + "\n")
            elif format == "csv":
                file.write(f"{key},1\n")
            else:
                file.write(("[\n" if not number else ",\n") + json.dumps({"Path": key, "IsDir": False}))
    tracemalloc.start()
    count = sum(1 for entry, key in zip(FileListing(path), keys, strict=True) if entry.key == key)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == len(keys)
    assert peak < 1.5 * 1024**2, peak
