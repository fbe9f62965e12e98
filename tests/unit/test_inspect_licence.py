"""Licences in one record: each word of both formats, and that no record is ever wider than what the file says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from butai.assets.contents.readers.licence import Licence, licence_0, licence_1

STRICTEST = Licence()


def test_nothing_said_is_nothing_allowed() -> None:
    for found in (licence_0({}), licence_1({})):
        assert (found.avatar, found.credit) == ("author", "required")
        assert (found.redistribution, found.modification) == ("forbidden", "forbidden")
        assert not (found.violent or found.sexual or found.political_religious or found.antisocial)
    assert licence_0({}).commercial == "forbidden"
    # What the specification gives for a missing field.
    assert licence_1({}).commercial == "personal_non_profit"


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("avatarPermission", "onlyAuthor", "avatar", "author"),
        ("avatarPermission", "onlySeparatelyLicensedPerson", "avatar", "licensee"),
        ("avatarPermission", "everyone", "avatar", "everyone"),
        ("commercialUsage", "personalNonProfit", "commercial", "personal_non_profit"),
        ("commercialUsage", "personalProfit", "commercial", "personal_profit"),
        ("commercialUsage", "corporation", "commercial", "corporation"),
        ("creditNotation", "required", "credit", "required"),
        ("creditNotation", "unnecessary", "credit", "unnecessary"),
        ("modification", "prohibited", "modification", "forbidden"),
        ("modification", "allowModification", "modification", "allowed"),
        ("modification", "allowModificationRedistribution", "modification", "allowed_redistribution"),
        ("allowRedistribution", True, "redistribution", "allowed"),
        ("allowRedistribution", False, "redistribution", "forbidden"),
        ("allowExcessivelyViolentUsage", True, "violent", True),
        ("allowExcessivelySexualUsage", True, "sexual", True),
        ("allowPoliticalOrReligiousUsage", True, "political_religious", True),
        ("allowAntisocialOrHateUsage", True, "antisocial", True),
        ("licenseUrl", "https://vrm.dev/licenses/1.0/", "licence_url", "https://vrm.dev/licenses/1.0/"),
        ("otherLicenseUrl", "https://example.org/", "other_url", "https://example.org/"),
        ("thirdPartyLicenses", "MIT\nfor the hair", "third_party", "MIT\nfor the hair"),
    ],
)
def test_each_word_of_vrm_1(name: str, value: object, field: str, expected: object) -> None:
    found = licence_1({name: value})
    assert getattr(found, field) == expected
    assert _but(found, field) == _but(licence_1({}), field)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("allowedUserName", "OnlyAuthor", "avatar", "author"),
        ("allowedUserName", "ExplicitlyLicensedPerson", "avatar", "licensee"),
        ("allowedUserName", "Everyone", "avatar", "everyone"),
        ("violentUssageName", "Allow", "violent", True),
        ("sexualUssageName", "Allow", "sexual", True),
        ("commercialUssageName", "Disallow", "commercial", "forbidden"),
        ("commercialUssageName", "Allow", "commercial", "personal_profit"),
        ("otherPermissionUrl", "https://example.org/", "other_url", "https://example.org/"),
        ("otherLicenseUrl", "https://example.org/", "licence_url", "https://example.org/"),
    ],
)
def test_each_word_of_vrm_0(name: str, value: object, field: str, expected: object) -> None:
    found = licence_0({name: value})
    assert getattr(found, field) == expected
    assert _but(found, field) == _but(licence_0({}), field)


@pytest.mark.parametrize(
    ("name", "redistribution", "modification", "credit", "commercial"),
    [
        ("Redistribution_Prohibited", "forbidden", "forbidden", "required", "personal_profit"),
        ("CC0", "allowed", "allowed_redistribution", "unnecessary", "personal_profit"),
        ("CC_BY", "allowed", "allowed_redistribution", "required", "personal_profit"),
        ("CC_BY_SA", "allowed", "allowed_redistribution", "required", "personal_profit"),
        ("CC_BY_NC", "allowed", "allowed_redistribution", "required", "forbidden"),
        ("CC_BY_NC_SA", "allowed", "allowed_redistribution", "required", "forbidden"),
        ("CC_BY_ND", "allowed", "forbidden", "required", "personal_profit"),
        ("CC_BY_NC_ND", "allowed", "forbidden", "required", "forbidden"),
        ("Other", "forbidden", "forbidden", "required", "personal_profit"),
        ("cc0", "forbidden", "forbidden", "required", "personal_profit"),
        (0, "forbidden", "forbidden", "required", "personal_profit"),
        (["CC0"], "forbidden", "forbidden", "required", "personal_profit"),
    ],
)
def test_each_licence_name_of_vrm_0(
    name: object, redistribution: str, modification: str, credit: str, commercial: str
) -> None:
    found = licence_0({"licenseName": name, "commercialUssageName": "Allow"})
    assert (found.redistribution, found.modification) == (redistribution, modification)
    assert (found.credit, found.commercial) == (credit, commercial)


def test_a_cc0_licence_opens_nothing_that_stands_in_a_field_of_its_own() -> None:
    found = licence_0({"licenseName": "CC0"})
    assert (found.avatar, found.commercial, found.violent, found.sexual) == ("author", "forbidden", False, False)


def test_what_the_file_says_is_kept_as_it_stands() -> None:
    assert licence_1({"commercialUsage": "corporations", "allowRedistribution": True, "modification": 5}).raw == {
        "commercialUsage": "corporations",
        "allowRedistribution": True,
    }
    assert licence_0({"licenseName": "Other", "commercialUssageName": "Allow"}).raw == {
        "licenseName": "Other",
        "commercialUssageName": "Allow",
    }


def test_words_to_filter_by() -> None:
    assert STRICTEST.terms() == [
        "licence.commercial=forbidden",
        "licence.redistribution=forbidden",
        "licence.modification=forbidden",
        "licence.credit=required",
        "licence.avatar=author",
    ]


def _but(found: Licence, field: str) -> dict[str, Any]:
    return {name: value for name, value in found.as_facts().items() if name not in (field, "raw")}


# Any meta at all

_WORDS = st.sampled_from(
    [
        "everyone",
        "Everyone",
        "onlyAuthor",
        "OnlyAuthor",
        "ExplicitlyLicensedPerson",
        "onlySeparatelyLicensedPerson",
        "personalNonProfit",
        "personalProfit",
        "corporation",
        "required",
        "unnecessary",
        "Allow",
        "Disallow",
        "allow",
        "prohibited",
        "allowModification",
        "allowModificationRedistribution",
        "true",
        "CC0",
        "cc0",
        "CC_BY",
        "CC_BY_NC",
        "CC_BY_SA",
        "CC_BY_NC_SA",
        "CC_BY_ND",
        "CC_BY_NC_ND",
        "Other",
        "Redistribution_Prohibited",
        "everyone ",
        "",
    ]
)
_VALUES = st.one_of(
    _WORDS, st.booleans(), st.integers(0, 1), st.none(), st.lists(_WORDS, max_size=2), st.dictionaries(_WORDS, _WORDS)
)
_NAMES = st.sampled_from(
    [
        "avatarPermission",
        "commercialUsage",
        "creditNotation",
        "modification",
        "allowRedistribution",
        "allowExcessivelyViolentUsage",
        "allowExcessivelySexualUsage",
        "allowPoliticalOrReligiousUsage",
        "allowAntisocialOrHateUsage",
        "allowedUserName",
        "violentUssageName",
        "sexualUssageName",
        "commercialUssageName",
        "commercialUsageName",
        "licenseName",
        "licenseUrl",
    ]
)
_METAS = st.dictionaries(_NAMES, _VALUES)


def _exactly(meta: dict[str, Any], name: str, *values: object) -> bool:
    return any(type(meta.get(name)) is type(value) and meta[name] == value for value in values)


@given(_METAS)
def test_a_record_of_vrm_1_is_never_wider_than_its_meta(meta: dict[str, Any]) -> None:
    found = licence_1(meta)
    says: dict[tuple[str, object], bool] = {
        ("avatar", "everyone"): _exactly(meta, "avatarPermission", "everyone"),
        ("avatar", "licensee"): _exactly(meta, "avatarPermission", "onlySeparatelyLicensedPerson"),
        ("commercial", "corporation"): _exactly(meta, "commercialUsage", "corporation"),
        ("commercial", "personal_profit"): _exactly(meta, "commercialUsage", "personalProfit"),
        ("credit", "unnecessary"): _exactly(meta, "creditNotation", "unnecessary"),
        ("redistribution", "allowed"): _exactly(meta, "allowRedistribution", True),
        ("modification", "allowed"): _exactly(meta, "modification", "allowModification"),
        ("modification", "allowed_redistribution"): _exactly(meta, "modification", "allowModificationRedistribution"),
        ("violent", True): _exactly(meta, "allowExcessivelyViolentUsage", True),
        ("sexual", True): _exactly(meta, "allowExcessivelySexualUsage", True),
        ("political_religious", True): _exactly(meta, "allowPoliticalOrReligiousUsage", True),
        ("antisocial", True): _exactly(meta, "allowAntisocialOrHateUsage", True),
    }
    _never_wider(found, says)


@given(_METAS)
def test_a_record_of_vrm_0_is_never_wider_than_its_meta(meta: dict[str, Any]) -> None:
    found = licence_0(meta)
    shared = ("CC0", "CC_BY", "CC_BY_SA", "CC_BY_NC", "CC_BY_NC_SA")
    closed = ("CC_BY_NC", "CC_BY_NC_SA", "CC_BY_NC_ND")
    says: dict[tuple[str, object], bool] = {
        ("avatar", "everyone"): _exactly(meta, "allowedUserName", "Everyone"),
        ("avatar", "licensee"): _exactly(meta, "allowedUserName", "ExplicitlyLicensedPerson"),
        ("commercial", "corporation"): False,
        ("commercial", "personal_non_profit"): False,
        ("commercial", "personal_profit"): _exactly(meta, "commercialUssageName", "Allow")
        and not _exactly(meta, "licenseName", *closed),
        ("credit", "unnecessary"): _exactly(meta, "licenseName", "CC0"),
        ("redistribution", "allowed"): _exactly(meta, "licenseName", *shared, "CC_BY_ND", "CC_BY_NC_ND"),
        ("modification", "allowed"): False,
        ("modification", "allowed_redistribution"): _exactly(meta, "licenseName", *shared),
        ("violent", True): _exactly(meta, "violentUssageName", "Allow"),
        ("sexual", True): _exactly(meta, "sexualUssageName", "Allow"),
        ("political_religious", True): False,
        ("antisocial", True): False,
    }
    _never_wider(found, says)


def _never_wider(found: Licence, says: dict[tuple[str, object], bool]) -> None:
    """Each word that allows something is there exactly if the file says so."""
    for (field, word), said in says.items():
        assert (getattr(found, field) == word) is said, (field, word, found.raw)
