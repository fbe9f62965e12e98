"""JWTs that are signed with a shared secret (HS256, RFC 7518), as LiveKit and its clients do. Checked by joserfc.

Tokens of people's issuers are never accepted with such a key: for these there is `butai.identity.jwt`.
"""

from __future__ import annotations

from functools import lru_cache

from joserfc import jwk, jws
from joserfc.errors import JoseError

_REGISTRY = jws.JWSRegistry(algorithms=["HS256"])


class NoSharedSecretToken(ValueError):
    """A text that is no JWT with HS256."""


class SharedSecretToken:
    """A token whose signature has not been checked yet. `payload`: the JSON of its claims, to find out whose it may be."""

    def __init__(self, token: bytes) -> None:
        """Reads the token. Raises `NoSharedSecretToken`."""
        try:
            self._read = jws.extract_compact(token, registry=_REGISTRY)
            algorithm = self._read.headers().get("alg")
        except (JoseError, ValueError, TypeError, AttributeError, RecursionError):
            raise NoSharedSecretToken from None
        if algorithm != "HS256":
            raise NoSharedSecretToken
        self.payload: bytes = self._read.payload

    def is_signed_with(self, secret: str) -> bool:
        """Whether `secret` made the signature; never with an empty one."""
        try:
            return bool(secret) and jws.validate_compact(self._read, _key(secret), registry=_REGISTRY)
        except JoseError:
            return False


@lru_cache(maxsize=64)
def _key(secret: str) -> jwk.OctKey:
    """Kept, since making one costs more than a check."""
    return jwk.OctKey.import_key(secret.encode())
