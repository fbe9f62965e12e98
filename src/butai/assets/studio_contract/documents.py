"""OpenAPI text of the given paths, where it does not follow from the code."""

from __future__ import annotations

from typing import Any

from fastapi.responses import Response

from butai.assets import listing, queries
from butai.assets.kinds import FORMATS, SIDECAR_FORMATS
from butai.assets.studio_contract.listing import MOST_PAGES, TYPES
from butai.web.dependencies import TAKES_SIGN_IN
from butai.web.hot_route import query_parameter
from butai.web.problems import Envelope, documented

LIST: dict[str, Any] = {
    "parameters": [
        query_parameter("type", "`vrm|animation|bgm|hdr|scene`, or `models`, `animations`", required=True, enum=TYPES),
        query_parameter("page", "From 1. A cursor is faster.", kind="integer", minimum=1, maximum=MOST_PAGES),
        query_parameter("pageSize", "Items of a page", kind="integer", minimum=1, maximum=queries.PAGE_LIMIT),
        query_parameter("cursor", "`nextCursor` of the previous page"),
        query_parameter(
            "sort",
            "`created_at|updated_at|display_name|size_bytes`, `-` before it: descending; newest first when empty",
            pattern=listing.SORT_PATTERN,
            example="-created_at",
        ),
        query_parameter("q", "Part of a name", maxLength=200, pattern=r"^[^\u0000]*$"),
        query_parameter("total", "How the total is counted", enum=listing.TOTALS),
        query_parameter("checkThumbs", "Accepted; thumbnails are always known"),
    ]
}


def links_to(*operations: str) -> dict[str, Any]:
    """Links of an answer whose `data.id` says which asset these operations can be asked about next."""
    return {name: {"operationId": name, "parameters": {"asset_id": "$response.body#/data/id"}} for name in operations}


_MIMES = sorted({kept.mime for formats in (*FORMATS.values(), *SIDECAR_FORMATS.values()) for kept in formats.values()})
_ALWAYS: dict[str, Any] = {
    name: {"required": True, "schema": {"type": "string", "minLength": 1}}
    for name in ("ETag", "Cache-Control", "Vary", "Cross-Origin-Resource-Policy")
}
_FILE: dict[str, Any] = {
    "content": {mime: {} for mime in _MIMES},
    "headers": _ALWAYS
    | {
        "Content-Length": {"required": True, "schema": {"type": "integer", "minimum": 0}},
        "Content-Disposition": {"required": True, "schema": {"type": "string", "pattern": "^inline; "}},
        "Accept-Ranges": {"required": True, "schema": {"const": "bytes"}},
        "X-Content-Type-Options": {"required": True, "schema": {"const": "nosniff"}},
    },
}
_RANGE_SENT = {"Content-Range": {"required": True, "schema": {"type": "string", "pattern": r"^bytes \d+-\d+/\d+$"}}}


def _condition(name: str, description: str, example: str) -> dict[str, Any]:
    schema = {"type": "string"}
    return {"name": name, "in": "header", "description": description, "schema": schema, "example": example}


READ: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        **documented(400, 404, 409, 410, 416, 504, model=Envelope),
        200: {"description": "The file", **_FILE},
        206: {"description": "The requested part", **_FILE, "headers": _FILE["headers"] | _RANGE_SENT},
        304: {"description": "The caller has this version already", "headers": _ALWAYS},
    },
    "openapi_extra": TAKES_SIGN_IN
    | {
        "parameters": [
            query_parameter(
                "key",
                "As uploads and lists spell it, percent-encoded once or twice. Other parameters are ignored.",
                required=True,
                example="vrm/Aoi.vrm",
            ),
            _condition("Range", "One range of bytes; several are answered with the whole file", "bytes=0-99"),
            _condition("If-None-Match", "ETags that the caller has", '"0123456789abcdef0123456789abcdef"'),
            _condition("If-Range", "The ETag that the range is of", '"0123456789abcdef0123456789abcdef"'),
        ]
    },
}

FORM: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file", "fileName", "fileType"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "fileName": {
                            "type": "string",
                            "minLength": 1,
                            "description": "The wanted key",
                            "example": "vrm/Aoi.vrm",
                        },
                        "fileType": {
                            "type": "string",
                            "minLength": 1,
                            "description": "MIME; not believed",
                            "example": "model/vrm",
                        },
                        "bucketName": {"type": "string", "description": "Accepted, never used"},
                        "sha256": {"type": "string", "description": "Checked when given"},
                    },
                }
            }
        },
    }
}
