"""Errors as answers: problem+json (RFC 9457), and the given paths' own forms.

`install` adds the handlers to an application; routes document their errors with `documented`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from psycopg.errors import UndefinedTable
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.routing import Match

from butai.database import UNREACHABLE
from butai.errors import BrokenOff, ButaiError, Code, DatabaseUnavailable, InvalidRequest, MissingParameters, NotFound

log = structlog.get_logger(__name__)


class Problem(BaseModel):
    """An error in the form of RFC 9457. `code` is stable; texts may change."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=[Code.ASSET_NOT_FOUND])
    instance: str


class EnvelopeError(BaseModel):
    """The error within an `Envelope`."""

    code: str = Field(examples=[Code.FILE_TOO_LARGE])
    message: str


class Envelope(BaseModel):
    """An error on a given path (`/api/s3/…`)."""

    success: bool = Field(examples=[False])
    message: str
    error: EnvelopeError


class BareError(BaseModel):
    """An error of `/api/vrm-thumbnail`: `error` is a text."""

    error: str
    code: str = Field(examples=[Code.ASSET_NOT_FOUND])


_EVERYWHERE = (401, 500, 503)

_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}},
    429: {"Retry-After": {"required": True, "description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
    503: {"Retry-After": {"required": True, "description": "Seconds", "schema": {"type": "integer", "minimum": 1}}},
}

# HTTP's own errors, which the framework finds before a route runs.
_OF_HTTP = {405: Code.METHOD_NOT_ALLOWED, 408: Code.REQUEST_TIMEOUT, 413: Code.BODY_TOO_LARGE}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


_PHRASES = {460: "Checksum Mismatch"}
"""Reason phrases of statuses that HTTP does not define: tus has one."""


def documented(*statuses: int, model: type[BaseModel] = Problem) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may end with these statuses, beside 401, 500 and 503, which every route may."""
    media = "application/problem+json" if model is Problem else "application/json"
    return {
        status: {
            "description": _PHRASES.get(status) or HTTPStatus(status).phrase,
            "content": {media: {"schema": {"$ref": f"#/components/schemas/{model.__name__}"}}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in sorted({*_EVERYWHERE, *statuses})
    }


def with_links(responses: dict[int | str, dict[str, Any]], *operations: str) -> dict[int | str, dict[str, Any]]:
    """`responses`, whose 200 documents that its `data.id` is a parameter of these operations."""
    links = {name: {"operationId": name, "parameters": {"asset_id": "$response.body#/data/id"}} for name in operations}
    return responses | {200: {"description": "Done", "links": links}}


def answer(
    request: Request,
    status: int,
    code: Code,
    title: str,
    detail: str,
    headers: dict[str, str],
    *,
    more: dict[str, str] | None = None,
) -> JSONResponse:
    """One error, in the form of the request's path. `more`: further members of the problem."""
    # Not `request.url`: a query that is not UTF-8 breaks it.
    path: str = request.scope["path"]
    if path.startswith("/api/s3/"):
        body: dict[str, Any] = {"success": False, "message": detail, "error": {"code": code, "message": detail}}
    elif path == "/api/vrm-thumbnail":
        body = {"error": detail, "code": code}
    else:
        body = {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": detail,
            "code": code,
            "instance": path,
            **(more or {}),
        }
        return JSONResponse(body, status, {**headers, "cache-control": "no-store"}, "application/problem+json")
    return JSONResponse(body, status, {**headers, "cache-control": "no-store"})


async def _butai_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ButaiError)
    return answer_error(request, error)


def answer_error(request: Request, error: ButaiError) -> JSONResponse:
    """A `ButaiError` as an answer, for routes that add to it themselves."""
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.status >= 500:
        log.warning("request.failed", error_code=error.code, path=request.scope["path"])
    return answer(request, error.status, error.code, error.title, error.detail, headers, more=error.more)


async def _unreachable(request: Request, _error: Exception) -> JSONResponse:
    return await _butai_error(request, DatabaseUnavailable())


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    """Answers a FastAPI validation error without the values, which may be secret."""
    assert isinstance(error, RequestValidationError)
    findings = "; ".join(
        f"{'.'.join(str(part) for part in finding['loc'][1:]) or finding['loc'][0]}: {finding['msg']}"
        for finding in error.errors()[:5]
    )
    missing = any(finding["type"] == "missing" for finding in error.errors())
    return await _butai_error(request, MissingParameters(findings) if missing else InvalidRequest(findings))


async def _http(request: Request, error: Exception) -> JSONResponse:
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


async def _unexpected(request: Request, error: Exception) -> JSONResponse:
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
