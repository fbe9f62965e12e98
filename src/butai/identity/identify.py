"""`Identity`: from a request's headers to a caller, for every kind of credential."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Collection, MutableMapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import aiohttp
import structlog
from cachetools import TLRUCache

from butai.config import IdentitySettings
from butai.errors import Unauthenticated
from butai.identity.api_keys import TOKEN_PREFIX, ApiKeys
from butai.identity.bearer import BearerTokens
from butai.identity.caller import ANONYMOUS, LEEWAY, USER, USER_AND_OPERATOR, Caller
from butai.identity.origins import SAFE_METHODS, Headers, check_origin, normal_origin, seen_origin
from butai.identity.sessions import MARK, Sessions, session_tokens
from butai.identity.suspensions import Suspensions

log = structlog.get_logger(__name__)

REMEMBER_SECONDS = 60.0
"""Seconds for which a verified token is accepted without verifying it again, or until it ends."""

REMEMBER_TOKENS = 4096
"""Verified tokens kept in memory, about 0.5 kB each; the least recently used go first."""


class Identity:
    """Turns a request's headers into a `Caller`.

    `api_keys`: None without a database (then API keys are refused). `http`: fetches the issuer's keys; required if an
    issuer is set. `suspensions`: None without a database.
    `allowed_origins`, `public_url`: from `HttpSettings`, for writes by cookie. `host`: the
    caller that a room's host token identifies, None for any other text.
    Raises `ValueError` when the settings contradict themselves.
    """

    def __init__(
        self,
        settings: IdentitySettings,
        *,
        api_keys: ApiKeys | None = None,
        http: aiohttp.ClientSession | None = None,
        suspensions: Suspensions | None = None,
        allowed_origins: Collection[str] = (),
        public_url: str = "",
        host: Callable[[str], Caller | None] = lambda _token: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._sessions = Sessions(settings)
        self._operators = frozenset(settings.operators)
        self._host = host
        self._api_keys = api_keys
        self._suspensions = suspensions
        self._bearers: BearerTokens | None = None
        if settings.oidc_issuer:
            if http is None:
                raise ValueError("an HTTP session is needed to fetch the issuer's keys")
            self._bearers = BearerTokens(settings, http)
        self._allowed_origins = frozenset(filter(None, map(normal_origin, allowed_origins)))
        self._public_origin = normal_origin(public_url)
        self._clock = clock
        # By a hash, so that a dump of this process's memory holds no sessions.
        self._known: TLRUCache[bytes, tuple[Caller, float]] = TLRUCache(
            REMEMBER_TOKENS,
            lambda _digest, known, now: min(known[1] + LEEWAY, now + REMEMBER_SECONDS),
            clock,
        )
        """Callers, with the ends of their tokens."""

    async def close(self) -> None:
        """Ends background tasks."""
        if self._bearers:
            await self._bearers.keys.close()

    async def identify_request(self, scope: MutableMapping[str, Any]) -> Caller:
        """The caller of an ASGI `http` or `websocket` scope.

        Raises the exceptions of `identify`, and `OriginDenied` when another site tries to write with the caller's
        cookie. A WebSocket counts as a write, since browsers let any page open one.
        """
        headers = scope["headers"]
        caller = await self.identify(headers)
        # Before anything is parsed: most requests only read.
        if caller.by_cookie and scope.get("method", "") not in SAFE_METHODS:
            own = [origin for origin in (self._public_origin, seen_origin(scope["scheme"], headers)) if origin]
            check_origin(scope.get("method", ""), headers, self._allowed_origins, own)
        return caller

    async def identify(self, headers: Headers) -> Caller:
        """The sender of these raw ASGI headers (names in lower case); `ANONYMOUS` if they hold no credential.

        Raises `Unauthenticated` for a credential that is not accepted, `UserSuspended` for one of a suspended user,
        `Unavailable` when it cannot be verified now.
        """
        caller = await self._by_credential(headers)
        if caller.user_id is not None and self._suspensions is not None:
            await self._suspensions.check(caller.user_id)
        return caller

    async def _by_credential(self, headers: Headers) -> Caller:
        authorization = api_key = cookie = None
        try:
            for name, value in headers:
                if name == b"cookie":
                    # HTTP/2 may split the header.
                    cookie = value if cookie is None else cookie + b";" + value
                elif name == b"authorization":
                    if authorization is not None:
                        raise Unauthenticated("There are several Authorization headers")
                    authorization = value
                elif name == b"x-api-key":
                    if api_key is not None:
                        raise Unauthenticated("There are several X-API-Key headers")
                    api_key = value
            if authorization is not None:
                return await self._by_authorization(authorization)
            if api_key is not None:
                return await self._by_api_key(api_key.strip())
            if cookie is not None and MARK in cookie:
                return self._by_cookie(cookie)
        except Unauthenticated as refused:
            log.info("identity.refused", reason=refused.detail)
            raise
        return ANONYMOUS

    async def _by_authorization(self, value: bytes) -> Caller:
        scheme, _, token = value.strip().partition(b" ")
        token = token.strip()
        if scheme.lower() != b"bearer" or not token:
            # Also `Basic`: a proxy with a password of its own in front of this service must not pass that on.
            raise Unauthenticated("Authorization must be a bearer token")
        if token.startswith(TOKEN_PREFIX):
            return await self._by_api_key(token)
        host = self._host(token.decode("latin-1"))
        if host is not None:
            return host
        if self._bearers is None:
            raise Unauthenticated("No issuer of bearer tokens is set up here")
        digest = hashlib.sha256(b"bearer " + token).digest()
        try:
            known = self._known[digest]
        except KeyError:
            known = self._known[digest] = await self._bearers.check(token, self._clock())
        return known[0]

    async def _by_api_key(self, token: bytes) -> Caller:
        if self._api_keys is None:
            raise Unauthenticated("API keys are not set up here")
        key = await self._api_keys.check(token)
        scopes = USER_AND_OPERATOR if "operator" in key.scopes else USER
        return Caller(user_id=key.user_id, kind="api_key", scopes=scopes)

    def _by_cookie(self, cookie: bytes) -> Caller:
        first_refusal: Unauthenticated | None = None
        for name, token in session_tokens(cookie):
            digest = hashlib.sha256(name + b"=" + token).digest()
            # Not `get`, which looks twice: 4.4 µs in place of 0.9.
            with suppress(KeyError):
                return self._known[digest][0]
            try:
                caller, expires = self._sessions.read(name, token, self._clock())
            except Unauthenticated as refused:
                first_refusal = first_refusal or refused
                continue
            if caller.user_id in self._operators:
                caller = replace(caller, scopes=USER_AND_OPERATOR)
            self._known[digest] = caller, expires
            return caller
        if first_refusal is not None:
            raise first_refusal
        return ANONYMOUS
