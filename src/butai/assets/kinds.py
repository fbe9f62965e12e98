"""The kinds of file that the library accepts: types, extensions, MIME types, first bytes, size limits.

Pure. MIME types come from the extension, never from the client: browsers send `application/octet-stream` for
all 3D files.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from butai.assets.signatures import SOUND_MIMES, picture_mime, sound_kind, sound_start
from butai.config import AssetSettings
from butai.errors import GlbInvalid, SignatureMismatch

HEAD_BYTES = 64
"""Bytes of a file's beginning that `FileFormat.check` needs: enough for the longest signature (BVH after a BOM and
blank lines)."""

GLB_JSON_LIMIT = 32 * 1024**2
"""Largest accepted JSON chunk of a GLB, and largest that is read; most avatars have 100 KB to 2 MB."""


class AssetType(StrEnum):
    """The five lists of a studio."""

    VRM = "vrm"
    ANIMATION = "animation"
    BGM = "bgm"
    HDR = "hdr"
    SCENE = "scene"


class Sidecar(StrEnum):
    """A file that belongs to another one of the same name, and is never listed by itself."""

    THUMB = "thumb"
    META = "meta"


Check = Callable[[bytes, int | None], None]


def _starts_with(*magics: bytes) -> Check:
    def check(head: bytes, _size: int | None) -> None:
        if not head.startswith(magics):
            raise SignatureMismatch

    return check


def _text_starts_with(magic: bytes) -> Check:
    def check(head: bytes, _size: int | None) -> None:
        if not head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(magic):
            raise SignatureMismatch

    return check


def check_glb(head: bytes, size: int | None) -> None:
    """Checks the 12-byte header and that of the first chunk (glTF 2.0, "GLB File Format Specification").

    `size`: the whole file's bytes, when already known: no fewer than the header says. Bytes behind are no reason to refuse:
    Khronos' validator warns of them, and every loader leaves them out. Raises `SignatureMismatch` for
    another format, `GlbInvalid` for a GLB that cannot be complete.
    """
    if not head.startswith(b"glTF"):
        raise SignatureMismatch
    if len(head) < 20:
        raise GlbInvalid("The file ends inside its header")
    version, length, json_length, json_type = struct.unpack_from("<IIII", head, 4)
    if version != 2:
        raise GlbInvalid(f"glTF version {version} is not supported; 2 is")
    if json_type != 0x4E4F534A:
        raise GlbInvalid("The first chunk is not JSON")
    if json_length > GLB_JSON_LIMIT:
        raise GlbInvalid(f"The JSON chunk claims {json_length} bytes; {GLB_JSON_LIMIT} is the most")
    if json_length + 20 > length:
        raise GlbInvalid("The JSON chunk is longer than the file")
    if size is not None and length > size:
        raise GlbInvalid(f"The header says {length} bytes, the file has {size}")


def _check_sound(head: bytes, _size: int | None) -> None:
    """Accepts every sound under every sound's name: browsers play it by its inside. A sound behind a tag that is longer
    than the head is looked at when the file is inspected."""
    _, at = sound_start(head)
    if sound_kind(head[at:]) is None and (at < len(head) or not head.strip(b"\0")):
        raise SignatureMismatch


def _check_mp3(head: bytes, size: int | None) -> None:
    # The layers I and II, and padding, under this name alone: each is too short a signature for others.
    sync = len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x06
    if not sync and (head.strip(b"\0") or not head):
        _check_sound(head, size)


def _sound_mime(head: bytes) -> str | None:
    kind = sound_kind(head[sound_start(head)[1] :])
    return SOUND_MIMES[kind] if kind else None


def _check_picture(head: bytes, _size: int | None) -> None:
    # Under each other's names too: where a canvas cannot make the format that was asked for, it makes a PNG.
    if picture_mime(head) is None:
        raise SignatureMismatch


def _check_bvh(head: bytes, _size: int | None) -> None:
    if not is_bvh(head):
        raise SignatureMismatch


def is_bvh(head: bytes) -> bool:
    """Whether this is the beginning of a BVH: its first word, in any letter case."""
    return head.removeprefix(b"\xef\xbb\xbf").lstrip()[:9].upper() == b"HIERARCHY"


_FBX_TEXT = re.compile(rb"\s*(;|FBXHeaderExtension\s*:)")
"""A text FBX begins with comments, of which the first has its version, or with its first section."""


def is_text_fbx(head: bytes) -> bool:
    """Whether this is the beginning of an FBX in text."""
    return _FBX_TEXT.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


def _check_fbx(head: bytes, _size: int | None) -> None:
    if not (head.startswith(b"Kaydara FBX Binary  \x00") or is_text_fbx(head)):
        raise SignatureMismatch


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One file format. `check(head, size)` raises `SignatureMismatch` when the first bytes are of another format.

    `inside`: the MIME type by the first bytes, for formats that stand under each other's names.
    """

    mime: str
    check: Check
    inside: Callable[[bytes], str | None] | None = None

    def mime_of(self, head: bytes) -> str:
        """The MIME type of a file that begins so."""
        return (self.inside(head) if self.inside is not None else None) or self.mime


_GLB = FileFormat("model/gltf-binary", check_glb)
_PNG = FileFormat("image/png", _check_picture, picture_mime)
_JPEG = FileFormat("image/jpeg", _check_picture, picture_mime)
_WEBP = FileFormat("image/webp", _check_picture, picture_mime)
_OGG = FileFormat("audio/ogg", _check_sound, _sound_mime)
_M4A = FileFormat("audio/mp4", _check_sound, _sound_mime)
_GLTF = FileFormat("model/gltf+json", _text_starts_with(b"{"))
_JSON = FileFormat("application/json", _text_starts_with(b"{"))
_IMAGES = {"png": _PNG, "jpg": _JPEG, "jpeg": _JPEG, "webp": _WEBP}

FORMATS: dict[AssetType, dict[str, FileFormat]] = {
    AssetType.VRM: {"vrm": _GLB, "glb": _GLB},
    AssetType.ANIMATION: {
        "fbx": FileFormat("application/octet-stream", _check_fbx),
        "vrma": _GLB,
        "glb": _GLB,
        "bvh": FileFormat("application/octet-stream", _check_bvh),
    },
    AssetType.BGM: {
        "mp3": FileFormat("audio/mpeg", _check_mp3, _sound_mime),
        "ogg": _OGG,
        "oga": _OGG,
        "opus": _OGG,
        "wav": FileFormat("audio/wav", _check_sound, _sound_mime),
        "flac": FileFormat("audio/flac", _check_sound, _sound_mime),
        "m4a": _M4A,
        "mp4": _M4A,
        "aac": FileFormat("audio/aac", _check_sound, _sound_mime),
        "webm": FileFormat("audio/webm", _check_sound, _sound_mime),
    },
    AssetType.HDR: {
        "hdr": FileFormat("image/vnd.radiance", _starts_with(b"#?")),
        "exr": FileFormat("image/x-exr", _starts_with(b"\x76\x2f\x31\x01")),
        **_IMAGES,
    },
    AssetType.SCENE: {"glb": _GLB, "gltf": _GLTF, "vrm": _GLB, **_IMAGES},
}

SIDECAR_FORMATS: dict[Sidecar, dict[str, FileFormat]] = {Sidecar.THUMB: _IMAGES, Sidecar.META: {"json": _JSON}}

META_LIMIT = 1024**2
"""Largest `_meta.json`: it is parsed whole, and real ones have a few KB."""


META_VALUES = 20_000
"""Most values in a `_meta.json`, counted by its commas and brackets: it is parsed where requests are answered, and so
many take some 5 ms."""


def parse_meta(body: bytes) -> dict[str, object]:
    """Parses a `_meta.json`. Raises `SignatureMismatch` for anything but an object that Postgres can keep as JSON."""

    def refuse(constant: str) -> object:
        raise ValueError(constant)

    if sum(map(body.count, (b",", b"[", b"{"))) > META_VALUES:
        raise SignatureMismatch(f"The file has more than {META_VALUES} values")
    try:
        value = json.loads(body, parse_constant=refuse)
        # 1e999 is read as infinity, which JSON cannot express.
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise SignatureMismatch("The file is not JSON") from error
    if not isinstance(value, dict):
        raise SignatureMismatch("The file is not a JSON object")
    if b"\\u0000" in body or b"\x00" in body:
        raise SignatureMismatch("The file holds NUL characters")
    return value


def size_limit(settings: AssetSettings, kind: AssetType, sidecar: Sidecar | None) -> int:
    """Returns the most bytes that a file of this kind may have."""
    if sidecar is Sidecar.META:
        return min(META_LIMIT, settings.max_sidecar_bytes)
    if sidecar is Sidecar.THUMB:
        return settings.max_sidecar_bytes
    return {
        AssetType.VRM: settings.max_vrm_bytes,
        AssetType.ANIMATION: settings.max_animation_bytes,
        AssetType.BGM: settings.max_bgm_bytes,
        AssetType.HDR: settings.max_hdr_bytes,
        AssetType.SCENE: settings.max_scene_bytes,
    }[kind]
