"""Routes that run on every page view: documented like any other, called without the framework's overhead.

FastAPI resolves parameters and dependencies for each request, which costs more than a list page's own work. A route of
a `DirectRoute` router takes only the request, parses it by itself, and documents its parameters by hand
(`query_parameter`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute


class DirectRoute(APIRoute):
    """A route whose endpoint is `async (request) -> Response`, called directly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return self.endpoint


def query_parameter(
    name: str,
    description: str,
    *,
    required: bool = False,
    kind: str = "string",
    enum: Collection[str] = (),
    example: str | None = None,
    **schema: Any,
) -> dict[str, Any]:
    """One entry of an operation's `parameters` (OpenAPI 3.1). `schema`: further JSON Schema keywords (`minimum`, …)."""
    parameter: dict[str, Any] = {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": {"type": kind, **schema},
    }
    if enum:
        parameter["schema"]["enum"] = list(enum)
    if example is not None:
        parameter["example"] = example
    return parameter
