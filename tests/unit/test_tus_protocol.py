"""What tus says in headers."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.assets.tus.protocol import ALGORITHMS, Checksum, checksum, metadata, whole_number
from butai.errors import InvalidRequest


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_metadata_is_names_and_base64() -> None:
    header = f"filename {encoded('vrm/舞台.vrm')},filetype {encoded('model/vrm')}, is_confidential"
    assert metadata(header) == {"filename": "vrm/舞台.vrm", "filetype": "model/vrm", "is_confidential": ""}
    assert metadata("") == {}


@pytest.mark.parametrize(
    "header", ["a b c", "filename !!!", "filename /w==", "a YQ==,a YQ==", ",", "a" * 9000, "é YQ=="]
)
def test_other_metadata_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest):
        metadata(header)


@given(st.text(max_size=300))
def test_no_header_is_a_crash(text: str) -> None:
    for read in (metadata, checksum, lambda value: whole_number("Upload-Offset", value)):
        with contextlib.suppress(InvalidRequest):
            read(text)


@given(st.dictionaries(st.from_regex(r"[a-zA-Z_]{1,20}", fullmatch=True), st.text(max_size=50), max_size=5))
def test_what_clients_write_is_read(said: dict[str, str]) -> None:
    assert metadata(",".join(f"{name} {encoded(value)}" for name, value in said.items())) == said


@pytest.mark.parametrize("value", [None, "", "-1", "1.5", " 1", "1e3", "٣", "9" * 16])
def test_numbers_are_whole(value: str | None) -> None:
    with pytest.raises(InvalidRequest):
        whole_number("Upload-Length", value)


def test_checksums() -> None:
    assert checksum(None) is None
    for algorithm in ALGORITHMS:
        assert checksum(f"{algorithm} AQID") == Checksum(algorithm, b"\x01\x02\x03")
    for other in ("crc32 AQID", "sha1 !", "sha1"):
        if other == "sha1":
            assert checksum(other) == Checksum("sha1", b"")
        else:
            with pytest.raises(InvalidRequest):
                checksum(other)
