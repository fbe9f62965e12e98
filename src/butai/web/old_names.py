"""Fields that were renamed, under their old names beside the new ones, for one version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


def with_old_names(answer: msgspec.Struct, names: Mapping[str, str] | None = None) -> dict[str, Any]:
    """`answer` with each renamed field twice: also under its old name in `names` (new to old, at any depth), or else
    under its spelling in camelCase. Dictionaries within are left unchanged."""
    return {
        name: _converted(value, names or {}) for field, value in _fields(answer) for name in _both(field, names or {})
    }


def _fields(answer: msgspec.Struct) -> list[tuple[str, Any]]:
    pairs = zip(answer.__struct_encode_fields__, answer.__struct_fields__, strict=True)
    return [(encoded, value) for encoded, field in pairs if (value := getattr(answer, field)) is not msgspec.UNSET]


def _both(field: str, names: Mapping[str, str]) -> tuple[str, ...]:
    first, *rest = field.split("_")
    old = names.get(field, first + "".join(word.capitalize() for word in rest))
    return (field,) if old == field else (field, old)


def _converted(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, msgspec.Struct):
        return with_old_names(value, names)
    if isinstance(value, list | tuple):
        items: list[Any] = list(value)
        return [_converted(item, names) for item in items]
    return value
