"""Filters of a search: a query's parameters parsed into one value, and that value as conditions on rows. Pure.

A condition is SQL with one `{}` for its value, so that a statement can have the value as a parameter or as a literal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from butai.assets import licence_terms
from butai.assets.kinds import AssetType
from butai.assets.states import AssetStatus
from butai.errors import FilterInvalid, Unauthenticated

LICENCE: dict[str, tuple[str, ...]] = {
    "commercial": get_args(licence_terms.Commercial),
    "redistribution": get_args(licence_terms.Redistribution),
    "modification": get_args(licence_terms.Modification),
    "credit": get_args(licence_terms.Credit),
    "avatar": get_args(licence_terms.AvatarUse),
}
"""Fields of a licence to filter by, and their values: `licence.commercial=personal_profit,corporation`."""

FORMAT = r"[a-z0-9_]{1,20}"
"""A format, as the inspection of contents names it: `vrm1`, `mp3`."""

VALUES = 20
"""Most values of one parameter. Statements with more take longer to plan than to run."""

TEXT = 200
"""Most characters of a part of a name."""

LABEL = 100
"""Most characters of a tag or an expression."""

MOST_SECONDS = 1e9
MOST_BYTES = 10**15
MOST_TRIANGLES = 10**12

_RANGES: dict[str, tuple[str, float | int]] = {
    "duration": ("duration_seconds", MOST_SECONDS),
    "triangles": ("triangles", MOST_TRIANGLES),
    "size": ("size_bytes", MOST_BYTES),
}
_GROUPS = (*(f"licence.{part}" for part in LICENCE), "format")
_SINGLE = {"type", "q", "owner", "visibility", "status", "trashed", "all", *_GROUPS} | {
    f"{end}_{name}" for name in _RANGES for end in ("min", "max")
}
_REPEATED = ("tag", "has_expression")
NAMES = frozenset(_SINGLE) | frozenset(_REPEATED)
"""Every parameter that filters."""

HIDDEN_NAME = "(display_name || '')"
"""The name as an expression that no index has, so that the planner uses none for it."""

_HIDDEN = {
    "terms": "(terms || ARRAY[]::text[])",
    "tags": "(tags || ARRAY[]::text[])",
    "display_name": HIDDEN_NAME,
    "duration_seconds": "(duration_seconds + 0)",
    "triangles": "(triangles + 0)",
    "size_bytes": "(size_bytes + 0)",
}
WORDS = frozenset({"terms", "tags", "display_name"})
"""Columns of one index (`ix_assets_search`). GIN itself begins with the rarest of them."""

_TRIGRAM = re.compile(r"[^\W_]{3}")

# A number as JSON has it.
_NUMBER = re.compile(r"(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on `column`: SQL `text` with one `{}` for `value`."""

    column: str
    text: str
    value: Any

    def led_by(self, column: str) -> str:
        """`text`, written so that no index but the one with `column` can be used for it."""
        ours = WORDS if column in WORDS else {column}
        if self.column in ours or self.text.startswith("("):
            return self.text
        return self.text.replace(self.column, _HIDDEN[self.column], 1)


@dataclass(frozen=True, slots=True)
class Filters:
    """The criteria of a search. An asset must have all `words` and `tags` and one of each group in `any_of`; empty
    `types` are all types; `q` is a part of its name.

    `status` None: any, which only a search of the trash has. `everything`: also other users' private assets, for
    operators."""

    types: tuple[AssetType, ...] = ()
    q: str | None = None
    words: tuple[str, ...] = ()
    any_of: tuple[tuple[str, ...], ...] = ()
    tags: tuple[str, ...] = ()
    ranges: tuple[tuple[str, Literal[">=", "<="], float | int], ...] = ()
    mine: bool = False
    visibility: Literal["public", "private"] | None = None
    status: AssetStatus | None = AssetStatus.READY
    trashed: bool = False
    everything: bool = False

    @property
    def listed(self) -> bool:
        """Whether only listed rows (ready, not in the trash) match: the ordered indexes hold no others."""
        return self.status is AssetStatus.READY and not self.trashed

    @property
    def needs_sign_in(self) -> bool:
        """Whether the filters are about the caller's own assets, or for operators."""
        return self.mine or self.everything or not self.listed or self.visibility == "private"

    def conditions(self) -> list[Condition]:
        """The conditions on a row beside its type, status and owner; all must hold."""
        found: list[Condition] = []
        if self.words:
            found.append(Condition("terms", "terms @> {}::text[]", list(self.words)))
        found += [Condition("terms", "terms && {}::text[]", list(group)) for group in self.any_of]
        if self.tags:
            found.append(Condition("tags", "tags @> {}::text[]", list(self.tags)))
        for column, sign, value in self.ranges:
            kind = "double precision" if column == "duration_seconds" else "bigint"
            found.append(Condition(column, f"{column} {sign} {{}}::{kind}", value))
        if self.q is not None:
            # Fewer than three letters in a row are in no trigram: the index would be read from end to end for them, and
            # the planner would not use it even where another word is rare.
            name = "display_name" if _TRIGRAM.search(self.q) else HIDDEN_NAME
            found.append(Condition("display_name", f"{name} ILIKE {{}}::text", like_pattern(self.q)))
        return found


def like_pattern(q: str) -> str:
    """An ILIKE pattern that matches any text with `q` in it, literally."""
    escaped = q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"%{escaped}%"


def parse(query: Iterable[tuple[str, str]], others: frozenset[str] = frozenset()) -> Filters:
    """The filters in a query. `others` are names of parameters that do not filter; any further name is refused.

    Raises `FilterInvalid`, which names the parameter.
    """
    single: dict[str, str] = {}
    repeated: dict[str, list[str]] = {name: [] for name in _REPEATED}
    for name, value in query:
        if name in repeated:
            repeated[name].append(_label(name, value))
        elif name not in _SINGLE and name not in others:
            raise FilterInvalid(f"{name[:60]!r} is not a parameter of this list")
        elif name in single:
            raise FilterInvalid(f"{name} is given twice")
        else:
            single[name] = value
    for name, values in repeated.items():
        if len(values) > VALUES:
            raise FilterInvalid(f"{name} has at most {VALUES} values")
    # Terms of facts are stored in lower case.
    words = [f"expression={name}" for name in dict.fromkeys(name.lower() for name in repeated["has_expression"])]
    groups = list(_groups(single))
    trashed = _flag("trashed", single)
    status = _one_of("status", single.get("status"), tuple(AssetStatus))
    visibility = _one_of("visibility", single.get("visibility"), ("public", "private"))
    return Filters(
        types=_types(single.get("type")),
        q=_text("q", single["q"]) if single.get("q") else None,
        words=(*words, *(group[0] for group in groups if len(group) == 1)),
        any_of=tuple(group for group in groups if len(group) > 1),
        tags=tuple(dict.fromkeys(repeated["tag"])),
        ranges=tuple(_ranges(single)),
        mine=_one_of("owner", single.get("owner"), ("me",)) is not None,
        visibility=visibility,  # pyright: ignore[reportArgumentType]
        status=AssetStatus(status) if status else None if trashed else AssetStatus.READY,
        trashed=trashed,
        everything=_flag("all", single),
    )


def check_sign_in(filters: Filters, *, anonymous: bool) -> None:
    """Raises `Unauthenticated` when an anonymous caller uses a filter that needs sign-in."""
    if anonymous and filters.needs_sign_in:
        raise Unauthenticated


def _groups(single: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The terms of each filter that takes several values, of which a row needs one."""
    for name in _GROUPS:
        values = _several(name, single.get(name))
        for value in values:
            if name != "format":
                _one_of(name, value, LICENCE[name.removeprefix("licence.")])
            elif not re.fullmatch(FORMAT, value):
                raise FilterInvalid("format is up to 20 small letters, digits and _, several with commas between")
        if values:
            yield tuple(f"{name}={value}" for value in values)


def _types(text: str | None) -> tuple[AssetType, ...]:
    values = _several("type", text)
    known = tuple(kind.value for kind in AssetType)
    for value in values:
        _one_of("type", value, known)
    # In one order, so that the same types make the same statement; all types are no filter.
    return tuple(kind for kind in AssetType if kind in values) if 0 < len(values) < len(known) else ()


def _ranges(single: dict[str, str]) -> Iterable[tuple[str, Literal[">=", "<="], float | int]]:
    for name, (column, most) in _RANGES.items():
        for end, sign in (("min", ">="), ("max", "<=")):
            text = single.get(f"{end}_{name}")
            if text is not None:
                yield column, sign, _number(f"{end}_{name}", text, most)  # pyright: ignore[reportReturnType]


def _number(name: str, text: str, most: float) -> float:
    whole = isinstance(most, int)
    if len(text) <= 40 and (text.isascii() and text.isdigit() if whole else _NUMBER.fullmatch(text)):
        value = int(text) if whole else float(text)
        if math.isfinite(value) and value <= most:
            return value
    raise FilterInvalid(f"{name} is a {'whole ' if whole else ''}number from 0 to {most:.0f}")


def _several(name: str, text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    values = tuple(dict.fromkeys(text.split(",")))
    if "" in values or len(values) > VALUES:
        raise FilterInvalid(f"{name} is one to {VALUES} values with commas between")
    return values


def _one_of(name: str, text: str | None, known: Iterable[str]) -> str | None:
    if text is not None and text not in known:
        raise FilterInvalid(f"{name} is one of {', '.join(known)}")
    return text


def _flag(name: str, single: dict[str, str]) -> bool:
    return _one_of(name, single.get(name), ("true", "false")) == "true"


def _text(name: str, text: str) -> str:
    if "\0" in text or len(text) > TEXT:
        raise FilterInvalid(f"{name} is at most {TEXT} characters, none of them NUL")
    return text


def _label(name: str, text: str) -> str:
    if not text or "\0" in text or len(text) > LABEL:
        raise FilterInvalid(f"{name} is 1 to {LABEL} characters, none of them NUL")
    return text
