"""The keys that an OpenID Connect issuer publishes: fetched, cached, and used to verify signed tokens (JWS, RFC 7515).

Only public keys made for signatures are accepted (RFC 8725): never `none`, never a shared secret, and each key only for
the algorithms of its kind. The rules about a token's claims are in `butai.identity.bearer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jwk, jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwa import JWSAlgModel

from butai.errors import Unavailable

log = structlog.get_logger(__name__)

KEYS_SECONDS = 600.0
"""Seconds for which fetched keys count as fresh. A key that the issuer withdraws is accepted for at most this long,
while the issuer can be reached."""

UNKNOWN_KEY_SECONDS = 30.0
"""Seconds between two fetches caused by unknown key ids, which any client can invent."""

RETRY_SECONDS = 5.0
"""Seconds between a failed fetch and the next: the `Retry-After` of a 503."""

FETCH_SECONDS = 5.0
"""Most seconds for one fetch."""

MAX_DOCUMENT_BYTES = 1024**2
"""Most bytes of a fetched document; key sets have a few kB."""

_RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_CURVES = {
    "P-256": frozenset({"ES256"}),
    "P-384": frozenset({"ES384"}),
    "P-521": frozenset({"ES512"}),
    "Ed25519": frozenset({"EdDSA", "Ed25519"}),
    "Ed448": frozenset({"EdDSA", "Ed448"}),
}
ALGORITHMS = _RSA.union(*_CURVES.values())

_T = TypeVar("_T")


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


class _PublishedKey(msgspec.Struct):
    kty: str
    kid: str | None = None
    use: str = "sig"
    alg: str | None = None
    key_ops: tuple[str, ...] = ("verify",)
    n: str | None = None
    e: str | None = None
    crv: str | None = None
    x: str | None = None
    y: str | None = None


@dataclass(frozen=True, slots=True, repr=False)
class IssuerKey:
    """A public key with the algorithms that it may be used for."""

    kid: str | None
    algorithms: frozenset[str]
    key: jwk.Key


class _Registry(jws.JWSRegistry):
    """A joserfc registry that takes headers longer than its 512 bytes (certificates in `x5c`), and with unknown
    names."""

    max_header_length = 8192

    def __init__(self) -> None:
        super().__init__(strict_check_header=False)

    def get_alg(self, name: str) -> JWSAlgModel:
        # Without joserfc's warning that `EdDSA` has a newer name: issuers choose it, and the warning would fill the
        # log.
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError
        return self.algorithms[name]


_REGISTRY = _Registry()


class IssuerKeys:
    """The keys of one issuer: fetched when first needed, cached, and fetched again when old or when a key is unknown.

    One fetch at a time, shared by all waiting requests. Cached keys keep working while the issuer is down.
    """

    def __init__(self, issuer: str, jwks_url: str, http: aiohttp.ClientSession, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._jwks_url = jwks_url
        self._http = http
        self._clock = clock
        self._keys: Sequence[IssuerKey] = ()
        self._fetched_at = float("-inf")
        self._tried_at = float("-inf")
        self._searched_at = float("-inf")
        self._failing = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> Sequence[IssuerKey]:
        """The keys that may have signed a token: those with that id (any id if the token has none) and algorithm.

        Raises `Unavailable` when the keys must be fetched and the issuer does not answer.
        """
        if not self._keys:
            await self._fetch_after(self._tried_at + RETRY_SECONDS)
        elif self._clock() >= self._fetched_at + KEYS_SECONDS and self._clock() >= self._tried_at + RETRY_SECONDS:
            self._start()  # and use the cached keys: an issuer that hangs must not slow every request down
        found = self._matching(kid, algorithm)
        if not found and self._keys and kid is not None:
            if self._clock() >= self._searched_at + UNKNOWN_KEY_SECONDS:
                self._searched_at = self._clock()
                await self._fetch_after(float("-inf"))
            elif self._fetching:
                await self._wait(self._fetching)
            found = self._matching(kid, algorithm)
        if not found and self._failing:
            raise Unavailable("The issuer of the token does not answer")
        return found

    async def close(self) -> None:
        """Cancels a fetch that is under way."""
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _matching(self, kid: str | None, algorithm: str) -> Sequence[IssuerKey]:
        return [key for key in self._keys if kid in (None, key.kid) and algorithm in key.algorithms]

    async def _fetch_after(self, earliest: float) -> None:
        if self._fetching is None and self._clock() >= earliest:
            self._start()
        if self._fetching:
            await self._wait(self._fetching)

    async def _wait(self, fetching: asyncio.Task[None]) -> None:
        # Shielded: the client of one request may disconnect while others still wait for the same fetch.
        await asyncio.shield(fetching)

    def _start(self) -> None:
        if self._fetching is None:
            self._tried_at = self._clock()
            self._fetching = asyncio.create_task(self._fetch())
            self._fetching.add_done_callback(self._ended)

    def _ended(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch(self) -> None:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                keys = await self._ask()
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self._failing = True
            log.warning(
                "oidc.keys_failed",
                issuer=self._issuer,
                error=type(error).__name__,
                detail=str(error),
                kept=len(self._keys),
            )
            return
        self._failing = False
        self._keys, self._fetched_at = keys, self._clock()
        log.info("oidc.keys_fetched", issuer=self._issuer, keys=len(keys))

    async def _ask(self) -> Sequence[IssuerKey]:
        url = self._jwks_url
        if not url:
            found = await self._get(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration", _Discovery)
            if found.issuer != self._issuer:
                raise ValueError("the discovery document names another issuer")
            url = found.jwks_uri
            if urlsplit(url).scheme != "https" and urlsplit(self._issuer).scheme == "https":
                raise ValueError("jwks_uri is not https")
        keys = [key for key in map(_usable, (await self._get(url, _KeySet)).keys[:100]) if key]
        if not keys:
            raise ValueError("no usable key among those published")
        return keys

    async def _get(self, url: str, kind: type[_T]) -> _T:
        # No redirects: they could lead from https to http.
        async with self._http.get(url, allow_redirects=False, headers={"Accept": "application/json"}) as response:
            if response.status != 200:
                raise ValueError(f"status {response.status}")
            body = bytearray()
            async for block in response.content.iter_any():
                body += block
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise ValueError("the document is too large")
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError("the document cannot be read") from error


def _usable(raw: msgspec.Raw) -> IssuerKey | None:
    """A published key, if it is a signature key of a supported kind; a set may hold others too."""
    try:
        published = msgspec.json.decode(raw, type=_PublishedKey)
        if published.use != "sig" or "verify" not in published.key_ops:
            return None
        # The public numbers alone: the other members are not needed.
        numbers = {"n": published.n, "e": published.e, "crv": published.crv, "x": published.x, "y": published.y}
        members: dict[str, str | list[str]] = {name: value for name, value in numbers.items() if value is not None}
        members["kty"] = published.kty
        key = jwk.import_key(members)
    except (msgspec.MsgspecError, JoseError, UnsupportedAlgorithm, ValueError, KeyError) as error:
        log.info("oidc.key_skipped", error=type(error).__name__)
        return None
    if isinstance(key, jwk.RSAKey):
        algorithms = _RSA if key.raw_value.key_size >= 2048 else frozenset[str]()
    else:
        # A shared secret (`oct`) has no curve, and does not belong in a public set.
        algorithms = _CURVES.get(published.crv or "", frozenset())
    if published.alg is not None:
        algorithms &= {published.alg}
    return IssuerKey(published.kid, algorithms, key) if algorithms else None


def is_signed(token: bytes, key: IssuerKey) -> bool:
    """Whether `key` made the token's signature."""
    try:
        jws.deserialize_compact(token, key.key, registry=_REGISTRY)
    except (JoseError, ValueError):
        return False
    return True
