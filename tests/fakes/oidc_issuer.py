"""A fake OpenID Connect issuer: a real HTTP server on loopback, with what real ones do to their clients.

It publishes a discovery document and a key set, can rotate keys, fail, hang, go away and come back, and counts what it
was asked. Tokens are put together by hand on `cryptography`, not by the library that the service checks them with.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Self

from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from butai.embedded.folder import PORTS_FOR_ONE_RUN, choose_port

AUDIENCE = "butai-tests"
_HASHES: dict[str, Callable[[], hashes.HashAlgorithm]] = {
    "256": hashes.SHA256,
    "384": hashes.SHA384,
    "512": hashes.SHA512,
}
_CURVES: dict[str, Callable[[], ec.EllipticCurve]] = {
    "ES256": ec.SECP256R1,
    "ES384": ec.SECP384R1,
    "ES512": ec.SECP521R1,
}


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _number(value: int, size: int | None = None) -> str:
    return b64(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


class SigningKey:
    """A key pair for one algorithm: `RS256`…`PS512`, `ES256`…`ES512`, `EdDSA`."""

    def __init__(self, algorithm: str, kid: str | None, *, bits: int = 2048, tell_algorithm: bool = True) -> None:
        self.algorithm = algorithm
        self.kid = kid
        self.tell_algorithm = tell_algorithm
        if algorithm in ("EdDSA", "Ed25519"):
            self.private = ed25519.Ed25519PrivateKey.generate()
        elif algorithm in _CURVES:
            self.private = ec.generate_private_key(_CURVES[algorithm]())
        else:
            self.private = rsa.generate_private_key(65537, bits)

    def public(self) -> dict[str, Any]:
        """The key in the form of a key set."""
        named: dict[str, Any] = {"use": "sig"}
        if self.kid is not None:
            named["kid"] = self.kid
        if self.tell_algorithm:
            named["alg"] = self.algorithm
        key = self.private.public_key()
        if isinstance(key, rsa.RSAPublicKey):
            numbers = key.public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **named}
        if isinstance(key, ec.EllipticCurvePublicKey):
            point, size = key.public_numbers(), (key.key_size + 7) // 8
            curve = f"P-{key.key_size}"
            return {"kty": "EC", "crv": curve, "x": _number(point.x, size), "y": _number(point.y, size), **named}
        raw = key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), **named}

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, message: bytes) -> bytes:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(message)
        digest = _HASHES[self.algorithm[2:]]()
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            r, s = decode_dss_signature(self.private.sign(message, ec.ECDSA(digest)))
            size = (self.private.key_size + 7) // 8
            return r.to_bytes(size, "big") + s.to_bytes(size, "big")
        if self.algorithm.startswith("PS"):
            return self.private.sign(message, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return self.private.sign(message, padding.PKCS1v15(), digest)

    def token(self, claims: dict[str, Any] | bytes, header: dict[str, Any] | None = None) -> str:
        """A signed JWT. `header` changes its header; a value of None takes the name out."""
        head = {"alg": self.algorithm, "typ": "JWT", "kid": self.kid, **(header or {})}
        head = {name: value for name, value in head.items() if value is not None}
        body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
        message = f"{b64(json.dumps(head).encode())}.{b64(body)}"
        return f"{message}.{b64(self.sign(message.encode()))}"


def hmac_token(secret: bytes, claims: dict[str, Any], header: dict[str, Any]) -> str:
    """A token with a shared secret: what an attacker makes from a public key, if the checker can be confused."""
    message = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{message}.{b64(hmac.new(secret, message.encode(), hashlib.sha256).digest())}"


class OidcIssuer:
    """Use as an async context manager; `url` is the issuer. Change the plain attributes to make it misbehave."""

    def __init__(self) -> None:
        self.keys = [SigningKey("RS256", "first")]
        self.more_keys: list[Any] = []
        self.asked: Counter[str] = Counter()
        self.status = 200
        self.body: bytes | None = None
        self.discovery: dict[str, Any] = {}
        self.gate = asyncio.Event()
        self.gate.set()
        self.port = choose_port(among=PORTS_FOR_ONE_RUN)
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.gate.set()
        await self.stop()

    async def start(self) -> None:
        """Also after `stop`, on the same port."""
        app = web.Application()
        app.router.add_get("/.well-known/openid-configuration", self._discover)
        app.router.add_get("/jwks", self._jwks)
        app.router.add_get("/elsewhere/jwks", self._elsewhere)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()

    async def stop(self) -> None:
        """Stops listening on the port."""
        if self._runner:
            await self._runner.cleanup()
            self._runner = None

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Good ones; a change to None takes the claim out."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "user-1", "iat": now, "exp": now + 300, **changes}
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, **changes: Any) -> str:
        """A good token of the first key, but for the changes."""
        return self.keys[0].token(self.claims(**changes), header)

    async def _discover(self, _: web.Request) -> web.StreamResponse:
        return await self._answer("discovery", {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", **self.discovery})

    async def _jwks(self, _: web.Request) -> web.StreamResponse:
        return await self._answer("jwks", {"keys": [*(key.public() for key in self.keys), *self.more_keys]})

    async def _elsewhere(self, _: web.Request) -> web.StreamResponse:
        self.asked["elsewhere"] += 1
        return web.json_response({"keys": [key.public() for key in self.keys]})

    async def _answer(self, name: str, document: object) -> web.Response:
        self.asked[name] += 1
        await self.gate.wait()
        body = self.body if self.body is not None else json.dumps(document).encode()
        headers = {"Location": f"/elsewhere/{name}"} if self.status in (301, 302) else None
        return web.Response(body=body, status=self.status, content_type="application/json", headers=headers)
