"""Checks that users can sign in, and that no weak secret or switch lets others in. Part of `butai doctor`."""

from __future__ import annotations

from typing import TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from butai.config import Settings
from butai.doctor.asking import Answer, send
from butai.doctor.browsers import is_here
from butai.doctor.findings import Findings

SHORTEST_SECRET = 16
"""Characters. With a secret that can be guessed, anyone signs in as any user; `openssl rand -base64 32` makes 44."""


_T = TypeVar("_T")


class _Discovery(msgspec.Struct):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct):
    keys: list[msgspec.Raw]


async def examine_sign_in(settings: Settings, findings: Findings) -> None:
    """Adds findings; fetches the issuer's keys where an issuer is set."""
    of = settings.identity
    secrets = {
        name: value.get_secret_value()
        for name, value in (("NEXTAUTH_SECRET", of.nextauth_secret), *of.authjs_secrets.items())
        if value.get_secret_value()
    }
    for name, value in secrets.items():
        pieces = [piece.strip() for piece in value.split(",") if piece.strip()]
        if not pieces or min(map(len, pieces)) < SHORTEST_SECRET:
            findings.warn(
                "sessions",
                f"{name} is shorter than {SHORTEST_SECRET} characters: an attacker who guesses it signs in as any user",
                "make a new one, for the studio and here: openssl rand -base64 32",
            )
        else:
            findings.ok("sessions", f"those of the studio with this {name} are accepted")
    if not secrets and not of.oidc_issuer:
        findings.warn(
            "sessions",
            "no studio's sessions and no issuer's tokens are accepted: only API keys work",
            "export NEXTAUTH_SECRET='the one of your studio', or BUTAI_OIDC_ISSUER=https://… BUTAI_OIDC_AUDIENCE=butai",
        )
    _development(settings, findings, has_secret=bool(secrets))
    if of.oidc_issuer:
        await _issuer(settings, findings)


def _development(settings: Settings, findings: Findings, *, has_secret: bool) -> None:
    of, host = settings.identity, settings.http.host
    if not of.dev_sign_in:
        return
    if not is_here(host):
        findings.broken(
            "development sign-in",
            f"is on while the API listens on {host}",
            "unset BUTAI_DEV_SIGN_IN, or set BUTAI_HOST=127.0.0.1: it is for this machine alone",
        )
    elif settings.http.public_url and not is_here(urlsplit(settings.http.public_url).hostname or ""):
        findings.broken(
            "development sign-in",
            f"is on while the service's public address is {settings.http.public_url}",
            "unset BUTAI_DEV_SIGN_IN: it is for a developer's own machine alone",
        )
    elif not has_secret:
        findings.broken("development sign-in", "is on, and has no secret to sign with", "export NEXTAUTH_SECRET=…")
    else:
        findings.ok("development sign-in", "is on, by the links of butai sign-in, for this machine only")


async def _issuer(settings: Settings, findings: Findings) -> None:
    of = settings.identity
    if not of.oidc_audience:
        findings.broken(
            "issuer",
            "BUTAI_OIDC_AUDIENCE is not set, and the API does not start without it",
            "export BUTAI_OIDC_AUDIENCE=… as the issuer writes it into tokens for this service",
        )
    address = of.oidc_jwks_url
    async with aiohttp.ClientSession() as http:
        if not address:
            url = f"{of.oidc_issuer.rstrip('/')}/.well-known/openid-configuration"
            answer = await send(http, "GET", url, headers={"Accept": "application/json"})
            found = _decoded(answer, _Discovery)
            if found is None:
                findings.broken(
                    "issuer",
                    f"{url} gives no discovery document: {answer.said}",
                    "check BUTAI_OIDC_ISSUER, or name the keys themselves with BUTAI_OIDC_JWKS_URL",
                )
                return
            if found.issuer != of.oidc_issuer:
                findings.broken(
                    "issuer",
                    f"its document and its tokens name the issuer {found.issuer}",
                    f"export BUTAI_OIDC_ISSUER={found.issuer}",
                )
                return
            address = found.jwks_uri
        answer = await send(http, "GET", address, headers={"Accept": "application/json"})
    keys = _decoded(answer, _KeySet)
    if keys is None or not keys.keys:
        findings.broken("issuer", f"{address} gives no keys: {answer.said}", "check BUTAI_OIDC_JWKS_URL, or the issuer")
    elif urlsplit(address).scheme != "https" and not is_here(urlsplit(address).hostname or ""):
        findings.warn(
            "issuer",
            f"its keys come over plain http from {address}",
            "use https: an attacker on the network could replace the keys and sign in",
        )
    else:
        findings.ok("issuer", f"{of.oidc_issuer} publishes {len(keys.keys)} keys")


def _decoded(answer: Answer, kind: type[_T]) -> _T | None:
    if answer.status != 200:
        return None
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, RecursionError):
        return None
