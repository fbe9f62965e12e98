"""Takes a file from a form."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
from fastapi import Request
from fastapi.responses import Response

from butai.assets import keys
from butai.assets.keys import AssetKey
from butai.assets.kinds import AssetType, size_limit
from butai.assets.library import Library
from butai.assets.uploads import streaming
from butai.assets.uploads.multipart_form import Form, body_chunks
from butai.errors import FileTooLarge, InvalidRequest, MissingParameters
from butai.identity import Caller
from butai.web.dependencies import origin

FORM_ROOM = 1024**2
"""Bytes of a form beside its file: text fields have at most 64 KiB, their headers less."""


async def store(library: Library, request: Request, who: Caller) -> Response:
    """Stores the one file of a form under the caller's key. Raises every error of an upload."""
    chunks = _no_longer_than(
        max(size_limit(library.settings, kind, None) for kind in AssetType) + FORM_ROOM,
        body_chunks(request.receive, library.settings.upload_idle_timeout),
    )
    form = Form(request.headers.get("content-type", ""), chunks)
    files = form.file_parts()
    file = await anext(files, None)
    if file is None or file.name != "file":
        raise MissingParameters("The form has no file")
    early = _key_of(form) if "fileName" in form.fields else None

    async def settle() -> tuple[AssetKey, str | None]:
        async for _ in files:
            raise InvalidRequest("The form has more than one file")
        if not form.fields.get("fileType"):
            raise MissingParameters("fileType is missing")
        return early or _key_of(form), form.fields.get("sha256")

    assert who.user_id is not None
    done = await streaming.receive(
        library.uploads, who.user_id, origin(request, who), early, file.chunks(), settle, _declared_length(request)
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


def _key_of(form: Form) -> AssetKey:
    name = form.fields.get("fileName")
    if not name:
        raise MissingParameters("fileName is missing")
    return keys.parse(name)
