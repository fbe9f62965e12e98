"""What a search can ask for, and what it is refused for."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.assets.contents.readers.licence import Licence
from butai.assets.kinds import AssetType
from butai.assets.search.filters import LICENCE, NAMES, VALUES, Filters, check_sign_in, parse
from butai.assets.states import AssetStatus
from butai.errors import FilterInvalid, Unauthenticated


def read(query: str, others: frozenset[str] = frozenset()) -> Filters:
    return parse(parse_qsl(query, keep_blank_values=True), others)


def test_nothing_asked_is_what_lists_show() -> None:
    assert read("") == Filters()
    assert Filters().listed
    assert Filters().conditions() == []


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("type=vrm", Filters(types=(AssetType.VRM,))),
        ("type=scene,vrm,scene", Filters(types=(AssetType.VRM, AssetType.SCENE))),
        ("type=vrm,animation,bgm,hdr,scene", Filters()),
        ("q=Aoi", Filters(q="Aoi")),
        ("q=", Filters()),
        ("tag=a&tag=b&tag=a", Filters(tags=("a", "b"))),
        (
            "has_expression=Happy&has_expression=a,b&has_expression=happy",
            Filters(words=("expression=happy", "expression=a,b")),
        ),
        ("format=vrm1", Filters(words=("format=vrm1",))),
        ("format=vrm1,vrm0", Filters(any_of=(("format=vrm1", "format=vrm0"),))),
        (
            "licence.commercial=corporation,personal_profit&licence.credit=required",
            Filters(
                words=("licence.credit=required",),
                any_of=(("licence.commercial=corporation", "licence.commercial=personal_profit"),),
            ),
        ),
        ("min_duration=1.5", Filters(ranges=(("duration_seconds", ">=", 1.5),))),
        ("max_triangles=70000", Filters(ranges=(("triangles", "<=", 70000),))),
        ("min_size=0&max_size=5", Filters(ranges=(("size_bytes", ">=", 0), ("size_bytes", "<=", 5)))),
        ("owner=me", Filters(mine=True)),
        ("visibility=private", Filters(visibility="private")),
        ("status=failed", Filters(status=AssetStatus.FAILED)),
        ("trashed=true", Filters(trashed=True, status=None)),
        ("trashed=true&status=ready", Filters(trashed=True)),
        ("trashed=false&all=false", Filters()),
        ("all=true", Filters(everything=True)),
    ],
)
def test_a_query_is_read(query: str, expected: Filters) -> None:
    assert read(query) == expected


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("typ=vrm", "typ"), ("licence.violence=forbidden", "licence.violence"), ("limit=5", "limit"),
        ("type=", "type"), ("type=vrm,", "type"), ("type=models", "type"), ("type=vrm&type=bgm", "type"),
        ("licence.commercial=yes", "licence.commercial"), ("licence.credit=required,no", "licence.credit"),
        ("licence.credit=", "licence.credit"), ("format=VRM", "format"), ("format=%00", "format"),
        ("min_duration=NaN", "min_duration"), ("min_duration=inf", "min_duration"), ("max_duration=-1", "max_duration"),
        ("max_duration=1e999", "max_duration"), ("min_duration=1_0", "min_duration"), ("min_duration=", "min_duration"),
        ("min_triangles=1.5", "min_triangles"), ("max_size=99999999999999999999", "max_size"),
        ("min_size=٣", "min_size"), ("min_duration=٣", "min_duration"),
        ("owner=bob", "owner"), ("visibility=both", "visibility"), ("status=gone", "status"), ("trashed=1", "trashed"),
        ("all=yes", "all"), ("tag=", "tag"), ("tag=%00", "tag"), ("has_expression=" + "x" * 101, "has_expression"),
        ("q=%00", "q"), ("q=" + "x" * 201, "q"), ("&".join(["tag=a"] * (VALUES + 1)), "tag"),
        ("format=" + ",".join(f"f{n}" for n in range(VALUES + 1)), "format"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused_by_its_name(query: str, named: str) -> None:
    with pytest.raises(FilterInvalid, match=named.replace(".", r"\.")):
        read(query)


def test_others_parameters_are_left_to_them() -> None:
    assert read("limit=5&cursor=x", frozenset({"limit", "cursor"})) == Filters()


def test_all_words_of_a_licence_can_be_asked_for() -> None:
    for word in Licence().terms():
        name, _, value = word.partition("=")
        assert name in NAMES
        assert read(f"{name}={value}").words == (word,)
    assert set(LICENCE) == {word.partition("=")[0].removeprefix("licence.") for word in Licence().terms()}


@pytest.mark.parametrize("query", ["owner=me", "all=true", "status=failed", "trashed=true", "visibility=private"])
def test_what_is_somebodys_is_not_for_nobody(query: str) -> None:
    with pytest.raises(Unauthenticated):
        check_sign_in(read(query), anonymous=True)
    check_sign_in(read(query), anonymous=False)
    check_sign_in(read("type=vrm&tag=a"), anonymous=True)


@pytest.mark.parametrize(
    ("q", "by_trigrams"), [("Aoi", True), ("あおい", True), ("雪女", False), ("a_b", False), ("%%%", False)]
)
def test_names_too_short_for_trigrams_keep_off_their_index(q: str, by_trigrams: bool) -> None:
    (condition,) = Filters(q=q).conditions()
    assert condition.text.startswith("display_name ") is by_trigrams


@given(
    st.lists(
        st.tuples(st.one_of(st.sampled_from(sorted(NAMES)), st.text(max_size=10)), st.text(max_size=30)), max_size=6
    )
)
def test_any_query_is_read_or_refused(query: list[tuple[str, str]]) -> None:
    try:
        found = parse(query)
    except FilterInvalid:
        return
    for condition in found.conditions():
        assert condition.text.count("{}") == 1
        # A text with braces of its own would break where the value is put in.
        assert condition.text.format("x").count("x") >= 1
