"""One licence record for avatars of both VRM versions: the permissions of their authors, in the same terms. Pure.

The rule: a value that is missing, misspelt or of the wrong type counts as the strictest possible one, and no term of
VRM 0.x is read as a wider permission than it states.

    avatar        author | licensee | everyone              who may act with the avatar
    commercial    forbidden | personal_non_profit | personal_profit | corporation
                  forbidden: not for commercial use, as VRM 0.x puts it; personal_non_profit: by persons who make no
                                profit with it; personal_profit: by persons, for profit too; corporation: by anyone
    credit        required | unnecessary
    redistribution  forbidden | allowed                      of the file as it is
    modification  forbidden | allowed | allowed_redistribution   the last: changed files may be passed on as well

Sources: VRM 1.0, `specification/VRMC_vrm-1.0/meta.md` (with its default for each field); VRM 0.x,
`specification/0.0/schema/vrm.meta.schema.json` and https://vrm.dev/en/univrm/meta/univrm_meta (which links the 4.0
texts of Creative Commons).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from butai.assets.contents.readers import claims
from butai.assets.licence_terms import AvatarUse, Commercial, Credit, Modification, Redistribution


@dataclass(frozen=True, slots=True)
class Licence:
    """A licence. The defaults are the strictest values. The four flags say whether such use is allowed.

    `spec`: `1.0`, `0.x`, or None without any licence. `licence_url` is the licence's text, `other_url` one with further
    conditions. `raw`: the fields as they are in the file.
    """

    spec: Literal["0.x", "1.0"] | None = None
    avatar: AvatarUse = "author"
    commercial: Commercial = "forbidden"
    violent: bool = False
    sexual: bool = False
    political_religious: bool = False
    antisocial: bool = False
    credit: Credit = "required"
    redistribution: Redistribution = "forbidden"
    modification: Modification = "forbidden"
    licence_url: str | None = None
    other_url: str | None = None
    third_party: str | None = None
    raw: dict[str, str | bool] = field(default_factory=dict)

    def as_facts(self) -> dict[str, Any]:
        """The record as JSON."""
        return asdict(self)

    def terms(self) -> list[str]:
        """The terms that lists filter by."""
        words = ("commercial", "redistribution", "modification", "credit", "avatar")
        return [f"licence.{word}={getattr(self, word)}" for word in words]


# VRM 1.0

_AVATAR_1: dict[str, AvatarUse] = {
    "onlyAuthor": "author",
    "onlySeparatelyLicensedPerson": "licensee",
    "everyone": "everyone",
}
_COMMERCIAL_1: dict[str, Commercial] = {
    "personalNonProfit": "personal_non_profit",
    "personalProfit": "personal_profit",
    "corporation": "corporation",
}
_CREDIT_1: dict[str, Credit] = {"required": "required", "unnecessary": "unnecessary"}
_MODIFICATION_1: dict[str, Modification] = {
    "prohibited": "forbidden",
    "allowModification": "allowed",
    "allowModificationRedistribution": "allowed_redistribution",
}
_NAMES_1 = (
    "avatarPermission",
    "allowExcessivelyViolentUsage",
    "allowExcessivelySexualUsage",
    "commercialUsage",
    "allowPoliticalOrReligiousUsage",
    "allowAntisocialOrHateUsage",
    "creditNotation",
    "allowRedistribution",
    "modification",
)


def licence_1(meta: dict[str, Any]) -> Licence:
    """The record of a `VRMC_vrm.meta`. Its defaults are the specification's, which are the strictest of each field."""
    return Licence(
        spec="1.0",
        avatar=_word(_AVATAR_1, meta.get("avatarPermission")) or "author",
        commercial=_word(_COMMERCIAL_1, meta.get("commercialUsage")) or "personal_non_profit",
        violent=meta.get("allowExcessivelyViolentUsage") is True,
        sexual=meta.get("allowExcessivelySexualUsage") is True,
        political_religious=meta.get("allowPoliticalOrReligiousUsage") is True,
        antisocial=meta.get("allowAntisocialOrHateUsage") is True,
        credit=_word(_CREDIT_1, meta.get("creditNotation")) or "required",
        redistribution="allowed" if meta.get("allowRedistribution") is True else "forbidden",
        modification=_word(_MODIFICATION_1, meta.get("modification")) or "forbidden",
        licence_url=claims.link(meta.get("licenseUrl")),
        other_url=claims.link(meta.get("otherLicenseUrl")),
        third_party=claims.text(meta.get("thirdPartyLicenses"), 2000),
        raw=_raw(meta, _NAMES_1),
    )


# VRM 0.x

_AVATAR_0: dict[str, AvatarUse] = {
    "OnlyAuthor": "author",
    "ExplicitlyLicensedPerson": "licensee",
    "Everyone": "everyone",
}

# "Allow" does not say to whom: at least to persons; companies are not mentioned.
_COMMERCIAL_0: dict[str, Commercial] = {"Disallow": "forbidden", "Allow": "personal_profit"}


@dataclass(frozen=True, slots=True)
class _Terms:
    redistribution: Redistribution = "forbidden"
    modification: Modification = "forbidden"
    credit: Credit = "required"
    commercial: bool = True


_LICENCES_0: dict[str, _Terms] = {
    "Redistribution_Prohibited": _Terms(),
    # "CC0" waives everything, credit too.
    "CC0": _Terms("allowed", "allowed_redistribution", "unnecessary"),
    "CC_BY": _Terms("allowed", "allowed_redistribution"),
    "CC_BY_SA": _Terms("allowed", "allowed_redistribution"),
    # NC: not for commercial use, whatever `commercialUssageName` says beside it.
    "CC_BY_NC": _Terms("allowed", "allowed_redistribution", commercial=False),
    "CC_BY_NC_SA": _Terms("allowed", "allowed_redistribution", commercial=False),
    # ND: 4.0 permits changes for private use (2.a.1.B), the versions before do not, and the name has no version.
    "CC_BY_ND": _Terms("allowed", "forbidden"),
    "CC_BY_NC_ND": _Terms("allowed", "forbidden", commercial=False),
    # The permissions of another licence are in its own text, which is not read here.
    "Other": _Terms(),
}
_NAMES_0 = (
    "allowedUserName",
    # The format's own spelling.
    "violentUssageName",
    "sexualUssageName",
    "commercialUssageName",
    "licenseName",
)


def licence_0(meta: dict[str, Any]) -> Licence:
    """The record of a `VRM.meta`. It has no field about politics and hate, so those are forbidden."""
    name = meta.get("licenseName")
    terms = _LICENCES_0.get(name, _Terms()) if isinstance(name, str) else _Terms()
    commercial = _word(_COMMERCIAL_0, meta.get("commercialUssageName")) or "forbidden"
    return Licence(
        spec="0.x",
        avatar=_word(_AVATAR_0, meta.get("allowedUserName")) or "author",
        commercial=commercial if terms.commercial else "forbidden",
        violent=meta.get("violentUssageName") == "Allow",
        sexual=meta.get("sexualUssageName") == "Allow",
        credit=terms.credit,
        redistribution=terms.redistribution,
        modification=terms.modification,
        licence_url=claims.link(meta.get("otherLicenseUrl")),
        other_url=claims.link(meta.get("otherPermissionUrl")),
        raw=_raw(meta, _NAMES_0),
    )


def _word(words: dict[str, Any], value: object) -> Any:
    return words.get(value) if isinstance(value, str) else None


def _raw(meta: dict[str, Any], names: tuple[str, ...]) -> dict[str, str | bool]:
    found: dict[str, str | bool] = {}
    for name in names:
        value = meta.get(name)
        kept = value if isinstance(value, bool) else claims.text(value, claims.NAME_LIMIT)
        if kept is not None:
            found[name] = kept
    return found
