"""Verifies LiveKit's signature over a webhook's raw bytes. Pure.

`Authorization` holds a JWT (HS256 with an API secret of the project) whose claim `sha256` is the base64 of the body's
SHA-256, so a token is valid for one body. `livekit-api` is not used for this: its receiver raises bare exceptions,
knows one key, and accepts a token of any age up to its own `exp`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from functools import lru_cache
from typing import Literal

import msgspec

from butai.errors import WebhookRefused
from butai.live.projects import Project, Projects

Reason = Literal["no_token", "malformed", "unknown_key", "signature", "body", "expired", "too_early"]

LEEWAY = 60.0
"""Seconds by which LiveKit's clock may differ from ours. Machines under NTP are milliseconds apart; one that has just
resumed or migrated is corrected within a minute. LiveKit's tokens are valid for 5 minutes, so a stolen one works for
6."""

WINDOW = 600.0
"""Seconds after signing for which a token is accepted, whatever its `exp`. LiveKit signs just before it sends and gives
up after about 30 s of attempts, so only a replay is older. A replay within the window is recognised by its id, which is
stored for days."""

_LONGEST_TOKEN = 4096
"""Most bytes of a token that is parsed; LiveKit's have about 300."""

_REASONS: dict[Reason, str] = {
    "no_token": "The signature is missing: LiveKit sends one in Authorization",
    "malformed": "The signature is not a JWT with HS256",
    "unknown_key": "The API key that signed this is not one of ours",
    "signature": "The API secret that signed this is not ours",
    "body": "The signature belongs to another body",
    "expired": "The signature is too old; do the clocks differ?",
    "too_early": "The signature is from the future; do the clocks differ?",
}


class _Header(msgspec.Struct):
    alg: str


class _Claims(msgspec.Struct):
    iss: str = ""
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None
    sha256: str = ""


_decode_claims = msgspec.json.Decoder(_Claims).decode
_decode_header = msgspec.json.Decoder(_Header).decode


def verify(projects: Projects, authorization: bytes | None, body: bytes, now: float) -> Project:
    """The project that sent `body`. `authorization`: the header, with or without `Bearer`. `now`: seconds since 1970.

    Raises `WebhookRefused`, whose `reason` is one of `Reason`.
    """
    if not authorization:
        raise refused("no_token")
    token = authorization[7:].strip() if authorization[:7].lower() == b"bearer " else authorization
    signed, _, signature = token.rpartition(b".")
    head, _, payload = signed.partition(b".")
    try:
        if len(token) > _LONGEST_TOKEN or not _is_hs256(head):
            raise refused("malformed")
        given, claims = _decoded(signature), _decode_claims(_decoded(payload))
    except (binascii.Error, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise refused("malformed") from None
    candidates = projects.of_key(claims.iss)
    for candidate, key in candidates:
        if hmac.compare_digest(hmac.digest(key.api_secret.encode(), signed, "sha256"), given):
            project = candidate
            break
    else:
        raise refused("signature" if candidates else "unknown_key")
    # A host's access token is signed with the same secret, but has no hash.
    digest = base64.b64encode(hashlib.sha256(body).digest())
    if not hmac.compare_digest(claims.sha256.encode(), digest):
        raise refused("body")
    _check_times(claims, now)
    return project


def refused(reason: Reason) -> WebhookRefused:
    """A `WebhookRefused` with this reason and its sentence."""
    return WebhookRefused(_REASONS[reason], reason=reason)


def _check_times(claims: _Claims, now: float) -> None:
    if claims.exp is None or claims.exp + LEEWAY < now:
        raise refused("expired")
    if max(claims.nbf or 0, claims.iat or 0) - LEEWAY > now:
        raise refused("too_early")
    signed_at = claims.nbf if claims.iat is None else claims.iat
    if signed_at is None or signed_at + WINDOW < now:
        raise refused("expired")


@lru_cache(maxsize=16)
def _is_hs256(head: bytes) -> bool:
    """Whether a JWT's header names HS256. Cached, since a sender's headers are all the same."""
    return _decode_header(_decoded(head)).alg == "HS256"


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _decoded(part: bytes) -> bytes:
    return binascii.a2b_base64(part.translate(_URL_SAFE) + b"=" * (-len(part) % 4), strict_mode=True)
