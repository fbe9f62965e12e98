"""Resumable uploads over HTTP, `/api/assets/uploads`: tus 1.0 with creation, creation-with-upload, termination,
expiration and checksum."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from email.utils import format_datetime
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute

from butai.assets import keys
from butai.assets.kinds import AssetType, size_limit
from butai.assets.library import get_library
from butai.assets.tus import protocol, queries, service
from butai.assets.tus.schemas import UploadCheck, UploadKnown, UsageOut
from butai.assets.tus.service import Resumables, UploadProgress
from butai.assets.uploads.multipart_form import body_chunks
from butai.errors import (
    ButaiError,
    HeaderUnsupported,
    InvalidRequest,
    MissingParameters,
    RateLimited,
    TusVersionUnsupported,
    TypeUnsupported,
)
from butai.web.bodies import SmallBodies
from butai.web.dependencies import NEEDS_SIGN_IN, SignedIn, origin, signed_in
from butai.web.old_names import with_old_names
from butai.web.problems import answer_error, documented
from butai.web.refusals import answer_refused
from butai.web.request_headers import check_headers, declared_digests
from butai.web.responses import answers, respond

PATH = "/api/assets/uploads"
_HEX = 64


class Tus(APIRoute):
    """A route of the tus protocol."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Wraps the handler: checks Tus-Resumable, and adds it to every answer, errors included."""
        handle = super().get_route_handler()

        async def handle_version(request: Request) -> Response:
            try:
                version = request.headers.get("tus-resumable")
                if version is None:
                    raise MissingParameters("Tus-Resumable is missing")
                if version != protocol.VERSION:
                    raise TusVersionUnsupported
                answer = await handle(request)
            except ButaiError as error:
                refused = isinstance(error, RateLimited)
                answer = await answer_refused(request, error) if refused else answer_error(request, error)
                answer.headers["tus-version"] = protocol.VERSION
            answer.headers["tus-resumable"] = protocol.VERSION
            return answer

        return handle_version


router = APIRouter(prefix=PATH, tags=["resumable uploads"], route_class=Tus)
around = APIRouter(prefix="/api/assets", tags=["resumable uploads"], route_class=SmallBodies)


def _header(
    name: str, description: str, example: str, *, required: bool = True, pattern: str | None = None
) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"} | ({"pattern": pattern} if pattern else {})
    return {
        "name": name,
        "in": "header",
        "required": required,
        "description": description,
        "schema": schema,
        "example": example,
    }


_BYTES = "^[0-9]{1,15}$"
_CHECKSUM = f"^({'|'.join(protocol.ALGORITHMS)}) [A-Za-z0-9+/]+={{0,2}}$"
_VERSION = _header("Tus-Resumable", "The protocol's version", protocol.VERSION, pattern=r"^1\.0\.0$")
_OFFSET_BODY = {"content": {protocol.BODY_TYPE: {"schema": {"type": "string", "format": "binary"}}}}


def _documented(*parameters: dict[str, Any], body: bool = False, needed: bool = False) -> dict[str, Any]:
    said: dict[str, Any] = NEEDS_SIGN_IN | {"parameters": [_VERSION, *parameters]}
    return said | ({"requestBody": _OFFSET_BODY | {"required": needed}} if body else {})


@around.options("/uploads", include_in_schema=False)
async def tus_options(request: Request) -> Response:
    """The extensions and limits of this server, for clients before their first upload; without signing in."""
    settings = get_library(request).settings
    return Response(
        status_code=204,
        headers={
            "tus-resumable": protocol.VERSION,
            "tus-version": protocol.VERSION,
            "tus-extension": protocol.EXTENSIONS,
            "tus-max-size": str(max(size_limit(settings, kind, None) for kind in AssetType)),
            "tus-checksum-algorithm": ",".join(protocol.ALGORITHMS),
        },
    )


@router.post(
    "",
    status_code=201,
    responses=documented(400, 403, 408, 409, 412, 413, 415, 422, 429, 460, 504),
    response_class=Response,
    operation_id="create_upload",
    summary="Begin a resumable upload (tus)",
    openapi_extra=_documented(
        _header("Upload-Length", "Bytes of the whole file", "12345678", pattern=_BYTES),
        _header(
            "Upload-Metadata",
            "`filename` is the wanted key; `sha256` (hexadecimal) is checked when given",
            "filename dnJtL0FvaS52cm0=",
        ),
        body=True,
    ),
)
async def create_upload(request: Request) -> Response:
    """`Location` is the URL for the bytes. The asset is `uploading` until all of them have arrived."""
    who = await signed_in(request)
    assert who.user_id is not None
    if "upload-defer-length" in request.headers:
        raise InvalidRequest("Upload-Length is required: the quota is reserved from the beginning")
    check_headers(request.scope)
    has_bytes = _has_bytes(request)
    declared = _declared_checksum(request)
    length = protocol.whole_number("Upload-Length", request.headers.get("upload-length"))
    header = request.headers.get("upload-metadata", "")
    said = protocol.metadata(header)
    name = said.get("filename") or said.get("fileName")
    if not name:
        raise MissingParameters("Upload-Metadata has no filename, such as vrm/Aoi.vrm")
    sha256 = said.get("sha256") or None
    if sha256 is not None and (len(sha256) != _HEX or set(sha256.lower()) - set("0123456789abcdef")):
        raise InvalidRequest("sha256 is 64 hexadecimal digits")
    resumables = _resumables(request)
    made = await service.create(
        resumables,
        who.user_id,
        origin(request, who),
        keys.parse(name),
        length=length,
        sha256=sha256,
        metadata=header,
        operator=who.is_operator,
    )
    headers = {"location": f"{PATH}/{made.id}"}
    if has_bytes:
        made = await service.append(
            resumables,
            who.user_id,
            origin(request, who),
            made.id,
            offset=0,
            chunks=body_chunks(request.receive, resumables.tools.settings.upload_idle_timeout),
            declared=declared,
        )
        headers["upload-offset"] = str(made.offset)
    return Response(status_code=201, headers=headers | _expiry(made) | _asset(made))


@router.head(
    "/{upload_id:uuid}",
    responses=documented(400, 404, 410, 412),
    response_class=Response,
    operation_id="look_at_upload",
    summary="Offset of a resumable upload (tus)",
    openapi_extra=_documented(),
)
async def look_at_upload(request: Request, upload_id: UUID) -> Response:
    """`Upload-Offset` counts durable bytes: they survive a crash of this service."""
    who = await signed_in(request)
    assert who.user_id is not None
    found = await service.look(_resumables(request), who.user_id, upload_id)
    headers = {
        "upload-offset": str(found.offset),
        "upload-length": str(found.length),
        "cache-control": "no-store",
    }
    if found.metadata:
        headers["upload-metadata"] = found.metadata
    return Response(status_code=200, headers=headers | _expiry(found) | _asset(found))


@router.patch(
    "/{upload_id:uuid}",
    status_code=204,
    responses=documented(400, 403, 404, 408, 409, 410, 412, 413, 415, 422, 429, 460, 504),
    response_class=Response,
    operation_id="continue_upload",
    summary="Send the next bytes of an upload (tus)",
    openapi_extra=_documented(
        _header("Upload-Offset", "The offset of these bytes; must be the upload's current offset", "0", pattern=_BYTES),
        _header(
            "Upload-Checksum",
            "`sha256 BASE64` of these bytes: all of them are kept, or none",
            "sha256 AAAA",
            required=False,
            pattern=_CHECKSUM,
        ),
        body=True,
        needed=True,
    ),
)
async def continue_upload(request: Request, upload_id: UUID) -> Response:
    """With the last bytes the asset becomes ready, or is refused: the answer says which. A later request takes over
    from an earlier one that still hangs (which gets 409 `upload_taken`). Many requests of less than 64 KiB are slowed with
    429."""
    who = await signed_in(request)
    assert who.user_id is not None
    if request.headers.get("content-type", "").partition(";")[0] != protocol.BODY_TYPE:
        raise TypeUnsupported(f"The Content-Type of these bytes is {protocol.BODY_TYPE}")
    check_headers(request.scope)
    declared = _declared_checksum(request)
    resumables = _resumables(request)
    if (length := request.headers.get("upload-length")) is not None:
        known = await service.look(resumables, who.user_id, upload_id)
        if protocol.whole_number("Upload-Length", length) != known.length:
            raise InvalidRequest(f"Upload-Length is {known.length}, and stays so")
    now = await service.append(
        resumables,
        who.user_id,
        origin(request, who),
        upload_id,
        offset=protocol.whole_number("Upload-Offset", request.headers.get("upload-offset")),
        chunks=body_chunks(request.receive, resumables.tools.settings.upload_idle_timeout),
        declared=declared,
    )
    return Response(status_code=204, headers={"upload-offset": str(now.offset)} | _expiry(now) | _asset(now))


@router.delete(
    "/{upload_id:uuid}",
    status_code=204,
    responses=documented(400, 404, 409, 410, 412),
    response_class=Response,
    operation_id="cancel_upload",
    summary="Cancel a resumable upload (tus)",
    openapi_extra=_documented(),
)
async def cancel_upload(request: Request, upload_id: UUID) -> Response:
    """Its bytes are removed. A finished upload's asset stays."""
    who = await signed_in(request)
    assert who.user_id is not None
    await service.cancel(_resumables(request), who.user_id, origin(request, who), upload_id)
    return Response(status_code=204)


def _resumables(request: Request) -> Resumables:
    return request.state.resumables


def _has_bytes(request: Request) -> bool:
    """Whether a creation brings the first bytes. Raises `TypeUnsupported` for a body that is none, `InvalidRequest` for
    bytes that are not the first."""
    headers = request.headers
    if headers.get("upload-offset", "0") != "0":
        raise InvalidRequest("Upload-Offset is 0 at the beginning of an upload")
    if headers.get("content-type", "").partition(";")[0] == protocol.BODY_TYPE:
        return True
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise TypeUnsupported(f"The Content-Type of an upload's bytes is {protocol.BODY_TYPE}")
    return False


def _declared_checksum(request: Request) -> protocol.Checksum | None:
    """The checksum of a request's bytes, in `Upload-Checksum` or as HTTP spells it. Raises `InvalidRequest`, and
    `HeaderUnsupported` for several."""
    declared = protocol.checksum(request.headers.get("upload-checksum"))
    digests = declared_digests(request.headers)
    if not digests:
        return declared
    if declared is not None or len(digests) > 1 or digests[0].algorithm == "crc32":
        raise HeaderUnsupported("Declare one checksum of these bytes, in Upload-Checksum")
    return protocol.Checksum(digests[0].algorithm, digests[0].value)


def _expiry(progress: UploadProgress) -> dict[str, str]:
    return {"upload-expires": format_datetime(progress.expires_at, usegmt=True)}


def _asset(progress: UploadProgress) -> dict[str, str]:
    """Names the asset in a header of Butai's own, which tus clients ignore."""
    return {"butai-asset-id": str(progress.asset_id)} if progress.asset_id else {}


@around.post(
    "/uploads/check",
    **answers(UploadKnown, 400, 408, 413),
    operation_id="check_upload",
    summary="Whether the caller has stored these bytes already",
)
async def check_upload(request: Request, who: SignedIn, asked: UploadCheck) -> Response:
    """Searches the caller's own ready files; nothing about other users' files is disclosed."""
    assert who.user_id is not None
    found = await queries.known(get_library(request).database, who.user_id, asked.sha256.lower(), asked.size)
    return respond(with_old_names(UploadKnown(found is not None, found)))


@around.get(
    "/usage",
    **answers(UsageOut),
    operation_id="get_usage",
    summary="Your usage and quota",
)
async def get_usage(request: Request, who: SignedIn) -> Response:
    """The caller's usage, including the trash and uploads under way, and the quota."""
    library = get_library(request)
    assert who.user_id is not None
    return respond(with_old_names(await queries.usage(library.database, library.settings, who.user_id)))
