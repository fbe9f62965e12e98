"""Bearer tokens: signed JWTs of an OpenID Connect issuer, verified with the keys that the issuer publishes.

Rules from RFC 7519, RFC 8725 (best practice) and OpenID Connect Discovery:
issuer and audience must match, the algorithm is on our list (never `none`, never a shared secret), and the key must be
made for it (`butai.identity.jwt`).

The scope `butai:operator`, in the claim `scope` (words in a string) or `scp` (a list or a string), makes the caller an
operator; so the issuer must give that scope to operators alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import aiohttp
import msgspec
import structlog
from joserfc.util import urlsafe_b64decode

from butai.config import IdentitySettings
from butai.errors import Unauthenticated
from butai.identity.caller import USER, USER_AND_OPERATOR, Caller, check_times, shown, usable_user_id
from butai.identity.jwt import ALGORITHMS, IssuerKeys, is_signed

log = structlog.get_logger(__name__)

OPERATOR_SCOPE = "butai:operator"

MAX_TOKEN_BYTES = 16 * 1024
"""The limit for sessions too; real access tokens have 1 to 4 kB."""

# RFC 8725 §3.11: tokens made for another purpose (logout, events, DPoP proofs) have another type, and are refused.
_TYPES = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})

_T = TypeVar("_T")


class _Header(msgspec.Struct):
    alg: str
    kid: str | None = None
    typ: str | None = None
    crit: Any = None
    b64: Any = None


class _Claims(msgspec.Struct):
    iss: str
    aud: str | list[str]
    exp: float
    nbf: float | None = None
    sub: Any = None
    scope: Any = None
    scp: Any = None
    name: Any = None
    email: Any = None


class BearerTokens:
    """Verifies the tokens of one issuer."""

    def __init__(
        self, settings: IdentitySettings, http: aiohttp.ClientSession, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if not settings.oidc_audience:
            raise ValueError("BUTAI_OIDC_AUDIENCE is not set: tokens for other services would be accepted")
        self._issuer = settings.oidc_issuer
        self._audience = settings.oidc_audience
        self.keys = IssuerKeys(settings.oidc_issuer, settings.oidc_jwks_url, http, clock)

    async def check(self, token: bytes, now: float) -> tuple[Caller, float]:
        """The token's caller, and the token's end (seconds since 1970).

        Raises `Unauthenticated`, or `Unavailable` when the issuer's keys are needed and cannot be fetched.
        """
        if len(token) > MAX_TOKEN_BYTES:
            raise Unauthenticated("The token is too long")
        parts = token.split(b".")
        if len(parts) != 3:
            raise Unauthenticated("The token cannot be read")
        header = _decode(_Header, parts[0])
        if header.alg not in ALGORITHMS:
            raise Unauthenticated("The token's signature algorithm is not accepted")
        if header.crit is not None or header.b64 is not None:
            raise Unauthenticated("The token needs extensions that are not supported")
        if header.typ is not None and header.typ.lower() not in _TYPES:
            raise Unauthenticated("The token was made for another purpose")

        # First the checks that need no key: nothing is trusted yet, but a foreign token must not make us call the
        # issuer.
        claims = _decode(_Claims, parts[1])
        if claims.iss != self._issuer:
            raise Unauthenticated("The token is from another issuer")
        audiences = [claims.aud] if isinstance(claims.aud, str) else claims.aud
        if self._audience not in audiences:
            raise Unauthenticated("The token is for another audience")
        check_times(claims.exp, claims.nbf, now)

        keys = await self.keys.find(header.kid, header.alg)
        if not any(is_signed(token, key) for key in keys):
            raise Unauthenticated("The token is not signed by its issuer")
        caller = Caller(
            user_id=usable_user_id(claims.sub),
            kind="bearer",
            scopes=USER_AND_OPERATOR if OPERATOR_SCOPE in _words(claims.scope, claims.scp) else USER,
            name=shown(claims.name),
            email=shown(claims.email),
        )
        return caller, claims.exp


def _decode(kind: type[_T], segment: bytes) -> _T:
    try:
        return msgspec.json.decode(urlsafe_b64decode(segment), type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        raise Unauthenticated("The token cannot be read") from None


def _words(*claims: object) -> set[str]:
    words: set[str] = set()
    for claim in claims:
        if isinstance(claim, str):
            words.update(claim.split())
        elif isinstance(claim, list):
            words.update(word for word in claim if isinstance(word, str))
    return words
