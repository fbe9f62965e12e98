"""What an answer will be, decided without the store."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from butai.assets.reading.delivery import Conditions, content_disposition, prepare
from butai.assets.reading.lookup import ReadableAsset
from butai.errors import RangeNotSatisfiable

ROW = ReadableAsset(
    UUID(int=1), "vrm/a.vrm", "vrm/a.vrm", "ready", "alice", "o", "model/gltf-binary", 1000, "e", "a", None, "vrm", True
)


def test_no_body_is_changed_on_its_way_and_no_picture_is_kept_for_a_day() -> None:
    png, thumb = replace(ROW, mime_type="image/png"), replace(ROW, mime_type="image/png", sidecar="thumb")
    private = replace(ROW, public=False)
    for row, said in (
        (ROW, "public, max-age=3600, no-transform"),
        (png, "public, max-age=3600, no-transform"),
        (private, "private, no-cache, no-transform"),
        (thumb, "no-store, no-transform"),
    ):
        assert prepare(row, Conditions()).headers["cache-control"] == said
        assert prepare(row, Conditions({"if-none-match": "*"})).headers["cache-control"] == said


@given(st.text(max_size=40))
def test_any_range_header_gives_the_whole_a_part_or_416(header: str) -> None:
    try:
        plan = prepare(ROW, Conditions({"range": header}))
    except RangeNotSatisfiable:
        return
    if plan.status == 206:
        assert plan.span is not None
        first, last = plan.span
        assert 0 <= first <= last < 1000
        assert plan.length == last - first + 1
    else:
        assert (plan.status, plan.length, plan.span) == (200, 1000, None)


@given(st.integers(0, 1200), st.integers(0, 1200))
def test_ranges_are_cut_to_the_file(first: int, last: int) -> None:
    try:
        plan = prepare(ROW, Conditions({"range": f"bytes={first}-{last}"}))
    except RangeNotSatisfiable:
        assert first >= 1000
        assert last >= first
        return
    if last < first:
        assert plan.status == 200
    else:
        assert plan.span == (first, min(last, 999))


@given(st.text(min_size=1, max_size=50))
def test_no_name_breaks_out_of_its_header(name: str) -> None:
    row = ReadableAsset(
        ROW.id, "k", f"vrm/{name}", "ready", None, "o", "model/gltf-binary", 1, "e", "a", None, "vrm", True
    )
    try:
        value = content_disposition(row)
    except UnicodeEncodeError:
        return  # a lone surrogate; keys.parse lets none through
    assert value.isascii()
    assert not set("\r\n\0") & set(value)
    assert value.count('"') == 2
