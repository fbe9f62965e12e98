"""Answers: a route declares its answer as a `msgspec.Struct`, and returns it through one function.

    @router.get("", **answers(JobsOut, 400, 403), summary="Background jobs")
    async def list_jobs(…) -> Response:
        return respond(JobsOut(…))

The struct is encoded, and its JSON Schema stands in the OpenAPI document: the two cannot differ.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import Response

from butai.web.problems import documented

_REF = "#/components/schemas/{name}"
_declared: dict[str, type[msgspec.Struct]] = {}
"""Every struct that a route has declared, by name."""

_encoder = msgspec.json.Encoder()


def respond(
    answer: msgspec.Struct | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`answer` as JSON, with `cache-control: no-store` unless `headers` has another.

    A mapping comes from `butai.web.old_names.with_old_names`.
    """
    return respond_encoded(_encoder.encode(answer), status, headers)


def respond_encoded(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Like `respond`, for JSON that Postgres wrote."""
    return Response(body, status, {"cache-control": "private, no-store", **(headers or {})}, "application/json")


def answers(
    kind: type[msgspec.Struct],
    *errors: int,
    status: int = 200,
    description: str = "Successful Response",
    media: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Keyword arguments for a route that answers with a `kind`, or with problems of these statuses.

    `media`: further media types of the answer, in OpenAPI's form. Raises `ValueError` for a second struct of one name,
    since the document's schemas are by name.
    """
    if _declared.setdefault(kind.__name__, kind) is not kind:
        raise ValueError(f"two structs are called {kind.__name__}")
    content = {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}, **(media or {})}
    return {
        "status_code": status,
        "response_model": None,
        "responses": {status: {"description": description, "content": content}} | documented(*errors),
    }


def schemas() -> dict[str, Any]:
    """The JSON Schemas of all declared structs, and of the structs within them, for the document's components.

    An object with arbitrary fields says so (`additionalProperties`): generators of types take a bare `{"type":
    "object"}` for an object without fields.
    """
    found = msgspec.json.schema_components(list(_declared.values()), ref_template=_REF)[1]
    _open(found)
    return found


def _open(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "object" and not node.keys() & {"properties", "additionalProperties"}:
            node["additionalProperties"] = True
        for value in node.values():
            _open(value)
    elif isinstance(node, list):
        for value in node:
            _open(value)
