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

from butai.web.problems import BareError, Envelope, Problem, documented

_REF = "#/components/schemas/{name}"
_declared: dict[str, type[msgspec.Struct]] = {kind.__name__: kind for kind in (Problem, Envelope, BareError)}
"""Every struct that a route has declared, and those of errors, by name."""

_encoder = msgspec.json.Encoder()


def respond(
    answer: msgspec.Struct | Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """`answer` as JSON, with `cache-control: no-store` unless `headers` has another.

    A mapping comes from `butai.web.old_names.with_old_names`.
    """
    return Response(
        _encoder.encode(answer), status, {"cache-control": "private, no-store", **(headers or {})}, "application/json"
    )


def stored_list(items: bytes) -> Any:
    """The value of a struct's list field whose items are JSON that Postgres wrote, with commas between them.

    The bytes are copied into the answer, and never decoded: a page of 100 items costs as much as its copy.
    """
    return msgspec.Raw(b"".join((b"[", items, b"]")))


def answers(
    kind: type[msgspec.Struct],
    *errors: int,
    status: int = 200,
    also: Mapping[int, str] | None = None,
    description: str = "Successful Response",
    media: Mapping[str, Any] | None = None,
    links: Mapping[str, Any] | None = None,
    error: type[msgspec.Struct] | None = Problem,
) -> dict[str, Any]:
    """Keyword arguments for a route that answers with a `kind`, or with errors of these statuses, each an `error`.

    `also`: further statuses that come with a `kind`, each with its description. `media`: further media types that it may
    answer with, and `links` to operations that follow, as OpenAPI has them. With `error` None no errors are documented, not
    even those that any route may have. Raises `ValueError` for a second struct of one name, since the document's schemas
    are by name.
    """
    if _declared.setdefault(kind.__name__, kind) is not kind:
        raise ValueError(f"two structs are called {kind.__name__}")
    content = {"application/json": {"schema": {"$ref": _REF.format(name=kind.__name__)}}, **(media or {})}
    answer = {"content": content, **({"links": links} if links else {})}
    described = {status: description, **(also or {})}
    refusals = documented(*errors, model=error) if error is not None else {}
    return {
        "status_code": status,
        "response_model": None,
        "responses": refusals | {one: {"description": when, **answer} for one, when in described.items()},
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
