"""The picture inside a VRM. Called by `GET /api/vrm-thumbnail`.

VRM 1.0 names it as an index into `images`, VRM 0.x as one into `textures`. Two or three range reads find it.
"""

from __future__ import annotations

from butai.assets.inspect.glb import Glb, buffer_view, entry, read_glb
from butai.assets.kinds import FORMATS, AssetType
from butai.assets.storage import ObjectAbsent, RangeRefused, Store
from butai.errors import AssetMissing, UploadRefused

THUMBNAIL_LIMIT = 8 * 1024**2
"""Largest embedded picture that is given out: VRM recommends 1024 x 1024, some 2 MB as PNG."""

_IMAGE_MIMES = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}


async def embedded_thumbnail(store: Store, object_key: str, size: int) -> tuple[bytes, str] | None:
    """A VRM's picture and its MIME type; None when it has none, or none that is a picture. Raises as `Store.read` does."""
    try:
        # The document is not kept while the picture is read.
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
        FORMATS[AssetType.HDR][_IMAGE_MIMES[mime]].check(body[:64], None)
    except UploadRefused:
        return None
    return body, mime


def locate(glb: Glb) -> tuple[int, int, str] | None:
    """First byte, length and MIME type of a VRM's picture within the file."""
    extensions = glb.document.get("extensions")
    if not isinstance(extensions, dict):
        return None
    index: object = None
    for name in ("VRMC_vrm", "VRM"):
        vrm = extensions.get(name)
        meta = vrm.get("meta") if isinstance(vrm, dict) else None
        if not isinstance(meta, dict):
            continue
        if name == "VRMC_vrm":
            index = meta.get("thumbnailImage")
        else:
            texture = entry(glb.document, "textures", meta.get("texture"))
            index = texture.get("source") if texture else None
        break
    image = entry(glb.document, "images", index)
    mime = image.get("mimeType") if image is not None else None
    if image is None or not isinstance(mime, str) or mime not in _IMAGE_MIMES:
        return None
    place = buffer_view(glb, image.get("bufferView"))
    if place is None or place[1] > THUMBNAIL_LIMIT:
        return None
    return *place, mime
