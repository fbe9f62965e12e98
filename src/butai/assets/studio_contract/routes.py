"""The paths that existing studio front ends already call. Their shapes are fixed; see docs/studio-contract.md.

Routes parse, call one function, and answer. Lists and reads are hot: they answer with bytes and no models.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from butai.assets import keys
from butai.assets.library import Library, get_library
from butai.assets.reading.delivery import Conditions, ReadPlan, prepare
from butai.assets.reading.lookup import ReadableAsset, find_readable, find_thumbnail
from butai.assets.schemas import PresignData, PresignOut, PresignRequest, ResourcePage, UploadOut
from butai.assets.studio_contract import documents, listing, upload
from butai.assets.uploads import signed, signed_put
from butai.errors import (
    AssetMissing,
    AssetNotFound,
    AssetNotReady,
    InvalidRequest,
    KeyInvalid,
    MissingParameters,
    StoreAccessDenied,
    TakenDown,
    Unauthenticated,
)
from butai.identity import ANONYMOUS, Caller
from butai.identity.origins import normal_origin, seen_origin
from butai.web.bodies import SmallBodies
from butai.web.dependencies import TAKES_SIGN_IN, AnyCaller, SignedIn, caller, origin, signed_in
from butai.web.hot_route import DirectRoute
from butai.web.problems import BareError, Envelope, documented
from butai.web.responses import answers, respond

router = APIRouter(tags=["studio contract"], route_class=SmallBodies)
hot = APIRouter(tags=["studio contract"], route_class=DirectRoute)


@hot.get(
    "/api/s3/resources",
    **answers(ResourcePage, 400, error=Envelope),
    operation_id="list_resources",
    summary="List one type of asset: ready ones, public or the caller's own",
    openapi_extra=documents.LIST,
)
async def resources(request: Request) -> Response:
    """A page of a list, newest first unless sorted otherwise. Without any paging: all items, up to 10,000."""
    who = await signed_in(request)
    return await listing.answer(get_library(request).database, who.user_id, request.query_params)


class _File(Response):
    """A file as an answer: FastAPI passes it the connection, and the body never becomes a Python object."""

    def __init__(self, library: Library, row: ReadableAsset, plan: ReadPlan) -> None:
        super().__init__()
        self.library, self.row, self.plan = library, row, plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the file."""
        try:
            await self.library.delivery.send(self.row, self.plan, scope, send, receive)
        except (AssetMissing, StoreAccessDenied):
            self.library.reads.failed(self.row.id)
            raise
        self.library.reads.used(self.row.id)


@hot.head(
    "/api/s3/read-object",
    operation_id="head_object",
    summary="The headers of a read, without its body",
    **documents.READ,
)
@hot.get("/api/s3/read-object", operation_id="read_object", summary="Read a file by its key", **documents.READ)
async def read_object(request: Request) -> Response:
    """The file under a key: the caller's own first, then public ones. Ranges, ETag and HEAD follow HTTP."""
    who = await caller(request)
    library = get_library(request)
    row = await _readable(library, who, _raw_key(request.scope["query_string"]))
    return _File(library, row, prepare(row, Conditions.of(request.scope)))


def _raw_key(query: bytes) -> str:
    """`key` as it stands in the query, still encoded: `keys.readings` interprets its `+` and `%25`."""
    for parameter in query.decode("latin-1").split("&"):
        if parameter.startswith("key="):
            # Unencoded UTF-8, which no browser sends but some tools do.
            return parameter[4:].encode("latin-1").decode("utf-8", "replace")
    raise MissingParameters("key is missing")


async def _readable(library: Library, who: Caller, raw_key: str) -> ReadableAsset:
    """The ready row under a key. For anonymous callers a private file and an absent one have the same answer."""
    readings = keys.readings(raw_key)
    row = await find_readable(
        library.database,
        readings,
        who.user_id,
        operator=who.is_operator,
        reserved=library.settings.reserved_keys,
    )
    if row is None:
        raise Unauthenticated if who.is_anonymous else AssetNotFound
    if row.taken_down and not who.is_operator:
        # Others than the owner do not find the row at all.
        raise TakenDown
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
        304: {"description": "The caller has this version already"},
    },
    operation_id="get_vrm_thumbnail",
    openapi_extra=TAKES_SIGN_IN,
    summary="The picture of a VRM",
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
    """The stored picture of a VRM: the one uploaded beside it, else the one that inspection has found inside; 404 until
    then. Only read-object URLs of this service are accepted, and no request is sent to other hosts."""
    library = get_library(request)
    avatar = await _readable(library, who, _key_in_url(request, library, url))
    picture = await find_thumbnail(library.database, avatar)
    if picture is None:
        raise AssetNotFound("The avatar has no picture, or has not been inspected yet")
    whole = {name: value for name, value in Conditions.of(request.scope).headers.items() if name == "if-none-match"}
    plan = prepare(picture, Conditions(whole))
    # As the avatar itself: the address is the avatar's, not that of the picture.
    of_avatar = prepare(avatar, Conditions()).headers
    plan.headers.update({name: of_avatar[name] for name in ("cache-control", "vary")})
    plan.headers.pop("accept-ranges", None)
    return _File(library, picture, plan)


def _key_in_url(request: Request, library: Library, url: str) -> str:
    if not url:
        raise MissingParameters("url is missing")
    try:
        split = urlsplit(url)
    except ValueError as error:
        raise InvalidRequest("url cannot be read") from error
    if split.scheme or split.netloc:
        own = (seen_origin(request.scope["scheme"], request.scope["headers"]), normal_origin(library.http.public_url))
        named = normal_origin(url)
        if named is None or named not in own:
            raise InvalidRequest("url leads to another origin")
    if split.path != "/api/s3/read-object":
        raise InvalidRequest("url is not one of /api/s3/read-object")
    raw = _raw_key(split.query.encode())
    if not any(reading.lower().endswith(".vrm") for reading in keys.readings(raw)):
        raise KeyInvalid("The key is not that of a .vrm")
    return raw


@hot.post(
    "/api/s3/upload",
    **answers(
        UploadOut,
        *(400, 403, 408, 409, 413, 415, 422, 504),
        links=documents.links_to("get_asset", "edit_asset"),
        error=Envelope,
    ),
    openapi_extra=documents.FORM,
    operation_id="upload_file",
    summary="Upload a file",
)
async def upload_file(request: Request) -> Response:
    """Stores one file under the caller's key; the same key again is the same asset with new bytes."""
    who = await signed_in(request)
    return await upload.store(get_library(request), request, who)


@router.post(
    "/api/s3/presigned-url",
    **answers(
        PresignOut,
        *(400, 403, 408, 413, 415),
        links=documents.links_to("get_asset", "complete_upload"),
        error=Envelope,
    ),
    operation_id="sign_upload",
    summary="Get a signed URL to upload to",
)
async def presigned_url(request: Request, who: SignedIn, wanted: PresignRequest) -> Response:
    """A URL that accepts the bytes for 15 minutes: at the store with a `size` and no `sha256`, else at this service, and
    once. The asset is `uploading` until they arrive."""
    if not wanted.fileName or not wanted.fileType:
        raise MissingParameters("fileName and fileType are required")
    library = get_library(request)
    assert who.user_id is not None
    opened = await signed.sign_upload(
        library.uploads,
        who.user_id,
        origin(request, who),
        keys.parse(wanted.fileName),
        wanted.size,
        wanted.sha256,
        operator=who.is_operator,
    )
    answer = PresignOut(
        success=True,
        data=PresignData(
            url=_own_base(request, library) + opened.url if opened.url.startswith("/") else opened.url,
            expires_in=opened.expires_in,
            method="PUT",
            headers=opened.headers,
            id=opened.asset_id,
            file_name=opened.wanted_key,
            s3_key=opened.wanted_key,
            read_url=keys.read_url(opened.wanted_key),
            complete_url=f"/api/assets/{opened.asset_id}/complete",
        ),
    )
    return respond(answer, headers={"cache-control": "no-store"})


def _own_base(request: Request, library: Library) -> str:
    """Returns the origin by which the caller reaches this service: `public_url`, else that of the calling page when it
    has the same host, since a proxy may have ended its TLS, else that of the request."""
    if library.http.public_url:
        return library.http.public_url.rstrip("/")
    seen = seen_origin(request.scope["scheme"], request.scope["headers"]) or ""
    page = normal_origin(request.headers.get("origin", ""))
    same_host = page is not None and urlsplit(page).netloc == request.headers.get("host", "").lower()
    return page if page is not None and same_host else seen


@hot.put(f"{signed_put.PATH}/{{asset_id:uuid}}/{{attempt:int}}", include_in_schema=False)
async def put_signed(request: Request) -> Response:
    """The bytes of a signed upload without a declared size, as a store would take them. The address is the credential:
    no cookie is looked at, and pages of any origin may send to it."""
    library = get_library(request)
    asset_id, attempt = request.path_params["asset_id"], request.path_params["attempt"]
    query = request.query_params
    signed_put.check_signature(
        library.store, asset_id, attempt, query.get("expires", ""), query.get(signed_put.SIGNATURE, "")
    )
    # Before the address is used up.
    body = upload.checked_body(library, request)
    stored = await signed_put.receive_put(
        library.uploads, origin(request, ANONYMOUS), asset_id, attempt, upload.declared_length(request), body
    )
    return Response(headers={"etag": f'"{stored.etag}"', "cache-control": "no-store"})
