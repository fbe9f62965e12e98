"""Who sent a webhook: LiveKit's signature over the raw bytes. Pure; called by `webhooks`.

`Authorization` holds a JWT (HS256 with an API secret of the project) whose `sha256` is the base64 of the body's SHA-256, so
one token is good for one body. Checked here and not by `livekit-api`, whose receiver raises bare exceptions, knows one key,
and takes a token of any age up to its own `exp`.
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
"""Seconds by which LiveKit's clock may differ from ours. Machines under NTP are milliseconds apart; one that has just woken
or been moved is put right within a minute. LiveKit's tokens live for five, so this makes a stolen one useful for six."""

WINDOW = 600.0
"""Seconds after its signing in which a token is taken, however far away its `exp`. LiveKit signs just before it sends, and
gives up after about half a minute of its own attempts: ten minutes are only reached by somebody who sends it again. What
comes twice within them is known by its id, which is kept for days."""

_LONGEST_TOKEN = 4096
"""Bytes; LiveKit's have about 300."""

_REASONS: dict[Reason, str] = {
    "no_token": "There is no signature: LiveKit sends one in Authorization",
    "malformed": "The signature is no JWT with HS256",
    "unknown_key": "The API key that signed this is not one of ours",
    "signature": "The API secret that signed this is not ours",
    "body": "The signature is of another body",
    "expired": "The signature is too old; do the clocks differ?",
    "too_early": "The signature is of the future; do the clocks differ?",
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
    """The project that sent `body`. `authorization`: the header, bare or behind `Bearer`. `now`: seconds since 1970.

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
    # A host's own access token is signed with the same secret; it has no hash of anything.
    digest = base64.b64encode(hashlib.sha256(body).digest())
    if not hmac.compare_digest(claims.sha256.encode(), digest):
        raise refused("body")
    _check_times(claims, now)
    return project


def refused(reason: Reason) -> WebhookRefused:
    """The error of this reason."""
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
    """One look for a sender: its headers are all the same."""
    return _decode_header(_decoded(head)).alg == "HS256"


_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def _decoded(part: bytes) -> bytes:
    return binascii.a2b_base64(part.translate(_URL_SAFE) + b"=" * (-len(part) % 4), strict_mode=True)
