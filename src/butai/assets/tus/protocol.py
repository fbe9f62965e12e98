"""The headers of tus, parsed. Pure.

Source: tus resumable upload protocol 1.0.0, https://tus.io/protocols/resumable-upload.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from butai.errors import InvalidRequest

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,termination,expiration,checksum"
ALGORITHMS = ("sha256", "sha1", "md5")
"""Algorithms of the checksum extension: sha1 is required of servers; old clients send md5."""

BODY_TYPE = "application/offset+octet-stream"

METADATA_LIMIT = 8 * 1024
"""Most characters of `Upload-Metadata`: a key of 1,024 bytes in base64, and room for a client's own fields."""

_NUMBER = re.compile(r"[0-9]{1,15}")
_KEY = re.compile(r"[\x21-\x2b\x2d-\x7e]{1,200}")


def whole_number(name: str, value: str | None) -> int:
    """Parses a header that is a number of bytes. Raises `InvalidRequest`."""
    if value is None or not _NUMBER.fullmatch(value):
        raise InvalidRequest(f"{name} must be a whole number of bytes")
    return int(value)


def metadata(header: str) -> dict[str, str]:
    """Parses `Upload-Metadata` into names and values; a name without a value has an empty one. Raises
    `InvalidRequest`."""
    if len(header) > METADATA_LIMIT:
        raise InvalidRequest(f"Upload-Metadata is longer than {METADATA_LIMIT} characters")
    found: dict[str, str] = {}
    for pair in header.split(",") if header.strip() else []:
        name, _, value = pair.strip().partition(" ")
        if not _KEY.fullmatch(name) or name in found:
            raise InvalidRequest("Upload-Metadata has an empty name, or one twice")
        try:
            found[name] = base64.b64decode(value.strip(), validate=True).decode()
        except ValueError as error:
            raise InvalidRequest(f"Upload-Metadata: the value of {name!r} is not base64 of UTF-8") from error
    return found


@dataclass(frozen=True, slots=True)
class Checksum:
    """The declared checksum of one request's body. `digest` is raw bytes."""

    algorithm: str
    digest: bytes


def checksum(header: str | None) -> Checksum | None:
    """Parses `Upload-Checksum`, such as `sha256 base64`. Raises `InvalidRequest`, also for an unsupported algorithm."""
    if header is None:
        return None
    algorithm, _, encoded = header.strip().partition(" ")
    if algorithm not in ALGORITHMS:
        raise InvalidRequest(f"Upload-Checksum takes one of {', '.join(ALGORITHMS)}")
    try:
        return Checksum(algorithm, base64.b64decode(encoded.strip(), validate=True))
    except ValueError as error:
        raise InvalidRequest("Upload-Checksum is not base64") from error
