"""Session cookies of NextAuth 4 and Auth.js 5: the studio signs users in, and this service reads its cookies.

Both are compact JWE with `alg=dir`: the claims are encrypted with a key derived from a secret that the studio and
this service share.

Formats: next-auth 4.24 `jwt/index.js`, @auth/core 0.34 `jwt.js`; the fixed values in
`tests/unit/test_identity_vectors.json` were made by these packages.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from joserfc import jwe, jwk
from joserfc.errors import JoseError
from joserfc.util import urlsafe_b64decode
from pydantic import SecretStr

from butai.config import IdentitySettings
from butai.errors import Unauthenticated
from butai.identity.caller import USER, Caller, check_times, shown, usable_user_id

NEXTAUTH_COOKIE = "next-auth.session-token"
AUTHJS_COOKIE = "authjs.session-token"

# The order in which several session cookies are tried; the first accepted one decides. Cookies are not bound to a port:
# a browser on localhost sends those of every project that ever ran there, and a studio that moved to Auth.js leaves
# NextAuth's behind. `__Secure-` first, because a page without TLS cannot have set it.
COOKIES = (
    b"__Secure-authjs.session-token",
    b"authjs.session-token",
    b"__Secure-next-auth.session-token",
    b"next-auth.session-token",
)
MARK = b".session-token"

MAX_TOKEN_BYTES = 16 * 1024
"""Node refuses requests whose headers are larger, so no studio can have a longer session."""

SESSION_SECONDS = 30 * 24 * 3600
"""The lifetime of a NextAuth session by default."""


_T = TypeVar("_T")


class _Header(msgspec.Struct):
    alg: str
    enc: str
    kid: str | None = None
    zip: Any = None
    crit: Any = None


class _Claims(msgspec.Struct):
    exp: float
    nbf: float | None = None
    id: Any = None
    sub: Any = None
    name: Any = None
    email: Any = None


@dataclass(frozen=True, slots=True, repr=False)
class _Key:
    key: jwk.OctKey
    thumbprint: str


@dataclass(frozen=True, slots=True, repr=False)
class _Format:
    """How the cookies of one name are encrypted."""

    enc: str
    keys: tuple[_Key, ...]
    registry: jwe.JWERegistry


class Sessions:
    """Reads session cookies with the secrets of the settings. Each studio's package uses the other's variable when its
    own is not set (NextAuth 4 `AUTH_SECRET`, Auth.js 5 `NEXTAUTH_SECRET`), and so does this."""

    def __init__(self, settings: IdentitySettings) -> None:
        nextauth = _secrets(settings.nextauth_secret) or _authjs_secrets(settings)
        authjs = _authjs_secrets(settings) or _secrets(settings.nextauth_secret)
        self._formats: dict[bytes, _Format] = {}
        for cookie in COOKIES:
            if cookie.endswith(NEXTAUTH_COOKIE.encode()):
                self._formats[cookie] = _nextauth4(nextauth)
            else:
                self._formats[cookie] = _authjs5(authjs, cookie)

    def read(self, cookie: bytes, token: bytes, now: float) -> tuple[Caller, float]:
        """The user of the session in `cookie`, and its end (seconds since 1970). Raises `Unauthenticated`.

        The user is the claim `id`, or `sub` where there is none. NextAuth writes `sub` by itself; `id` is there only
        if the studio's own code put it there, and is then what the studio calls the user. The difference is important:
        without a database Auth.js 5 makes a new random `sub` at each sign-in, and NextAuth 4 uses the provider's
        account number, which two providers can share.
        """
        kind = self._formats[cookie]
        if not kind.keys:
            raise Unauthenticated("Sessions of this kind are not configured")
        claims = _decode(_Claims, _open(kind, token))
        check_times(claims.exp, claims.nbf, now)
        user = claims.id if claims.id not in (None, "") else claims.sub
        caller = Caller(
            user_id=usable_user_id(user),
            kind="session",
            scopes=USER,
            by_cookie=True,
            name=shown(claims.name),
            email=shown(claims.email),
        )
        return caller, claims.exp


def session_tokens(cookie: bytes) -> Sequence[tuple[bytes, bytes]]:
    """The session tokens in a `Cookie` header as (cookie name, token), in the order in which to try them.

    A token is one cookie, or is split into `name.0`, `name.1`, … when it is too long for one. Both may be present when
    an old one was left behind. Of two cookies of one name the first counts, as browsers send the more specific path
    first. Parsed by hand, since this runs for every request and `http.cookies` takes 20 times as long.
    """
    whole: dict[bytes, bytes] = {}
    chunks: dict[bytes, dict[int, bytes]] = {}
    for part in cookie.split(b";"):
        if MARK not in part:
            continue
        name, _, value = part.strip().partition(b"=")
        stem, mark, number = name.partition(MARK)
        stem += mark
        if not value or stem not in COOKIES:
            continue
        if not number:
            whole.setdefault(stem, value)
        elif number[:1] == b"." and number[1:].isdigit() and len(number) <= 4:
            chunks.setdefault(stem, {}).setdefault(int(number[1:]), value)
    if not chunks and len(whole) == 1:
        return tuple(whole.items())
    found: list[tuple[bytes, bytes]] = []
    for name in COOKIES:
        if name in whole:
            found.append((name, whole[name]))
        if name in chunks:
            found.append((name, b"".join(chunk for _, chunk in sorted(chunks[name].items()))))
    return found


def mint_nextauth4(settings: IdentitySettings, claims: dict[str, Any]) -> str:
    """A NextAuth 4 session token for `claims`, valid for 30 days. Raises `ValueError` without a secret."""
    secrets = _secrets(settings.nextauth_secret) or _authjs_secrets(settings)
    if not secrets:
        raise ValueError("NEXTAUTH_SECRET is not set")
    kind = _nextauth4(secrets[:1])
    now = int(time.time())
    sealed = {**claims, "iat": now, "exp": now + SESSION_SECONDS, "jti": str(uuid.uuid4())}
    return jwe.encrypt_compact(
        {"alg": "dir", "enc": kind.enc}, json.dumps(sealed), kind.keys[0].key, registry=kind.registry
    )


def derive(secret: str, salt: str, info: str, length: int) -> bytes:
    """HKDF-SHA256 (RFC 5869), as both packages use it: texts are UTF-8, `length` is bytes."""
    return HKDF(SHA256(), length, salt.encode(), info.encode()).derive(secret.encode())


def _secrets(setting: SecretStr) -> tuple[str, ...]:
    """The secrets in a setting: its parts between commas, and the whole value, in case a secret has a comma."""
    whole = setting.get_secret_value().strip()
    parts = [part.strip() for part in whole.split(",")]
    return tuple(dict.fromkeys(part for part in (*parts, whole) if part))


def _authjs_secrets(settings: IdentitySettings) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for setting in settings.authjs_secrets.values() for one in _secrets(setting)))


def _nextauth4(secrets: Sequence[str]) -> _Format:
    raw = [derive(secret, "", "NextAuth.js Generated Encryption Key", 32) for secret in secrets]
    return _format("A256GCM", raw)


def _authjs5(secrets: Sequence[str], cookie: bytes) -> _Format:
    salt = cookie.decode()
    raw = [derive(secret, salt, f"Auth.js Generated Encryption Key ({salt})", 64) for secret in secrets]
    return _format("A256CBC-HS512", raw)


def _format(enc: str, raw: Sequence[bytes]) -> _Format:
    keys = [jwk.OctKey.import_key(value) for value in raw]
    # Auth.js names the key in `kid`: the RFC 7638 thumbprint with the hash that is as wide as the key.
    named = tuple(_Key(key, jwk.thumbprint({"kty": "oct", "k": key.as_dict()["k"]}, "sha512")) for key in keys)
    return _Format(enc, named, jwe.JWERegistry(algorithms=["dir", enc]))


def _open(kind: _Format, token: bytes) -> bytes:
    """Decrypts a token. Raises `Unauthenticated`."""
    if len(token) > MAX_TOKEN_BYTES:
        raise Unauthenticated("The session is too long")
    try:
        head = urlsafe_b64decode(token.partition(b".")[0])
    except ValueError:
        raise Unauthenticated("The session cannot be read") from None
    header = _decode(_Header, head)
    # No compression, ever: a few bytes could expand to gigabytes.
    if header.alg != "dir" or header.enc != kind.enc or header.zip is not None or header.crit is not None:
        raise Unauthenticated("The session is of an unknown kind")
    for key in kind.keys:
        if header.kid is not None and header.kid != key.thumbprint:
            continue
        try:
            plain = jwe.decrypt_compact(token, key.key, registry=kind.registry).plaintext
        except (JoseError, ValueError):
            plain = None  # the next secret may be the right one
        if plain is not None:
            return plain
    raise Unauthenticated("The session was not made with this studio's secret")


def _decode(kind: type[_T], raw: bytes) -> _T:
    try:
        # Not msgspec's own parser: it refuses half an emoji, which JavaScript leaves where it cuts a name short.
        return msgspec.convert(json.loads(raw), kind)
    except (msgspec.ValidationError, ValueError, RecursionError):
        raise Unauthenticated("The session cannot be read") from None
