"""The upload of one file by a form: its limits, and its answer."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import Request
from fastapi.responses import Response

from butai.assets import keys
from butai.assets.kinds import AssetType, size_limit
from butai.assets.library import Library
from butai.assets.schemas import UploadData, UploadOut
from butai.assets.uploads import streaming
from butai.assets.uploads.multipart_form import UploadForm, body_chunks
from butai.errors import FileTooLarge
from butai.identity import Caller
from butai.web.dependencies import origin
from butai.web.request_headers import check_headers, declared_digests, verified
from butai.web.responses import respond

FORM_ROOM = 1024**2
"""Bytes of a form beside its file: text fields have at most 64 KiB, their headers less."""


async def store(library: Library, request: Request, who: Caller) -> Response:
    """Stores the one file of a form under the caller's key. Raises every error of an upload."""
    chunks = _no_longer_than(
        max(size_limit(library.settings, kind, None) for kind in AssetType) + FORM_ROOM,
        checked_body(library, request),
    )
    form = await UploadForm.begun(request.headers.get("content-type", ""), chunks)
    assert who.user_id is not None
    done = await streaming.receive(
        library.uploads,
        who.user_id,
        origin(request, who),
        form,
        declared_length(request),
        operator=who.is_operator,
    )
    data = UploadData(
        file_name=done.wanted_key,
        original_name=form.filename or done.wanted_key,
        size=done.size,
        type=done.mime_type,
        url=keys.read_url(done.wanted_key),
        id=done.asset_id,
        s3_key=done.wanted_key,
    )
    return respond(UploadOut(success=True, message="Uploaded", data=data))


def checked_body(library: Library, request: Request) -> AsyncIterator[bytes]:
    """The body's bytes as they come, once its headers are checked. Raises what `check_headers` does at once, and
    `ChecksumMismatch` at the end of a body that is not the one declared."""
    check_headers(request.scope)
    digests = declared_digests(request.headers)
    chunks = body_chunks(request.receive, library.settings.upload_idle_timeout)
    return verified(chunks, digests) if digests else chunks


def declared_length(request: Request) -> int | None:
    """Returns the declared bytes of the whole body; a form's is a little more than its file. None without any."""
    length = request.headers.get("content-length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else None


async def _no_longer_than(most: int, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Passes on at most `most` bytes of a form. Raises `FileTooLarge`: the form around its files has no other limit."""
    seen = 0
    async for chunk in chunks:
        seen += len(chunk)
        if seen > most:
            raise FileTooLarge(f"The form is longer than {most} bytes")
        yield chunk
