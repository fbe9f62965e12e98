"""Verifies LiveKit's signature over a webhook's raw bytes. Pure.

`Authorization` holds a JWT (HS256 with an API secret of the project) whose claim `sha256` is the base64 of the body's
SHA-256, so a token is valid for one body. `livekit-api` is not used for this: its receiver raises bare exceptions,
knows one key, and accepts a token of any age up to its own `exp`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

import msgspec

from butai.errors import WebhookRefused
from butai.identity.shared_secret import NoSharedSecretToken, SharedSecretToken
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


class _Claims(msgspec.Struct):
    iss: str = ""
    exp: float | None = None
    nbf: float | None = None
    iat: float | None = None
    sha256: str = ""


_decode_claims = msgspec.json.Decoder(_Claims).decode


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender of a webhook whose body has not been seen: its project, and the hash of the body that it signed."""

    project: Project
    sha256: str

    def check_body(self, body: bytes) -> None:
        """Raises `WebhookRefused` unless `body` is what was signed."""
        # A host's access token is signed with the same secret, but has no hash.
        digest = base64.b64encode(hashlib.sha256(body).digest())
        if not hmac.compare_digest(self.sha256.encode(), digest):
            raise refused("body")


def read_sender(projects: Projects, authorization: bytes | None, now: float) -> Sender:
    """The sender that `authorization`, the header with or without `Bearer`, proves. `now`: seconds since 1970.

    Raises `WebhookRefused`, whose `reason` is one of `Reason`.
    """
    if not authorization:
        raise refused("no_token")
    token = authorization[7:].strip() if authorization[:7].lower() == b"bearer " else authorization
    if len(token) > _LONGEST_TOKEN:
        raise refused("malformed")
    try:
        signed = SharedSecretToken(token)
        claims = _decode_claims(signed.payload)
    except (NoSharedSecretToken, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise refused("malformed") from None
    candidates = projects.of_key(claims.iss)
    project = next((candidate for candidate, key in candidates if signed.is_signed_with(key.api_secret)), None)
    if project is None:
        raise refused("signature" if candidates else "unknown_key")
    _check_times(claims, now)
    return Sender(project, claims.sha256)


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
