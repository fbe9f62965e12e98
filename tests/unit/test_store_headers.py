"""What a store says of an object beside its bytes: archives, codings, ETags that are weak or absent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
from multidict import CIMultiDict

from butai.assets import keys
from butai.assets.imports.verifier import NotImportable, Verifier
from butai.assets.reading.delivery import Conditions, prepare
from butai.assets.storage.client import ObjectFacts, Store, _facts, plain_etag
from tests.unit.test_delivery import ROW

RESTORED = 'ongoing-request="false", expiry-date="Fri, 21 Dec 2012 00:00:00 GMT"'


@pytest.mark.parametrize(
    ("header", "plain"),
    [('"abc"', "abc"), ('W/"abc"', "W/abc"), ("abc", "abc"), ('""', ""), ('W/""', ""), (None, ""), (' "a-2" ', "a-2")],
)
def test_an_etag_is_kept_without_its_quotes(header: str | None, plain: str) -> None:
    assert plain_etag(header) == plain


@pytest.mark.parametrize(
    ("headers", "archived", "coding"),
    [
        ({}, False, ""),
        ({"X-Amz-Storage-Class": "STANDARD_IA"}, False, ""),
        ({"X-Amz-Storage-Class": "GLACIER_IR"}, False, ""),
        ({"x-amz-storage-class": "GLACIER"}, True, ""),
        ({"X-Amz-Storage-Class": "deep_archive"}, True, ""),
        ({"X-Amz-Storage-Class": "GLACIER", "X-Amz-Restore": 'ongoing-request="true"'}, True, ""),
        ({"X-Amz-Storage-Class": "GLACIER", "X-Amz-Restore": RESTORED}, False, ""),
        ({"X-Amz-Storage-Class": "INTELLIGENT_TIERING", "X-Amz-Archive-Status": "ARCHIVE_ACCESS"}, True, ""),
        ({"Content-Encoding": "gzip"}, False, "gzip"),
        ({"Content-Encoding": "aws-chunked"}, False, ""),
        ({"Content-Encoding": "aws-chunked, BR"}, False, "br"),
        ({"Content-Encoding": "identity"}, False, ""),
    ],
)
async def test_what_cannot_be_read_is_left_out_of_an_import(
    headers: dict[str, str], archived: bool, coding: str
) -> None:
    found = _facts(CIMultiDict(headers | {"Content-Length": "5", "ETag": '"e"'}))
    assert found == ObjectFacts(5, "e", "", archived, coding)

    class Fake:
        prefix = ""

        async def head(self, key: str) -> ObjectFacts:
            return found

    verifier = Verifier(cast("Store", Fake()), check_content=False, rate=None)
    answer: Any = await verifier.verify("o", keys.parse("vrm/a.vrm"), None)
    reason = "archived" if archived else "coded" if coding else ""
    assert (answer.reason if isinstance(answer, NotImportable) else "") == reason


def test_a_weak_or_absent_etag_stands_for_no_bytes() -> None:
    weak, none = replace(ROW, etag="W/e"), replace(ROW, etag="")
    assert prepare(weak, Conditions()).headers["etag"] == 'W/"e"'
    for condition in ('W/"e"', '"e"', '"x", W/"e"', "*"):
        assert prepare(weak, Conditions({"if-none-match": condition})).status == 304
    # Two versions of one weak ETag may differ in their bytes, so half of one is never joined to half of another.
    assert prepare(weak, Conditions({"range": "bytes=0-1", "if-range": 'W/"e"'})).status == 200
    assert prepare(weak, Conditions({"range": "bytes=0-1"})).status == 206
    assert "etag" not in prepare(none, Conditions()).headers
    for condition in ('""', 'W/""', '"e"'):
        assert prepare(none, Conditions({"if-none-match": condition})).status == 200
    assert prepare(none, Conditions({"range": "bytes=0-1", "if-range": '""'})).status == 200
    assert prepare(ROW, Conditions({"range": "bytes=0-1", "if-range": '"e"'})).status == 206
