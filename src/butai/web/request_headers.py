"""Headers that change what a request with a body means: each is followed, or the request is refused before a byte is used.

A header that is ignored turns a request into another one: bytes that are packed are stored as if they were the file, a
part replaces the whole, and what was to be written only if it is absent is written.

Sources: RFC 9110 (8.4 Content-Encoding, 10.1.1 Expect, 13 preconditions, 14.5 Content-Range), RFC 9112 (6.1
Transfer-Encoding), RFC 9530 (digests), RFC 4918 (10.4 If), tus 1.0.0, the IETF's draft of resumable uploads, and the
request headers of S3's PutObject.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from butai.errors import ChecksumMismatch, ContentCodingUnsupported, HeaderUnsupported, InvalidRequest

METHOD_OVERRIDE = "x-http-method-override"

_OVERRIDES = (METHOD_OVERRIDE, "x-http-method", "x-method-override")

_ONLY: dict[str, tuple[str, ...]] = {
    "expect": ("100-continue",),
    "transfer-encoding": ("chunked",),
    # Clients of Apple's systems announce with each upload that it can be resumed; these values mean a whole body.
    "upload-complete": ("?1",),
    "upload-incomplete": ("?0",),
    "x-amz-acl": ("private", "bucket-owner-full-control", "bucket-owner-read"),
    "x-amz-storage-class": ("standard",),
}
"""Headers that are harmless with these values alone."""

_NEVER = re.compile(
    # Conditions for a write.
    r"if|if-match|if-none-match|if-unmodified-since|lock-token|"
    # A part of the file, or a file made of others.
    r"content-range|upload-concat|upload-defer-length|x-amz-copy-source.*|x-amz-write-offset-bytes|"
    # Bytes in another form than the file's.
    r"x-amz-trailer|x-amz-decoded-content-length|"
    # What the store is to do with the object.
    r"x-amz-(?:server-side-encryption|grant|object-lock)-?.*|x-amz-tagging|x-amz-website-redirect-location|"
    # Digests that the standard library cannot compute.
    r"x-amz-checksum-(?!crc32$|sha1$|sha256$|algorithm$|mode$|type$).*"
)

_DIGEST_HEADERS = re.compile(r"content-md5|content-digest|repr-digest|digest|upload-checksum|x-amz-checksum-.*")

_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512", "sha": "sha1", "md5": "md5"}
"""The algorithms of RFC 9530's registry that are computed, and their names in `hashlib`."""

_AMAZON = {"crc32": "crc32", "sha1": "sha1", "sha256": "sha256"}

_SIZES = {"crc32": 4, "md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}


def check_headers(scope: Scope) -> None:
    """Checks a request with a body, or with one to come. Raises `ContentCodingUnsupported` for a coded body, and
    `HeaderUnsupported` for each other header that asks for what is not done here."""
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1").strip().lower()
        if name == "content-encoding":
            if value not in ("", "identity"):
                raise ContentCodingUnsupported
        elif name in _ONLY:
            if value not in _ONLY[name]:
                raise HeaderUnsupported(f"{name}: {value[:40]} is not supported here")
        elif name in _OVERRIDES:
            if value != scope["method"].lower():
                raise HeaderUnsupported(f"{name} is not supported here: send the method itself")
        elif name == "trailer":
            if any(_DIGEST_HEADERS.fullmatch(one.strip()) for one in value.split(",")):
                raise HeaderUnsupported("A checksum in a trailer is not supported: send it as a header")
        elif _NEVER.fullmatch(name):
            raise HeaderUnsupported(f"{name} is not supported here")


@dataclass(frozen=True, slots=True)
class Digest:
    """A digest of a body, as its sender declares it. `algorithm`: a name of `hashlib`, or `crc32`."""

    algorithm: str
    value: bytes


def declared_digests(headers: Mapping[str, str]) -> list[Digest]:
    """The digests that a request's headers declare of its body. Raises `InvalidRequest` for one that cannot be read,
    `HeaderUnsupported` for a header of which no algorithm is known."""
    found: list[Digest] = []
    if (value := headers.get("content-md5")) is not None:
        found.append(_digest("content-md5", "md5", value))
    for name, quote in (("content-digest", ":"), ("repr-digest", ":"), ("digest", "")):
        if (value := headers.get(name)) is not None:
            found += _dictionary(name, value, quote)
    found += [
        _digest(name, algorithm, headers[name])
        for word, algorithm in _AMAZON.items()
        if (name := f"x-amz-checksum-{word}") in headers
    ]
    content = headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
    if re.fullmatch(r"[0-9a-fA-F]{64}", content):
        found.append(Digest("sha256", bytes.fromhex(content)))
    elif content != "UNSIGNED-PAYLOAD":
        raise HeaderUnsupported(f"x-amz-content-sha256: {content[:40]} is not supported here")
    return found


def _dictionary(name: str, text: str, quote: str) -> list[Digest]:
    found: list[Digest] = []
    for pair in text.split(","):
        word, _, value = pair.strip().partition("=")
        if (algorithm := _ALGORITHMS.get(word.lower())) is None:
            continue
        if quote and not (len(value) >= 2 and value.startswith(quote) and value.endswith(quote)):
            raise InvalidRequest(f"{name} cannot be read")
        found.append(_digest(name, algorithm, value.strip(quote) if quote else value))
    if not found:
        raise HeaderUnsupported(f"{name} has none of the algorithms {', '.join(_ALGORITHMS)}")
    return found


def _digest(name: str, algorithm: str, value: str) -> Digest:
    try:
        found = base64.b64decode(value.strip(), validate=True)
    except ValueError as error:
        raise InvalidRequest(f"{name} is not base64") from error
    if len(found) != _SIZES[algorithm]:
        raise InvalidRequest(f"{name} does not have the length of its algorithm")
    return Digest(algorithm, found)


class _Running(Protocol):
    def update(self, data: bytes, /) -> None: ...

    def digest(self) -> bytes: ...


class _Crc32:
    def __init__(self) -> None:
        self._value = 0

    def update(self, data: bytes, /) -> None:
        self._value = zlib.crc32(data, self._value)

    def digest(self) -> bytes:
        return self._value.to_bytes(4, "big")


async def verified(chunks: AsyncIterator[bytes], digests: list[Digest]) -> AsyncIterator[bytes]:
    """Passes a body on, and raises `ChecksumMismatch` at its end when it has another digest than was declared."""
    running: list[tuple[Digest, _Running]] = [
        (one, _Crc32() if one.algorithm == "crc32" else hashlib.new(one.algorithm, usedforsecurity=False))
        for one in digests
    ]
    async for chunk in chunks:
        for _, state in running:
            state.update(chunk)
        yield chunk
    for declared, state in running:
        if not hmac.compare_digest(state.digest(), declared.value):
            raise ChecksumMismatch(f"The {declared.algorithm} of the body differs from the one declared")


class MethodOverride:
    """Middleware for the paths at and below `path`: `X-HTTP-Method-Override` is the method, and the request's own is ignored
    (tus 1.0.0, "Headers"). All other paths pass unchanged."""

    def __init__(self, app: ASGIApp, *, path: str) -> None:
        self._app, self._path, self._below = app, path, f"{path}/"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket."""
        if scope["type"] == "http" and (scope["path"] == self._path or scope["path"].startswith(self._below)):
            method = Headers(scope=scope).get(METHOD_OVERRIDE)
            if method is not None:
                # A copy: the server decides by its own whether an answer has a body.
                own, scope = scope, {**scope, "method": method.strip().upper()}
                try:
                    await self._app(scope, receive, send)
                finally:
                    # By which the log and the metrics name the request.
                    if "route" in scope:
                        own["route"] = scope["route"]
                return
        await self._app(scope, receive, send)
