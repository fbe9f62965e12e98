"""The paths that existing studio front ends already call. Their shapes are given; see docs/studio-contract.md.

Routes parse, call one function, and answer. Lists and reads are hot: they answer with bytes and no models.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from butai.assets import keys, queries, signed, uploads
from butai.assets.delivery import Conditions, Plan, prepare
from butai.assets.forms import Form, body_chunks
from butai.assets.keys import Key
from butai.assets.kinds import FORMATS, SIDECAR_FORMATS, AssetType, size_limit
from butai.assets.queries import ListRequest, Place, Readable
from butai.assets.schemas import PresignOut, PresignRequest, ResourcePage, UploadOut
from butai.assets.thumbnails import embedded_thumbnail
from butai.assets.wiring import Library, library
from butai.errors import (
    AssetMissing,
    AssetNotFound,
    AssetNotReady,
    FileTooLarge,
    FilterInvalid,
    InvalidRequest,
    KeyInvalid,
    MissingParameters,
    StoreAccessDenied,
    Unauthenticated,
)
from butai.identity import Caller
from butai.identity.origins import normal_origin, seen_origin
from butai.web.dependencies import TAKES_SIGN_IN, AnyCaller, SignedIn, SmallBodies, caller, origin, signed_in
from butai.web.hot_route import DirectRoute, query_parameter
from butai.web.problems import BareError, Envelope, documented, with_links

router = APIRouter(tags=["studio contract"], route_class=SmallBodies)
hot = APIRouter(tags=["studio contract"], route_class=DirectRoute)

TOTALS = ("none", "estimate", "exact")
DEFAULT_PAGE = 50
"""Items of a page for those who ask for a page but not how large."""

MOST_PAGES = 1_000_000
TYPES = {kind.value: kind for kind in AssetType} | {"models": AssetType.VRM, "animations": AssetType.ANIMATION}


# Lists


@hot.get(
    "/api/s3/resources",
    response_model=ResourcePage,
    responses=documented(400, model=Envelope),
    operation_id="list_resources",
    summary="List one type of asset: ready ones, public or the caller's own",
    openapi_extra={
        "parameters": [
            query_parameter(
                "type", "`vrm|animation|bgm|hdr|scene`, or `models`, `animations`", required=True, enum=TYPES
            ),
            query_parameter("page", "From 1. A cursor is faster.", kind="integer", minimum=1, maximum=MOST_PAGES),
            query_parameter("pageSize", "Items of a page", kind="integer", minimum=1, maximum=queries.PAGE_LIMIT),
            query_parameter("cursor", "`nextCursor` of the page before"),
            query_parameter(
                "sort",
                "`created_at|updated_at|display_name|size_bytes`, `-` before it: descending; newest first when empty",
                pattern=queries.SORT_PATTERN,
                example="-created_at",
            ),
            query_parameter("q", "Part of a name", maxLength=200, pattern=r"^[^\u0000]*$"),
            query_parameter("total", "How it is counted", enum=TOTALS),
            query_parameter("checkThumbs", "Accepted; thumbnails are always known"),
        ]
    },
)
async def resources(request: Request) -> Response:
    """A page of a list, newest first unless sorted otherwise. Without any paging: everything, up to 10,000 items."""
    who = await signed_in(request)
    asked = request.query_params
    kind = TYPES.get(asked.get("type", ""))
    if kind is None:
        raise FilterInvalid(f"type is one of {', '.join(TYPES)}")
    mode = asked.get("total")
    if mode not in (None, *TOTALS):
        raise FilterInvalid(f"total is one of {', '.join(TOTALS)}")
    order = queries.parse_sort(asked.get("sort"))
    cursor = asked.get("cursor")
    size = _whole_number("pageSize", asked.get("pageSize"), queries.PAGE_LIMIT)
    number = _whole_number("page", asked.get("page"), MOST_PAGES)
    paged = size is not None or number is not None or cursor is not None
    limit = size or (DEFAULT_PAGE if paged else queries.EVERYTHING)
    place = queries.decode_cursor(cursor, order) if cursor else None
    wanted = ListRequest(
        type=kind,
        user_id=who.user_id,
        sort=order,
        limit=limit,
        place=place,
        offset=0 if place else ((number or 1) - 1) * limit,
        q=asked.get("q") or None,
    )
    database = library(request).database
    found = await queries.list_page(database, wanted)
    count, exact = await _total(database, wanted, found, mode)
    at = place.page if place else number or 1
    next_cursor = None
    if found.has_more and found.last_value is not None and found.last_id is not None:
        next_cursor = queries.encode_cursor(order, Place(found.last_value, found.last_id, count, at + 1))
    pagination = {
        "page": at,
        "pageSize": limit,
        "total": count,
        "totalIsExact": exact,
        "hasMore": found.has_more,
        "nextCursor": next_cursor,
    }
    body = b"".join(
        (b'{"success":true,"data":[', found.items, b'],"pagination":', msgspec.json.encode(pagination), b"}")
    )
    return Response(
        body, 200, {"cache-control": "private, no-cache", "vary": "Cookie, Authorization"}, "application/json"
    )


async def _total(database: Any, wanted: ListRequest, found: queries.Page, mode: str | None) -> tuple[int | None, bool]:
    """How many there are in all. A list that ends on its first page counts itself; a cursor carries what was counted."""
    if mode == "none":
        return None, False
    if wanted.place is not None:
        if mode is None:
            return wanted.place.total, wanted.place.total is not None and wanted.place.total <= queries.EXACT_TOTAL
    elif not found.has_more and (found.count or wanted.offset == 0):
        return wanted.offset + found.count, True
    return await queries.total(database, wanted, exactly=mode == "exact")


def _whole_number(name: str, text: str | None, most: int) -> int | None:
    if text is None or text == "":
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= most):
        raise FilterInvalid(f"{name} is a whole number from 1 to {most}")
    return int(text)


# Reads


class _File(Response):
    """A file as an answer: FastAPI hands it the connection, and the body never becomes a Python object."""

    def __init__(self, parts: Library, row: Readable, plan: Plan) -> None:
        super().__init__()
        self.parts, self.row, self.plan = parts, row, plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it."""
        try:
            await self.parts.delivery.send(self.row, self.plan, scope, send, receive)
        except (AssetMissing, StoreAccessDenied):
            self.parts.reads.failed(self.row.id)
            raise
        self.parts.reads.used(self.row.id)


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


_READ: dict[str, Any] = {
    "response_class": Response,
    "responses": {
        **documented(400, 404, 409, 410, 416, 504, model=Envelope),
        200: {"description": "The file", **_FILE},
        206: {"description": "The part asked for", **_FILE, "headers": _FILE["headers"] | _RANGE_SENT},
        304: {"description": "The caller has it already", "headers": _ALWAYS},
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


@hot.head("/api/s3/read-object", operation_id="head_object", summary="What a read would answer", **_READ)
@hot.get("/api/s3/read-object", operation_id="read_object", summary="Read a file by its key", **_READ)
async def read_object(request: Request) -> Response:
    """The file under a key: the caller's own first, then what is public. Ranges, ETag and HEAD work as HTTP has them."""
    who = await caller(request)
    parts = library(request)
    row = await _readable(parts, who, _raw_key(request.scope["query_string"]))
    return _File(parts, row, prepare(row, Conditions.of(request.scope)))


def _raw_key(query: bytes) -> str:
    """`key` as it stands in the query, still encoded: what its `+` and `%25` mean is for `keys.readings` to say."""
    for parameter in query.decode("latin-1").split("&"):
        if parameter.startswith("key="):
            # Unencoded UTF-8, which no browser sends but some tools do.
            return parameter[4:].encode("latin-1").decode("utf-8", "replace")
    raise MissingParameters("key is missing")


async def _readable(parts: Library, who: Caller, raw_key: str) -> Readable:
    """The ready row under a key. Anonymous callers learn nothing of what is not public, not even that it is not there."""
    readings = keys.readings(raw_key)
    row = await queries.find_readable(parts.database, readings, who.user_id, who.is_operator)
    if row is None:
        raise Unauthenticated if who.is_anonymous else AssetNotFound
    if row.status == "missing":
        raise AssetMissing
    if row.status != "ready":
        raise AssetNotReady(f"The file is {row.status}")
    return row


@router.get(
    "/api/vrm-thumbnail",
    response_class=Response,
    responses={
        **documented(400, 404, 409, 410, 504, model=BareError),
        200: {"description": "The picture", "content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}},
        304: {"description": "The caller has it already"},
    },
    operation_id="get_vrm_thumbnail",
    openapi_extra=TAKES_SIGN_IN,
    summary="The picture inside a VRM",
)
async def vrm_thumbnail(
    request: Request,
    who: AnyCaller,
    url: Annotated[
        str,
        Query(
            description="A read-object URL of a .vrm, relative or of this origin",
            examples=["/api/s3/read-object?key=vrm%2FAoi.vrm"],
            json_schema_extra={"minLength": 1},
        ),
    ],
) -> Response:
    """The thumbnail that a VRM carries. Only our own read-object URLs are taken, and no request ever goes out."""
    parts = library(request)
    row = await _readable(parts, who, _key_in_url(request, parts, url))
    plan = prepare(row, Conditions.of(request.scope))
    headers = {name: plan.headers[name] for name in ("etag", "cache-control", "vary", "cross-origin-resource-policy")}
    if plan.status == 304:
        return Response(status_code=304, headers=headers)
    assert row.object_key is not None
    found = await embedded_thumbnail(parts.store, row.object_key, row.size_bytes or 0)
    if found is None:
        raise AssetNotFound("The avatar has no picture inside")
    return Response(found[0], 200, {**headers, "x-content-type-options": "nosniff"}, found[1])


def _key_in_url(request: Request, parts: Library, url: str) -> str:
    if not url:
        raise MissingParameters("url is missing")
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise InvalidRequest("url cannot be read") from error
    if split.scheme or split.netloc:
        own = (seen_origin(request.scope["scheme"], request.scope["headers"]), normal_origin(parts.http.public_url))
        named = normal_origin(url)
        if named is None or named not in own:
            raise InvalidRequest("url leads to another origin")
    if split.path != "/api/s3/read-object":
        raise InvalidRequest("url is not one of /api/s3/read-object")
    raw = _raw_key(split.query.encode())
    if not any(reading.lower().endswith(".vrm") for reading in keys.readings(raw)):
        raise KeyInvalid("The key is not that of a .vrm")
    return raw


# Uploads

FORM_ROOM = 1024**2
"""Bytes of a form beside its file: text fields have at most 64 KiB, their headers less."""

_FORM = {
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


@hot.post(
    "/api/s3/upload",
    response_model=UploadOut,
    responses=with_links(documented(400, 403, 409, 413, 415, 422, 504, model=Envelope), "get_asset", "edit_asset"),
    openapi_extra=_FORM,
    operation_id="upload_file",
    summary="Upload a file",
)
async def upload(request: Request) -> Response:
    """Stores one file under the caller's key; the same key again is the same asset with new bytes."""
    who = await signed_in(request)
    parts = library(request)
    chunks = _no_longer_than(
        max(size_limit(parts.settings, kind, None) for kind in AssetType) + FORM_ROOM,
        body_chunks(request.receive, parts.settings.upload_idle_timeout),
    )
    form = Form(request.headers.get("content-type", ""), chunks)
    files = form.file_parts()
    file = await anext(files, None)
    if file is None or file.name != "file":
        raise MissingParameters("The form has no file")
    early = _key_of(form) if "fileName" in form.fields else None

    async def settle() -> tuple[Key, str | None]:
        async for _ in files:
            raise InvalidRequest("The form has more than one file")
        if not form.fields.get("fileType"):
            raise MissingParameters("fileType is missing")
        return early or _key_of(form), form.fields.get("sha256")

    assert who.user_id is not None
    done = await uploads.receive(
        parts.uploads, who.user_id, origin(request, who), early, file.chunks(), settle, _declared_length(request)
    )
    body = {
        "success": True,
        "message": "Uploaded",
        "data": {
            "fileName": done.wanted_key,
            "originalName": file.filename or done.wanted_key,
            "size": done.size,
            "type": done.mime_type,
            "url": keys.read_url(done.s3_key),
            "id": done.asset_id,
            "s3Key": done.s3_key,
        },
    }
    return Response(msgspec.json.encode(body), 200, media_type="application/json")


def _declared_length(request: Request) -> int | None:
    """Of the whole form, which is a little more than its file."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None


async def _no_longer_than(most: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """What stands before, between and behind a form's parts is nobody's file, and would be read for ever."""
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > most:
            raise FileTooLarge(f"The form is longer than {most} bytes")
        yield chunk


def _key_of(form: Form) -> Key:
    name = form.fields.get("fileName")
    if not name:
        raise MissingParameters("fileName is missing")
    return keys.parse(name)


@router.post(
    "/api/s3/presigned-url",
    response_model=PresignOut,
    responses=with_links(documented(400, 403, 408, 413, 415, model=Envelope), "get_asset", "complete_upload"),
    operation_id="sign_upload",
    summary="Get a signed URL to upload to",
)
async def presigned_url(request: Request, who: SignedIn, wanted: PresignRequest) -> Response:
    """A URL that takes the bytes for 15 minutes, past this service. The asset is `uploading` until they are there."""
    if not wanted.fileName or not wanted.fileType:
        raise MissingParameters("fileName and fileType are needed")
    parts = library(request)
    assert who.user_id is not None
    opened = await signed.open_upload(
        parts.uploads, who.user_id, origin(request, who), keys.parse(wanted.fileName), wanted.size, wanted.sha256
    )
    body = {
        "success": True,
        "data": {
            "url": opened.url,
            "expiresIn": opened.expires_in,
            "method": "PUT",
            "headers": opened.headers,
            "id": opened.asset_id,
            "fileName": opened.wanted_key,
            "s3Key": opened.s3_key,
            "readUrl": keys.read_url(opened.s3_key),
            "completeUrl": f"/api/assets/{opened.asset_id}/complete",
        },
    }
    return Response(msgspec.json.encode(body), 200, {"cache-control": "no-store"}, "application/json")
