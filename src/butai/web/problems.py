"""Errors as answers: problem+json (RFC 9457), and the given paths' own forms.

`install` adds the handlers to an application; routes document their errors with `documented`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any

import msgspec
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from psycopg.errors import UndefinedTable
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.routing import Match

from butai.database import UNREACHABLE
from butai.errors import BrokenOff, ButaiError, Code, DatabaseUnavailable, InvalidRequest, MissingParameters, NotFound

log = structlog.get_logger(__name__)


class Problem(msgspec.Struct, frozen=True):
    """An error in the form of RFC 9457. `code` is stable; texts may change. `action`: the host's next step. `platform`: the one
    that the error is about. `session_id`: of the broadcast that is on air. `reason`: why a webhook was refused."""

    type: Annotated[str, msgspec.Meta(examples=["about:blank"])]
    title: str
    status: int
    detail: str
    code: Annotated[str, msgspec.Meta(examples=[Code.ASSET_NOT_FOUND.value])]
    instance: str
    action: str | msgspec.UnsetType = msgspec.UNSET
    platform: str | msgspec.UnsetType = msgspec.UNSET
    reason: str | msgspec.UnsetType = msgspec.UNSET
    session_id: str | msgspec.UnsetType = msgspec.UNSET


class EnvelopeError(msgspec.Struct, frozen=True):
    """The error within an `Envelope`."""

    code: Annotated[str, msgspec.Meta(examples=[Code.FILE_TOO_LARGE.value])]
    message: str


class Envelope(msgspec.Struct, frozen=True):
    """An error on a given path (`/api/s3/…`). `success` is false."""

    success: Annotated[bool, msgspec.Meta(examples=[False])]
    message: str
    error: EnvelopeError


class BareError(msgspec.Struct, frozen=True):
    """An error of `/api/vrm-thumbnail`: `error` is a text."""

    error: str
    code: Annotated[str, msgspec.Meta(examples=[Code.ASSET_NOT_FOUND.value])]


_EVERYWHERE = (401, 403, 429, 500, 503)
"""403: a suspended user's credential (`user_suspended`)."""

_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
    503: {"Retry-After": {"required": True, "description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
}

# HTTP's own errors, which the framework finds before a route runs.
_OF_HTTP = {405: Code.METHOD_NOT_ALLOWED, 413: Code.BODY_TOO_LARGE}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


_PHRASES = {460: "Checksum Mismatch"}
"""Reason phrases of statuses that HTTP does not define: tus has one."""


def documented(*statuses: int, model: type[msgspec.Struct] = Problem) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end with these statuses, beside those of `_EVERYWHERE`, which every route may."""
    return documented_only(*_EVERYWHERE, *statuses, model=model)


def documented_only(*statuses: int, model: type[msgspec.Struct] = Problem) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end with these statuses and no others."""
    media = "application/problem+json" if model is Problem else "application/json"
    return {
        status: {
            "description": _PHRASES.get(status) or HTTPStatus(status).phrase,
            "content": {media: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in sorted(set(statuses))
    }


def answer(
    request: HTTPConnection,
    status: int,
    code: Code,
    title: str,
    detail: str,
    headers: dict[str, str],
    *,
    more: dict[str, str] | None = None,
) -> Response:
    """One error, in the form of the request's path. `more`: further members of the problem."""
    # Not `request.url`: a query that is not UTF-8 breaks it.
    path: str = request.scope["path"]
    media = "application/json"
    if path.startswith("/api/s3/"):
        body = Envelope(success=False, message=detail, error=EnvelopeError(code, detail))
    elif path == "/api/vrm-thumbnail":
        body = BareError(detail, code)
    else:
        body = Problem("about:blank", title, status, detail, code, path, **(more or {}))
        media = "application/problem+json"
    return Response(msgspec.json.encode(body), status, {**headers, "cache-control": "no-store"}, media)


async def _butai_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ButaiError)
    return answer_error(request, error)


def answer_error(request: HTTPConnection, error: ButaiError) -> Response:
    """A `ButaiError` as an answer, for routes that add to it themselves."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status >= 500:
        log.warning("request.failed", error_code=error.code, path=request.scope["path"])
    return answer(request, error.status, error.code, error.title, error.detail, headers, more=error.more)


async def _unreachable(request: Request, _error: Exception) -> Response:
    return await _butai_error(request, DatabaseUnavailable())


async def _invalid(request: Request, error: Exception) -> Response:
    """Answers a FastAPI validation error without the values, which may be secret."""
    assert isinstance(error, RequestValidationError)
    findings = "; ".join(
        f"{'.'.join(str(part) for part in finding['loc'][1:]) or finding['loc'][0]}: {finding['msg']}"
        for finding in error.errors()[:5]
    )
    missing = any(finding["type"] == "missing" for finding in error.errors())
    return await _butai_error(request, MissingParameters(findings) if missing else InvalidRequest(findings))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return await _butai_error(request, NotFound())
    if error.status_code == 400:
        # The body is not JSON, or not even text.
        return await _butai_error(request, InvalidRequest(str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"allow": ", ".join(_allowed(request))}
    phrase = HTTPStatus(error.status_code).phrase
    code = _OF_HTTP.get(error.status_code)
    if code is None:
        log.error("request.refused_without_code", status=error.status_code, path=request.scope["path"])
        code = Code.INVALID_REQUEST if error.status_code < 500 else Code.INTERNAL
    return answer(request, error.status_code, code, phrase, str(error.detail), headers)


def _allowed(request: Request) -> list[str]:
    """The methods of a path (RFC 9110, 10.2.1), over all its routes: the framework names those of the first."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)
    ]


async def _unexpected(request: Request, error: Exception) -> Response:
    if isinstance(error, UndefinedTable) or isinstance(getattr(error, "orig", None), UndefinedTable):
        return await _butai_error(request, DatabaseUnavailable("The database has no tables yet; run: butai migrate"))
    if isinstance(error, BrokenOff):
        # Logged where it was raised; no answer can be sent any more.
        return answer(request, 500, ButaiError.code, ButaiError.title, ButaiError.title, {})
    log.error("request.crashed", path=request.scope["path"], exc_info=error)
    return answer(request, 500, ButaiError.code, ButaiError.title, ButaiError.title, {})


def install(app: FastAPI) -> None:
    """Installs the handlers, so that all errors are answered in these forms."""
    app.add_exception_handler(ButaiError, _butai_error)
    for kind in UNREACHABLE:
        app.add_exception_handler(kind, _unreachable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
