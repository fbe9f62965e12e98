"""Reads the picture inside a VRM, with two or three range reads."""

from __future__ import annotations

from butai.assets.contents.readers.glb import read_glb
from butai.assets.contents.readers.vrm import IMAGE_MIMES, locate
from butai.assets.kinds import FORMATS, AssetType
from butai.assets.storage.client import ObjectAbsent, RangeRefused, Store
from butai.errors import AssetMissing, UploadRefused


async def embedded_thumbnail(store: Store, object_key: str, size: int) -> tuple[bytes, str] | None:
    """A VRM's picture and its MIME type; None when it has none, or its content is not a picture. Raises `AssetMissing`,
    and the errors of `Store.read`."""
    try:
        # In one expression, so that the parsed document is freed before the picture is read.
        found = locate(await read_glb(lambda start, length: store.read(object_key, start, length), size))
        if found is None:
            return None
        start, length, mime = found
        body = await store.read(object_key, start, length)
    except UploadRefused:
        return None
    except (ObjectAbsent, RangeRefused) as error:
        raise AssetMissing from error
    try:
        FORMATS[AssetType.HDR][IMAGE_MIMES[mime]].check(body[:64], None)
    except UploadRefused:
        return None
    return body, mime
